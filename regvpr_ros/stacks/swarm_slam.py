"""Swarm-SLAM (cslam): pairs of its keyframes, which it verifies itself."""

from collections import deque
from typing import Any

from regvpr_core.live.stamp_ids import StampIds
from regvpr_core.live.trail import Trail
from regvpr_core.recordings.messages import stamp_ns
from regvpr_ros.stacks.closure import Closure
from regvpr_ros.stacks.messages import interface

KEYFRAMES, MATCHES = 'cslam/keyframe_data', 'cslam/local_keyframe_match'
TOLERANCE_NS = 500_000_000
"""Largest time from an image to a keyframe; Swarm-SLAM estimates the transform by PnP."""
WAITING = 20


class SwarmSlam:
    """Learns keyframe numbers from the keyframes' images, and publishes pairs of them."""

    def __init__(self, node: Any, trail: Trail) -> None:
        """Create the subscription and the publisher.

        Raises:
            ConfigError: cslam_common_interfaces is not installed.
        """
        package = 'cslam_common_interfaces'
        self._node = node
        self._match = interface(package, 'msg', 'LocalKeyframeMatch', 'swarm_slam')
        self._ids = StampIds()
        self._waiting: deque[Closure] = deque(maxlen=WAITING)
        self._publisher = node.create_publisher(self._match, MATCHES, 100)
        self._subscription = node.create_subscription(
            interface(package, 'msg', 'KeyframeRGB', 'swarm_slam'), KEYFRAMES,
            self._on_keyframe, 100)

    def loop_closure(self, closure: Closure) -> None:
        """Store a closure, and publish it once the keyframe of the query is known."""
        self._waiting.append(closure)
        self._send()

    def pose_prior(self, message: Any) -> None:
        """Ignored: Swarm-SLAM has no input for pose priors."""

    def close(self) -> None:
        """Destroy subscription and publisher."""
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_publisher(self._publisher)

    def _on_keyframe(self, message: Any) -> None:
        self._ids.put(stamp_ns(message.image.header.stamp), int(message.id))
        self._send()

    def _send(self) -> None:
        for closure in list(self._waiting):
            if self._ids.newest_ns < closure.query_stamp_ns:
                continue
            self._waiting.remove(closure)
            query = self._ids.nearest(closure.query_stamp_ns, TOLERANCE_NS)
            reference = self._ids.nearest(closure.reference_stamp_ns, TOLERANCE_NS)
            if query is None or reference is None or query[1] == reference[1]:
                continue
            self._publisher.publish(
                self._match(keyframe0_id=reference[1], keyframe1_id=query[1]))
