import json

import numpy as np
import pytest

from regvpr_core.errors import MapError
from regvpr_core.localization.calibration import (
    Bin,
    calibrate,
    Calibration,
    calibration_error,
    make_bins,
    reliability,
    same_place,
)
from regvpr_core.localization.stored_calibration import (
    calibrate_and_store,
    from_json,
    NAME,
    stored_or_learnt,
    to_json,
)
from regvpr_core.localization.whitening import Whitening
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter
from regvpr_core.search.rows import unit

SOME = Calibration(2.5, 1.25, (-4.0, 0.5, 1.5), 'traverse abc', 120,
                   (Bin(predicted=0.05, true=0.04, count=70),
                    Bin(predicted=0.95, true=0.9, count=50)))
VALUES = json.loads(to_json(SOME))


def again(rows: np.ndarray, seed: int, noise: float = 0.9) -> np.ndarray:
    """The same places under noise of its own."""
    rng = np.random.default_rng(seed)
    return unit(rows + noise * rng.normal(size=rows.shape) / rows.shape[1]**0.5)


def test_json_and_back_is_the_same():
    assert from_json(to_json(SOME), 'it') == SOME


@pytest.mark.parametrize(('changes', 'complaint'), [
    ({'version': 3}, 'expected a table of version 2'),
    ({'offset': 'x'}, "offset is 'x'; expected a number"),
    ({'offset': float('nan')}, 'offset is nan; expected -1000 to 1000'),
    ({'gain': -1.0}, 'gain is -1.0; expected 1e-06 to 1000'),
    ({'gain': 10**400}, 'cannot be used'),
    ({'match': [1.0]}, 'match: expected three numbers'),
    ({'match': [1.0, True, 0.0]}, "'True'; expected a number"),
    ({'source': 'x' * 201}, 'source: expected a short text'),
    ({'bins': [[0.1, 0.2, 3]] * 11}, 'bins: expected at most 10'),
    ({'bins': [[0.1, 1.2, 3]]}, 'true is 1.2; expected 0 to 1'),
    ({'bins': [5]}, r'bins: expected \[predicted, true, count\]')])
def test_a_strangers_calibration_is_refused_in_one_line(changes, complaint):
    with pytest.raises(MapError, match=complaint) as told:
        from_json(json.dumps({**VALUES, **changes}).encode(), 'it')
    assert '\n' not in str(told.value)
    assert 'regvpr map calibrate' in str(told.value)


@pytest.mark.parametrize('data', [b'', b'[]', b'{', b'\xff\xfe', b'[' * 60_000,
                                  b' ' * 70_000, b'{"version": 2}'])
def test_what_is_no_calibration_at_all_is_refused(data):
    with pytest.raises(MapError, match='it cannot be used'):
        from_json(data, 'it')


def test_a_map_keeps_its_calibration_and_uses_it(map_of, street, walk):
    with map_of(street(120), walk(120)) as place_map:
        path = place_map.path
        learnt = stored_or_learnt(place_map, 5.0, 0.9)
    stored = calibrate_and_store(path)
    assert stored == learnt
    with MapWriter.append_to(path) as writer:
        writer.attach(NAME, to_json(SOME))
    with PlaceMap.open(path) as place_map:
        assert stored_or_learnt(place_map, 5.0, 0.9) == SOME
        assert reliability(place_map, SOME) == SOME.bins


def test_a_calibration_of_an_older_version_is_learnt_again_in_memory(map_of, street, walk):
    with map_of(street(120), walk(120)) as place_map:
        path = place_map.path
        learnt = stored_or_learnt(place_map, 5.0, 0.9)
    old = {**VALUES, 'version': 1}
    del old['weight']
    with MapWriter.append_to(path) as writer:
        writer.attach(NAME, json.dumps(old).encode())
    with PlaceMap.open(path) as place_map:
        assert stored_or_learnt(place_map, 5.0, 0.9) == learnt


def test_a_damaged_calibration_in_a_map_says_what_to_do(map_of, street, walk):
    with map_of(street(20), walk(20)) as place_map:
        path = place_map.path
    with MapWriter.append_to(path) as writer:
        writer.attach(NAME, b'{"version": 2, "offset": 1e999}')
    with PlaceMap.open(path) as place_map, pytest.raises(
            MapError, match=f'the calibration of map {path} cannot be used'):
        stored_or_learnt(place_map, 5.0, 0.9)


def test_a_second_traverse_teaches_probabilities_that_hold_on_a_third(map_of, street, walk):
    """Half of the images on the map, half of elsewhere: the error of calibration is small."""
    count = 300
    rows = walk(count)
    poses = street(count)
    with map_of(poses, rows) as place_map, map_of(poses, again(rows, 1)) as second:
        calibration = calibrate(place_map, 5.0, 0.9, second)
        assert calibration.queries == count
        assert calibration.source.startswith('traverse')
        references = place_map.centred(np.arange(count))
        elsewhere = walk(count, seed=77)
        predicted, true = [], []
        for images, on_map in ((again(rows, 2), True), (again(elsewhere, 3), False)):
            centre = place_map.centre if on_map else images.mean(axis=0)
            z = unit(images - centre) @ references.T
            z = calibration.scores(z, z)
            for i, row in enumerate(z):
                best = int(np.argmax(row))
                away = np.abs(np.arange(count) - best) * 2.0 > 10.0
                predicted.append(float(calibration.probability(
                    np.array(row[best]), np.array(row[best] - row[away].max()))))
                true.append(on_map and abs(i - best) * 2.0 < 5.0)
    bins = make_bins(np.array(predicted), np.array(true))
    assert sum(b.count for b in bins) == 2 * count
    assert calibration_error(bins) < 0.12
    assert np.mean(np.array(predicted)[np.array(true)]) > 0.7
    assert np.mean(np.array(predicted)[~np.array(true)]) < 0.3


def test_a_traverse_of_another_town_is_refused(map_of, street, walk):
    far = street(40)
    far[:, 1, 3] += 5000.0
    with map_of(street(60), walk(60)) as a, map_of(far, walk(40, seed=9)) as b:
        paths = a.path, b.path
    with pytest.raises(MapError, match='are both in one frame'):
        calibrate_and_store(*paths)


def test_bins_and_their_error_worked_out_by_hand():
    bins = make_bins(np.array([0.05, 0.15, 0.15, 1.0]), np.array([False, False, True, True]))
    assert bins == (Bin(predicted=0.05, true=0.0, count=1),
                    Bin(predicted=0.15, true=0.5, count=2), Bin(predicted=1.0, true=1.0, count=1))
    assert calibration_error(bins) == pytest.approx((0.05 + 2 * 0.35) / 4)
    assert calibration_error(()) == 0.0


def test_one_place_is_near_and_looks_the_same_way(street):
    T = street(4, 2.0)
    T[3, :3, :3] = T[3, :3, :3] @ np.diag([-1.0, 1.0, -1.0])
    same = same_place(T, T, 4.5, 0.9)
    assert same.tolist() == [[True, True, True, False]] * 3 + [[False, False, False, True]]


def test_whitening_is_hardly_a_change_for_few_and_turns_down_what_all_places_share():
    rng = np.random.default_rng(0)
    two = unit(rng.normal(size=(2, 32)))
    apart = two[0] @ two[1]
    few = Whitening(two - two.mean(axis=0))
    assert few(two)[0] @ few(two)[1] == pytest.approx(apart, abs=0.15)
    none = Whitening(np.zeros((0, 32), np.float32))
    np.testing.assert_allclose(none(two), two, atol=1e-6)
    # One direction varies ten times as much as the rest, and says nothing of the place.
    rows = rng.normal(size=(400, 32)).astype(np.float32)
    rows[:, 0] *= 10.0
    many = Whitening(rows - rows.mean(axis=0))
    loud, quiet = np.eye(32, dtype=np.float32)[:2]
    assert np.linalg.norm(many.change(loud)) < 0.5 * np.linalg.norm(many.change(quiet))
