import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag1 import Reader as Reader1, Writer as Writer1
from rosbags.typesys import get_typestore, Stores
from scipy.spatial.transform import Rotation

from regvpr_core.errors import BagError, ImageError
from regvpr_core.geometry import quat_xyzw
from regvpr_core.recordings.bags import (
    Bag,
    camera_name,
    IMAGE_TYPES,
    ODOMETRY_TYPE,
    parse_extrinsics,
)
from regvpr_core.recordings.camera_frames import Camera, camera_frames
from regvpr_core.recordings.heads import head_of

STORAGES = ['mcap', 'sqlite3', 'ros1']


def bag_path(tmp_path: Path, storage: str) -> Path:
    return tmp_path / ('lap.bag' if storage == 'ros1' else 'lap')


def read_all(path: Path) -> int:
    """Do all that a build does with a bag; gives the number of images."""
    with Bag(path) as bag:
        image = bag.choose('image', IMAGE_TYPES, None, '--image-topic')
        poses = bag.poses(bag.choose('odometry', (ODOMETRY_TYPE,), None, '--pose-topic'))
        head_of(bag, image)
        bag.transforms(['/tf_static']).static('base_link', 'camera_optical')
        frames = camera_frames(bag, [Camera(image, poses, np.eye(4))], 1.0)
        return sum(f.decode().size > 0 for f in frames)


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('compressed', [False, True])
def test_a_bag_gives_images_with_poses_at_their_stamps(
        make_bag, frames, tmp_path, storage, compressed):
    rng = np.random.default_rng(0)
    laps = frames(5)
    for frame in laps:
        frame.stamp_ns += 123_456_789
        frame.T_map_base[:3, :3] = Rotation.random(rng=rng).as_matrix()
    T_base_cam = np.eye(4)
    T_base_cam[:3, 3] = [0.5, 0.0, 1.0]
    path = make_bag(bag_path(tmp_path, storage), laps, storage=storage, compressed=compressed)
    with Bag(path) as bag:
        image = bag.choose('image', IMAGE_TYPES, None, '--image-topic')
        assert image.name == '/camera/image_raw' + ('/compressed' if compressed else '')
        assert image.count == 5
        poses = bag.poses(bag.choose('odometry', (ODOMETRY_TYPE,), None, '--pose-topic'))
        assert (poses.world_frame, poses.body_frame, poses.name) == ('map', 'base_link', '/odom')
        head = head_of(bag, image)
        assert (head.frame, head.offset_s) == ('camera_optical', pytest.approx(0.0, abs=1e-6))
        assert bag.duration_ns == pytest.approx(4e9, abs=2)
        got = list(camera_frames(bag, [Camera(image, poses, T_base_cam)], 1.0))
        assert [frame.stamp_ns for frame in got] == [frame.stamp_ns for frame in laps]
        for frame, want in zip(got, laps, strict=True):
            np.testing.assert_allclose(frame.T_map_cam, want.T_map_base @ T_base_cam, atol=1e-9)
            difference = np.abs(frame.decode().astype(int) - want.rgb)
            assert difference.mean() < 8.0 if compressed else difference.max() == 0
            assert (frame.camera, frame.source) == ('camera', path.name)


def test_topics_are_chosen_by_name_with_or_without_compressed(make_bag, frames, tmp_path):
    with Bag(make_bag(tmp_path / 'lap', frames(2), compressed=True)) as bag:
        for wanted in (None, '/camera/image_raw', '/camera/image_raw/compressed'):
            topic = bag.choose('image', IMAGE_TYPES, wanted, '--image-topic')
            assert topic.name == '/camera/image_raw/compressed'


@pytest.fixture
def two_cameras(make_bag, frames, tmp_path) -> Path:
    """A ROS 1 bag with two image topics."""
    path = tmp_path / 'two.bag'
    make_bag(tmp_path / 'one.bag', frames(3), storage='ros1')
    with Reader1(tmp_path / 'one.bag') as reader, Writer1(path) as writer:
        for connection, time_ns, data in reader.messages():
            for suffix in ('left', 'right'):
                name = f'/{suffix}{connection.topic}'
                known = {c.topic: c for c in writer.connections}
                out = known.get(name) or writer.add_connection(
                    name, connection.msgtype, msgdef=connection.msgdef.data,
                    md5sum=connection.digest)
                writer.write(out, time_ns, data)
    return path


def test_of_several_topics_one_must_be_named(two_cameras):
    with Bag(two_cameras) as bag:
        with pytest.raises(BagError) as error:
            bag.choose('image', IMAGE_TYPES, None, '--image-topic')
        assert str(error.value) == (
            f'{two_cameras} has several image topics; choose one with --image-topic: '
            f'/left/camera/image_raw (3), /right/camera/image_raw (3)')
        assert bag.choose('image', IMAGE_TYPES, '/right/camera/image_raw', '').count == 3
        with pytest.raises(BagError, match=r"has no image topic '/odom'; it has: /left/cam"):
            bag.choose('image', IMAGE_TYPES, '/odom', '--image-topic')


@pytest.mark.parametrize('storage', STORAGES)
def test_static_transforms_are_followed_in_both_directions(make_bag, frames, tmp_path, storage):
    with Bag(make_bag(bag_path(tmp_path, storage), frames(2), storage=storage)) as bag:
        tree = bag.transforms(['/tf_static'])
        T = tree.static('base_link', 'camera_optical')
        np.testing.assert_allclose(
            T, [[0, 0, 1, 0.3], [-1, 0, 0, 0], [0, -1, 0, 1.2], [0, 0, 0, 1]], atol=1e-12)
        back = tree.static('/camera_optical', '/base_link')
        np.testing.assert_allclose(back @ T, np.eye(4), atol=1e-12)
        np.testing.assert_allclose(tree.static('odom', 'odom'), np.eye(4))
        assert tree.static('base_link', 'lidar') is None


@pytest.mark.parametrize('storage', STORAGES)
def test_messages_go_out_as_cdr_whatever_the_bag(make_bag, frames, tmp_path, storage):
    store = get_typestore(Stores.ROS2_JAZZY)
    laps = frames(3)
    with Bag(make_bag(bag_path(tmp_path, storage), laps, storage=storage)) as bag:
        sent = list(bag.serialized('/camera/image_raw', '/odom'))
    assert [time_ns for _, _, time_ns, _ in sent] == [f.stamp_ns for f in laps for _ in range(2)]
    sent.sort(key=lambda item: (item[2], item[0]))  # of one stamp, either may be first
    assert [topic for topic, *_ in sent] == ['/camera/image_raw', '/odom'] * 3
    _, kind, _, raw = sent[0]
    message = store.deserialize_cdr(raw, kind)
    assert np.array_equal(message.data.reshape(120, 160, 3), laps[0].rgb)
    assert message.header.frame_id == 'camera_optical'


def test_a_pose_that_is_not_finite_is_left_out_and_said(make_bag, frames, tmp_path):
    laps = frames(4)
    laps[1].T_map_base[0, 3] = np.nan
    with Bag(make_bag(tmp_path / 'lap', laps)) as bag:
        poses = bag.poses(bag.topics(ODOMETRY_TYPE)[0])
    assert poses.trajectory.stamps_ns.tolist() == [laps[i].stamp_ns for i in (0, 2, 3)]
    assert len(poses.notes) == 1
    assert poses.notes[0].startswith('1 of 4 poses on /odom make no sense (bad pose [nan, 0.0, ')


def test_odometry_without_one_usable_pose_is_refused(make_bag, frames, tmp_path):
    laps = frames(2)
    for frame in laps:
        frame.T_map_base[0, 3] = np.inf
    with Bag(make_bag(tmp_path / 'lap', laps)) as bag:
        with pytest.raises(BagError, match=r'/odom in .*lap holds no pose: bad pose \[inf, 0.0'):
            bag.poses(bag.topics(ODOMETRY_TYPE)[0])


def test_images_without_a_pose_are_given_all_the_same(make_bag, frames, tmp_path):
    laps = [dataclasses.replace(f, T_map_base=None if i == 0 else f.T_map_base)
            for i, f in enumerate(frames(4))]
    with Bag(make_bag(tmp_path / 'lap', laps)) as bag:
        image, odom = bag.topics(*IMAGE_TYPES)[0], bag.topics(ODOMETRY_TYPE)[0]
        got = list(camera_frames(bag, [Camera(image, bag.poses(odom), np.eye(4))], 1.0))
    assert [frame.T_map_cam is None for frame in got] == [True, False, False, False]


def test_what_is_no_bag_is_refused_in_one_line(tmp_path):
    with pytest.raises(BagError, match=r'bag .*none does not exist'):
        Bag(tmp_path / 'none')
    (tmp_path / 'folder').mkdir()
    names = ['folder']
    for name in ('a.bag', 'a.mcap', 'a.db3', 'a.txt'):
        for content in (b'', b'hello', bytes(1000)):
            (tmp_path / f'{len(names)}{name}').write_bytes(content)
            names.append(f'{len(names)}{name}')
    for name in names:
        with pytest.raises(BagError) as error:
            read_all(tmp_path / name)
        assert str(tmp_path / name) in str(error.value)
        assert '\n' not in str(error.value)


KINDS = [('mcap', ''), ('mcap', 'MESSAGE'), ('mcap', 'STORAGE'), ('sqlite3', ''),
         ('sqlite3', 'FILE'), ('sqlite3', 'MESSAGE'), ('ros1', ''), ('ros1', 'BZ2'),
         ('ros1', 'LZ4')]


def small_bag(make_bag, frames, tmp_path, storage: str, packed: str) -> tuple[Path, list[Path]]:
    """A bag of four little images, and the files it is made of."""
    laps = [dataclasses.replace(f, rgb=f.rgb[:12, :16].copy()) for f in frames(4)]
    bag = make_bag(bag_path(tmp_path, storage), laps, storage=storage, packed=packed)
    return bag, [bag] if bag.is_file() else sorted(bag.iterdir())


@pytest.mark.parametrize(('storage', 'packed'), KINDS)
def test_a_packed_bag_is_read(make_bag, frames, tmp_path, storage, packed):
    bag, _ = small_bag(make_bag, frames, tmp_path, storage, packed)
    assert read_all(bag) == 4


@pytest.mark.parametrize(('storage', 'packed'), KINDS)
def test_a_bag_cut_short_anywhere_is_a_bag_error(make_bag, frames, tmp_path, storage, packed):
    bag, files = small_bag(make_bag, frames, tmp_path, storage, packed)
    for file in files:
        whole = file.read_bytes()
        refused = []
        for length in [*range(0, len(whole), max(1, len(whole) // 12)), len(whole) - 1]:
            file.write_bytes(whole[:length])
            try:
                images = read_all(bag)
            except BagError as error:
                refused.append(str(error))
            else:
                assert 0 < images <= 4 or file.suffix != '.yaml'
        assert refused or file.suffix == '.yaml'  # the files are read without it
        assert all(str(bag) in line and '\n' not in line for line in refused)
        file.write_bytes(whole)


@pytest.mark.parametrize(('storage', 'packed'), KINDS)
def test_a_bag_with_a_changed_byte_is_a_bag_error_at_worst(
        make_bag, frames, tmp_path, storage, packed):
    bag, files = small_bag(make_bag, frames, tmp_path, storage, packed)
    rng = np.random.default_rng(0)
    for file in files:
        whole = file.read_bytes()
        for _ in range(15):
            changed = bytearray(whole)
            changed[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            file.write_bytes(changed)
            with contextlib.suppress(BagError, ImageError):
                read_all(bag)
        file.write_bytes(whole)


@pytest.mark.parametrize(('topic', 'name'), [
    ('/camera/image_raw', 'camera'), ('/camera/image_raw/compressed', 'camera'),
    ('/front/left/image_rect_color', 'front/left'), ('/image', 'image'),
    ('image_raw/compressed', 'image_raw'), ('/cam0', 'cam0'), ('/', 'camera')])
def test_a_camera_is_named_after_its_topic(topic, name):
    assert camera_name(topic) == name


def test_extrinsics_are_a_position_and_a_quaternion():
    T = parse_extrinsics([1.0, 2.0, 3.0, 0.0, 0.0, 2.0, 2.0])
    assert T[:3, 3].tolist() == [1.0, 2.0, 3.0]
    np.testing.assert_allclose(quat_xyzw(T), [0, 0, 0.5**0.5, 0.5**0.5], atol=1e-12)
    for values in ([1.0] * 6, [1.0] * 8, [0.0] * 7, [float('nan')] * 7):
        with pytest.raises(BagError, match='expected x y z qx qy qz qw of the camera in the base'):
            parse_extrinsics(values)
