"""Reads bags of any kind: their topics, and messages in the order of recording.

The only reader of bags. ROS 1 .bag, rosbag2 folders (sqlite3, mcap; split; zstd by message or
file), lone .mcap and .db3 files, and folders of such files; no ROS is needed.
"""

from collections.abc import Iterator, Sequence
import contextlib
from dataclasses import dataclass, field
import heapq
import os
from pathlib import Path
import sqlite3
import struct
import sys
from typing import Any

from rosbags.rosbag1 import ReaderError
from rosbags.typesys import get_typestore, Stores

from regvpr_core.errors import BagError
from regvpr_core.geometry import Array, pose_matrix
from regvpr_core.recordings.bag_files import bag_files, open_files, ZSTD_MAGIC
from regvpr_core.recordings.deserializer import Deserializer
from regvpr_core.recordings.geodesy import Origin
from regvpr_core.recordings.pose_messages import (
    ODOMETRY_TYPE as ODOMETRY_TYPE,
    one_pair,
    read_poses,
)
from regvpr_core.recordings.runs import Poses, refuse_jumping
from regvpr_core.recordings.storage import CDR, Channel, ROS1, Storage
from regvpr_core.recordings.transforms import TransformTree

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
NAVSAT_TYPE = 'sensor_msgs/msg/NavSatFix'
TF_TYPE = 'tf2_msgs/msg/TFMessage'
TF_TYPES = (TF_TYPE, 'tf/msg/tfMessage')
MAX_MESSAGE_BYTES = 2_000_000_000

# Exceptions of the readers for a truncated or malicious bag.
_READ_ERRORS = (
    ReaderError, OSError, ValueError, KeyError, IndexError, TypeError, AttributeError,
    AssertionError, struct.error, sqlite3.Error, EOFError, MemoryError, RuntimeError,
    OverflowError, UnicodeError, zstd.ZstdError,
)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic in a bag."""

    name: str
    type: str
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class PoseSource:
    """Poses of a body in a world, with their origin. notes: omitted messages, in words."""

    trajectory: Poses
    world_frame: str
    body_frame: str
    name: str
    origin: Origin | None = None
    notes: list[str] = field(default_factory=list)


class Bag:
    """One recording, open while the `with` block lasts.

    notes: irregularities, one line each.
    """

    def __init__(self, path: Path) -> None:
        """Set the path of a bag; `with` opens it.

        Raises:
            BagError: the path does not exist or is no bag.
        """
        self.path = path
        self.notes: list[str] = []
        self._ros2 = get_typestore(Stores.LATEST)
        self._deserialize = Deserializer()
        self._storages: list[Storage] = []
        self._stack = contextlib.ExitStack()
        with _named(path):
            bag_files(path)

    def __enter__(self) -> 'Bag':
        with _named(self.path), contextlib.ExitStack() as stack:
            self._storages, self.notes = open_files(self.path, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(*_READ_ERRORS):
            self._stack.close()
        self._storages = []

    def topics(self, *types: str) -> list[Topic]:
        """Readable topics of these types, or all topics, sorted by name."""
        found: dict[str, Topic] = {}
        for channel in self._channels():
            readable = channel.serialization in (CDR, ROS1)
            if types and (channel.type not in types or not readable):
                continue
            name = channel.topic
            kind = channel.type if readable else f'{channel.type} ({channel.serialization})'
            known = found.get(name)
            count = channel.count + (known.count if known else 0)
            kind = kind if known is None or known.type == kind else 'several types'
            found[name] = Topic(name, kind, count)
        return sorted(found.values(), key=lambda topic: topic.name)

    def choose(self, kind: str, types: tuple[str, ...], wanted: str | None, option: str) -> Topic:
        """The topic that the user named, or the only one with messages of a kind.

        Raises:
            BagError: none or several; the message lists them.
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
                           f'{listed if there else self.listed()}'
                           f'{"" if there else "".join(f"; {note}" for note in self.notes)}')
        return there[0]

    def messages(self, *topics: str | Topic) -> Iterator[tuple[str, str, int, Any]]:
        """Topic, type, bag time (ns) and message, in the order of recording.

        For a `Topic`, only messages of its type are returned.

        Raises:
            BagError: the bag is truncated or damaged.
        """
        for channel, time_ns, raw in self._raw(topics):
            with _named(self.path):
                message = self._deserialize(channel, raw)
            yield channel.topic, channel.type, time_ns, message

    def serialized(self, *topics: str | Topic) -> Iterator[tuple[str, str, int, bytes]]:
        """Topic, type, bag time (ns) and message as CDR, as ROS 2 sends it."""
        for channel, time_ns, raw in self._raw(topics):
            with _named(self.path):
                if channel.serialization == ROS1:
                    message = self._deserialize(channel, raw)
                    raw = bytes(self._ros2.serialize_cdr(self._as_ros2(message), channel.type))
            yield channel.topic, channel.type, time_ns, raw

    def poses(self, topic: Topic, *, bag_time: bool = False, frame: str | None = None
              ) -> PoseSource:
        """All poses of an Odometry, PoseStamped or PoseWithCovarianceStamped topic, by time.

        Poses that are not finite or have no rotation are omitted, with a note.

        Args:
            topic: topic of the poses.
            bag_time: use the times of recording instead of the stamps.
            frame: world frame of the poses, or `WORLD:BODY`, if there are several.

        Raises:
            BagError: there is no valid pose, or there are poses in several frames.
        """
        tables = read_poses(((time_ns, message) for _, _, time_ns, message
                             in self.messages(topic)), bag_time=bag_time)
        table, notes = one_pair(tables, frame, topic.name)
        bad = sum(table.bad for table in tables)
        why = next((table.why for table in tables if table.why), '')
        if not table.poses:
            raise BagError(f'{topic.name} in {self.path} holds no pose{f": {why}" if why else ""}')
        if bad:
            notes.append(f'{bad} of {bad + len(table.poses)} poses on {topic.name} make no sense '
                         f'({why}): left out')
        read = bad + sum(len(each.poses) for each in tables)
        if read < topic.count:
            notes.append(f'{topic.name} should hold {topic.count} messages, and {read} are there')
        trajectory = table.trajectory(topic.name)
        refuse_jumping(trajectory, topic.name)
        return PoseSource(trajectory, table.world_frame, table.body_frame, topic.name,
                          notes=notes)

    def transforms(self, topics: Sequence[str], *, bag_time: bool = False) -> TransformTree:
        """The transforms on some topics; those on topics named tf_static are static."""
        tree = TransformTree()
        kinds = [topic for topic in self.topics(*TF_TYPES) if topic.name in topics]
        for name, _, time_ns, message in self.messages(*kinds) if kinds else ():
            tree.add(message.transforms, static=name.endswith('tf_static'), stamp_ns=time_ns,
                     bag_time=bag_time)
        return tree

    @property
    def start_ns(self) -> int:
        """Time of recording of the first message, ns; 0 without messages."""
        return min((span[0] for span in self._spans()), default=0)

    @property
    def duration_ns(self) -> int:
        """Duration from the first to the last message."""
        return max((span[1] for span in self._spans()), default=0) - self.start_ns

    @property
    def name(self) -> str:
        """Name of this recording in a map."""
        return os.fsencode(self.path.absolute().name).decode('utf-8', 'backslashreplace')

    def _spans(self) -> list[tuple[int, int]]:
        return [span for storage in self._storages if (span := storage.span_ns) is not None]

    def _channels(self) -> list[Channel]:
        return [channel for storage in self._storages for channel in storage.channels]

    def _raw(self, topics: tuple[str | Topic, ...]) -> Iterator[tuple[Channel, int, bytes]]:
        """Channel, time of recording and content; zstd messages are decompressed."""
        names = {topic for topic in topics if isinstance(topic, str)}
        typed = {(topic.name, topic.type) for topic in topics if isinstance(topic, Topic)}
        sources = []
        for storage in self._storages:
            chosen = {channel.id: channel for channel in storage.channels if not topics
                      or channel.topic in names or (channel.topic, channel.type) in typed}
            if chosen:
                sources.append(self._of_storage(storage, chosen))
        yield from heapq.merge(*sources, key=lambda item: item[1])

    def _of_storage(self, storage: Storage, chosen: dict[int, Channel]
                    ) -> Iterator[tuple[Channel, int, bytes]]:
        messages = storage.messages(chosen.keys())
        while True:
            with _named(self.path):
                try:
                    time_ns, number, raw = next(messages)
                except StopIteration:
                    return
                if raw[:4] == ZSTD_MAGIC:  # neither CDR nor ROS 1 starts like this
                    raw = zstd.ZstdDecompressor().decompress(raw, max_length=MAX_MESSAGE_BYTES)
            yield chosen[number], time_ns, raw

    def _as_ros2(self, message: Any) -> Any:
        """Convert a ROS 1 message to the ROS 2 message: no seq, lower-case names."""
        if isinstance(message, list):
            return [self._as_ros2(item) for item in message]
        if not hasattr(message, '__msgtype__'):
            return message
        kind = self._ros2.types[message.__msgtype__]
        return kind(**{
            name: self._as_ros2(getattr(message, name if hasattr(message, name) else name.upper()))
            for name in kind.__dataclass_fields__ if name != '__msgtype__'})

    def listed(self) -> str:
        """All topics in one line."""
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


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Convert exceptions of the readers into a `BagError` of one line."""
    try:
        yield
    except BagError as error:
        text = str(error)
        if str(path) in text:
            raise
        raise BagError(f'bag {path} cannot be read: {text}') from error
    except _READ_ERRORS as error:
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise BagError(f'bag {path} cannot be read (truncated or damaged?): '
                       f'{reason[:300]}') from error
