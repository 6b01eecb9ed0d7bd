import numpy as np
import pytest

from regvpr_core.localization.calibration import sample
from regvpr_core.localization.whitened import WhitenedRows
from regvpr_core.localization.whitening import Whitening
from regvpr_core.search.rows import unit


@pytest.mark.parametrize(('places', 'dimension', 'bound'), [
    (3, 32, 1e-5), (40, 32, 1e-5), (300, 200, 1e-5), (1500, 600, 2e-4)])
def test_cosines_are_those_of_whitened_rows_whatever_the_size_of_the_map(
    map_of, street, places, dimension, bound,
):
    rng = np.random.default_rng(places)
    with map_of(street(places), unit(rng.normal(size=(places, dimension)) + 0.3)) as place_map:
        whitening, ids = Whitening.of_map(place_map), sample(place_map)
        rows = WhitenedRows(whitening, place_map, ids)
        background = whitening(place_map.centred(ids))
        for _ in range(3):  # the second time from what is kept
            true = int(rng.integers(places))
            query = unit(place_map.centred(np.array([true]))[0]
                         + 0.05 * rng.normal(size=dimension).astype(np.float32))
            found = np.array(sorted({true, *rng.integers(places, size=20).tolist()}))
            similarities = place_map.centred(found) @ query
            white = whitening(query)
            got, spread = rows.compare(query, found, similarities.astype(np.float32))
            assert np.abs(got - whitening(place_map.centred(found)) @ white).max() < bound
            assert np.abs(spread - background @ white).max() < bound
            assert found[np.argmax(got)] == true


def test_what_is_kept_is_bounded_and_an_evicted_keyframe_is_compared_alike(
    map_of, street, monkeypatch,
):
    monkeypatch.setattr('regvpr_core.localization.whitened.KEPT_BYTES', 4 * 64 * 10)
    rng = np.random.default_rng(0)
    with map_of(street(100), unit(rng.normal(size=(100, 64)))) as place_map:
        rows = WhitenedRows(Whitening.of_map(place_map), place_map, sample(place_map))
        query = place_map.centred(np.array([7]))[0]
        first = np.arange(5, 10)
        before, _ = rows.compare(query, first, place_map.centred(first) @ query)
        for start in range(10, 90, 8):
            others = np.arange(start, start + 8)
            rows.compare(query, others, place_map.centred(others) @ query)
        assert len(rows._kept) <= 11
        again, _ = rows.compare(query, first, place_map.centred(first) @ query)
        np.testing.assert_allclose(again, before, atol=1e-6)


def test_an_empty_map_compares_nothing(map_of, street):
    with map_of(street(0), np.zeros((0, 16), np.float32)) as place_map:
        rows = WhitenedRows(Whitening.of_map(place_map), place_map, np.zeros(0, np.int64))
        got, spread = rows.compare(np.zeros(16, np.float32), np.zeros(0, np.int64),
                                   np.zeros(0, np.float32))
        assert got.shape == (0,)
        assert spread.shape == (0,)
