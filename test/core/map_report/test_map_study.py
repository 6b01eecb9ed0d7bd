from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.errors import ConfigError
from regvpr_core.map_report import study as map_study
from regvpr_core.map_report.study import MapStudy, study
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter


@pytest.fixture
def studied(tmp_path: Path, manifest, place) -> Callable[..., MapStudy]:
    """The study of a map of (descriptor, x, seconds, yaw_deg, source)."""
    def make(places, radius_m: float = 5.0, name: str = 'map', **limits) -> MapStudy:
        with MapWriter.create(tmp_path / name, manifest) as writer:
            keyframes = []
            for descriptor, x, seconds, yaw_deg, source in places:
                T = np.eye(4)
                T[0, 3] = x
                T[:3, :3] = Rotation.from_euler('z', yaw_deg, degrees=True).as_matrix()
                keyframes.append(place(0, descriptor, T_map_cam=T, source=source,
                                       stamp_ns=int(seconds * 1e9)))
            writer.append(keyframes)
        with PlaceMap.open(tmp_path / name) as place_map:
            return study(place_map, radius_m, np.radians(40.0), **limits)
    return make


def axis(i: int, lean: float = 0.0, to: int = 15) -> np.ndarray:
    """Basis vector i of 16, leaning to another one."""
    row = np.zeros(16, dtype=np.float32)
    row[i] = 1.0
    row[to] += lean
    return row / np.linalg.norm(row)


def test_neighbours_are_told_by_distance_angle_time_and_source(studied):
    found = studied([
        (axis(0), 0.0, 0.0, 0.0, 'a'),
        (axis(0, 0.1), 1.0, 1.0, 0.0, 'a'),    # near: 1 m, 1 s
        (axis(0, 0.2), 2.0, 100.0, 0.0, 'a'),  # again: 100 s later
        (axis(0, 0.3), 3.0, 3.0, 0.0, 'b'),    # again: another source
        (axis(0, 0.4), 0.0, 0.0, 90.0, 'a'),   # far: looks elsewhere
        (axis(0, 0.5), 7.0, 7.0, 0.0, 'a'),    # none: between one radius and two
        (axis(0, 0.6), 11.0, 11.0, 0.0, 'a'),  # far: 11 m
    ])
    of_first = {kind: {int(p) for p in places[0] if p >= 0}
                for kind, places in found.neighbours.items()}
    assert of_first == {'near': {1}, 'again': {2, 3}, 'far': {4, 6}}
    pairs = [(i, j) for i in range(7) for j in range(7)
             if i != j and (4 in (i, j) or abs([0, 1, 2, 3, 0, 7, 11][i]
                                               - [0, 1, 2, 3, 0, 7, 11][j]) > 10)]
    assert found.all_pairs['far'].sum() == len(pairs)


def test_similarities_are_those_of_the_search(studied, rows, tmp_path):
    descriptors = rows(30, seed=3)
    found = studied([(d, 20.0 * i, i, 0.0, 'a') for i, d in enumerate(descriptors)])
    with PlaceMap.open(tmp_path / 'map') as place_map:
        for i in range(30):
            similarities, ids = place_map.search(place_map.descriptors(i, i + 1)[0], 5)
            assert ids[0] == i
            np.testing.assert_array_equal(found.neighbours['far'][i], ids[1:])
            np.testing.assert_allclose(found.similarities['far'][i], similarities[1:], atol=2e-6)
        rows_ = place_map.centred(np.arange(30))
    want = rows_ @ rows_.T
    np.fill_diagonal(want, np.nan)
    np.testing.assert_allclose(found.matrix, want, atol=2e-6)


def test_places_that_look_like_others_are_counted(studied):
    # 0 and 1 are one place, as are 2 and 3; 4 and 5 are one place too, but 4 looks like 2.
    found = studied([
        (axis(0), 0.0, 0, 0, 'a'), (axis(0, 0.1), 1.0, 1, 0, 'a'),
        (axis(1), 100.0, 2, 0, 'a'), (axis(1, 0.1), 101.0, 3, 0, 'a'),
        (axis(1, -0.02), 200.0, 4, 0, 'a'), (axis(2), 201.0, 5, 0, 'a')])
    assert found.mistaken.tolist() == [False, False, True, False, True, True]
    assert found.share_right('near') == (6, 0.5)
    assert found.share_right('again') == (0, 0.0)
    assert found.neighbours['far'][4, 0] == 2


def test_a_return_is_compared_with_other_passes_only(studied):
    # By night every place looks more like the next one by night than like itself by day.
    places = [(axis(i, 1.0, 14), 100.0 * i, i, 0, 'day') for i in range(4)]
    places += [(axis(i, 1.0, 15), 100.0 * i, i, 0, 'night') for i in range(4)]
    found = studied(places)
    assert found.share_right('again') == (8, 1.0)
    assert (found.best['far'] >= found.best['again']).all()
    assert found.best_pairs['rival'].sum() == 8


def test_far_look_alikes_are_of_different_places(studied):
    places = [(axis(0), 0.0, 0, 0, 'a')]
    places += [(axis(0, 0.01 * i), 100.0 + i, i, 0, 'a') for i in range(1, 9)]
    places += [(axis(0, 0.5), 300.0, 20, 0, 'a'), (axis(0, 0.6), 400.0, 21, 0, 'a')]
    found = studied(places)
    far = found.neighbours['far'][0]
    assert far.tolist() == [1, 9, 10, -1]
    assert found.similarities['far'][0, 3] == -np.inf


@pytest.mark.parametrize('count', [0, 1, 2])
def test_maps_of_hardly_anything_can_be_studied(studied, rows, count):
    found = studied([(d, i, i, 0, 'a') for i, d in enumerate(rows(count))])
    assert len(found.ids) == len(found.queried) == count
    assert found.matrix.shape == (count, count)
    assert not found.mistaken.any()
    assert found.share_right('near') == (count if count == 2 else 0, float(count == 2))


def test_a_binned_matrix_holds_the_largest_of_each_bin(studied, rows, monkeypatch):
    monkeypatch.setattr(map_study, 'MATRIX_SIDE', 7)
    monkeypatch.setattr(map_study, 'BLOCK_PAIRS', 200)  # several blocks
    places = [(d, 20.0 * i, i, 0, 'a') for i, d in enumerate(rows(30))]
    found = studied(places)
    assert found.bin_size == 5
    assert found.matrix.shape == (6, 6)
    monkeypatch.setattr(map_study, 'MATRIX_SIDE', 400)
    full = np.nan_to_num(studied(places, name='again').matrix, nan=-np.inf)
    want = full.reshape(6, 5, 6, 5).max(axis=(1, 3))
    np.testing.assert_allclose(found.matrix, want, atol=1e-6)
    first, second = found.matrix_pairs[..., 0], found.matrix_pairs[..., 1]
    np.testing.assert_allclose(full[first, second], want, atol=1e-6)
    assert (first // 5 == np.arange(6)[:, None]).all()
    assert (second // 5 == np.arange(6)).all()


def test_of_a_large_map_evenly_spread_places_are_compared(studied, rows, monkeypatch):
    monkeypatch.setattr(map_study, 'MATRIX_SIDE', 5)
    monkeypatch.setattr(map_study, 'PAIRS', 100)
    found = studied([(d, 20.0 * i, i, 0, 'a') for i, d in enumerate(rows(60))], most_places=20)
    assert len(found.ids) == 20
    assert found.ids[0] == 0
    assert found.ids[-1] == 59
    assert found.queried.tolist() == [0, 4, 9, 14, 19]
    assert np.isfinite(found.matrix).all()
    np.testing.assert_allclose(found.matrix, found.matrix.T)


@pytest.mark.parametrize(('radius_m', 'angle_rad', 'message'), [
    (0.0, 0.9, 'radius_m is 0.0; expected 0.1 to 1000.0'),
    (5.0, float('nan'), 'angle_rad is nan; expected 0.01 to 3.2')])
def test_a_radius_or_angle_out_of_range_is_refused(make_map, radius_m, angle_rad, message):
    with PlaceMap.open(make_map(3)) as place_map, pytest.raises(ConfigError, match=message):
        study(place_map, radius_m, angle_rad)
