"""Bags of a lap read back as what was driven."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader
from rosbags.typesys import get_typestore, Stores

from examples.town import LapConfig, Town, TownConfig, TownError, write_lap
from examples.town.__main__ import main

START_NS = 1_700_000_000_123_456_789
LAP = LapConfig(frames=5, seed=3)
IMAGE = '/camera/image_raw'


@pytest.fixture(scope='module')
def town() -> Town:
    return Town(TownConfig(blocks_x=2, blocks_y=2, width=96, height=72))


def read(bag: Path) -> dict[str, list[tuple[int, object]]]:
    topics: dict[str, list[tuple[int, object]]] = {}
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_HUMBLE)) as reader:
        for connection, stamp_ns, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            topics.setdefault(connection.topic, []).append((stamp_ns, message))
    return topics


def stamp(message: object) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3', 'ros1'])
@pytest.mark.parametrize('compressed', [True, False])
def test_a_bag_reads_back_as_the_lap(
    town: Town, tmp_path: Path, storage: str, compressed: bool
) -> None:
    files = write_lap(town, LAP, tmp_path, name='lap', storage=storage, compressed=compressed,
                      start_ns=START_NS)  # fmt: skip
    frames = list(town.drive(LAP, start_ns=START_NS))
    topics = read(files.bag)
    images = topics[IMAGE + '/compressed' if compressed else IMAGE]
    assert [s for s, _ in images] == [f.stamp_ns for f in frames]
    assert [stamp(m) for _, m in images] == [f.stamp_ns for f in frames]
    for (_, message), frame in zip(images, frames, strict=True):
        if compressed:
            decoded = cv2.imdecode(message.data, cv2.IMREAD_COLOR)[..., ::-1]
            assert np.abs(decoded.astype(int) - frame.image).mean() < 8
        else:
            assert message.encoding == 'rgb8'
            assert np.array_equal(message.data.reshape(frame.image.shape), frame.image)

    info = topics['/camera/camera_info'][0][1]
    matrix = info.K if storage == 'ros1' else info.k
    projection = info.P if storage == 'ros1' else info.p
    assert len(topics['/camera/camera_info']) == 5
    assert np.allclose(matrix.reshape(3, 3), town.camera.matrix)
    assert np.allclose(projection.reshape(3, 4)[:, :3], town.camera.matrix)
    assert matrix[0] == pytest.approx(48 / np.tan(0.65))

    transform = topics['/tf_static'][0][1].transforms[0]
    quaternion = transform.transform.rotation
    assert (transform.header.frame_id, transform.child_frame_id) == ('base_link', 'camera_optical')
    assert transform.transform.translation.z == 1.2
    assert np.allclose([quaternion.x, quaternion.y, quaternion.z, quaternion.w],
                       [-0.5, 0.5, -0.5, 0.5])  # fmt: skip


def test_odometry_and_truth_cover_every_image(town: Town, tmp_path: Path) -> None:
    topics = read(write_lap(town, LAP, tmp_path, start_ns=START_NS).bag)
    images = {s for s, _ in topics[IMAGE + '/compressed']}
    for topic, frame in (('/odom', 'odom'), ('/ground_truth', 'map')):
        stamps = [s for s, _ in topics[topic]]
        assert len(stamps) == 20
        assert images <= set(stamps)
        assert min(stamps) == min(images)
        assert max(stamps) > max(images)
        message = topics[topic][0][1]
        assert (message.header.frame_id, message.child_frame_id) == (frame, 'base_link')
        assert message.pose.covariance[0] > 0
    start, later = topics['/odom'][0][1], topics['/odom'][8][1]
    assert (start.pose.pose.position.x, start.pose.pose.orientation.w) == (0.0, 1.0)
    assert later.pose.pose.position.x == pytest.approx(2.0, abs=0.1)
    assert later.twist.twist.linear.x == pytest.approx(5.0, rel=0.1)


def test_the_truth_file_keeps_nanoseconds(town: Town, tmp_path: Path) -> None:
    lap = LapConfig(frames=3, rate_hz=7.0, kidnap_at=2)
    files = write_lap(town, lap, tmp_path, start_ns=START_NS)
    frames = list(town.drive(lap, start_ns=START_NS))
    lines = files.truth.read_text().splitlines()
    assert lines[0].startswith('1700000000.123456789 ')
    for line, frame in zip(lines, frames, strict=True):
        seconds, *numbers = line.split()
        assert int(seconds.replace('.', '')) == frame.stamp_ns
        x, y, z, _, _, qz, qw = map(float, numbers)
        assert np.allclose([x, y, z], frame.T_map_base[:3, 3], atol=1e-8)
        assert 2 * qz * qw == pytest.approx(frame.T_map_base[1, 0], abs=1e-9)


def test_static_transforms_are_offered_to_late_readers(town: Town, tmp_path: Path) -> None:
    files = write_lap(town, LapConfig(frames=1), tmp_path)
    with AnyReader([files.bag]) as reader:
        offered = {c.topic: c.ext.offered_qos_profiles[0] for c in reader.connections}
    assert offered['/tf_static'].durability.name == 'TRANSIENT_LOCAL'
    assert offered['/odom'].durability.name == 'VOLATILE'


def test_a_bag_is_never_overwritten(town: Town, tmp_path: Path) -> None:
    write_lap(town, LapConfig(frames=1), tmp_path, name='twice')
    with pytest.raises(TownError, match='twice exists already'):
        write_lap(town, LapConfig(frames=1), tmp_path, name='twice')
    with pytest.raises(TownError, match=r"one of mcap, sqlite3, ros1, got 'zip'"):
        write_lap(town, LapConfig(frames=1), tmp_path, storage='zip')


def test_the_command_line_writes_a_lap(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(['--out', str(tmp_path), '--frames', '2', '--name', 'two']) == 0
    assert (tmp_path / 'two' / 'metadata.yaml').is_file()
    assert len((tmp_path / 'two.tum').read_text().splitlines()) == 2
    assert 'image 2 of 2' in capsys.readouterr().err


def test_the_command_line_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(['--out', str(tmp_path), '--condition', 'fog']) == 1
    error = capsys.readouterr().err
    assert error == "error: condition must be one of day, dusk, rain, winter, got 'fog'\n"
