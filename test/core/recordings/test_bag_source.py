"""Bags with poses of every kind become posed images: each bag is made by its test."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer as Writer2
from rosbags.typesys import get_types_from_msg, get_typestore, Stores
from scipy.spatial.transform import Rotation

from regvpr_core.errors import BagError
from regvpr_core.geometry import interpolate, quat_xyzw
from regvpr_core.recordings.bag_source import BagOptions, open_bag
from regvpr_core.recordings.bags import Bag
from regvpr_core.recordings.frames import joined
from regvpr_core.recordings.geodesy import GpsConfig, Origin
from regvpr_core.recordings.messages import BYTES_PER_PIXEL
from regvpr_core.recordings.trajectory import make_trajectory
from regvpr_core.recordings.transforms import TransformTree

SECOND = 10**9
START = 1_700_000_000 * SECOND
STORAGES = ['mcap', 'sqlite3', 'ros1']
T_BASE_CAM = np.array([[0, 0, 1, 0.3], [-1, 0, 0, 0.0], [0, -1, 0, 1.2], [0, 0, 0, 1.0]])


class BagMaker:
    """Writes messages of any type to a bag of any kind."""

    def __init__(self, path: Path, storage: str = 'mcap', packed: str = '') -> None:
        self.ros1 = storage == 'ros1'
        self.store = get_typestore(Stores.ROS1_NOETIC if self.ros1 else Stores.ROS2_JAZZY)
        if self.ros1:
            self.store.register(get_types_from_msg('geometry_msgs/TransformStamped[] transforms',
                                                   'tf2_msgs/msg/TFMessage'))
        self.path = path.with_suffix('.bag') if self.ros1 else path
        self._writer = Writer1(self.path) if self.ros1 else Writer2(
            self.path, version=9, storage_plugin=StoragePlugin[storage.upper()])
        if packed:
            self._writer.set_compression(CompressionMode[packed], CompressionFormat.ZSTD)
        self._connections: dict[str, object] = {}

    def __enter__(self) -> 'BagMaker':
        self._writer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.__exit__(*error)

    def make(self, kind: str, **fields):
        return self.store.types[kind](**fields)

    def header(self, stamp_ns: int, frame: str):
        extra = {'seq': 0} if self.ros1 else {}
        return self.make('std_msgs/msg/Header', **extra, frame_id=frame, stamp=self.make(
            'builtin_interfaces/msg/Time', sec=stamp_ns // SECOND, nanosec=stamp_ns % SECOND))

    def pose(self, T: np.ndarray):
        q = quat_xyzw(T) if np.isfinite(T).all() else np.zeros(4)
        return self.make('geometry_msgs/msg/Pose',
                         position=self.make('geometry_msgs/msg/Point', **xyz(T[:3, 3])),
                         orientation=self.make('geometry_msgs/msg/Quaternion', **xyzw(q)))

    def write(self, topic: str, kind: str, time_ns: int, **fields) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind,
                                                                   typestore=self.store)
        message = self.make(kind, **fields)
        raw = (self.store.serialize_ros1 if self.ros1 else self.store.serialize_cdr)(message, kind)
        self._writer.write(self._connections[topic], time_ns, raw)

    def image(self, stamp_ns: int, rgb: np.ndarray, topic: str = '/camera/image_raw',
              frame: str = 'camera_optical', time_ns: int | None = None,
              encoding: str = 'rgb8') -> None:
        pixels = rgb if rgb.ndim == 3 else rgb[..., None]
        self.write(topic, 'sensor_msgs/msg/Image', stamp_ns if time_ns is None else time_ns,
                   header=self.header(stamp_ns, frame), height=pixels.shape[0],
                   width=pixels.shape[1], encoding=encoding, is_bigendian=0,
                   step=pixels.shape[1] * pixels.shape[2] * pixels.itemsize,
                   data=np.ascontiguousarray(pixels).reshape(-1).view(np.uint8))

    def compressed(self, stamp_ns: int, rgb: np.ndarray, suffix: str) -> None:
        self.write('/camera/image_raw/compressed', 'sensor_msgs/msg/CompressedImage', stamp_ns,
                   header=self.header(stamp_ns, 'camera_optical'), format=suffix[1:],
                   data=cv2.imencode(suffix, rgb[..., ::-1])[1].reshape(-1))

    def odometry(self, stamp_ns: int, T: np.ndarray, covariance: np.ndarray | None = None,
                 topic: str = '/odom', world: str = 'map', time_ns: int | None = None) -> None:
        zero = self.make('geometry_msgs/msg/Vector3', x=0.0, y=0.0, z=0.0)
        self.write(topic, 'nav_msgs/msg/Odometry', stamp_ns if time_ns is None else time_ns,
                   header=self.header(stamp_ns, world), child_frame_id='base_link',
                   pose=self.with_covariance(T, covariance),
                   twist=self.make('geometry_msgs/msg/TwistWithCovariance', twist=self.make(
                       'geometry_msgs/msg/Twist', linear=zero, angular=zero),
                       covariance=np.zeros(36)))

    def with_covariance(self, T: np.ndarray, covariance: np.ndarray | None):
        return self.make('geometry_msgs/msg/PoseWithCovariance', pose=self.pose(T),
                         covariance=np.zeros(36) if covariance is None else covariance.reshape(-1))

    def camera_info(self, camera: str, k: np.ndarray, d: Sequence[float] = (0.0,) * 5,
                    frame: str = 'camera_optical') -> None:
        """CameraInfo of images of 160x120; ROS 1 has its fields in capitals."""
        values = {'k': k, 'd': np.array(d, dtype=float), 'r': np.eye(3).reshape(-1),
                  'p': np.zeros(12)}
        self.write(f'/{camera}/camera_info', 'sensor_msgs/msg/CameraInfo', START,
                   header=self.header(START, frame), height=120, width=160,
                   distortion_model='plumb_bob', binning_x=0, binning_y=0,
                   roi=self.make('sensor_msgs/msg/RegionOfInterest', x_offset=0, y_offset=0,
                                 height=0, width=0, do_rectify=False),
                   **{name.upper() if self.ros1 else name: of for name, of in values.items()})

    def transform(self, stamp_ns: int, parent: str, child: str, T: np.ndarray, *,
                  static: bool = False, topic: str = '', time_ns: int | None = None) -> None:
        q = quat_xyzw(T) if np.isfinite(T).all() else np.full(4, np.nan)
        transform = self.make(
            'geometry_msgs/msg/TransformStamped', header=self.header(stamp_ns, parent),
            child_frame_id=child, transform=self.make(
                'geometry_msgs/msg/Transform',
                translation=self.make('geometry_msgs/msg/Vector3', **xyz(T[:3, 3])),
                rotation=self.make('geometry_msgs/msg/Quaternion', **xyzw(q))))
        self.write(topic or ('/tf_static' if static else '/tf'), 'tf2_msgs/msg/TFMessage',
                   stamp_ns if time_ns is None else time_ns,
                   transforms=[transform])

    def fix(self, stamp_ns: int, lat: float, lon: float, alt: float, status: int = 0,
            spread: np.ndarray | None = None, time_ns: int | None = None) -> None:
        self.write('/gps/fix', 'sensor_msgs/msg/NavSatFix',
                   stamp_ns if time_ns is None else time_ns,
                   header=self.header(stamp_ns, 'gps'), latitude=lat, longitude=lon, altitude=alt,
                   status=self.make('sensor_msgs/msg/NavSatStatus', status=status, service=1),
                   position_covariance=np.zeros(9) if spread is None else spread.reshape(-1),
                   position_covariance_type=0 if spread is None else 2)


def xyz(v: np.ndarray) -> dict[str, float]:
    return dict(zip('xyz', map(float, v), strict=True))


def xyzw(v: np.ndarray) -> dict[str, float]:
    return dict(zip('xyzw', map(float, v), strict=True))


def pose(x: float, y: float = 0.0, yaw: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler('z', yaw).as_matrix()
    T[:2, 3] = x, y
    return T


def read(path: Path, gps: GpsConfig | None = None, origin: Origin | None = None, **options):
    """What a build would get of a bag: the source, and its frames with their pixels."""
    with Bag(path) as bag:
        source = open_bag(bag, BagOptions(**options), gps or GpsConfig(), origin)
        frames = list(source.frames())
        for frame in frames:
            frame.decode()
        return source, frames


# Encodings, written and read back.

def pixels_of(encoding: str, rgb: np.ndarray) -> np.ndarray:
    """What a driver sends of an image whose rows and columns come in equal pairs."""
    grey = rgb[..., 1]
    if encoding.startswith('bayer'):
        pattern = encoding[6:10]
        out = np.zeros(grey.shape, np.uint8)
        for i, letter in enumerate(pattern):
            out[i // 2::2, i % 2::2] = rgb[i // 2::2, i % 2::2, 'rgb'.index(letter)]
        return out.astype(np.uint16) * 257 if encoding.endswith('16') else out
    if 'yuv' in encoding or encoding in ('uyvy', 'yuyv'):
        # Grey has no colour: U and V are 128, Y goes from 16 to 235.
        luma = np.round(16 + grey * (219 / 255)).astype(np.uint8)
        flat = np.full_like(luma, 128)
        order = (luma, flat) if encoding in ('yuv422_yuy2', 'yuyv') else (flat, luma)
        return np.dstack(order)
    picture = {'m': grey, '1': grey, '8': grey}.get(encoding[0], rgb)
    if encoding[-3:] in ('UC3', 'UC4') or encoding.startswith('bgr'):
        picture = rgb[..., ::-1]
    if encoding.startswith(('rgba', 'bgra')) or encoding.endswith('UC4'):
        picture = np.dstack([picture, np.full_like(grey, 9)])
    return picture.astype(np.uint16) * 257 if '16' in encoding else picture


@pytest.mark.parametrize('encoding', [name for name in BYTES_PER_PIXEL if name[:2] not in
                                      ('nv', 'i4', 'yv') and name != 'yuv420'])
def test_every_packed_encoding_comes_back_out_of_a_bag(tmp_path, encoding):
    rng = np.random.default_rng(0)
    rgb = np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    grey_only = not ('rgb' in encoding or 'bgr' in encoding or encoding[-3:] in ('UC3', 'UC4')) \
        or encoding.startswith('bayer')
    if grey_only and not encoding.startswith('bayer'):
        rgb = np.repeat(rgb[..., 1:2], 3, axis=2)
    with BagMaker(tmp_path / 'bag') as bag:
        bag.image(START, pixels_of(encoding, rgb), encoding=encoding)
        bag.odometry(START, pose(0))
    _, (frame,) = read(bag.path)
    difference = np.abs(frame.decode().astype(int) - rgb)
    if encoding.startswith('bayer'):  # exact away from the edges of the squares
        inner = difference.reshape(4, 8, 5, 8, 3)[1:-1, 3:5, 1:-1, 3:5]
        assert inner.max() <= 2
    else:
        assert difference.max() <= 2


@pytest.mark.parametrize(('suffix', 'limit'), [('.png', 0.0), ('.jpg', 6.0)])
def test_compressed_images_come_back_out_of_a_bag(tmp_path, noise, suffix, limit):
    rgb = noise(1)[0]
    with BagMaker(tmp_path / 'bag') as bag:
        bag.compressed(START, rgb, suffix)
        bag.odometry(START, pose(0))
    _, (frame,) = read(bag.path)
    assert np.abs(frame.decode().astype(int) - rgb).mean() <= limit


# Kinds of bags.

def write_three(bag: BagMaker, noise, first: int = 0) -> None:
    for i, rgb in enumerate(noise(3)):
        bag.odometry(START + (first + i) * SECOND, pose(first + i))
        bag.image(START + (first + i) * SECOND, rgb)
    bag.transform(START + first * SECOND, 'base_link', 'camera_optical', T_BASE_CAM, static=True)


@pytest.mark.parametrize(('storage', 'packed'), [
    ('mcap', 'MESSAGE'), ('mcap', 'STORAGE'), ('sqlite3', 'FILE'), ('sqlite3', 'MESSAGE')])
def test_zstd_is_read(tmp_path, noise, storage, packed):
    with BagMaker(tmp_path / 'bag', storage, packed) as bag:
        write_three(bag, noise)
    assert len(read(bag.path)[1]) == 3


def test_a_packed_file_without_its_metadata_is_read(tmp_path, noise):
    with BagMaker(tmp_path / 'bag', 'sqlite3', 'FILE') as bag:
        write_three(bag, noise)
    packed = next(bag.path.glob('*.zstd'))
    assert len(read(packed)[1]) == 3
    packed.write_bytes(packed.read_bytes()[:200])
    with pytest.raises(BagError, match=r'bag .*zstd cannot be read') as error:
        read(packed)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_files_of_a_recording_without_metadata_are_read_as_one(tmp_path, noise, storage):
    (tmp_path / 'all').mkdir()
    for part in (0, 1):
        with BagMaker(tmp_path / f'part{part}', storage) as bag:
            write_three(bag, noise, first=3 * part)
        file = next(p for p in bag.path.iterdir() if p.suffix != '.yaml')
        file.rename(tmp_path / 'all' / f'part_{part}{file.suffix}')
    _, frames = read(tmp_path / 'all')
    assert [frame.stamp_ns for frame in frames] == [START + i * SECOND for i in range(6)]
    assert [frame.T_map_cam[0, 3] for frame in frames] == pytest.approx(np.arange(6) + 0.3)


def test_a_split_rosbag2_is_one_recording(tmp_path, noise):
    """Two files under one metadata.yaml, as `ros2 bag record --max-bag-size` leaves them."""
    parts = []
    for part in (0, 1):
        with BagMaker(tmp_path / f'lap_{part}') as bag:
            write_three(bag, noise, first=3 * part)
        parts.append(bag.path)
    out = tmp_path / 'lap'
    out.mkdir()
    for part in parts:
        next(part.glob('*.mcap')).rename(out / f'{part.name}.mcap')
    text = (parts[0] / 'metadata.yaml').read_text()
    text = text.replace('- lap_0.mcap\n', '- lap_0.mcap\n  - lap_1.mcap\n', 1)
    (out / 'metadata.yaml').write_text(text.replace('message_count: 3', 'message_count: 6'))
    _, frames = read(out)
    assert [frame.stamp_ns for frame in frames] == [START + i * SECOND for i in range(6)]


def test_a_folder_of_ros1_files_is_one_recording(tmp_path, noise):
    """Transforms that never change are in the first file only, and poses go on over the seam."""
    (tmp_path / 'all').mkdir()
    pictures = noise(6)
    for part in (0, 1):
        with BagMaker(tmp_path / 'all' / f'part_{part}', 'ros1') as bag:
            if not part:
                bag.transform(START, 'base_link', 'camera_optical', T_BASE_CAM, static=True)
            for i in range(3 * part, 3 * part + 3):
                bag.odometry(START + i * SECOND, pose(i))
                bag.image(START + i * SECOND + SECOND // 2, pictures[i])
    source, frames = read(tmp_path / 'all')
    assert 'from /tf_static (base_link -> camera_optical)' in source.poses
    assert [frame.T_map_cam is None for frame in frames] == [False] * 5 + [True]
    assert frames[2].T_map_cam[0, 3] == pytest.approx(2.8)


# Poses.

@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('kind', ['nav_msgs/msg/Odometry', 'geometry_msgs/msg/PoseStamped',
                                  'geometry_msgs/msg/PoseWithCovarianceStamped'])
def test_poses_of_every_type_are_interpolated_with_their_covariance(
        tmp_path, noise, storage, kind):
    rng = np.random.default_rng(0)
    poses = [pose(2.0 * i, 1.0, 0.4 * i) for i in range(4)]
    spread = [np.zeros((6, 6)) for _ in poses]
    for i, covariance in enumerate(spread):
        A = rng.normal(size=(6, 6))
        covariance[:] = (i + 1) * (A @ A.T)
    with BagMaker(tmp_path / 'bag', storage) as bag:
        bag.transform(START, 'base_link', 'camera_optical', T_BASE_CAM, static=True)
        for i, (T, covariance) in enumerate(zip(poses, spread, strict=True)):
            stamp = START + i * SECOND
            if kind.endswith('Odometry'):
                bag.odometry(stamp, T, covariance, topic='/pose')
            elif kind.endswith('CovarianceStamped'):
                bag.write('/pose', kind, stamp, header=bag.header(stamp, 'map'),
                          pose=bag.with_covariance(T, covariance))
            else:
                bag.write('/pose', kind, stamp, header=bag.header(stamp, 'map'), pose=bag.pose(T))
        for i, rgb in enumerate(noise(3)):
            bag.image(START + i * SECOND + SECOND // 4, rgb)
    source, frames = read(bag.path)
    assert source.world == 'map'
    for i, frame in enumerate(frames):
        want = interpolate(poses[i], poses[i + 1], 0.25) @ T_BASE_CAM
        np.testing.assert_allclose(frame.T_map_cam, want, atol=1e-9)
        if kind.endswith('/PoseStamped'):
            assert frame.covariance is None
        else:
            np.testing.assert_allclose(
                frame.covariance, (0.75 * spread[i] + 0.25 * spread[i + 1])[:3, :3], atol=1e-9)
    assert source.extrinsics['camera'] == pytest.approx([0.3, 0, 1.2, -0.5, 0.5, -0.5, 0.5])


def test_a_covariance_of_zeros_or_nonsense_is_unknown(tmp_path, noise):
    bad = [None, -np.eye(6), np.full((6, 6), np.nan), np.eye(6)]
    with BagMaker(tmp_path / 'bag') as bag:
        for i, (covariance, rgb) in enumerate(zip(bad, noise(4), strict=True)):
            bag.odometry(START + i * SECOND, pose(i), covariance)
            bag.image(START + i * SECOND, rgb)
    _, frames = read(bag.path)
    assert [frame.covariance is None for frame in frames] == [True, True, True, False]


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('slash', ['', '/'])
def test_a_chain_of_tf_gives_the_cameras_pose(tmp_path, noise, storage, slash):
    T_map_odom, odometry = pose(10.0, -5.0, 0.5), [pose(2.0 * i, 0.0, 0.3 * i) for i in range(4)]
    with BagMaker(tmp_path / 'bag', storage) as bag:
        bag.transform(START, f'{slash}base_link', f'{slash}mast', pose(0.1), static=True)
        bag.transform(START, f'{slash}mast', f'{slash}camera_optical', T_BASE_CAM, static=True)
        bag.transform(START, f'{slash}base_link', f'{slash}lidar', pose(7.0), static=True)
        for i, T in enumerate(odometry):
            # map -> odom comes seldom, odom -> base often; each is interpolated by itself.
            if i % 3 == 0:
                bag.transform(START + i * SECOND, f'{slash}map', f'{slash}odom', T_map_odom)
            bag.transform(START + i * SECOND, f'{slash}odom', f'{slash}base_link', T)
        for i, rgb in enumerate(noise(3)):
            bag.image(START + i * SECOND + SECOND // 2, rgb, frame=f'{slash}camera_optical')
    for frame in (None, 'map', '/map', 'odom'):
        source, frames = read(bag.path, tf_frame=frame, max_gap_s=4.0)
        world = 'odom' if frame == 'odom' else 'map'
        assert source.world == world
        assert source.poses == f'TF {world} -> camera_optical, extrinsics in TF'
        for i, got in enumerate(frames):
            want = interpolate(odometry[i], odometry[i + 1], 0.5) @ pose(0.1) @ T_BASE_CAM
            if world == 'map':
                want = T_map_odom @ want
            np.testing.assert_allclose(got.T_map_cam, want, atol=1e-9)
    # map -> odom comes twice, 3 s apart: two poses alone have no usual spacing.
    assert [f.T_map_cam is None for f in read(bag.path, max_gap_s=1.0)[1]] == [True] * 3
    assert [f.T_map_cam is None for f in read(bag.path, max_gap_s=0.0)[1]] == [True] * 3


def test_loops_and_nonsense_in_tf_are_survived(tmp_path, noise):
    broken, diverged, lame = pose(1.0), pose(1e15), pose(2.0)
    broken[0, 3] = np.nan
    with BagMaker(tmp_path / 'bag') as bag:
        for i, rgb in enumerate(noise(3)):
            stamp = START + i * SECOND
            bag.transform(stamp, 'map', 'base_link', pose(i))
            bag.transform(stamp, 'map', 'base_link', broken)
            bag.transform(stamp, 'map', 'base_link', diverged)
            bag.transform(stamp, 'a', 'a', lame)
            bag.transform(stamp, 'b', 'c', lame)
            bag.transform(stamp, 'c', 'd', lame)
            bag.transform(stamp, 'd', 'b', lame)
            bag.image(stamp, rgb)
        bag.transform(START, 'base_link', 'camera_optical', T_BASE_CAM, static=True)
        bag.transform(START, 'map', 'mars', diverged, static=True)
    source, frames = read(bag.path)
    assert source.notes == ['10 transforms make no sense: left out']
    assert [f.T_map_cam[0, 3] for f in frames] == pytest.approx([0.3, 1.3, 2.3])
    with pytest.raises(BagError, match=r"no moving chain from 'b' to the camera 'camera_optical'; "
                                       r'its frames: b, base_link, c, camera_optical, d, map'):
        read(bag.path, tf_frame='b')


@pytest.mark.parametrize('static', [False, True])
@pytest.mark.parametrize(('changed', 'bad'), [
    ({'z': 1e12}, 0), ({'z': -1.1e12}, 1), ({'z': 1e300}, 1), ({'z': float('inf')}, 1),
    ({'qw': 1e9}, 0), ({'qw': -1.1e9}, 1), ({'qw': 1e200}, 1), ({'qw': 1e-10}, 1)], ids=str)
def test_a_transform_is_left_out_before_a_pose_matrix_would_refuse_it(changed, bad, static):
    v = {'x': 0.0, 'y': 0.0, 'z': 0.0, 'qw': 1.0} | changed
    transform = SimpleNamespace(
        header=SimpleNamespace(frame_id='map', stamp=SimpleNamespace(sec=1, nanosec=0)),
        child_frame_id='base', transform=SimpleNamespace(
            translation=SimpleNamespace(x=v['x'], y=v['y'], z=v['z']),
            rotation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=v['qw'])))
    tree = TransformTree()
    tree.add([transform], static=static, stamp_ns=1)
    assert tree.bad == bad
    chain = tree.chain('map', 'base')
    assert (chain is None) == bool(bad)
    if chain is not None:
        np.testing.assert_allclose(chain.constant()[:3, 3], [0.0, 0.0, v['z']])


def test_transforms_repeated_on_tf_serve_as_extrinsics(tmp_path, noise):
    with BagMaker(tmp_path / 'bag', 'ros1') as bag:
        for i, rgb in enumerate(noise(3)):
            bag.transform(START + i * SECOND, 'base_link', 'camera_optical', T_BASE_CAM)
            bag.odometry(START + i * SECOND, pose(i))
            bag.image(START + i * SECOND, rgb)
    source, frames = read(bag.path)
    assert source.poses == '/odom, extrinsics from /tf (base_link -> camera_optical)'
    np.testing.assert_allclose(frames[1].T_map_cam, pose(1) @ T_BASE_CAM, atol=1e-9)


def drive_north(bag: BagMaker, noise, count: int = 12, step_deg: float = 1e-4) -> None:
    for i in range(count):
        bag.fix(START + i * SECOND, 48.0 + i * step_deg, 11.0, 500.0 + i, spread=4.0 * np.eye(3))
    for i, rgb in enumerate(noise(count - 1)):
        bag.image(START + i * SECOND + SECOND // 2, rgb)


def test_fixes_become_a_local_plane_with_headings_from_motion(tmp_path, noise):
    from pyproj import Geod

    with BagMaker(tmp_path / 'bag') as bag:
        drive_north(bag, noise)
    source, frames = read(bag.path)
    assert source.origin == Origin(lat_deg=48.0, lon_deg=11.0, alt_m=500.0)
    # Metres along the ellipsoid, found the other way round.
    metres = [Geod(ellps='WGS84').inv(11.0, 48.0, 11.0, 48.0 + (i + 0.5) * 1e-4)[2]
              for i in range(11)]
    got = np.array([frame.T_map_cam[:3, 3] for frame in frames])
    np.testing.assert_allclose(got, np.stack([np.zeros(11), metres, np.arange(11) + 0.5], 1),
                               atol=1e-3)
    for frame in frames:
        np.testing.assert_allclose(frame.T_map_cam[:3, 0], [0, 1, 0], atol=1e-6)  # ahead is north
        np.testing.assert_allclose(frame.covariance, 4.0 * np.eye(3), atol=1e-9)


def test_messages_without_a_fix_and_jumps_are_left_out(tmp_path, noise):
    with BagMaker(tmp_path / 'bag') as bag:
        bag.fix(START - 5 * SECOND, 0.0, 0.0, 0.0, status=-1)
        bag.fix(START - 4 * SECOND, np.nan, np.nan, np.nan)
        bag.fix(START - 3 * SECOND, 0.0, 0.0, 0.0)
        bag.fix(START - 2 * SECOND, 91.0, 11.0, 0.0)
        drive_north(bag, noise)
        bag.fix(START + 5 * SECOND + SECOND // 4, 48.5, 11.5, 500.0)  # 60 km away for a moment
    source, frames = read(bag.path, max_gap_s=1.0)
    assert source.origin.lat_deg == 48.0
    assert source.notes == ['4 of 17 messages on /gps/fix hold no fix: left out',
                            '1 fixes on /gps/fix are jumps: left out']
    got = np.array([frame.T_map_cam[:3, 3] for frame in frames])
    np.testing.assert_allclose(np.diff(got[:, 1]), 11.12, atol=0.01)


@pytest.mark.parametrize(('lat', 'lon'), [(0.0, 11.0), (37.8, -122.4), (48.5, 11.5)])
def test_a_receiver_that_begins_elsewhere_gives_no_origin(tmp_path, noise, lat, lon):
    with BagMaker(tmp_path / 'bag') as bag:
        for i in range(3):
            bag.fix(START - (3 - i) * SECOND, lat, lon, 0.0)
        drive_north(bag, noise)
    source, frames = read(bag.path)
    assert source.origin == Origin(lat_deg=48.0, lon_deg=11.0, alt_m=500.0)
    assert source.notes == ['3 fixes on /gps/fix are jumps: left out']
    assert len(frames) == 11
    np.testing.assert_allclose(frames[0].T_map_cam[:3, 3], [0, 5.56, 0.5], atol=0.01)


def test_a_recording_on_another_continent_does_not_fit_the_map_of_the_first(tmp_path, noise):
    with BagMaker(tmp_path / 'bag') as bag:
        drive_north(bag, noise)
    with pytest.raises(BagError, match=r'positions 9\d\d\d km from the origin .* do not fit one'):
        read(bag.path, origin=Origin(lat_deg=37.8, lon_deg=-122.4))


def test_a_receiver_without_any_fix_is_refused(tmp_path, noise):
    with BagMaker(tmp_path / 'bag') as bag:
        for i in range(3):
            bag.fix(START + i * SECOND, 48.0, 11.0, 0.0, status=-1)
        bag.image(START, noise(1)[0])
    with pytest.raises(BagError, match=r'/gps/fix in .* holds no fix: 3 messages, 3 of them say'):
        read(bag.path)


def test_a_later_recording_shares_the_origin_of_the_first(tmp_path, noise):
    with BagMaker(tmp_path / 'bag') as bag:
        drive_north(bag, noise)
    source, frames = read(bag.path, origin=Origin(lat_deg=48.001, lon_deg=11.0, alt_m=490.0))
    assert source.origin.lat_deg == 48.001
    np.testing.assert_allclose(frames[0].T_map_cam[:3, 3], [0, -111.19 + 5.56, 10.5], atol=0.02)


def test_poses_of_a_file_go_by_time_or_by_order(tmp_path, noise):
    poses = np.array([pose(3.0 * i, 0, 0.1 * i) for i in range(4)])
    with BagMaker(tmp_path / 'bag') as bag:
        for i, rgb in enumerate(noise(4)):
            bag.image(START + i * SECOND, rgb)
    stamps = START + SECOND * np.arange(4)
    for options in ({'trajectory': make_trajectory(stamps, poses)}, {'ordered': poses},
                    {'ordered': poses, 'stamps_ns': stamps.tolist()}):
        source, frames = read(bag.path, **options, poses_name='poses.txt')
        assert source.poses.startswith('poses.txt, extrinsics unknown')
        for frame, T in zip(frames, poses, strict=True):
            np.testing.assert_allclose(frame.T_map_cam, T, atol=1e-12)
    with pytest.raises(BagError, match=r'poses.txt has 3 poses, but there are 4 images on /cam'):
        read(bag.path, ordered=poses[:3], poses_name='poses.txt')


def test_poses_of_the_camera_are_not_moved_by_extrinsics(tmp_path, noise):
    """KITTI's files hold the poses of the left camera; what /tf_static says is of the base."""
    left, right = pose(1.0, 0.5), pose(1.0, -0.5, 0.3)
    poses = np.array([pose(3.0 * i, 0, 0.1 * i) for i in range(4)])
    with BagMaker(tmp_path / 'bag') as bag:
        bag.transform(START, 'base_link', 'left', left, static=True)
        bag.transform(START, 'base_link', 'right', right, static=True)
        for i, rgb in enumerate(noise(4)):
            for side in ('left', 'right'):
                bag.image(START + i * SECOND, rgb, f'/{side}/image_raw', side)
    known = {'ordered': poses, 'camera_poses': True, 'poses_name': '00.txt'}
    source, frames = read(bag.path, image_topics=['/left/image_raw'], **known)
    np.testing.assert_allclose([f.T_map_cam for f in frames], poses, atol=1e-12)
    assert source.extrinsics['left'][:3] == [1.0, 0.5, 0.0]
    both = ['/left/image_raw', '/right/image_raw']
    _, frames = read(bag.path, image_topics=both, **known)
    for frame in frames:
        i = (frame.stamp_ns - START) // SECOND
        beside = np.eye(4) if frame.camera == 'left' else np.linalg.inv(left) @ right
        np.testing.assert_allclose(frame.T_map_cam, poses[i] @ beside, atol=1e-12)
    with pytest.raises(BagError, match=r'those of /left/image_raw; where /right/image_raw sits'):
        read(bag.path, image_topics=both, base_frame='car', **known)


# Cameras.

@pytest.mark.parametrize('storage', STORAGES)
def test_several_cameras_have_extrinsics_and_intrinsics_of_their_own(tmp_path, noise, storage):
    left, right = pose(0.0, 0.5), pose(0.0, -0.5)
    with BagMaker(tmp_path / 'bag', storage) as bag:
        bag.transform(START, 'base_link', 'left', left, static=True)
        bag.transform(START, 'base_link', 'right', right, static=True)
        for i, rgb in enumerate(noise(3)):
            bag.odometry(START + i * SECOND, pose(i))
            for side in ('left', 'right'):
                bag.image(START + i * SECOND, rgb, f'/{side}/image_raw', side)
        K = np.array([100.0, 0, 80, 0, 100, 60, 0, 0, 1])
        bag.camera_info('left', K, [0.1, 0, 0, 0, 0], 'left')
    source, frames = read(bag.path, image_topics=['/left/image_raw', '/right/image_raw'])
    assert source.total == len(frames) == 6
    assert {f.camera: round(f.T_map_cam[1, 3], 6) for f in frames} == {'left': 0.5, 'right': -0.5}
    assert source.extrinsics['right'][:3] == [0.0, -0.5, 0.0]
    assert source.intrinsics == {'left': {
        'width': 160, 'height': 120, 'K': K.tolist(), 'model': 'plumb_bob',
        'D': [0.1, 0.0, 0.0, 0.0, 0.0]}}
    given = [[0, 2.0, 0, 0, 0, 0, 1], [0, -2.0, 0, 0, 0, 0, 1]]
    _, frames = read(bag.path, image_topics=['/left/image_raw', '/right/image_raw'],
                     extrinsics=given)
    assert {f.camera: f.T_map_cam[1, 3] for f in frames} == {'left': 2.0, 'right': -2.0}
    with pytest.raises(BagError, match=r'1 extrinsics for 2 image topics; give --extrinsics once'):
        read(bag.path, image_topics=['/left/image_raw', '/right/image_raw'], extrinsics=given[:1])
    with pytest.raises(BagError, match=r'are both camera .left.; name one of them'):
        read(bag.path, image_topics=['/left/image_raw', '/left/image_raw'])
    with pytest.raises(BagError, match=r'several image topics; choose one with --image-topic: /l'):
        read(bag.path)


def robot(path: Path, noise, f: float, T_base_cam: np.ndarray | None, y: float) -> Path:
    """A bag of /camera/image_raw, its CameraInfo and, where known, where the camera sits."""
    with BagMaker(path) as bag:
        for i, rgb in enumerate(noise(3)):
            bag.odometry(START + i * SECOND, pose(i, y))
            bag.image(START + i * SECOND, rgb)
        if T_base_cam is not None:
            bag.transform(START, 'base_link', 'camera_optical', T_base_cam, static=True)
        bag.camera_info('camera', np.array([f, 0, 80, 0, f, 60, 0, 0, 1]))
    return path


@pytest.mark.parametrize(('f', 'T', 'words'), [
    (140.0, T_BASE_CAM, 'intrinsics (f 90.0 and 140.0 px, 160x120 and 160x120) in b than in a; '
     'build a map of each'),
    (90.0, pose(0.5) @ T_BASE_CAM, 'extrinsics (0.500 m, 0.0 deg apart) in b than in a; give '
     '--extrinsics for both if it is one camera, else build a map of each'),
    (90.0, None, 'extrinsics (only one of them knows any) in b than in a; give --extrinsics for '
     'both if it is one camera, else build a map of each')])
def test_two_robots_whose_cameras_have_one_name_are_refused(
        tmp_path, noise, small_model, capsys, f, T, words):
    from regvpr_core.cli import main

    def build(other: Path) -> int:
        return main(['map', 'build', str(first), str(other), '--out', str(tmp_path / 'map'),
                     '--model', str(small_model), '--device', 'cpu'])

    first = robot(tmp_path / 'a', noise, 90.0, T_BASE_CAM, 0.0)
    assert build(robot(tmp_path / 'b', noise, f, T, 5.0)) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"regvpr: camera 'camera' has other {words} and join them by regvpr map merge "
        f'--rename-cameras')
    assert not (tmp_path / 'map').exists()
    assert build(robot(tmp_path / 'c', noise, 90.2, T_BASE_CAM, 5.0)) == 0


def test_several_pose_topics_are_listed_with_the_option(tmp_path, noise):
    with BagMaker(tmp_path / 'bag') as bag:
        drive_north(bag, noise)
        for i in range(12):
            bag.odometry(START + i * SECOND, pose(i))
    with pytest.raises(BagError) as error:
        read(bag.path)
    assert str(error.value) == (
        f'{bag.path} has several pose topics; choose one with --pose-topic (or give --tf-frame '
        f'FRAME, --tum FILE): /gps/fix (12), /odom (12)')
    assert read(bag.path, pose_topic='/odom')[0].world == 'map'
    assert read(bag.path, pose_topic='/gps/fix')[0].origin is not None


def test_what_a_bag_says_is_kept_in_the_map(tmp_path, noise, small_model):
    """Covariance, intrinsics, extrinsics and origin, through the command."""
    import json
    import sqlite3

    from regvpr_core.cli import main
    from regvpr_core.maps.place_map import PlaceMap

    with BagMaker(tmp_path / 'bag') as bag:
        drive_north(bag, noise)
        bag.transform(START, 'gps', 'camera_optical', T_BASE_CAM, static=True)
        bag.camera_info('camera', np.array([90.0, 0, 80, 0, 90, 60, 0, 0, 1]))
    assert main(['map', 'build', str(bag.path), '--out', str(tmp_path / 'map'), '--model',
                 str(small_model), '--device', 'cpu']) == 0
    with PlaceMap.open(tmp_path / 'map') as place_map:
        manifest = place_map.manifest
        assert manifest.origin == {'lat_deg': 48.0, 'lon_deg': 11.0, 'alt_m': 500.0}
        assert manifest.intrinsics['camera']['K'][0] == 90.0
        assert manifest.extrinsics['camera'] == pytest.approx(
            [0.3, 0, 1.2, -0.5, 0.5, -0.5, 0.5])
        assert json.loads(json.dumps(manifest.config))['gps']['max_speed_mps'] == 70.0
        np.testing.assert_allclose(place_map.T_map_cam[0, :3, 2], [0, 1, 0], atol=1e-6)
    with sqlite3.connect(tmp_path / 'map' / 'map.db') as database:
        (blob, image), *_ = database.execute('SELECT covariance, image FROM keyframe').fetchall()
    np.testing.assert_allclose(np.frombuffer(blob).reshape(3, 3), 4.0 * np.eye(3), atol=1e-9)
    assert image == '/camera/image_raw'


# Clocks.

def test_stamps_of_zero_count_as_the_times_of_recording(tmp_path, noise):
    with BagMaker(tmp_path / 'bag') as bag:
        for i, rgb in enumerate(noise(3)):
            bag.odometry(0, pose(i), time_ns=START + i * SECOND)
            bag.image(0, rgb, time_ns=START + i * SECOND + SECOND // 2)
    source, frames = read(bag.path)
    assert source.notes == ['the stamps on /camera/image_raw are 0: the times of recording are '
                            'taken']
    assert [f.stamp_ns for f in frames] == [START + i * SECOND + SECOND // 2 for i in range(3)]
    assert [f.T_map_cam is None for f in frames] == [False, False, True]
    assert frames[0].T_map_cam[0, 3] == pytest.approx(0.5)


def test_images_of_another_clock_are_refused_and_go_by_the_bags_time(tmp_path, noise):
    with BagMaker(tmp_path / 'bag') as bag:
        for i, rgb in enumerate(noise(3)):
            bag.odometry(START + i * SECOND, pose(i))
            bag.image(1000 + i * SECOND, rgb, time_ns=START + i * SECOND)  # since the boot
    with pytest.raises(BagError, match=r'/odom covers 17.* from 0.000 to about .*--bag-time'):
        read(bag.path)
    _, frames = read(bag.path, bag_time=True)
    assert [f.T_map_cam[0, 3] for f in frames] == [0, 1, 2]
    assert frames[0].stamp_ns == START


def test_stamps_may_go_back_and_forth(tmp_path, noise):
    with BagMaker(tmp_path / 'bag') as bag:
        for i in (3, 0, 2, 1, 4):
            bag.odometry(START + i * SECOND, pose(i), time_ns=START + 9 * SECOND)
        for i, rgb in zip((2, 0, 3), noise(3), strict=True):
            bag.image(START + i * SECOND + SECOND // 2, rgb, time_ns=START + 9 * SECOND)
    _, frames = read(bag.path)
    assert [f.T_map_cam[0, 3] for f in frames] == pytest.approx([2.5, 0.5, 3.5])


def test_what_two_recordings_share_is_taken_once(tmp_path, noise):
    pictures = noise(6)
    sources = []
    bags = []
    for part, indices in (('a', range(4)), ('b', range(2, 6))):
        with BagMaker(tmp_path / part) as bag:
            for i in range(6):
                bag.odometry(START + i * SECOND, pose(i))
            for i in indices:
                bag.image(START + i * SECOND, pictures[i])
        bags.append(Bag(bag.path))
    with bags[0], bags[1]:
        for bag in bags:
            sources.append(open_bag(bag, BagOptions(), GpsConfig()))
        frames = list(joined(sources))
    assert [f.T_map_cam is not None for f in frames] == [True] * 4 + [False] * 2 + [True] * 2
    assert frames[4].refused == 'the same image as one before'
