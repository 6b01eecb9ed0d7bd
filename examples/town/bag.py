"""Write a lap as a ROS bag with its truth beside it."""

from collections.abc import Callable
from dataclasses import dataclass
import math
from pathlib import Path

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer as Writer2
from rosbags.typesys import get_types_from_msg, get_typestore, Stores

from examples.town.camera import Floats, yaw_of
from examples.town.config import LapConfig
from examples.town.drive import Drive
from examples.town.errors import TownError
from examples.town.messages import Messages
from examples.town.town import START_NS, Town

STORAGES = ('mcap', 'sqlite3', 'ros1')
Send = Callable[[int, object], None]


@dataclass(frozen=True, slots=True)
class LapFiles:
    """What a lap left on disk.

    Attributes:
        bag: The rosbag2 folder, or the .bag file.
        truth: Poses of base_link at the images, `stamp_s x y z qx qy qz qw` a line.
    """

    bag: Path
    truth: Path


def write_lap(
    town: Town, lap: LapConfig, folder: Path | str, *, name: str = 'day', storage: str = 'mcap',
    compressed: bool = True, start_ns: int = START_NS,
    on_frame: Callable[[int, int], None] | None = None,
) -> LapFiles:  # fmt: skip
    """Render a lap into a bag with images, camera_info, odometry, truth and tf_static.

    Args:
        town: The town.
        lap: The lap.
        folder: Where to write; made if missing.
        name: Name of the bag and of the truth beside it.
        storage: 'mcap' or 'sqlite3' for a rosbag2 folder, 'ros1' for a .bag file.
        compressed: Whether images are JPEGs instead of raw.
        start_ns: Stamp of the first image in ns.
        on_frame: Called after each image with the number written and the number of all.

    Raises:
        TownError: An unknown storage, or a bag of that name is there already.
    """
    if storage not in STORAGES:
        raise TownError(f'storage must be one of {", ".join(STORAGES)}, got {storage!r}')
    folder = Path(folder)
    bag = folder / (f'{name}.bag' if storage == 'ros1' else name)
    if not name or '/' in name:
        raise TownError(f'name must be a plain file name, got {name!r}')
    if bag.exists():
        raise TownError(f'{bag} exists already; give another name or folder')
    drive = Drive(town.config, lap, start_ns)
    folder.mkdir(parents=True, exist_ok=True)
    truth = folder / f'{name}.tum'
    open_bag = _open_ros1 if storage == 'ros1' else _open_ros2
    writer, messages, channel = open_bag(bag, storage)
    with writer:
        _send_all(town, lap, drive, messages, channel, compressed, on_frame)
    images = [drive.tick_of_frame(i) for i in range(drive.frames)]
    lines = [_tum(drive.stamp_ns[t], drive.T_map_base[t]) for t in images]
    truth.write_text(''.join(lines), encoding='utf-8')
    return LapFiles(bag, truth)


def _send_all(
    town: Town, lap: LapConfig, drive: Drive, messages: Messages,
    channel: Callable[[str, str], Send], compressed: bool,
    on_frame: Callable[[int, int], None] | None,
) -> None:  # fmt: skip
    """Send every message in the order of the stamps."""
    kind = 'CompressedImage' if compressed else 'Image'
    topic = '/camera/image_raw' + ('/compressed' if compressed else '')
    send_static = channel('/tf_static', 'tf2_msgs/msg/TFMessage')
    send_image = channel(topic, f'sensor_msgs/msg/{kind}')
    send_info = channel('/camera/camera_info', 'sensor_msgs/msg/CameraInfo')
    send_odometry = channel('/odom', 'nav_msgs/msg/Odometry')
    send_truth = channel('/ground_truth', 'nav_msgs/msg/Odometry')
    start_ns = drive.stamp_ns[0]
    send_static(start_ns, messages.static_transform(start_ns))
    frames = town.drive(lap, start_ns=start_ns)
    count = 0
    for tick, stamp_ns in enumerate(drive.stamp_ns):
        still = (0.0, 0.0)
        far = max(1.0, tick * lap.speed_mps / (4 * lap.rate_hz))
        send_odometry(stamp_ns, messages.odometry(
            stamp_ns, 'odom', drive.T_odom_base[tick], drive.twist[tick], 1e-4 * far))  # fmt: skip
        send_truth(stamp_ns, messages.odometry(
            stamp_ns, 'map', drive.T_map_base[tick], still, 1e-9))  # fmt: skip
        if tick == drive.tick_of_frame(count) and count < drive.frames:
            image = next(frames).image
            encode = messages.jpeg if compressed else messages.raw
            send_image(stamp_ns, encode(stamp_ns, image))
            send_info(stamp_ns, messages.camera_info(stamp_ns, town.camera))
            count += 1
            if on_frame is not None:
                on_frame(count, drive.frames)


def _open_ros2(bag: Path, storage: str) -> tuple[Writer2, Messages, Callable[[str, str], Send]]:
    store = get_typestore(Stores.ROS2_HUMBLE)
    plugin = StoragePlugin.MCAP if storage == 'mcap' else StoragePlugin.SQLITE3
    writer = Writer2(bag, version=9, storage_plugin=plugin)

    def channel(topic: str, kind: str) -> Send:
        latched = topic == '/tf_static'
        connection = writer.add_connection(
            topic, kind, typestore=store, offered_qos_profiles=[_qos(latched=latched)]
        )

        def send(stamp_ns: int, message: object) -> None:
            writer.write(connection, stamp_ns, store.serialize_cdr(message, kind))

        return send

    return writer, Messages(store, ros1=False), channel


def _open_ros1(bag: Path, storage: str) -> tuple[Writer1, Messages, Callable[[str, str], Send]]:
    store = get_typestore(Stores.ROS1_NOETIC)
    tf = get_types_from_msg(
        'geometry_msgs/TransformStamped[] transforms', 'tf2_msgs/msg/TFMessage'
    )
    store.register(tf)
    writer = Writer1(bag)

    def channel(topic: str, kind: str) -> Send:
        connection = writer.add_connection(
            topic, kind, typestore=store, latching=1 if topic == '/tf_static' else None
        )

        def send(stamp_ns: int, message: object) -> None:
            writer.write(connection, stamp_ns, store.serialize_ros1(message, kind))

        return send

    return writer, Messages(store, ros1=True), channel


def _qos(*, latched: bool) -> Qos:
    """Reliable, depth 10; /tf_static is kept for those who come later."""
    forever = QosTime(2147483647, 4294967295)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )


def _tum(stamp_ns: int, pose: Floats) -> str:
    seconds, nanoseconds = divmod(stamp_ns, 10**9)
    yaw = yaw_of(pose)
    x, y, z = pose[:3, 3]
    return (
        f'{seconds}.{nanoseconds:09d} {x:.9f} {y:.9f} {z:.9f} '
        f'0.0 0.0 {math.sin(yaw / 2):.12f} {math.cos(yaw / 2):.12f}\n'
    )
