"""`regvpr localize` and `regvpr doctor`, in process."""

import argparse
import csv
import json
from pathlib import Path
import sys

import numpy as np
import pytest

from regvpr_core.cli import doctor, localize as localize_command, main
from regvpr_core.images import encode_jpeg
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.models.encoder import Encoder

KEYFRAMES = 40


@pytest.fixture
def wall(tmp_path: Path, small_encoder: Encoder, noise) -> tuple[Path, Path]:
    """A map along a painted wall, an image every two metres, and the folder of its images."""
    photos, path = tmp_path / 'photos', tmp_path / 'map'
    photos.mkdir()
    manifest = Manifest(map_id='wall', model=small_encoder.name, dimension=small_encoder.dimension,
                        fingerprint=small_encoder.fingerprint)
    with MapWriter.create(path, manifest) as writer:
        for i, rgb in enumerate(noise(2 * KEYFRAMES)[::2]):
            T = np.eye(4)
            T[0, 3] = 2.0 * i
            writer.append([Keyframe(stamp_ns=i, camera='front', T_map_cam=T, source='lap1',
                                    descriptor=small_encoder.describe(rgb))])
            (photos / f'{i:03}.jpg').write_bytes(encode_jpeg(rgb, 95))
    return path, photos


def localize(capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, output, and what was said."""
    capsys.readouterr()
    code = main(['localize', *map(str, arguments), '--device', 'cpu', '--precision', 'fp32'])
    return (code, *capsys.readouterr())


def test_pictures_of_a_drive_find_their_keyframes_and_places(wall, small_model, capsys):
    path, photos = wall
    (photos / 'broken.jpg').write_bytes(b'no picture')
    code, out, err = localize(capsys, path, photos, '--model', small_model, '--drive', '--json')
    assert code == 0
    assert f'skipped {photos / "broken.jpg"}: 10 bytes that are no image' in err
    lines = json.loads(out)
    assert [Path(line['image']).stem for line in lines] == [f'{i:03}' for i in range(KEYFRAMES)]
    fixed = [i for i, line in enumerate(lines) if line['state'] == 'localized']
    assert len(fixed) >= KEYFRAMES // 2
    for i in fixed:
        assert lines[i]['of'] == 'lap1'
        assert lines[i]['position_m'][0] == pytest.approx(2.0 * i, abs=6.0)
        assert 0.0 < lines[i]['deviation_m'] < 10.0
    assert all(line['position_m'] is None for line in lines if line['state'] != 'localized')
    for line in lines:
        if line['answer'] != 'yes':
            assert line['probability'] == max(match['probability'] for match in line['matches'])
            assert line['answer'] == ('unsure' if line['probability'] >= 0.3
                                      and line['state'] != 'off_map' else 'no')


def test_the_best_guess_of_a_no_stands_in_brackets_without_a_position(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    line = {'image': 'q.jpg', 'keyframe': 3, 'keyframe_image': '003.jpg', 'position_m': None,
            'keyframe_position_m': [6.0, 7.0, 0.0], 'deviation_m': None}
    lines = [line | {'answer': 'no', 'probability': 0.12},
             line | {'answer': 'unsure', 'probability': 0.4},
             line | {'answer': 'no', 'probability': 0.0, 'keyframe': None, 'keyframe_image': None,
                     'keyframe_position_m': None}]
    localize_command._print(lines, argparse.Namespace(images=[Path('q.jpg')]))
    assert [row.split() for row in capsys.readouterr().out.splitlines()[1:]] == [
        ['q.jpg', 'no', '(003.jpg)', '0.12'],
        ['q.jpg', 'unsure', '003.jpg', '6.0', '7.0', '0.40'],
        ['q.jpg', 'no', '0.00']]


@pytest.mark.parametrize(('state', 'probability', 'answer'), [
    ('LOCALIZED', 0.55, 'yes'), ('INITIALISING', 0.02, 'no'), ('INITIALISING', 0.4, 'unsure'),
    ('AMBIGUOUS', 0.29, 'no'), ('LOST', 0.95, 'unsure'), ('OFF_MAP', 0.4, 'no')])
def test_the_answer_of_a_drive_fits_its_probability(state, probability, answer):
    assert localize_command._answer(state, probability) == answer


def test_a_picture_alone_is_judged_alone(wall, small_model, capsys):
    path, photos = wall
    order = [photos / '010.jpg', photos / '030.jpg']
    rows = [json.loads(localize(capsys, path, *pictures, '--model', small_model, '--json')[1])
            for pictures in (order, order[1:])]
    assert rows[0][1] == rows[1][0]
    assert [line['keyframe'] for line in rows[0]] == [10, 30]
    assert min(line['similarity'] for line in rows[0]) > 0.95


def test_an_image_of_the_map_is_answered_with_yes_place_and_pose_in_80_columns(
    wall, small_model, tmp_path, capsys, monkeypatch,
):
    monkeypatch.setenv('COLUMNS', '80')
    path, photos = wall
    table = tmp_path / 'places.csv'
    _, out, err = localize(capsys, path, photos / '007.jpg', photos / '012.jpg',
                           '--model', small_model, '--csv', table)
    header, first, second, totals = (line.split() for line in out.splitlines())
    assert header == ['image', 'answer', 'keyframe', 'x', 'm', 'y', 'm', '±', 'm', 'prob']
    assert first[:2] == ['007.jpg', 'yes']
    assert second[:2] == ['012.jpg', 'yes']
    assert float(first[4]) == pytest.approx(14.0, abs=3.0)
    assert ' '.join(totals).startswith('2 images: 2 yes, 0 unsure, 0 no; 0 skipped; ')
    assert all(len(line) <= 80 for line in out.splitlines())
    assert err.splitlines()[-1].startswith('next: regvpr map show ')
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row['answer'], row['keyframe']) for row in rows] == [('yes', '7'), ('yes', '12')]
    assert float(rows[1]['x_m']) == pytest.approx(24.0, abs=3.0)


def test_a_map_whose_model_has_no_name_here_asks_for_its_file(wall, capsys):
    path, photos = wall
    code, out, err = localize(capsys, path, photos)
    assert (code, out) == (1, '')
    assert f'regvpr: map {path} was built with small, which cannot be loaded' in err
    assert 'give the file of that model by --model' in err


def test_what_cannot_be_localized_is_refused_in_one_line(wall, small_model, tmp_path, capsys):
    path, photos = wall
    (tmp_path / 'bad.jpg').write_bytes(b'no')
    for arguments, message in (
            ((tmp_path / 'none', photos), f'{tmp_path / "none"}'),
            ((photos, path), f'MAP comes first: regvpr localize {path} {photos}'),
            ((path, tmp_path / 'none.jpg'), 'none.jpg does not exist'),
            ((path, tmp_path / 'bad.jpg'), 'none of 1 files can be read as an image')):
        code, out, err = localize(capsys, *arguments, '--model', small_model)
        assert (code, out) == (1, '')
        assert err.splitlines()[-1].startswith('regvpr: ')
        assert message in err.splitlines()[-1]


def test_the_doctor_tells_what_is_there(small_model, capsys):
    arguments = ['doctor', '--json', '--model', str(small_model), '--device', 'cpu']
    assert main(arguments) == 0
    lines = {line['check']: line for line in json.loads(capsys.readouterr().out)}
    for needed in ('Python', 'torch', 'faiss', 'OpenCV', 'model'):
        assert lines[needed]['state'] == 'ok'
    assert ' ms an image' in lines['model']['facts']
    assert lines['Python']['facts'].startswith('.'.join(map(str, sys.version_info[:3])))


def test_the_doctor_says_what_to_do_about_what_is_missing(tmp_path, capsys, monkeypatch):
    def refuse(name: str) -> None:
        raise ImportError(f'No module named {name!r}')

    monkeypatch.setattr(doctor.importlib, 'import_module', refuse)
    assert main(['doctor', '--json', '--model', str(tmp_path / 'none.safetensors')]) == 1
    out, err = capsys.readouterr()
    lines = {line['check']: line for line in json.loads(out)}
    assert lines['faiss'] == {'check': 'faiss', 'state': 'FAILED',
                              'facts': "No module named 'faiss'; pip install faiss-cpu"}
    assert lines['onnxruntime']['state'] == 'absent'
    assert lines['ROS 2']['facts'].endswith('source ROS 2')
    assert lines['model']['facts'].endswith('none.safetensors does not exist')
    assert err == 'regvpr: not ready: faiss, OpenCV, model\n'
