"""LIO-SAM: the two stamps of a closure on lio_loop/loop_closure_detection."""

from typing import Any

from std_msgs.msg import Float64MultiArray

from regvpr_core.live.trail import Trail
from regvpr_ros.stacks.closure import Closure

TOPIC = 'lio_loop/loop_closure_detection'


class LioSam:
    """Publishes [query stamp, reference stamp], s, as mapOptmization.cpp expects."""

    def __init__(self, node: Any, trail: Trail) -> None:
        self._node = node
        self._publisher = node.create_publisher(Float64MultiArray, TOPIC, 5)

    def loop_closure(self, closure: Closure) -> None:
        """Publish exactly two numbers; LIO-SAM ignores other messages."""
        self._publisher.publish(Float64MultiArray(
            data=[closure.query_stamp_ns / 1e9, closure.reference_stamp_ns / 1e9]))

    def pose_prior(self, message: Any) -> None:
        """Ignored: it accepts positions on gpsTopic only (docs/slam/lio_sam.md)."""

    def close(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_publisher(self._publisher)
