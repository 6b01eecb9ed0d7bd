"""`regvpr map calibrate` as a user runs it."""

import json

import numpy as np
import pytest

from regvpr_core.cli import main
from regvpr_core.localization.calibration import calibration_error
from regvpr_core.localization.stored_calibration import from_json, NAME
from regvpr_core.maps.files import Manifest, new_map_id
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter

COUNT, DIMENSION = 240, 48


def street_map(path, seed, shift_m=0.0, fingerprint='f' * 64):
    """A street whose looks change every 12 m, driven under noise of its own."""
    places = np.random.default_rng(5).normal(size=(COUNT, DIMENSION)).repeat(3, axis=0)[:COUNT]
    noise = np.random.default_rng(seed).normal(size=(COUNT, DIMENSION))
    manifest = Manifest(map_id=new_map_id(), model='test', fingerprint=fingerprint,
                        dimension=DIMENSION, map_frame='map', extrinsics={}, sources=['made'])
    keyframes = []
    for number, row in enumerate(places + 0.7 * noise):
        T = np.eye(4)
        T[0, 3] = 4.0 * number + shift_m
        keyframes.append(Keyframe(
            stamp_ns=number * 10**9, camera='front', T_map_cam=T, source='made',
            descriptor=(row / np.linalg.norm(row)).astype(np.float32)))
    with MapWriter.create(path, manifest) as writer:
        writer.append(keyframes)
    return path


def facts_of(capsys, *arguments):
    capsys.readouterr()
    assert main(['map', 'calibrate', *map(str, arguments), '--json']) == 0
    return json.loads(capsys.readouterr().out)


def stored(path):
    with PlaceMap.open(path) as place_map:
        return place_map.attachment(NAME)


def test_a_second_traverse_is_learnt_from_kept_and_told(tmp_path, capsys):
    first, second = (street_map(tmp_path / name, seed) for name, seed in (('a', 1), ('b', 2)))
    facts = facts_of(capsys, first, '--traverse', second)
    kept = from_json(stored(first), 'it')
    assert facts['learnt_from'] == kept.source
    assert facts['learnt_from'].startswith('traverse ')
    assert facts['images'] == kept.queries == COUNT
    assert facts['stored'] is True
    assert facts['calibration_error'] == pytest.approx(calibration_error(kept.bins), abs=1e-4)
    assert facts['calibration_error'] < 0.1
    assert facts['place_score_gain'] == pytest.approx(kept.gain, abs=1e-3)
    assert stored(second) is None


def test_a_map_alone_teaches_itself(tmp_path, capsys):
    path = street_map(tmp_path / 'a', 1)
    facts = facts_of(capsys, path)
    assert facts['learnt_from'] == "paths of the map's own keyframes"
    assert from_json(stored(path), 'it').queries == facts['images'] > 0


def test_a_dry_run_tells_the_same_and_writes_nothing(tmp_path, capsys):
    path = street_map(tmp_path / 'a', 1)
    dry = facts_of(capsys, path, '--dry-run')
    assert dry['stored'] is False
    assert stored(path) is None
    assert facts_of(capsys, path) == {**dry, 'stored': True}


@pytest.mark.parametrize(('shift_m', 'fingerprint', 'complaint'), [
    (1e5, 'f' * 64, 'are both in one frame?'), (0.0, 'e' * 64, 'model')])
def test_a_traverse_of_elsewhere_or_of_another_model_is_refused(
        tmp_path, capsys, shift_m, fingerprint, complaint):
    path = street_map(tmp_path / 'a', 1)
    other = street_map(tmp_path / 'b', 2, shift_m, fingerprint)
    assert main(['map', 'calibrate', str(path), '--traverse', str(other)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert complaint in lines[0]
    assert stored(path) is None


def test_no_map_is_one_line(tmp_path, capsys):
    assert main(['map', 'calibrate', str(tmp_path / 'nowhere')]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
