"""Autoware: pose priors on the GNSS pose topic of its pose initializer."""

from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped

from regvpr_core.live.trail import Trail
from regvpr_ros.stacks.closure import Closure

TOPIC = 'sensing/gnss/pose_with_covariance'


class Autoware:
    """Publishes each pose prior as a GNSS pose."""

    def __init__(self, node: Any, trail: Trail) -> None:
        self._node = node
        self._publisher = node.create_publisher(PoseWithCovarianceStamped, TOPIC, 10)

    def loop_closure(self, closure: Closure) -> None:
        """Ignored: Autoware has no input for loop closures."""

    def pose_prior(self, message: Any) -> None:
        """Publish a pose; the initializer uses the newest one on request."""
        self._publisher.publish(message)

    def close(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_publisher(self._publisher)
