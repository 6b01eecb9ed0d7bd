"""The ROS 2 side of RegVPR. The generated messages `regvpr_ros.msg` are part of this package."""

import pkgutil

# A source checkout and the install space, which holds the generated messages, are one package.
__path__ = pkgutil.extend_path(__path__, __name__)
