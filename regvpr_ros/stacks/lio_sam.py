"""LIO-SAM: two stamps on lio_loop/loop_closure_detection; it finds the transform by ICP."""

from typing import Any

from std_msgs.msg import Float64MultiArray

from regvpr_core.live.trail import Trail
from regvpr_ros.stacks.closure import Closure

TOPIC = 'lio_loop/loop_closure_detection'


class LioSam:
    """Sends [stamp of now, stamp of then] in seconds, as mapOptmization.cpp takes them."""

    def __init__(self, node: Any, trail: Trail) -> None:
        self._node = node
        self._publisher = node.create_publisher(Float64MultiArray, TOPIC, 5)

    def loop_closure(self, closure: Closure) -> None:
        """LIO-SAM reads exactly two numbers, and drops anything else without a word."""
        self._publisher.publish(Float64MultiArray(
            data=[closure.query_stamp_ns / 1e9, closure.reference_stamp_ns / 1e9]))

    def pose_prior(self, message: Any) -> None:
        """It takes positions from gpsTopic only (docs/slam/lio_sam.md)."""

    def close(self) -> None:
        """Take the publisher back."""
        self._node.destroy_publisher(self._publisher)
