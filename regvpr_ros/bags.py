"""Bags of any kind: which topics they hold, frames with poses, raw messages for replay.

The only module that imports rosbags. ROS 1 .bag, rosbag2 folders (sqlite3, mcap), lone .mcap and
.db3 files; no ROS is needed.
"""

from collections.abc import Callable, Iterator
import contextlib
from dataclasses import dataclass
from pathlib import Path
import sqlite3
import struct
import sys
from typing import Any

import apsw
import numpy as np
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.rosbag1 import ReaderError as Rosbag1Error
from rosbags.rosbag2 import ReaderError as Rosbag2Error
from rosbags.typesys import get_typestore, Stores

from regvpr_core.errors import BagError
from regvpr_core.geometry import Array, inverse, pose_matrix
from regvpr_core.places.builder import PosedFrame
from regvpr_core.trajectory import make_trajectory, Trajectory
from regvpr_ros.conversions import image_rgb, pose_T, stamp_ns, transform_T

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'
TF_TYPE = 'tf2_msgs/msg/TFMessage'

# What a truncated or hostile bag makes the readers raise.
_READ_ERRORS = (
    AnyReaderError, Rosbag1Error, Rosbag2Error, OSError, ValueError, KeyError, IndexError,
    TypeError, AssertionError, struct.error, sqlite3.Error, apsw.Error, EOFError, MemoryError,
    RuntimeError, OverflowError, UnicodeError, zstd.ZstdError,
)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic in a bag."""

    name: str
    type: str
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class PoseSource:
    """Where the poses of a body in a world come from."""

    trajectory: Trajectory
    world_frame: str
    body_frame: str
    name: str


class Bag:
    """One recording, open while the `with` block lasts."""

    def __init__(self, path: Path) -> None:
        """Name a bag; `with` opens it.

        Raises:
            BagError: the path does not exist or is no bag.
        """
        self.path = path
        self._ros2 = get_typestore(Stores.LATEST)
        store = get_typestore(Stores.ROS1_NOETIC if path.suffix == '.bag' else Stores.LATEST)
        with _named(path):
            if not path.exists():
                raise BagError(f'bag {path} does not exist')
            self._reader = AnyReader([path], default_typestore=store)

    def __enter__(self) -> 'Bag':
        with _named(self.path):
            self._reader.open()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(*_READ_ERRORS):
            self._reader.close()

    def topics(self, *types: str) -> list[Topic]:
        """Topics of these types (of all types where none is given), by name."""
        with _named(self.path):
            return sorted(
                (Topic(name, info.msgtype or 'several types', info.msgcount)
                 for name, info in self._reader.topics.items()
                 if not types or info.msgtype in types), key=lambda topic: topic.name)

    def choose(self, kind: str, types: tuple[str, ...], wanted: str | None, option: str) -> Topic:
        """The topic that the user named, or the only one with messages of a kind.

        Raises:
            BagError: none or several; lists what is there.
        """
        there = [topic for topic in self.topics(*types) if topic.count]
        listed = ', '.join(f'{t.name} ({t.count})' for t in there) or 'none'
        if wanted is not None:
            for topic in there:
                if topic.name == wanted or topic.name == f'{wanted}/compressed':
                    return topic
            raise BagError(f'{self.path} has no {kind} topic {wanted!r}; it has: {listed}')
        if len(there) != 1:
            problem = 'several' if there else 'no'
            raise BagError(f'{self.path} has {problem} {kind} topics; '
                           f'{f"choose one with {option}" if there else "it has"}: '
                           f'{listed if there else self._all_topics()}')
        return there[0]

    def messages(self, *topics: str) -> Iterator[tuple[str, str, int, Any]]:
        """Topic, type, bag time (ns) and message, in the bag's order.

        Raises:
            BagError: the bag is truncated or damaged.
        """
        for connection, time_ns, raw in self._raw(topics):
            with _named(self.path):
                message = self._reader.deserialize(raw, connection.msgtype)
            yield connection.topic, connection.msgtype, time_ns, message

    def serialized(self, *topics: str) -> Iterator[tuple[str, str, int, bytes]]:
        """Topic, type, bag time (ns) and message as CDR, as ROS 2 sends it."""
        for connection, time_ns, raw in self._raw(topics):
            with _named(self.path):
                if not self._reader.is2:
                    message = self._reader.deserialize(raw, connection.msgtype)
                    raw = self._ros2.serialize_cdr(self._as_ros2(message), connection.msgtype)
            yield connection.topic, connection.msgtype, time_ns, bytes(raw)

    def odometry(self, topic: Topic) -> PoseSource:
        """All poses of an Odometry topic.

        Raises:
            BagError: it holds no pose, or one that is not finite.
        """
        stamps, poses, frames = [], [], ('', '')
        for _, _, _, message in self.messages(topic.name):
            stamps.append(stamp_ns(message.header.stamp))
            try:
                poses.append(pose_T(message.pose.pose))
            except BagError as error:
                raise BagError(f'{topic.name} in {self.path}: {error}') from error
            frames = (message.header.frame_id, message.child_frame_id)
        if not stamps:
            raise BagError(f'{topic.name} in {self.path} holds no pose')
        return PoseSource(make_trajectory(stamps, np.array(poses)), *frames, name=topic.name)

    def static_transform(self, parent: str, child: str) -> Array | None:
        """`T_parent_child` (4, 4) through the bag's /tf_static; None where they do not connect."""
        edges: dict[str, dict[str, Array]] = {}
        topics = [t.name for t in self.topics(TF_TYPE) if t.name.endswith('tf_static')]
        if topics:
            for _, _, _, message in self.messages(*topics):
                for transform in message.transforms:
                    a = transform.header.frame_id.lstrip('/')
                    b = transform.child_frame_id.lstrip('/')
                    T = transform_T(transform.transform)
                    edges.setdefault(a, {})[b] = T
                    edges.setdefault(b, {})[a] = inverse(T)
        return _chain(edges, parent.lstrip('/'), child.lstrip('/'))

    def first_header(self, topic: Topic) -> tuple[int, str]:
        """Stamp (ns) and frame_id of the first message on a topic.

        Raises:
            BagError: there is no message.
        """
        for _, _, _, message in self.messages(topic.name):
            return stamp_ns(message.header.stamp), str(message.header.frame_id)
        raise BagError(f'{topic.name} in {self.path} holds no message')

    @property
    def duration_ns(self) -> int:
        """From the first to the last message."""
        with _named(self.path):
            return int(self._reader.duration)

    def frames(
        self, topic: Topic, poses: PoseSource, T_body_cam: Array, max_gap_s: float
    ) -> Iterator[PosedFrame]:
        """The images of a topic with the camera's pose at their stamps.

        Raises:
            BagError: the bag is truncated or damaged.
        """
        camera = camera_name(topic.name)
        for _, _, _, message in self.messages(topic.name):
            stamp = stamp_ns(message.header.stamp)
            T_world_body = poses.trajectory.at(stamp, max_gap_s)
            T_map_cam = None if T_world_body is None else T_world_body @ T_body_cam
            yield PosedFrame(stamp_ns=stamp, camera=camera, T_map_cam=T_map_cam,
                             decode=_decoder(message), source=self.path.name)

    def _raw(self, topics: tuple[str, ...]) -> Iterator[tuple[Connection, int, bytes]]:
        chosen = [c for c in self._reader.connections if not topics or c.topic in topics]
        if topics and not chosen:
            return
        messages = self._reader.messages(connections=chosen)
        while True:
            with _named(self.path):
                try:
                    item = next(messages)
                except StopIteration:
                    return
            yield item

    def _as_ros2(self, message: Any) -> Any:
        """A ROS 1 message as the ROS 2 message of the same type: no seq, lower-case names."""
        if isinstance(message, list):
            return [self._as_ros2(item) for item in message]
        if not hasattr(message, '__msgtype__'):
            return message
        kind = self._ros2.types[message.__msgtype__]
        return kind(**{
            name: self._as_ros2(getattr(message, name if hasattr(message, name) else name.upper()))
            for name in kind.__dataclass_fields__ if name != '__msgtype__'})

    def _all_topics(self) -> str:
        return ', '.join(f'{t.name} [{t.type}] ({t.count})' for t in self.topics()) or 'no topic'


def camera_name(topic: str) -> str:
    """Name of a camera from its image topic: /camera/image_raw/compressed gives camera."""
    parts = [part for part in topic.split('/') if part]
    generic = ('compressed', 'image', 'image_raw', 'image_rect', 'image_color', 'image_rect_color',
               'image_mono', 'image_rect_mono')
    while len(parts) > 1 and parts[-1] in generic:
        parts.pop()
    return '/'.join(parts) or 'camera'


def parse_extrinsics(values: list[float]) -> Array:
    """`T_base_cam` from x y z qx qy qz qw.

    Raises:
        BagError: not seven finite numbers with a usable quaternion.
    """
    try:
        if len(values) != 7:
            raise ValueError(f'{len(values)} numbers')
        return pose_matrix(values[:3], values[3:])
    except ValueError as error:
        raise BagError(f'extrinsics {values}: expected x y z qx qy qz qw of the camera in the '
                       f'base frame: {error}') from error


def _decoder(message: Any) -> Callable[[], Any]:
    return lambda: image_rgb(message)


def _chain(edges: dict[str, dict[str, Array]], parent: str, child: str) -> Array | None:
    """Breadth-first walk from parent to child, multiplying transforms."""
    reached = {parent: np.eye(4)}
    queue = [parent]
    while queue:
        frame = queue.pop(0)
        for neighbour, T in edges.get(frame, {}).items():
            if neighbour not in reached:
                reached[neighbour] = reached[frame] @ T
                queue.append(neighbour)
    return reached.get(child)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into one line that names the bag."""
    try:
        yield
    except _READ_ERRORS as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise BagError(f'bag {path} cannot be read (truncated or damaged?): '
                       f'{reason[:300]}') from error
