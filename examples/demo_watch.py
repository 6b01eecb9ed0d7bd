"""Subscribes to the node during the demo, and compares its results with the truth."""

from dataclasses import dataclass, field
from pathlib import Path
import subprocess
import time

from geometry_msgs.msg import PoseWithCovarianceStamped
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from regvpr_ros.msg import LocalizationStatus, PlaceMatch, PlaceMatches
from rich.table import Table
from sensor_msgs.msg import CameraInfo

from regvpr_core.geometry import distance, inverse
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.recordings.bags import parse_extrinsics
from regvpr_core.recordings.messages import pose_T, stamp_ns
from regvpr_core.recordings.trajectory import read_tum

STATES = ('initialising', 'lost', 'ambiguous', 'localized', 'off map')
PLACE_M, PLACE_RAD = 5.0, 0.8
"""A match is correct if its keyframe is within this distance and angle of the true pose."""


@dataclass(slots=True)
class Result:
    """Result of the node for one image."""

    stamp_ns: int
    T_truth: np.ndarray
    state: int
    latency_s: float
    similarity: float = 0.0
    probability: float = 0.0
    reference: int = -1
    right: bool = False
    T_prior: np.ndarray | None = field(default=None)


class Watch:
    """An rclpy node in this process. Call `spin` regularly."""

    def __init__(self, truth: Path, map_path: Path, image_topic: str) -> None:
        self.truth = read_tum(truth)
        self.map = PlaceMap.open(map_path)
        self.results: dict[int, Result] = {}
        self.sent: dict[int, float] = {}
        extrinsics = next(iter(self.map.manifest.extrinsics.values()))  # from the bag's tf_static
        self._T_cam_base = inverse(parse_extrinsics(extrinsics))
        self._priors: dict[int, np.ndarray] = {}
        self._last = time.monotonic()
        self._ready = False
        rclpy.init()
        self._node = Node('demo_watch')
        reliable = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        subscribe = self._node.create_subscription
        subscribe(PlaceMatches, '/regvpr/matches', self._on_matches, reliable)
        subscribe(PoseWithCovarianceStamped, '/regvpr/pose_prior', self._on_prior, reliable)
        subscribe(LocalizationStatus, '/regvpr/status', self._on_status, latched)
        # The camera info is sent with its image, so its arrival is taken as the time of capture.
        info = image_topic.rsplit('/', 1)[0] + '/camera_info'
        subscribe(CameraInfo, info, self._on_info, reliable)

    def wait_for_node(self, timeout_s: float, process: subprocess.Popen[bytes]) -> bool:
        """Wait for a status of the node; False if the node ended or after the timeout."""
        deadline = time.monotonic() + timeout_s
        while not self._ready and process.poll() is None and time.monotonic() < deadline:
            rclpy.spin_once(self._node, timeout_sec=0.1)
        return self._ready

    def spin(self, seconds: float) -> None:
        """Receive messages for this time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            rclpy.spin_once(self._node, timeout_sec=0.05)

    def recent(self, seconds: float) -> bool:
        """Whether a message was received within the last `seconds`."""
        return time.monotonic() - self._last < seconds

    def close(self) -> None:
        """Assign the pose priors to the results by stamp, and destroy the node."""
        for stamp, T in self._priors.items():
            if stamp in self.results:
                self.results[stamp].T_prior = T
        self._node.destroy_node()
        rclpy.try_shutdown()

    def table(self) -> Table:
        """Table of the last images, newest first."""
        done = [r for r in self.results.values() if r.state == PlaceMatches.LOCALIZED]
        right = sum(r.right for r in done)
        table = Table(title=f'{len(self.results)} of {len(self.truth)} images, '
                            f'{len(done)} localized, {right} of them right')
        for name in ('image', 'state', 'reference', 'similarity', 'probability', 'error m', 'ms'):
            table.add_column(name, justify='left' if name == 'state' else 'right')
        first = int(self.truth.stamps_ns[0])
        for result in list(self.results.values())[-10:][::-1]:
            prior = self._priors.get(result.stamp_ns)
            error = '' if prior is None else \
                f'{np.linalg.norm(prior[:3, 3] - result.T_truth[:3, 3]):.1f}'
            accepted = result.state == PlaceMatches.LOCALIZED
            table.add_row(f'{(result.stamp_ns - first) / 1e9:.1f} s', STATES[result.state],
                          str(result.reference) if accepted else '', f'{result.similarity:.2f}',
                          f'{result.probability:.2f}', error, f'{1e3 * result.latency_s:.0f}')
        return table

    def _on_info(self, message: CameraInfo) -> None:
        self._last = time.monotonic()
        self.sent[stamp_ns(message.header.stamp)] = self._last

    def _on_prior(self, message: PoseWithCovarianceStamped) -> None:
        self._priors[stamp_ns(message.header.stamp)] = pose_T(message.pose.pose)

    def _on_status(self, message: LocalizationStatus) -> None:
        self._ready = True

    def _on_matches(self, message: PlaceMatches) -> None:
        self._last = time.monotonic()
        stamp = stamp_ns(message.header.stamp)
        T_truth = self.truth.at(stamp, 1.0)
        if T_truth is None:
            return
        sent = self.sent.get(stamp)
        result = Result(stamp, T_truth, message.state,
                        self._last - sent if sent else float(message.latency_s))
        if message.matches:
            best = message.matches[0]
            result.similarity, result.probability = best.similarity, best.probability
            result.reference = best.reference_id
            if best.status == PlaceMatch.ACCEPTED:
                metres, radians = distance(
                    pose_T(best.reference_pose) @ self._T_cam_base, T_truth)
                result.right = bool(metres < PLACE_M and radians < PLACE_RAD)
        self.results[stamp] = result
