"""Recordings as people have them: what is odd in them costs no pose, and is said.

Each bag is made by its test, in storages and with values of its own.
"""

from pathlib import Path
import sqlite3
import struct

import numpy as np
import pytest
from rosbags.rosbag1 import Reader as Reader1
from scipy.spatial.transform import Rotation

from regvpr_core.errors import BagError
from regvpr_core.recordings.bags import Bag
from regvpr_core.recordings.frames import PosedFrame, PosedSource
from regvpr_core.recordings.geodesy import fill_heights
from regvpr_core.recordings.sources import open_sources, SourceOptions
from test.core.recordings.test_bag_source import BagMaker, pose, START, T_BASE_CAM

SECOND = 10**9
STORAGES = ['mcap', 'sqlite3', 'ros1']
GREY = np.full((12, 16, 3), 90, np.uint8)


def opened(path: Path, max_gap_s: float = 1.0, **options) -> tuple[PosedSource, list[PosedFrame]]:
    with open_sources([path], SourceOptions(**options), max_gap_s=max_gap_s) as (source,):
        return source, list(source.frames())


def positions(frames: list[PosedFrame]) -> np.ndarray:
    return np.array([np.full(3, np.nan) if f.T_map_cam is None else f.T_map_cam[:3, 3]
                     for f in frames])


def drive(bag: BagMaker, count: int = 8, spacing_m: float = 2.0) -> np.ndarray:
    """Images each 0.4 s and odometry at 5 Hz; gives where the cameras are."""
    bag.transform(START, 'base_link', 'camera_optical', T_BASE_CAM, static=True)
    for k in range(-2, 2 * count + 2):
        bag.odometry(START + k * SECOND // 5, pose(k * spacing_m / 2))
    for k in range(count):
        bag.image(START + k * 2 * SECOND // 5, GREY)
    return np.array([[k * spacing_m + 0.3, 0.0, 1.2] for k in range(count)])


# Poses come from one source, one frame, one clock.

@pytest.mark.parametrize('storage', STORAGES)
def test_poses_of_two_worlds_on_one_topic_are_listed_with_the_option_that_picks_one(
        tmp_path, storage):
    with BagMaker(tmp_path / 'bag', storage) as bag:
        for k in range(20):
            bag.odometry(START + k * SECOND // 10, pose(k * 0.3), world='/wheel_odom')
            bag.odometry(START + k * SECOND // 10 + 1, pose(k * 0.3, 50.0), world='utm')
        for k in range(4):
            bag.image(START + k * SECOND // 3 + 2, GREY)
    with pytest.raises(BagError) as error:
        opened(bag.path)
    assert ('the poses on /odom are in several frames: wheel_odom -> base_link (20 poses), utm -> '
            'base_link (20 poses); choose one with --pose-frame wheel_odom or --pose-frame utm'
            ) in str(error.value)
    source, frames = opened(bag.path, pose_frame='utm')
    assert (source.world, source.body) == ('utm', 'base_link')
    assert np.allclose(positions(frames)[:, 1], 50.0)
    assert any('wheel_odom' in note and 'those in utm are taken' in note for note in source.notes)


def test_messages_that_name_no_frame_are_left_out_where_others_do(tmp_path):
    with BagMaker(tmp_path / 'bag') as bag:
        for k in range(10):
            bag.odometry(START + k * SECOND // 5, pose(k), world='' if k == 3 else 'map')
        bag.image(START + SECOND, GREY)
    source, _ = opened(bag.path)
    assert '1 poses on /odom name no frame: left out' in source.notes


@pytest.mark.parametrize('storage', STORAGES)
def test_two_robots_with_one_frame_name_keep_their_tf(tmp_path, storage):
    with BagMaker(tmp_path / 'bag', storage) as bag:
        for name, y in (('alpha', 0.0), ('beta', 30.0)):
            bag.transform(START, 'base', 'cam', T_BASE_CAM, static=True,
                          topic=f'/{name}/tf_static')
            for k in range(12):
                bag.transform(START + k * SECOND // 4, 'odom', 'base', pose(k * 0.5, y),
                              topic=f'/{name}/tf')
        for k in range(4):
            bag.image(START + k * SECOND // 2, GREY, topic='/beta/front/image_raw', frame='cam')
    _, frames = opened(bag.path)
    assert np.allclose(positions(frames)[:, 1], 30.0)
    _, frames = opened(bag.path, tf_topic='/alpha/tf')
    assert np.allclose(positions(frames)[:, 1], 0.0)


def test_tf_of_other_namespaces_alone_is_listed_with_the_option(tmp_path):
    with BagMaker(tmp_path / 'bag') as bag:
        for name in ('alpha', 'beta'):
            for k in range(4):
                bag.transform(START + k * SECOND // 4, 'odom', 'cam', pose(k),
                              topic=f'/{name}/tf')
        bag.image(START, GREY, topic='/front/image_raw', frame='cam')
    with pytest.raises(BagError, match=r'--tf-topic /alpha/tf or --tf-topic /beta/tf'):
        opened(bag.path)


def test_two_roots_of_tf_are_listed_with_the_option(tmp_path):
    with BagMaker(tmp_path / 'bag', 'sqlite3') as bag:
        for k in range(8):
            bag.transform(START + k * SECOND // 4, 'odom', 'base', pose(k))
            bag.transform(START + k * SECOND // 4, 'vision', 'base', pose(k, 9.0))
        bag.transform(START, 'base', 'cam', T_BASE_CAM, static=True)
        bag.image(START + SECOND, GREY, frame='cam')
    with pytest.raises(BagError, match=r'--tf-frame odom or --tf-frame vision'):
        opened(bag.path)
    _, (frame,) = opened(bag.path, tf_frame='vision')
    np.testing.assert_allclose(frame.T_map_cam[:3, 3], [4.3, 9.0, 1.2], atol=1e-9)


@pytest.mark.parametrize('storage', STORAGES)
def test_what_moves_is_taken_before_what_is_static(tmp_path, storage):
    with BagMaker(tmp_path / 'bag', storage) as bag:
        bag.transform(START, 'map', 'odom', np.eye(4), static=True)
        bag.transform(START, 'base', 'cam', T_BASE_CAM, static=True)
        for k in range(12):
            bag.transform(START + k * SECOND // 4, 'map', 'odom', pose(-7.0, 2.0 + 0.01 * k))
            bag.transform(START + k * SECOND // 4, 'odom', 'base', pose(k))
        bag.image(START + SECOND, GREY, frame='cam')
    source, (frame,) = opened(bag.path)
    np.testing.assert_allclose(frame.T_map_cam[:3, 3], [-2.7, 2.04, 1.2], atol=1e-9)
    assert 'map -> odom is static, and also moves on /tf: what moves is taken' in source.notes


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('in_tf', [False, True])
def test_a_clock_that_was_set_back_keeps_its_runs_apart(tmp_path, storage, in_tf):
    with BagMaker(tmp_path / 'bag', storage) as bag:
        bag.transform(5 * SECOND, 'base_link', 'camera_optical', T_BASE_CAM, static=True,
                      time_ns=START)
        for run, y in enumerate((0.0, -25.0, 60.0)):
            recorded = START + run * 90 * SECOND
            for k in range(30):
                stamp, time = 5 * SECOND + k * SECOND // 5, recorded + k * SECOND // 5
                if in_tf:
                    bag.transform(stamp, 'odom', 'base_link', pose(k * 0.4, y), time_ns=time)
                else:
                    bag.odometry(stamp, pose(k * 0.4, y), time_ns=time)
            for k in range(1, 6):
                bag.image(5 * SECOND + k * SECOND, GREY, time_ns=recorded + k * SECOND)
    source, frames = opened(bag.path)
    want = np.repeat([0.0, -25.0, 60.0], 5)
    assert np.allclose(positions(frames)[:, 1], want)
    assert any('set back' in note and '3 runs' in note and '--bag-time' in note
               for note in source.notes)
    _, frames = opened(bag.path, bag_time=True)
    assert np.allclose(positions(frames)[:, 1], want)


@pytest.mark.parametrize('storage', STORAGES)
def test_fixes_of_a_clock_that_was_set_back_keep_their_runs_apart(tmp_path, storage):
    with BagMaker(tmp_path / 'bag', storage) as bag:
        for run, east_deg in enumerate((0.0, 4e-4)):
            recorded = START + run * 50 * SECOND
            for k in range(40):
                stamp, time = 3 * SECOND + k * SECOND // 2, recorded + k * SECOND // 2
                bag.fix(stamp, 46.0 + k * 1e-5, 7.0 + east_deg, 900.0, time_ns=time)
            for k in range(2, 18, 3):
                bag.image(3 * SECOND + k * SECOND, GREY, time_ns=recorded + k * SECOND)
    source, frames = opened(bag.path)
    found = positions(frames)
    assert len(found) == 12
    np.testing.assert_allclose(found[:6, 0], 0.0, atol=0.1)
    np.testing.assert_allclose(found[6:, 0], 31.0, atol=0.2)
    np.testing.assert_allclose(found[6:, 1], found[:6, 1], atol=0.1)
    assert any('set back' in note and '2 runs' in note for note in source.notes)


@pytest.mark.parametrize('storage', STORAGES)
@pytest.mark.parametrize('in_tf', [False, True])
def test_two_publishers_close_to_one_another_are_refused(tmp_path, storage, in_tf):
    with BagMaker(tmp_path / 'bag', storage) as bag:
        for k in range(50):
            for late, y in ((0, 0.0), (SECOND // 25, 1.5)):
                stamp, T = START + k * SECOND // 8 + late, pose(k * 0.1, y)
                if in_tf:
                    bag.transform(stamp, 'odom', 'camera_optical', T)
                else:
                    bag.odometry(stamp, T)
        bag.image(START + SECOND, GREY)
    with pytest.raises(BagError, match='two sources publish'):
        opened(bag.path)


@pytest.mark.parametrize('in_tf', [False, True])
def test_two_publishers_with_the_same_stamps_are_refused(tmp_path, in_tf):
    with BagMaker(tmp_path / 'bag', 'sqlite3') as bag:
        for k in range(30):
            for late, y in ((0, 0.0), (4000, 2.5)):
                stamp, T = START + k * SECOND // 10, pose(k * 0.1, y)
                if in_tf:
                    bag.transform(stamp, 'odom', 'camera_optical', T, time_ns=stamp + late)
                else:
                    bag.odometry(stamp, T, time_ns=stamp + late)
        bag.image(START + SECOND, GREY)
    with pytest.raises(BagError, match=r'30 of 60 poses of .* two sources publish'):
        opened(bag.path)


def test_two_receivers_on_one_topic_are_refused(tmp_path):
    with BagMaker(tmp_path / 'bag', 'ros1') as bag:
        for k in range(40):
            bag.fix(START + k * SECOND // 2, 47.0 + k * 1e-5, 8.0, 400.0)
            bag.fix(START + k * SECOND // 2 + SECOND // 4, 47.0 + k * 1e-5, 8.0002, 400.0)
        bag.image(START + SECOND, GREY)
    with pytest.raises(BagError, match='two sources publish'):
        opened(bag.path)


def test_a_body_that_shakes_is_no_second_publisher(tmp_path):
    rng = np.random.default_rng(5)
    with BagMaker(tmp_path / 'bag') as bag:
        for k in range(100):
            bag.odometry(START + k * SECOND // 50, pose(k * 0.3, 0.05 * rng.normal()))
        bag.image(START + SECOND, GREY)
    _, (frame,) = opened(bag.path)
    assert frame.T_map_cam is not None


def test_static_transforms_that_contradict_one_another_are_told(tmp_path):
    other = T_BASE_CAM.copy()
    other[2, 3] = 2.5
    with BagMaker(tmp_path / 'bag', 'sqlite3') as bag:
        for k, T in enumerate((other, T_BASE_CAM)):
            bag.transform(START + k, 'base_link', 'camera_optical', T, static=True)
        for k in range(12):
            bag.odometry(START + k * SECOND // 4, pose(k))
        bag.image(START + SECOND, GREY)
    source, (frame,) = opened(bag.path)
    np.testing.assert_allclose(frame.T_map_cam[:3, 3], [4.3, 0.0, 1.2], atol=1e-9)
    assert ('base_link -> camera_optical has several values on /tf_static: the last is taken'
            in source.notes)


def test_positions_in_millimetres_and_two_publishers_are_refused(tmp_path):
    for name, place, why in (
            ('mm', lambda k: pose(k * 250.0), 'in millimetres'),
            ('two', lambda k: pose(k * 0.1 + 40.0 * (k % 2)), 'two sources publish')):
        with BagMaker(tmp_path / name) as bag:
            for k in range(30):
                bag.odometry(START + k * SECOND // 10, place(k))
            bag.image(START + SECOND, GREY)
        with pytest.raises(BagError, match=why):
            opened(bag.path)


# Extrinsics that are in the recording are found.

@pytest.mark.parametrize('storage', STORAGES)
def test_a_mount_that_moves_is_followed(tmp_path, storage):
    turns = [0.3 * np.sin(k / 3) for k in range(24)]
    with BagMaker(tmp_path / 'bag', storage) as bag:
        bag.transform(START, 'pan', 'cam', T_BASE_CAM, static=True)
        for k in range(24):
            bag.odometry(START + k * SECOND // 8, pose(k * 0.25))
            bag.transform(START + k * SECOND // 8, 'base_link', 'pan', pose(0, 0, turns[k]))
        for k in (4, 9, 17):
            bag.image(START + k * SECOND // 8, GREY, frame='cam')
    source, frames = opened(bag.path)
    for frame, k in zip(frames, (4, 9, 17), strict=True):
        want = pose(k * 0.25) @ pose(0, 0, turns[k]) @ T_BASE_CAM
        np.testing.assert_allclose(frame.T_map_cam, want, atol=1e-9)
    assert source.extrinsics == {}
    assert 'base_link -> cam moves' in source.poses


@pytest.mark.parametrize('storage', STORAGES)
def test_a_fixed_joint_on_tf_gives_the_map_its_extrinsics(tmp_path, storage):
    with BagMaker(tmp_path / 'bag', storage) as bag:
        for k in range(12):
            bag.transform(START + k * SECOND // 4, 'map', 'base_footprint', pose(k))
            bag.transform(START + k * SECOND // 4, 'base_footprint', 'cam', T_BASE_CAM)
        bag.image(START + SECOND, GREY, frame='cam')
    source, _ = opened(bag.path)
    np.testing.assert_allclose(source.extrinsics['camera'][:3], [0.3, 0, 1.2], atol=1e-9)


def test_the_frame_is_that_of_most_images_and_others_are_left_out(tmp_path):
    with BagMaker(tmp_path / 'bag') as bag:
        bag.transform(START, 'base_link', 'cam', T_BASE_CAM, static=True)
        for k in range(12):
            bag.odometry(START + k * SECOND // 4, pose(k))
        for k, frame in enumerate(('', 'cam', 'cam', 'rear_cam', 'cam')):
            bag.image(START + k * SECOND // 2, GREY, frame=frame)
    _, frames = opened(bag.path)
    assert np.allclose(positions(frames)[[0, 1, 2, 4], 2], 1.2)
    assert frames[3].T_map_cam is None
    assert frames[3].refused == 'of another frame than most images of its topic'


def test_axes_of_a_body_are_noted(tmp_path):
    level = np.eye(4)
    level[:3, 3] = [0.5, 0.0, 1.0]
    with BagMaker(tmp_path / 'bag') as bag:
        bag.transform(START, 'base_link', 'camera_link', level, static=True)
        for k in range(6):
            bag.odometry(START + k * SECOND // 4, pose(k))
        bag.image(START + SECOND, GREY, frame='camera_link')
    source, _ = opened(bag.path)
    assert any('look straight up' in note for note in source.notes)


# Clocks are compared.

@pytest.mark.parametrize(('late_s', 'said'), [(0.2, False), (7.5, True), (-3.0, True)])
def test_clocks_that_differ_are_told(tmp_path, late_s, said):
    late = round(late_s * SECOND)
    with BagMaker(tmp_path / 'bag') as bag:
        for k in range(-60, 120):
            bag.odometry(START + k * SECOND // 5, pose(k * 0.2))
        for k in range(5):
            bag.image(START + k * SECOND, GREY, time_ns=START + k * SECOND + late)
    source, _ = opened(bag.path)
    lines = [note for note in source.notes if '--bag-time' in note]
    assert bool(lines) == said
    if said:
        word = 'before' if late_s > 0 else 'after'
        assert f'{abs(late_s):.1f} s {word} they were recorded' in lines[0]
    _, frames = opened(bag.path, bag_time=True)
    assert np.allclose(positions(frames)[:, 0], [k + late_s for k in range(5)], atol=0.01)


# Gaps and heights.

@pytest.mark.parametrize(('every_s', 'posed'), [(1.0, True), (2.0, True), (9.0, False)])
def test_gaps_are_those_of_the_source(tmp_path, every_s, posed):
    rng = np.random.default_rng(3)
    with BagMaker(tmp_path / 'bag') as bag:
        for k in range(12):
            stamp = START + round((k * every_s + rng.normal(0, 0.02)) * SECOND)
            bag.odometry(stamp, pose(k * every_s))
        for k in range(1, 10):
            bag.image(START + round((k + 0.5) * every_s * SECOND), GREY)
    source, frames = opened(bag.path)
    assert np.isfinite(positions(frames)).all() == posed
    assert any('max_pose_gap_s' in note for note in source.notes) != posed


def test_missing_heights_are_those_of_their_neighbours():
    times = np.arange(6) * SECOND
    heights, filled = fill_heights(np.array([np.nan, 800.0, 0.0, 804.0, 1e6, 806.0]), times)
    assert heights.tolist() == [800.0, 800.0, 802.0, 804.0, 805.0, 806.0]
    assert filled.tolist() == [True, False, True, False, True, False]
    far = np.array([0, 1, 500]) * SECOND
    assert fill_heights(np.array([10.0, 30.0, np.nan]), far)[0].tolist() == [10.0, 30.0, 20.0]
    assert fill_heights(np.array([np.nan, np.nan]), times[:2])[0].tolist() == [0.0, 0.0]
    assert fill_heights(np.array([0.0, 1.0, -1.0]), times[:3])[1].any() == np.False_  # by the sea


@pytest.mark.parametrize('first', [np.nan, 0.0])
def test_a_first_fix_without_an_altitude_does_not_lift_the_path(tmp_path, first):
    with BagMaker(tmp_path / 'bag') as bag:
        for k in range(10):
            bag.fix(START + k * SECOND, 47.0 + k * 2e-5, 11.0,
                    first if k in (0, 6) else 1290.0 + 0.1 * k)
        for k in range(9):
            bag.image(START + k * SECOND, GREY)
    _, frames = opened(bag.path)
    assert np.ptp(positions(frames)[:, 2]) < 1.0


# No message vanishes, and a bag is not damaged because one channel is strange.

def mcap_records(data: bytes, at: int = 8):
    """(opcode, content, start, end) of the records of a file."""
    while at + 9 <= len(data) and data[at:at + 8] != data[:8]:
        size = struct.unpack_from('<Q', data, at + 1)[0]
        yield data[at], data[at + 9:at + 9 + size], at, at + 9 + size
        at += 9 + size


def one_file(path: Path, suffix: str) -> Path:
    return next(path.glob(f'*{suffix}'))


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_qos_in_the_metadata_says_nothing_about_the_messages(tmp_path, storage):
    with BagMaker(tmp_path / 'bag', storage) as bag:
        want = drive(bag)
    file = bag.path / 'metadata.yaml'
    file.write_text(file.read_text().replace('offered_qos_profiles: []',
                                             "offered_qos_profiles: '- history: 99'"))
    np.testing.assert_allclose(positions(opened(bag.path)[1]), want, atol=1e-9)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('change', ['gone', 'no identifier', 'broken', 'another file'])
def test_metadata_is_no_hindrance(tmp_path, storage, change):
    with BagMaker(tmp_path / 'bag', storage) as bag:
        want = drive(bag)
    file = bag.path / 'metadata.yaml'
    if change == 'gone':
        file.unlink()
    elif change == 'no identifier':
        file.write_text(file.read_text().replace(f'storage_identifier: {storage}',
                                                 'storage_identifier: ""'))
    elif change == 'broken':
        file.write_text('rosbag2_bagfile_information: {version: 9, [')
    else:
        name = next(p.name for p in bag.path.iterdir() if p.suffix != '.yaml')
        file.write_text(file.read_text().replace(f'- {name}', f'- {name}\n  - lost_7{name[-5:]}'))
    source, frames = opened(bag.path)
    np.testing.assert_allclose(positions(frames), want, atol=1e-9)
    said = ' '.join(source.notes)
    assert ('lost_7' in said) == (change == 'another file')
    assert ('cannot be used' in said) == (change == 'broken')


def test_files_that_the_metadata_does_not_name_are_told(tmp_path):
    with BagMaker(tmp_path / 'bag', 'sqlite3') as bag:
        drive(bag)
    file = one_file(bag.path, '.db3')
    beside = bag.path / 'spare_3.db3'
    beside.write_bytes(file.read_bytes())
    source, frames = opened(bag.path)
    assert len(frames) == 8
    assert any('spare_3.db3' in note and 'not read' in note for note in source.notes)
    text = (bag.path / 'metadata.yaml').read_text()
    (bag.path / 'metadata.yaml').write_text(text.replace(f'- {file.name}',
                                                         f'- {file.name}\n  - lost_3.db3'))
    source, frames = opened(bag.path)  # lost_3.db3 may be spare_3.db3 under another name
    assert len(frames) == 16
    assert any('spare_3.db3' in note and 'read as well' in note for note in source.notes)


def test_fewer_messages_than_the_metadata_says_are_told(tmp_path):
    with BagMaker(tmp_path / 'bag') as bag:
        drive(bag)
    file = bag.path / 'metadata.yaml'
    file.write_text(file.read_text().replace('message_count: 8', 'message_count: 31'))
    source, _ = opened(bag.path)
    assert any('8 of 31 on /camera/image_raw' in note for note in source.notes)


def test_a_write_ahead_log_that_was_left_over_is_read(tmp_path):
    with BagMaker(tmp_path / 'bag', 'sqlite3') as bag:
        want = drive(bag)
    database = one_file(bag.path, '.db3')
    writer = sqlite3.connect(database)
    writer.execute('PRAGMA journal_mode=WAL')
    writer.execute('UPDATE messages SET timestamp = timestamp + 1')
    writer.execute("INSERT INTO messages (topic_id, timestamp, data) SELECT topic_id, timestamp "
                   "+ 2, data FROM messages WHERE topic_id = (SELECT id FROM topics WHERE name = "
                   "'/camera/image_raw') LIMIT 1")
    writer.commit()
    killed = tmp_path / 'killed'
    killed.mkdir()
    for file in bag.path.iterdir():
        if '.db3' in file.name and not file.name.endswith('-shm'):
            (killed / file.name).write_bytes(file.read_bytes())
    writer.close()
    before = {file.name: file.read_bytes() for file in killed.iterdir()}
    source, frames = opened(killed)
    assert len(frames) == len(want) + 1
    assert any('was not closed' in note for note in source.notes)
    assert {file.name: file.read_bytes() for file in killed.iterdir()} == before


@pytest.mark.parametrize('share', [0.35, 0.6, 0.9])
def test_an_mcap_cut_short_gives_what_is_whole(tmp_path, share):
    rng = np.random.default_rng(0)
    with BagMaker(tmp_path / 'bag') as bag:
        bag.transform(START, 'base_link', 'camera_optical', T_BASE_CAM, static=True)
        for k in range(60):
            bag.odometry(START + k * SECOND // 4, pose(k))
            bag.image(START + k * SECOND // 4,
                      rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
    file = one_file(bag.path, '.mcap')
    whole = file.read_bytes()
    lone = tmp_path / 'cut.mcap'
    lone.write_bytes(whole[:int(share * len(whole))])
    source, frames = opened(lone)
    assert 0.5 * share * 60 < len(frames) <= share * 60
    assert np.isfinite(positions(frames)[:-1]).all()
    assert any('cut short' in note and 'mcap recover' in note for note in source.notes)


@pytest.mark.parametrize('share', [0.05, 0.5, 0.8])
def test_a_db3_cut_short_gives_what_is_whole_or_names_the_tool(tmp_path, share):
    with BagMaker(tmp_path / 'bag', 'sqlite3') as bag:
        for k in range(60):
            bag.odometry(START + k * SECOND // 4, pose(k))
        for k in range(60):
            bag.image(START + k * SECOND // 4, np.full((60, 80, 3), k, np.uint8))
    file = one_file(bag.path, '.db3')
    whole = file.read_bytes()
    lone = tmp_path / 'cut.db3'
    lone.write_bytes(whole[:int(share * len(whole))])
    if share < 0.1:  # all images are behind the odometry
        with pytest.raises(BagError, match=r'\.recover'):
            opened(lone)
        return
    source, frames = opened(lone)
    assert 0.7 * share * 60 < len(frames) < share * 60
    assert all((frame.decode() == k).all() for k, frame in enumerate(frames))
    assert any('.recover' in note for note in source.notes)


@pytest.mark.parametrize('name', ['drive.bag.active', 'DRIVE.BAG', 'drive.bag'])
@pytest.mark.parametrize('share', [0.4, 0.85])
def test_a_ros1_bag_whose_recorder_was_killed_gives_what_is_whole(tmp_path, name, share):
    rng = np.random.default_rng(0)
    with BagMaker(tmp_path / 'bag', 'ros1') as bag:
        bag.transform(START, 'base_link', 'camera_optical', T_BASE_CAM, static=True)
        for k in range(60):
            bag.odometry(START + k * SECOND // 4, pose(k))
            bag.image(START + k * SECOND // 4,
                      rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
    whole = bag.path.read_bytes()
    with Reader1(bag.path) as reader:
        assert reader.message_count == 121
    (tmp_path / 'killed').mkdir()
    killed = tmp_path / 'killed' / name
    killed.write_bytes(whole[:int(share * len(whole))])
    source, frames = opened(killed)
    assert 0.5 * share * 60 < len(frames) <= share * 60
    assert any('rosbag reindex' in note for note in source.notes)


def test_a_ros1_bag_cut_before_its_first_chunk_names_the_tool(tmp_path):
    with BagMaker(tmp_path / 'bag', 'ros1') as bag:
        drive(bag)
    (tmp_path / 'SHORT.BAG').write_bytes(bag.path.read_bytes()[:4300])
    with pytest.raises(BagError, match='no whole chunk; `rosbag reindex`'):
        opened(tmp_path / 'SHORT.BAG')


def with_records(whole: bytes, *records: tuple[int, bytes]) -> bytes:
    """A file of MCAP with records behind its header, and no index."""
    parts, first = [whole[:8]], True
    for op, body, start, end in mcap_records(whole):
        if op in (7, 8, 11, 13, 14, 15, 2):
            continue
        parts.append(whole[start:end])
        if first:
            parts += [bytes([op]) + struct.pack('<Q', len(body)) + body for op, body in records]
            first = False
    return b''.join(parts)


def text(value: bytes) -> bytes:
    return struct.pack('<I', len(value)) + value


@pytest.mark.parametrize('schema', [
    (b'acme/Log', b'jsonschema', b'{"type": 1}'), (b'acme.Log', b'protobuf', b'\xff\xfe\x00\x0a'),
    (b'acme_msgs/msg/T', b'ros2msg', b'float64 t # \xb0C'),
    (b'acme_msgs/srv/Ask_Event', b'ros2msg', b'SRV: what no reader of messages knows\n---\n'),
    (b'acme/Blob', b'flatbuffer', b'\x10\x00'), (b'', b'', b'')])
def test_strange_channels_beside_do_no_harm(tmp_path, schema):
    with BagMaker(tmp_path / 'bag') as bag:
        want = drive(bag)
    whole = one_file(bag.path, '.mcap').read_bytes()
    name, encoding, definition = schema
    lone = tmp_path / 'strange.mcap'
    lone.write_bytes(with_records(
        whole, (3, struct.pack('<H', 900) + text(name) + text(encoding) + text(definition)),
        (4, struct.pack('<HH', 900, 900) + text(b'/strange') + text(encoding or b'cdr')
         + text(b'')),
        (5, struct.pack('<HIQQ', 900, 0, START, START) + b'{}')))
    source, frames = opened(lone)
    np.testing.assert_allclose(positions(frames), want, atol=1e-9)
    assert any('cut short' in note for note in source.notes)
    with Bag(lone) as bag_:
        assert {topic.name: topic.count for topic in bag_.topics()}['/strange'] == 1


def test_a_table_of_contents_that_promises_more_is_counted(tmp_path):
    with BagMaker(tmp_path / 'bag') as bag:
        want = drive(bag)
    file = one_file(bag.path, '.mcap')
    whole = bytearray(file.read_bytes())
    with Bag(bag.path) as bag_:
        number = next(channel.id for channel in bag_._channels()
                      if channel.topic == '/camera/image_raw')
    for op, body, start, end in mcap_records(bytes(whole)):
        if op == 11:
            at = bytes(whole).index(struct.pack('<HQ', number, 8), start, end)
            whole[at:at + 10] = struct.pack('<HQ', number, 11)
            assert len(body) > 46
    file.write_bytes(whole)
    _, frames = opened(bag.path)
    np.testing.assert_allclose(positions(frames)[:8], want, atol=1e-9)
    assert [frame.refused for frame in frames[8:]] == [
        'in the table of contents of the bag, and not in it'] * 3


# Tables and files of poses as they are.

def test_rows_of_a_tum_file_that_are_not_finite_are_counted_with_their_line(tmp_path):
    with BagMaker(tmp_path / 'bag') as bag:
        for k in range(5):
            bag.image(START + k * SECOND, GREY)
    rows = ['\ufeffstamp tx ty tz qx qy qz qw']
    rows += [f'{1_700_000_000 + k * 0.25:.2f};{k * 0.25};0;0;0;0;0;1' for k in range(-4, 24)]
    rows[3] = '1699999999.50 nan nan nan nan nan nan nan'
    rows[6] = '1700000000.25 1 2 3 0 0 0 0'
    (tmp_path / 'poses.tum').write_text('\n'.join(rows), encoding='utf-8')
    source, frames = opened(bag.path, tum=tmp_path / 'poses.tum')
    assert np.allclose(positions(frames)[:, 0], range(5))
    assert any(note.startswith('2 of 28 poses in') and 'line 4' in note for note in source.notes)


def test_what_printf_writes_for_no_number_is_left_out(tmp_path):
    with BagMaker(tmp_path / 'bag', 'sqlite3') as bag:
        for k in range(4):
            bag.image(START + k * SECOND, GREY)
    rows = [f'{1_700_000_000 + k * 0.5:.2f} {k} 0 0 0 0 0 1' for k in range(-2, 10)]
    rows[3] = '1700000000.50 -nan -nan(ind) nan(snan) 0 0 0 1'
    rows[5] = 'nan 3 0 0 0 0 0 1'
    (tmp_path / 'poses.tum').write_text('\n'.join(rows))
    source, frames = opened(bag.path, tum=tmp_path / 'poses.tum')
    assert np.allclose(positions(frames)[:, 0], [0, 2, 4, 6])
    assert any(note.startswith('2 of 12 poses in') and 'line 4' in note for note in source.notes)


def test_a_file_of_poses_in_millimetres_is_refused(tmp_path):
    with BagMaker(tmp_path / 'bag') as bag:
        bag.image(START + SECOND, GREY)
    (tmp_path / 'mm.tum').write_text('\n'.join(
        f'{1_700_000_000 + k * 0.2:.2f} {k * 120} 0 0 0 0 0 1' for k in range(20)))
    with pytest.raises(BagError, match=r'mm.tum move at 600 m/s: .*millimetres'):
        opened(bag.path, tum=tmp_path / 'mm.tum')
    (tmp_path / 'mm.kitti').write_text('\n'.join(
        f'1 0 0 0 0 1 0 0 0 0 1 {k * 120}' for k in range(20)))
    (tmp_path / 'times').write_text('\n'.join(
        f'{1_700_000_000 + k * 0.2:.2f}' for k in range(20)))
    with pytest.raises(BagError, match=r'mm.kitti move at 600 m/s'):
        opened(bag.path, kitti=tmp_path / 'mm.kitti', times=tmp_path / 'times')


@pytest.mark.parametrize(('stamp', 'unit'), [(1_700_000_000_000, 'ms'), (17 * 10**17, 'ns')])
def test_stamps_in_another_unit_are_asked_about(tmp_path, stamp, unit):
    (tmp_path / 'poses.tum').write_text(f'{stamp} 0 0 0 0 0 0 1\n')
    with BagMaker(tmp_path / 'bag') as bag:
        bag.image(START, GREY)
    with pytest.raises(BagError, match=f'{stamp} seconds: is it in ms, us or ns'):
        opened(bag.path, tum=tmp_path / 'poses.tum')
    assert unit in ('ms', 'ns')


def test_rotations_survive_all_of_this(tmp_path):
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler('zyx', [0.4, 0.2, -0.1]).as_matrix()
    with BagMaker(tmp_path / 'bag', 'ros1') as bag:
        for k in range(4):
            bag.odometry(START + k * SECOND // 4, T)
        bag.image(START + SECOND // 2, GREY)
    _, (frame,) = opened(bag.path)
    np.testing.assert_allclose(frame.T_map_cam, T, atol=1e-9)
