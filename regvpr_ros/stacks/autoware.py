"""Autoware: poses where its pose initializer looks for those of a GNSS receiver."""

from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped

from regvpr_core.live.trail import Trail
from regvpr_ros.stacks.closure import Closure

TOPIC = 'sensing/gnss/pose_with_covariance'


class Autoware:
    """Each pose prior once more, under the name of a GNSS pose."""

    def __init__(self, node: Any, trail: Trail) -> None:
        self._node = node
        self._publisher = node.create_publisher(PoseWithCovarianceStamped, TOPIC, 10)

    def loop_closure(self, closure: Closure) -> None:
        """It has no input for edges."""

    def pose_prior(self, message: Any) -> None:
        """The initializer takes the newest one when it is asked to initialize."""
        self._publisher.publish(message)

    def close(self) -> None:
        """Take the publisher back."""
        self._node.destroy_publisher(self._publisher)
