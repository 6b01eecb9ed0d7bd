"""Bags of any kind: which topics they hold, frames with poses, raw messages for replay.

The only reader of bags. ROS 1 .bag, rosbag2 folders (sqlite3, mcap; split; zstd by message or
file), lone .mcap and .db3 files, and folders of such files; no ROS is needed.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
from dataclasses import dataclass, field
import os
from pathlib import Path
import sqlite3
import struct
import sys
from typing import Any

import apsw
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.rosbag1 import ReaderError as Rosbag1Error
from rosbags.rosbag2 import ReaderError as Rosbag2Error
from rosbags.typesys import get_typestore, Stores

from regvpr_core.errors import BagError
from regvpr_core.geometry import Array, pose_matrix
from regvpr_core.recordings.frames import PosedFrame
from regvpr_core.recordings.geodesy import Origin
from regvpr_core.recordings.messages import image_rgb, stamp_ns
from regvpr_core.recordings.pose_messages import ODOMETRY_TYPE as ODOMETRY_TYPE, read_poses
from regvpr_core.recordings.trajectory import Trajectory
from regvpr_core.recordings.transforms import TransformChain, TransformTree

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
NAVSAT_TYPE = 'sensor_msgs/msg/NavSatFix'
TF_TYPE = 'tf2_msgs/msg/TFMessage'
TF_TYPES = (TF_TYPE, 'tf/msg/tfMessage')
BAG_SUFFIXES = frozenset({'.bag', '.mcap', '.db3'})

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
    """Where the poses of a body in a world come from. notes: what was left out, in words."""

    trajectory: Trajectory | TransformChain
    world_frame: str
    body_frame: str
    name: str
    origin: Origin | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """An image topic, the poses of a body, and where the camera sits on that.

    T_base_cam: where it sits on the robot's base, as the map is to know it; None if unknown.
    """

    topic: Topic
    poses: PoseSource
    T_body_cam: Array
    T_base_cam: Array | None = None


class Bag:
    """One recording, open while the `with` block lasts."""

    def __init__(self, path: Path) -> None:
        """Name a bag; `with` opens it.

        Raises:
            BagError: the path does not exist or is no bag.
        """
        self.path = path
        self._ros2 = get_typestore(Stores.LATEST)
        with _named(path):
            files = bag_files(path)
            is1 = all(file.suffix == '.bag' for file in files)
            store = get_typestore(Stores.ROS1_NOETIC if is1 else Stores.LATEST)
            self._reader = AnyReader(files, default_typestore=store)

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
                           f'{listed if there else self.listed()}')
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

    def poses(self, topic: Topic, *, bag_time: bool = False) -> PoseSource:
        """All poses of an Odometry, PoseStamped or PoseWithCovarianceStamped topic, by time.

        Poses that are not finite or have no rotation are left out, and a note says so.

        Raises:
            BagError: it holds no pose that can be used.
        """
        table = read_poses(((time_ns, message) for _, _, time_ns, message
                            in self.messages(topic.name)), bag_time=bag_time)
        if not table.poses:
            why = f': {table.why}' if table.why else ''
            raise BagError(f'{topic.name} in {self.path} holds no pose{why}')
        notes = [f'{table.bad} of {table.bad + len(table.poses)} poses on {topic.name} make no '
                 f'sense ({table.why}): left out'] if table.bad else []
        return PoseSource(table.trajectory(), table.world_frame, table.body_frame, topic.name,
                          notes=notes)

    def odometry(self, topic: Topic) -> PoseSource:
        """`poses` of an Odometry topic."""
        return self.poses(topic)

    def transforms(self, *, moving: bool, bag_time: bool = False) -> TransformTree:
        """The bag's /tf_static, and its /tf where `moving` ones are wanted too."""
        tree = TransformTree()
        static = {t.name for t in self.topics(*TF_TYPES) if t.name.endswith('tf_static')}
        names = [t.name for t in self.topics(*TF_TYPES) if moving or t.name in static]
        for name, _, time_ns, message in self.messages(*names) if names else ():
            tree.add(message.transforms, static=name in static, stamp_ns=time_ns,
                     bag_time=bag_time)
        return tree

    def static_transform(self, parent: str, child: str) -> Array | None:
        """`T_parent_child` (4, 4) through the bag's /tf_static; None where they do not connect."""
        return self.transforms(moving=False).static(parent, child)

    def first_header(self, topic: Topic) -> tuple[int, str]:
        """Stamp (ns) and frame_id of the first message on a topic.

        Raises:
            BagError: there is no message.
        """
        for _, _, _, message in self.messages(topic.name):
            return stamp_ns(message.header.stamp), str(message.header.frame_id)
        raise BagError(f'{topic.name} in {self.path} holds no message')

    @property
    def start_ns(self) -> int:
        """When the first message was recorded."""
        with _named(self.path):
            return int(self._reader.start_time)

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
        return self.camera_frames([Camera(topic, poses, T_body_cam)], max_gap_s)

    def camera_frames(
        self, cameras: Sequence[Camera], max_gap_s: float, *, bag_time: bool = False
    ) -> Iterator[PosedFrame]:
        """The images of several topics, in the bag's order, with the cameras' poses.

        The stamp is that of the header; the bag's own time where that is zero, or `bag_time`.

        Raises:
            BagError: the bag is truncated or damaged.
        """
        by_topic = {camera.topic.name: camera for camera in cameras}
        for name, _, time_ns, message in self.messages(*by_topic):
            stamp = time_ns if bag_time else stamp_ns(message.header.stamp) or time_ns
            camera = by_topic[name]
            trajectory = camera.poses.trajectory
            T = trajectory.at(stamp, max_gap_s)
            yield PosedFrame(
                stamp_ns=stamp, camera=camera_name(name),
                T_map_cam=None if T is None else T @ camera.T_body_cam,
                covariance=None if T is None else trajectory.covariance_at(stamp),
                decode=_decoder(message), source=self.name, image=name,
                held_bytes=len(message.data))

    @property
    def name(self) -> str:
        """What the map calls this recording."""
        return os.fsencode(self.path.absolute().name).decode('utf-8', 'backslashreplace')

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

    def listed(self) -> str:
        """All topics in a line."""
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


def bag_files(path: Path) -> list[Path]:
    """What to read of a bag: itself, or the bag files in a folder that has no metadata.

    Raises:
        BagError: there is nothing of that kind.
    """
    if not path.exists():
        raise BagError(f'bag {path} does not exist')
    if not path.is_dir() or (path / 'metadata.yaml').exists():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in BAG_SUFFIXES)
    kinds = sorted({file.suffix for file in files})
    if not files:
        raise BagError(f'bag {path} cannot be read: it has no metadata.yaml and no .bag, .mcap or '
                       f'.db3 file')
    if len(kinds) > 1:
        raise BagError(f'bag {path} cannot be read: it has no metadata.yaml and holds files of '
                       f'several kinds ({", ".join(kinds)}); name them one by one')
    return files


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into one line that names the bag."""
    try:
        yield
    except _READ_ERRORS as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise BagError(f'bag {path} cannot be read (truncated or damaged?): '
                       f'{reason[:300]}') from error
