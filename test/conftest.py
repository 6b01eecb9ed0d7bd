"""Fixtures: real data where it is at hand, bags made on the spot, small models."""

from collections import Counter
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from decimal import Decimal
import functools
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import (
    CompressionFormat,
    CompressionMode,
    StoragePlugin,
    Writer as Writer2,
)
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
from rosbags.typesys.store import Typestore
import torch

from regvpr_core.geometry import quat_xyzw

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / 'shared' / 'data'
WEIGHTS = ROOT.parent / 'shared' / 'weights'

T_BASE_CAM = np.array([[0, 0, 1, 0.3], [-1, 0, 0, 0.0], [0, -1, 0, 1.2], [0, 0, 0, 1.0]])
"""A camera that looks ahead, 0.3 m before and 1.2 m above the base."""


SLOW_S = 60.0
"""Longest time of a test outside `make test-full`; workers share cores: only work fails a run."""

USED_S = pytest.StashKey[float]()


def pytest_configure(config: pytest.Config) -> None:
    """One thread a worker, and in what it starts: workers share the processor already."""
    if hasattr(config, 'workerinput'):
        torch.set_num_threads(1)
        os.environ.update(OMP_NUM_THREADS='1', OPENBLAS_NUM_THREADS='1')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long units of work go first, so that none is left for the end: see `unit_of`."""
    first = ('test/core/training', 'test/examples', 'test/ros')
    items.sort(key=lambda item: next(
        (i for i, folder in enumerate(first) if item.nodeid.startswith(folder)), len(first)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers take units of work in the order of collection (the group marks of xdist 3.8 have no
    effect under pytest 9.2).
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False
    return ByUnit(config, log)


def unit_of(nodeid: str) -> str:
    """Tests that stay together: a worker imports and makes once what they share.

    Nodes over DDS wait much and share little: each of their tests goes to any worker, but for two
    files that share a probe or a town. Training imports for ten seconds what nothing else needs.
    """
    file = nodeid.partition('::')[0]
    if file.startswith('test/ros/') and not file.endswith(('test_stacks.py',
                                                           'test_end_to_end.py')):
        return nodeid
    return 'test/core/training' if file.startswith('test/core/training/') else file


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport,
                                                              pytest.TestReport]:
    """Add the processor time of each phase of a test, its ended child processes included."""
    report = yield
    used_s, stash = sum(os.times()[:4]), item.config.stash
    limited = not item.get_closest_marker('full') and not item.get_closest_marker('soak')
    report.user_properties += [('cpu_s', used_s - stash.get(USED_S, used_s)),
                               ('limited', limited)]
    stash[USED_S] = used_s
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Name the tests that took longer than `SLOW_S`; fail the run if it was processor time."""
    reporter = session.config.pluginmanager.get_plugin('terminalreporter')
    if reporter is None or hasattr(session.config, 'workerinput'):
        return
    wall_s, cpu_s = Counter[str](), Counter[str]()
    for report in (r for reports in reporter.stats.values() for r in reports
                   if dict(getattr(r, 'user_properties', ())).get('limited')):
        wall_s[report.nodeid] += report.duration
        cpu_s[report.nodeid] += dict(report.user_properties)['cpu_s']
    for name in wall_s:
        if max(wall_s[name], cpu_s[name]) > SLOW_S:
            reporter.write_line(f'\ntoo slow for make test ({wall_s[name]:.0f} s, processor '
                                f'{cpu_s[name]:.0f} s; mark it `full`): {name}', yellow=True)
        if cpu_s[name] > SLOW_S:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def real_data() -> Callable[[str], Path]:
    """A folder of real images; the test is skipped where they are not at hand."""
    def find(name: str) -> Path:
        if not (DATA / name).is_dir():
            pytest.skip(f'real images {name} are not at hand (looked in {DATA})')
        return DATA / name
    return find


@pytest.fixture
def shared_weights() -> Callable[[str], Path]:
    """A file of weights beside the checkout; the test is skipped where it is not at hand."""
    def find(name: str) -> Path:
        if not (WEIGHTS / name).is_file():
            pytest.skip(f'weights {name} are not at hand (looked in {WEIGHTS})')
        return WEIGHTS / name
    return find


@dataclass
class BagFrame:
    """One frame of a test bag."""

    stamp_ns: int
    rgb: np.ndarray
    T_map_base: np.ndarray | None = None


@pytest.fixture(scope='session')
def make_bag() -> Callable[..., Path]:
    """Write a bag: images, and odometry where frames have poses."""
    return write_bag


@functools.cache
def typestore(ros1: bool) -> Typestore:
    """The messages of ROS 1 or 2; a store compiles its writers once."""
    if not ros1:
        return get_typestore(Stores.ROS2_JAZZY)
    store = get_typestore(Stores.ROS1_NOETIC)
    # ROS 1 keeps it outside the common messages; its bags bring the definition along.
    store.register(get_types_from_msg('geometry_msgs/TransformStamped[] transforms',
                                      'tf2_msgs/msg/TFMessage'))
    return store


def write_bag(
    path: Path,
    frames: list[BagFrame],
    *,
    storage: str = 'mcap',
    compressed: bool = False,
    encoding: str = 'rgb8',
    topic: str = '/camera/image_raw',
    static_tf: bool = True,
    odometry: bool = True,
    packed: str = '',
) -> Path:
    """Write frames to `path` as sqlite3, mcap (rosbag2 folders) or ros1 (a file).

    `packed` compresses the bag: BZ2 or LZ4 (ros1), FILE, MESSAGE or STORAGE with zstd (rosbag2).
    """
    ros1 = storage == 'ros1'
    store = typestore(ros1)
    types = store.types
    if ros1:
        writer = Writer1(path)
        if packed:
            writer.set_compression(Writer1.CompressionFormat[packed])
    else:
        writer = Writer2(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
        if packed:
            writer.set_compression(CompressionMode[packed], CompressionFormat.ZSTD)
    serialize = store.serialize_ros1 if ros1 else store.serialize_cdr

    def header(stamp_ns: int, frame: str):
        stamp = types['builtin_interfaces/msg/Time'](*divmod(stamp_ns, 10**9))
        extra = {'seq': 0} if ros1 else {}
        return types['std_msgs/msg/Header'](**extra, stamp=stamp, frame_id=frame)

    def rotation(T: np.ndarray):
        return types['geometry_msgs/msg/Quaternion'](*quat_xyzw(T))

    with writer:
        kind = 'CompressedImage' if compressed else 'Image'
        image_type = f'sensor_msgs/msg/{kind}'
        name = f'{topic}/compressed' if compressed else topic
        images = writer.add_connection(name, image_type, typestore=store)
        odom = writer.add_connection('/odom', 'nav_msgs/msg/Odometry', typestore=store) \
            if odometry and any(f.T_map_base is not None for f in frames) else None
        if static_tf:
            tf = writer.add_connection('/tf_static', 'tf2_msgs/msg/TFMessage', typestore=store)
            transform = types['geometry_msgs/msg/TransformStamped'](
                header=header(frames[0].stamp_ns if frames else 0, 'base_link'),
                child_frame_id='camera_optical',
                transform=types['geometry_msgs/msg/Transform'](
                    translation=types['geometry_msgs/msg/Vector3'](*T_BASE_CAM[:3, 3]),
                    rotation=rotation(T_BASE_CAM)))
            message = types['tf2_msgs/msg/TFMessage'](transforms=[transform])
            writer.write(tf, frames[0].stamp_ns if frames else 0,
                         serialize(message, 'tf2_msgs/msg/TFMessage'))
        for frame in frames:
            if odom is not None and frame.T_map_base is not None:
                T = frame.T_map_base
                pose = types['geometry_msgs/msg/Pose'](
                    position=types['geometry_msgs/msg/Point'](*T[:3, 3]), orientation=rotation(T))
                zero = types['geometry_msgs/msg/Vector3'](0.0, 0.0, 0.0)
                message = types['nav_msgs/msg/Odometry'](
                    header=header(frame.stamp_ns, 'map'), child_frame_id='base_link',
                    pose=types['geometry_msgs/msg/PoseWithCovariance'](
                        pose=pose, covariance=np.zeros(36)),
                    twist=types['geometry_msgs/msg/TwistWithCovariance'](
                        twist=types['geometry_msgs/msg/Twist'](linear=zero, angular=zero),
                        covariance=np.zeros(36)))
                writer.write(odom, frame.stamp_ns, serialize(message, 'nav_msgs/msg/Odometry'))
            if compressed:
                data = cv2.imencode('.jpg', frame.rgb[..., ::-1])[1].reshape(-1)
                message = types[image_type](header=header(frame.stamp_ns, 'camera_optical'),
                                            format='jpeg', data=data)
            else:
                pixels = frame.rgb if frame.rgb.ndim == 3 else frame.rgb[..., None]
                message = types[image_type](
                    header=header(frame.stamp_ns, 'camera_optical'), height=pixels.shape[0],
                    width=pixels.shape[1], encoding=encoding, is_bigendian=0,
                    step=pixels.shape[1] * pixels.shape[2] * pixels.itemsize,
                    data=np.ascontiguousarray(pixels).reshape(-1).view(np.uint8))
            writer.write(images, frame.stamp_ns, serialize(message, image_type))
    return path


@pytest.fixture(scope='session')
def write_tum() -> Callable[..., None]:
    """Write poses (N, 4, 4) at stamps as a TUM file: `write_tum(path, stamps_ns, poses)`."""
    def write(path: Path, stamps_ns: Iterable[int], poses: np.ndarray) -> None:
        rows = np.concatenate([poses[:, :3, 3], quat_xyzw(poses)], axis=1)
        path.write_text(''.join(
            f'{Decimal(int(stamp_ns)).scaleb(-9):.9f} {" ".join(f"{x:.9f}" for x in row)}\n'
            for stamp_ns, row in zip(stamps_ns, rows, strict=True)))
    return write


@pytest.fixture(scope='session')
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights, one block deep: quick, and the same in every test."""
    from regvpr_core.models.checkpoints import save_checkpoint
    from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
    from regvpr_core.models.preprocessing import Preprocessing

    torch.manual_seed(0)
    model = DescriptorModel(ModelConfig(
        backbone='vits14', last_block=0, aggregator_config={'regions': 2},
        preprocessing=Preprocessing(height=56, width=56)))
    path = tmp_path_factory.mktemp('model') / 'small.safetensors'
    save_checkpoint(path, model, name='small', backbone=None, record={})
    return path


@pytest.fixture(scope='session')
def small_encoder(small_model: Path):
    """The encoder of `small_model`, in fp32 on the CPU."""
    from regvpr_core.models.encoder import load_encoder

    return load_encoder(small_model, 'cpu', 'fp32')


@pytest.fixture(scope='session')
def encoder():
    """Plain pooling with whatever weights can be had here."""
    from regvpr_core.errors import CheckpointError
    from regvpr_core.models.encoder import load_encoder

    try:
        return load_encoder('gem_vits14', 'cpu', 'fp32', download=True)
    except CheckpointError as error:
        pytest.skip(f'no backbone weights can be had: {error}')


def straight_line(count: int, spacing_m: float = 1.0) -> list[np.ndarray]:
    """Poses along x, looking ahead."""
    poses = []
    for i in range(count):
        T = np.eye(4)
        T[0, 3] = i * spacing_m
        poses.append(T)
    return poses


def noise_images(count: int, seed: int = 0) -> list[np.ndarray]:
    """Images (120, 160, 3) along a painted wall: each shows four fifths of the one before."""
    rng = np.random.default_rng(seed)
    columns = 2 * count + 10  # of 16 pixels
    wall = rng.integers(0, 256, (8, columns, 3), dtype=np.uint8)
    wall = cv2.resize(wall, (16 * columns, 120), interpolation=cv2.INTER_CUBIC)
    grain = rng.integers(-12, 13, (30, 4 * columns, 1)).astype(np.float32)  # else they are blurred
    grain = cv2.resize(grain, (16 * columns, 120), interpolation=cv2.INTER_CUBIC)
    wall = np.clip(wall + grain[..., None], 0, 255).astype(np.uint8)
    return [np.ascontiguousarray(wall[:, 32 * i:32 * i + 160]) for i in range(count)]


@pytest.fixture(scope='session')
def noise() -> Callable[..., list[np.ndarray]]:
    """Images that differ, the same in every test: `noise(count, seed)`."""
    return noise_images


@pytest.fixture(scope='session')
def frames() -> Callable[..., list[BagFrame]]:
    """Frames along a straight line, one a second and a metre: `frames(count, start_s)`."""
    def make(count: int, start_s: int = 1000, seed: int = 0) -> list[BagFrame]:
        pictures, poses = noise_images(count, seed), straight_line(count)
        return [BagFrame((start_s + i) * 10**9, rgb, T)
                for i, (rgb, T) in enumerate(zip(pictures, poses, strict=True))]
    return make


@pytest.fixture(scope='session')
def bag_frame() -> type[BagFrame]:
    """`BagFrame`, for tests."""
    return BagFrame
