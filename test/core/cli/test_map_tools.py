"""`regvpr map verify | merge | prune | convert | export` as a user runs them."""

from collections.abc import Callable
import csv
import json
from pathlib import Path

import numpy as np
import pytest

from regvpr_core.cli import main
from regvpr_core.maps.place_map import PlaceMap


@pytest.fixture
def run(capsys) -> Callable[..., dict]:
    """Run a verb with --json, expect success; gives its facts."""
    def call(*arguments: object) -> dict:
        capsys.readouterr()
        code = main(['map', *map(str, arguments), '--json'])
        out, err = capsys.readouterr()
        assert code == 0, err
        return json.loads(out)
    return call


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Run a verb, expect exit code 1; gives the one line on standard error."""
    def call(*arguments: object) -> str:
        capsys.readouterr()
        assert main(['map', *map(str, arguments)]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]
    return call


def flip(path: Path, position: int) -> None:
    data = bytearray((path / 'descriptors.f16').read_bytes())
    data[position] ^= 1
    (path / 'descriptors.f16').write_bytes(data)


def test_a_map_is_verified_and_salvaged(make_small_map, run, refused, capsys, tmp_path):
    path = make_small_map(8)
    assert run('verify', path) == {
        'map': str(path), 'sound': True, 'keyframes': 8, 'lost_keyframes': 0,
        'what_works': 'everything'}
    flip(path, 5 * 32 + 10)
    assert refused('verify', path) == (
        f'regvpr: map {path} is damaged: 1 of 8 keyframes are lost; the map fails when it '
        f'reads a lost keyframe; a small map fails when it is opened; --salvage OUT writes its '
        f'7 sound keyframes to a new map')
    facts = run('verify', path, '--salvage', tmp_path / 'saved')
    assert (facts['descriptor changed'], facts['salvaged_keyframes']) == ('5', 7)
    assert run('verify', tmp_path / 'saved')['keyframes'] == 7
    assert main(['map', 'verify', str(path)]) == 1
    assert 'descriptor changed' in capsys.readouterr().out


def test_maps_are_merged_by_a_transform(make_small_map, run, refused, tmp_path):
    a = make_small_map(3).rename(tmp_path / 'a')
    b = make_small_map(4).rename(tmp_path / 'b')
    out = tmp_path / 'out'
    facts = run('merge', a, b, '--out', out, '--transform', 0, 5, 0, 0, 0, 0, 1)
    assert (facts['keyframes'], facts[f'from {a}'], facts[f'from {b}']) == (7, 3, 4)
    with PlaceMap.open(out) as place_map:
        assert place_map.T_map_cam[:, 1, 3].tolist() == [0.0] * 3 + [5.0] * 4
    assert 'out exists' in refused('merge', a, b, '--out', out, '--same-frame')
    assert run('merge', a, b, out, '--out', tmp_path / 'more', '--same-frame')['keyframes'] == 14
    assert f'map {a} is given twice' in refused(
        'merge', a, b, a, '--out', tmp_path / 'x', '--same-frame')
    assert refused('merge', a, '--out', tmp_path / 'x', '--same-frame') == (
        'regvpr: merge takes two or more maps')
    assert '2 times --transform for 2 maps; expected one for each' in refused(
        'merge', a, b, '--out', tmp_path / 'x', *['--transform', *'0000001'] * 2)
    assert 'a quaternion is all zeros' in refused(
        'merge', a, b, '--out', tmp_path / 'x', '--transform', *'0000000')
    assert 'of 3 matched places agree, ' in refused(
        'merge', a, b, '--out', tmp_path / 'x', '--estimate')
    compressed = make_small_map(5).rename(tmp_path / 'five')
    run('compress', compressed, '--to', 'pca:3', '--out', tmp_path / 'short')
    assert 'do not compare: a PCA is learnt anew' in refused(
        'merge', a, tmp_path / 'short', '--out', tmp_path / 'x', '--estimate')
    assert "unknown setting 'dofs'; did you mean 'dof'?" in refused(
        'merge', a, b, '--out', tmp_path / 'x', '--estimate', '--set', 'dofs=6')
    with pytest.raises(SystemExit) as usage:
        main(['map', 'merge', str(a), str(b), '--out', str(tmp_path / 'x')])
    assert usage.value.code == 2


def test_a_map_is_pruned_after_a_dry_run(make_small_map, run, refused, tmp_path):
    path = make_small_map(9)  # two metres apart
    dry = run('prune', path, '--distance-m', 4, '--dry-run')
    assert dry == {'map': str(path), 'keyframes': 9, 'too dense': 4, 'kept': 5}
    assert sorted(p.name for p in tmp_path.iterdir()) == ['map']
    facts = run('prune', path, '--distance-m', 4, '--out', tmp_path / 'out')
    assert facts['kept'] == 5
    with PlaceMap.open(tmp_path / 'out') as place_map:
        assert place_map.T_map_cam[:, 0, 3].tolist() == [0.0, 4.0, 8.0, 12.0, 16.0]
    facts = run('prune', path, '--ambiguous', '--dry-run', '--set', 'far_m=6')
    assert {'ambiguous', 'not judged', 'kept'} <= facts.keys()
    assert refused('prune', path, '--out', tmp_path / 'x') == (
        'regvpr: nothing to drop; give --distance-m M, --ambiguous or both')
    assert '--out OUT is missing' in refused('prune', path, '--distance-m', 4)
    assert 'distance_m is -1.0; expected 0.0 to' in refused(
        'prune', path, '--distance-m=-1', '--dry-run')


@pytest.fixture
def built(small_model, make_bag, frames, tmp_path, capsys) -> tuple[Path, Path]:
    """A bag and the map of it: six keyframes."""
    bag = make_bag(tmp_path / 'lap', frames(6))
    assert main(['map', 'build', str(bag), '--out', str(tmp_path / 'map'), '--model',
                 str(small_model), '--device', 'cpu']) == 0
    return bag, tmp_path / 'map'


def test_a_map_is_converted_from_thumbnails_and_from_its_bag(
        built, small_model, run, refused, tmp_path, frames, small_encoder):
    bag, path = built
    model = ('--model', small_model, '--device', 'cpu')
    facts = run('convert', path, *model, '--out', tmp_path / 'small')
    assert (facts['from thumbnails'], facts['left out']) == (6, 0)
    facts = run('convert', path, *model, '--out', tmp_path / 'full', '--bag', bag)
    assert (facts['from pictures'], facts['from thumbnails'], facts['left out']) == (6, 0, 0)
    with PlaceMap.open(tmp_path / 'full', small_encoder.fingerprint) as full, \
            PlaceMap.open(path) as before:
        np.testing.assert_allclose((full.descriptors() * before.descriptors()).sum(axis=1), 1.0,
                                   atol=1e-4)
    assert f'{tmp_path / "none"} does not exist' in refused(
        'convert', path, *model, '--out', tmp_path / 'x', '--bag', tmp_path / 'none')
    assert 'full exists; choose a new folder' in refused(
        'convert', path, *model, '--out', tmp_path / 'full')


@pytest.fixture
def two_laps(small_model, make_bag, frames, tmp_path, capsys) -> Callable[[int], list[Path]]:
    """Two bags of one name whose clocks begin alike, and the map of both.

    The second drives beside the first, and starts so many seconds later than the first.
    """
    def make(later_s: int) -> list[Path]:
        bags = []
        for seed, (name, count) in enumerate((('day', 5), ('dusk', 7))):
            drive = frames(count, start_s=10 + later_s * seed, seed=seed)
            for frame in drive:
                frame.T_map_base[1, 3] = 100.0 * seed
            (tmp_path / name).mkdir()
            bags.append(make_bag(tmp_path / name / 'lap', drive))
        assert main(['map', 'build', *map(str, bags), '--out', str(tmp_path / 'map'), '--model',
                     str(small_model), '--device', 'cpu', '--precision', 'fp32']) == 0
        return bags
    return make


def test_bags_of_one_name_keep_their_own_pictures(two_laps, small_model, run, tmp_path):
    bags, path = two_laps(0), tmp_path / 'map'
    facts = run('info', path)
    assert facts['sources'] == ['day/lap', 'dusk/lap']
    assert facts['path_m'] == 10.0  # 4 and 6: the way from one to the other is not driven
    out = tmp_path / 'out'
    facts = run('convert', path, '--model', small_model, '--device', 'cpu', '--out', out, '--bag',
                *bags, '--no-thumbnails')
    assert (facts['from pictures'], facts['left out']) == (12, 0)
    with PlaceMap.open(path) as before, PlaceMap.open(out) as after:
        assert before.sources == ['day/lap'] * 5 + ['dusk/lap'] * 7
        same = (before.descriptors() * after.descriptors()).sum(axis=1)
        np.testing.assert_allclose(same, 1.0, atol=1e-4)
        assert float((before.descriptors()[:5] * before.descriptors()[5:10]).sum(1).max()) < 0.9995


def test_pictures_of_a_renamed_bag_are_taken_where_only_one_can_be_meant(
        two_laps, small_model, run, tmp_path, capsys):
    first = two_laps(3)[0].rename(tmp_path / 'first')  # 10 to 14 s; the other 13 to 19 s
    facts = run('convert', tmp_path / 'map', '--model', small_model, '--device', 'cpu', '--out',
                tmp_path / 'out', '--bag', first, '--no-thumbnails')
    assert (facts['from pictures'], facts['left out'], facts['not told apart']) == (3, 9, 4)
    assert main(['map', 'convert', str(tmp_path / 'map'), '--model', str(small_model), '--device',
                 'cpu', '--out', str(tmp_path / 'more'), '--bag', str(first)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        f'no source of the map has the name of {first}: its images are matched with '
        f'keyframes of all sources, by name, or camera and stamp')
    assert lines[-2] == (
        '4 keyframes share their name, or camera and stamp, with others: their images are not '
        'known, and none was used')


def test_a_map_is_exported(make_small_map, run, refused, tmp_path):
    path = make_small_map(4)
    assert run('export', path, '-o', tmp_path / 'out.csv')['keyframes'] == 4
    with (tmp_path / 'out.csv').open(newline='') as file:
        assert [row['x'] for row in csv.DictReader(file)] == ['0.0', '2.0', '4.0', '6.0']
    assert 'does not know where on the Earth' in refused(
        'export', path, '-o', tmp_path / 'out.geojson')
    assert run('export', path, '-o', tmp_path / 'out.geojson', '--local')['keyframes'] == 4
    assert 'out.csv exists' in refused('export', path, '-o', tmp_path / 'out.csv')


@pytest.mark.parametrize('verb', [
    ('verify', 'none'), ('merge', 'none', 'none', '--same-frame', '--out', 'out'),
    ('prune', 'none', '--distance-m', '1', '--dry-run'), ('export', 'none', '-o', 'out.csv'),
    ('convert', 'none', '--model', 'small', '--out', 'out')])
def test_no_map_is_refused_by_every_verb(verb, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(*verb).startswith('regvpr: none is no place map')
    assert list(tmp_path.iterdir()) == []
