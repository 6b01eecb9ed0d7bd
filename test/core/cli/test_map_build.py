"""`regvpr map build`, in process: what it makes of good bags and says of bad ones."""

from collections.abc import Callable
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Writer1
from rosbags.rosbag2 import StoragePlugin, Writer as Writer2

from regvpr_core.cli import main, map_update
from regvpr_core.errors import CheckpointError
from regvpr_core.maps.place_map import PlaceMap

SECOND = 10**9


@pytest.fixture
def build(small_model: Path, tmp_path: Path) -> Callable[..., int]:
    """Run `map build` with the small model; gives the exit code."""
    def run(bag: Path, *more: str, out: Path | None = None) -> int:
        return main(['map', 'build', str(bag), '--out', str(out or tmp_path / 'map'),
                     '--model', str(small_model), '--device', 'cpu', *more])
    return run


@pytest.fixture
def refused(build, tmp_path: Path, capsys) -> Callable[..., str]:
    """Run `map build`, expect exit code 1 and nothing left behind; gives the line it says."""
    def run(bag: Path, *more: str, out: Path | None = None) -> str:
        before = {p for p in tmp_path.rglob('*') if not p.name.endswith(('-wal', '-shm'))}
        capsys.readouterr()
        assert build(bag, *more, out=out) == 1
        text, err = capsys.readouterr()
        assert text == ''
        lines = [line for line in err.splitlines() if line.strip()]
        assert lines[-1].startswith('regvpr: ')
        assert sum(line.startswith('regvpr: ') for line in lines) == 1
        assert len(lines) <= 4  # which topics, what is odd, which model, and the refusal
        after = {p for p in tmp_path.rglob('*') if not p.name.endswith(('-wal', '-shm'))}
        assert after == before
        return lines[-1]
    return run


def bag_path(tmp_path: Path, storage: str) -> Path:
    return tmp_path / ('lap.bag' if storage == 'ros1' else 'lap')


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3', 'ros1'])
@pytest.mark.parametrize('compressed', [False, True])
def test_a_bag_becomes_a_map(build, make_bag, frames, tmp_path, storage, compressed, capsys,
                             small_encoder):
    laps = frames(6)
    bag = make_bag(bag_path(tmp_path, storage), laps, storage=storage, compressed=compressed)
    assert build(bag, '--json') == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert (facts['frames_seen'], facts['keyframes'], facts['path_m']) == (6, 6, 5.0)
    assert 'poses /odom, extrinsics from /tf_static (base_link -> camera_optical)' in err
    with PlaceMap.open(tmp_path / 'map', small_encoder.fingerprint) as place_map:
        assert place_map.stamps_ns.tolist() == [frame.stamp_ns for frame in laps]
        assert set(place_map.cameras) == {'camera'}
        # The camera is 0.3 m before and 1.2 m above the base, and looks along x.
        np.testing.assert_allclose(place_map.T_map_cam[:, :3, 3],
                                   [[i + 0.3, 0.0, 1.2] for i in range(6)], atol=1e-9)
        np.testing.assert_allclose(place_map.T_map_cam[2, :3, 2], [1.0, 0.0, 0.0], atol=1e-9)
        extrinsics = place_map.manifest.extrinsics['camera']
        np.testing.assert_allclose(extrinsics, [0.3, 0, 1.2, -0.5, 0.5, -0.5, 0.5], atol=1e-9)
        for i, frame in enumerate(laps):
            assert place_map.search(small_encoder.describe(frame.rgb), 1)[1].tolist() == [i]


def test_local_features_are_kept_where_they_are_asked_for_and_the_calibration_always(
        build, make_bag, frames, tmp_path):
    bag = make_bag(tmp_path / 'lap', frames(6))
    assert build(bag, '--features', 'patch') == 0
    assert build(bag, out=tmp_path / 'plain') == 0
    for name, kind in (('map', 'patch'), ('plain', '')):
        with PlaceMap.open(tmp_path / name) as place_map:
            assert place_map.manifest.features == kind
            kept = place_map.local_features(0)
            assert (kept is not None) == bool(kind)
            assert place_map.attachment('calibration') is not None


def test_a_lone_mcap_file_is_a_bag(build, make_bag, frames, tmp_path):
    bag = make_bag(tmp_path / 'lap', frames(3))
    assert build(bag / 'lap.mcap') == 0
    with PlaceMap.open(tmp_path / 'map') as place_map:
        assert len(place_map) == 3
        assert place_map.manifest.sources == ['lap.mcap']


def test_poses_come_from_a_tum_file_and_extrinsics_from_the_command(
        build, make_bag, frames, write_tum, tmp_path):
    laps = frames(5)
    bag = make_bag(tmp_path / 'lap', laps, odometry=False, static_tf=False)
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 1, 3] = 40.0
    write_tum(tmp_path / 'poses.txt', [laps[0].stamp_ns, laps[4].stamp_ns], poses)
    # Both ends are known; between them is a gap of four seconds.
    tum = ('--tum', str(tmp_path / 'poses.txt'), '--extrinsics', *'0020001')
    assert build(bag, *tum, '--json') == 0
    assert build(bag, *tum, '--set', 'max_pose_gap_s=5', out=tmp_path / 'whole') == 0
    with PlaceMap.open(tmp_path / 'map') as two, PlaceMap.open(tmp_path / 'whole') as five:
        assert two.T_map_cam[:, :3, 3].tolist() == [[0, 0, 2], [0, 40, 2]]
        np.testing.assert_allclose(five.T_map_cam[:, 1, 3], [0, 10, 20, 30, 40], atol=1e-9)


def test_settings_come_from_a_file_and_from_the_command(build, make_bag, frames, tmp_path):
    bag = make_bag(tmp_path / 'lap', frames(7))
    (tmp_path / 'build.yaml').write_text('keyframes: {distance_m: 3.0}\nthumbnail_px: 32\n')
    assert build(bag, '--config', str(tmp_path / 'build.yaml')) == 0
    assert build(bag, '--config', str(tmp_path / 'build.yaml'), '--set',
                 'keyframes.distance_m=2', out=tmp_path / 'other') == 0
    with PlaceMap.open(tmp_path / 'map') as three, PlaceMap.open(tmp_path / 'other') as two:
        assert (len(three), len(two)) == (3, 4)
        assert three.thumbnail(0).shape == (24, 32, 3)


def test_without_extrinsics_the_poses_are_the_cameras(build, make_bag, frames, tmp_path, capsys):
    assert build(make_bag(tmp_path / 'lap', frames(2), static_tf=False)) == 0
    assert 'extrinsics unknown (--extrinsics): the poses are taken as' in capsys.readouterr().err
    with PlaceMap.open(tmp_path / 'map') as place_map:
        np.testing.assert_allclose(place_map.T_map_cam[1], [
            [1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], atol=1e-12)


def test_topics_are_listed(build, make_bag, frames, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '160')
    assert build(make_bag(tmp_path / 'lap', frames(3)), '--list') == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split('│')[1:-1]]
            for line in lines if line.startswith('│')]
    assert rows == [
        ['/camera/image_raw', 'sensor_msgs/msg/Image', '3', 'images'],
        ['/odom', 'nav_msgs/msg/Odometry', '3', 'poses'],
        ['/tf_static', 'tf2_msgs/msg/TFMessage', '1', 'extrinsics']]
    assert lines[-1] == ('would use: images /camera/image_raw, poses /odom, extrinsics from '
                         '/tf_static (base_link -> camera_optical) of base_link in map')
    assert not (tmp_path / 'map').exists()


def test_some_bad_images_are_counted_and_the_rest_is_kept(
        build, make_bag, frames, tmp_path, capsys):
    laps = frames(5)
    laps[2] = dataclasses.replace(laps[2], rgb=np.zeros((0, 160, 3), np.uint8))
    assert build(make_bag(tmp_path / 'lap', laps), '--json') == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts['keyframes'], facts['dropped: image cannot be decoded']) == (4, 1)
    assert facts['first image error'].startswith('image of 160x0 pixels; sides must be 1 to')


# Bad input: one line, exit code 1, nothing half-written.

def test_a_topic_that_is_not_there_lists_those_with_images(refused, make_bag, frames, tmp_path):
    bag = make_bag(tmp_path / 'lap', frames(3))
    assert refused(bag, '--image-topic', '/cam') == (
        f"regvpr: {bag} has no image topic '/cam'; it has: /camera/image_raw (3)")
    assert refused(bag, '--pose-topic', '/pose') == (
        f"regvpr: {bag} has no pose topic '/pose'; it has: /odom (3)")


def test_a_bag_without_odometry_says_what_it_has(refused, make_bag, frames, tmp_path):
    bag = make_bag(tmp_path / 'lap', frames(3), odometry=False)
    assert refused(bag) == (
        f'regvpr: {bag} has no pose topics, and no TF in which the camera (camera_optical) moves; '
        f'it has: /camera/image_raw [sensor_msgs/msg/Image] (3), '
        f'/tf_static [tf2_msgs/msg/TFMessage] (1); give --tum FILE or --kitti FILE')


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3', 'ros1'])
def test_an_empty_bag_is_refused(refused, tmp_path, storage):
    bag = bag_path(tmp_path, storage)
    with (Writer1(bag) if storage == 'ros1' else
          Writer2(bag, version=9, storage_plugin=StoragePlugin[storage.upper()])):
        pass
    assert refused(bag) == f'regvpr: {bag} has no image topics; it has: no topic'


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3', 'ros1'])
def test_a_bag_with_topics_and_no_image_is_refused(refused, make_bag, tmp_path, storage):
    bag = make_bag(bag_path(tmp_path, storage), [], storage=storage)
    assert 'has no image topics; it has: ' in refused(bag)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3', 'ros1'])
@pytest.mark.parametrize('share', [0.0, 0.3, 0.9])
def test_a_truncated_bag_is_refused(refused, make_bag, frames, tmp_path, storage, share):
    bag = make_bag(bag_path(tmp_path, storage), frames(5), storage=storage)
    file = bag if bag.is_file() else next(p for p in bag.iterdir() if p.suffix != '.yaml')
    file.write_bytes(file.read_bytes()[:int(share * file.stat().st_size)])
    assert str(bag) in refused(bag)


def test_no_bag_is_refused(refused, tmp_path):
    assert refused(tmp_path / 'none') == f'regvpr: {tmp_path / "none"} does not exist'
    (tmp_path / 'notes.txt').write_text('hello')
    (tmp_path / 'folder').mkdir()
    assert 'notes.txt is a table, not a recording' in refused(tmp_path / 'notes.txt')
    folder = tmp_path / 'folder'
    assert f'{folder} is empty; give a folder of images' in refused(folder)


@pytest.mark.parametrize(('rgb', 'encoding', 'message'), [
    (np.zeros((0, 64, 3), np.uint8), 'rgb8', 'image of 64x0 pixels'),
    (np.zeros((1, 20_000, 3), np.uint8), 'rgb8', 'image of 20000x1 pixels'),
    (np.zeros((4, 4, 3), np.uint8), 'hologram', "image encoding 'hologram' is not supported"),
    (np.zeros((4, 4, 3), np.uint8), 'rgba8', 'rgba8 image of 4x4 with step 12 has 48 bytes')])
def test_images_that_nobody_can_read_are_refused(
        refused, make_bag, frames, tmp_path, rgb, encoding, message):
    laps = [dataclasses.replace(frame, rgb=rgb) for frame in frames(3)]
    line = refused(make_bag(tmp_path / 'lap', laps, encoding=encoding))
    assert '3 images seen; dropped: 3 × image cannot be decoded (' in line
    assert message in line


def test_poses_of_another_time_are_refused(refused, make_bag, frames, write_tum, tmp_path):
    bag = make_bag(tmp_path / 'lap', frames(4, start_s=1000))
    for start_s in (10, 5000):
        write_tum(tmp_path / 'poses.txt', [start_s * SECOND, (start_s + 9) * SECOND],
                  np.tile(np.eye(4), (2, 1, 1)))
        assert refused(bag, '--tum', str(tmp_path / 'poses.txt')) == (
            f'regvpr: {tmp_path / "poses.txt"} covers {start_s}.000 to {start_s + 9}.000 s, but '
            f'the images on /camera/image_raw are from 1000.000 to about 1003.000 s; if their '
            f'clocks differ, --bag-time takes the times of recording')


def test_odometry_with_a_gap_where_the_images_are_is_refused(
        refused, make_bag, frames, write_tum, tmp_path):
    bag = make_bag(tmp_path / 'lap', frames(4, start_s=1000))
    write_tum(tmp_path / 'poses.txt', [990 * SECOND, 1010 * SECOND],
              np.tile(np.eye(4), (2, 1, 1)))
    assert '4 images seen; dropped: 4 × no pose at its stamp' in refused(
        bag, '--tum', str(tmp_path / 'poses.txt'))


def test_output_that_exists_or_cannot_be_written_is_refused(refused, make_bag, frames, tmp_path):
    bag = make_bag(tmp_path / 'lap', frames(2))
    (tmp_path / 'there').mkdir()
    (tmp_path / 'file').write_text('in the way')
    assert refused(bag, out=tmp_path / 'there') == (
        f'regvpr: {tmp_path / "there"} exists; choose a new folder for the map or remove it')
    assert 'cannot write map' in refused(bag, out=tmp_path / 'file' / 'map')
    assert 'cannot write map' in refused(bag, out=Path('/proc/map'))
    assert (tmp_path / 'file').read_text() == 'in the way'


@pytest.mark.parametrize(('more', 'message'), [
    (('--set', 'keyframes.distnce_m=1'), "unknown setting 'keyframes.distnce_m'; did you mean"),
    (('--set', 'batch=[1'), "cannot read override 'batch=[1'"),
    (('--set', 'batch=0'), 'batch is 0; expected 1 to 1024'),
    (('--config', 'none.yaml'), 'cannot read none.yaml'),
    (('--model', 'gem_vit14'), "unknown model 'gem_vit14'; did you mean 'gem_vits14'?"),
    (('--device', 'gpu'), "unknown device 'gpu'"),
    (('--tum', 'none.txt'), 'cannot read trajectory none.txt'),
    (('--extrinsics', *'0000000'), 'a quaternion is all zeros'),
    (('--extrinsics', '0', '0', 'nan', *'0001'), 'not finite')])
def test_wrong_options_are_refused(refused, make_bag, frames, tmp_path, more, message):
    assert message in refused(make_bag(tmp_path / 'lap', frames(2)), *more)


def test_an_unknown_model_is_refused_before_the_sources_are_read(
    refused, make_bag, frames, tmp_path, monkeypatch,
):
    def read(*_):
        raise AssertionError('the sources were read')

    monkeypatch.setattr('regvpr_core.recordings.sources.open_sources', read)
    bag = make_bag(tmp_path / 'lap', frames(2))
    assert "unknown model 'gem_vit14'" in refused(bag, '--model', 'gem_vit14')
    monkeypatch.setattr('regvpr_core.models.catalogue.local_file', lambda name: None)

    def fetch(name, **_):
        raise CheckpointError(f'{name} cannot be fetched')

    monkeypatch.setattr('regvpr_core.models.fetching.fetch_model', fetch)
    assert 'megaloc cannot be fetched' in refused(bag, '--model', 'megaloc')


def test_the_folder_for_the_map_must_be_named(make_bag, frames, tmp_path, capsys):
    assert main(['map', 'build', str(make_bag(tmp_path / 'lap', frames(1)))]) == 1
    assert capsys.readouterr().err == 'regvpr: --out MAP is missing: the folder for the map\n'


def test_ctrl_c_before_the_first_batch_leaves_nothing(
        build, make_bag, frames, tmp_path, monkeypatch, capsys):
    from regvpr_core.mapping import candidates

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    bag = make_bag(tmp_path / 'lap', frames(2))
    monkeypatch.setattr(candidates.CandidateStream, '_decide', stop)
    assert build(bag) == 130
    assert capsys.readouterr().err.endswith('regvpr: interrupted\n')
    assert [p.name for p in tmp_path.iterdir()] == ['lap']


def test_a_map_tells_the_frames_of_its_poses_and_cameras_that_look_up(
        build, make_bag, frames, tmp_path, capsys):
    bag = make_bag(tmp_path / 'lap', frames(2))
    assert build(bag, '--extrinsics', '0.5', '0', '1', '0', '0', '0', '1') == 0
    assert 'would look straight up' in capsys.readouterr().err
    assert main(['map', 'info', str(tmp_path / 'map'), '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['poses'] == ['lap: /odom, extrinsics as given (map -> base_link)']
    assert 'would look straight up' in facts['note'][0]


def test_a_bag_that_updates_a_map_is_named_with_what_is_read_of_it(
        build, make_bag, frames, tmp_path, monkeypatch, capsys, small_encoder):
    bag = make_bag(tmp_path / 'lap2', frames(6))
    assert build(bag) == 0
    assert main(['map', 'update', str(bag), str(tmp_path / 'map')]) == 1
    assert 'where a command takes both, MAP comes first' in capsys.readouterr().err
    assert not (bag / 'map.lock').exists()
    monkeypatch.setattr('regvpr_core.models.encoder.load_encoder', lambda model: small_encoder)
    capsys.readouterr()
    with map_update._session(bag, tmp_path / 'map', None) as (folder, name):
        assert name == 'lap2'
        with PlaceMap.open(folder) as session:
            assert len(session) == 6
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith('session lap2: read into a map of its own first, by small')
    assert any(line.startswith('images /') and 'poses /odom' in line for line in lines)
