"""Which views are kept, against sums over all views."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from regvpr_core.map_tools.selection import LEAST, Selection, worth

MARGIN = 0.1


def excess(count: int = 40, seed: int = 0) -> csr_matrix:
    """Margins between the views along a street, of those at most four apart."""
    rng = np.random.default_rng(seed)
    apart = np.abs(np.arange(count)[:, None] - np.arange(count))
    margins = np.where((apart <= 4) & (apart > 0), rng.uniform(-0.1, 0.6, (count, count)), 0.0)
    return csr_matrix(margins)


def total(values: np.ndarray, kept: np.ndarray) -> float:
    """What kept views are worth for all of them."""
    return float(values[:, kept].max(axis=1, initial=0.0).sum())


def test_a_keyframe_is_worth_one_half_at_twice_the_margin_and_no_more_beyond_five_times():
    margins = csr_matrix([[0.0, 0.2, 0.5], [0.9, 0.0, -0.1], [0.1, 0.0, 0.0]])
    found = worth(margins, MARGIN).toarray()
    most = 1.0 / (1.0 + np.exp(-3.0))
    np.testing.assert_allclose(found[0], [most, 0.5, most])
    # A margin below zero is worth less than LEAST, so nothing; a view serves itself.
    np.testing.assert_allclose(found[1], [most, most, 0.0])
    np.testing.assert_allclose(found[2], [1.0 / (1.0 + np.e), 0.0, most])
    assert 1.0 / (1.0 + np.exp(3.0)) < LEAST


def test_the_cost_of_a_removal_is_what_the_sum_over_all_views_loses():
    values = worth(excess(), MARGIN)
    dense, rng = values.toarray(), np.random.default_rng(1)
    kept = rng.random(40) < 0.8
    selection = Selection(values, kept)
    for _ in range(20):
        for view in np.flatnonzero(selection.kept):
            rest = selection.kept.copy()
            rest[view] = False
            assert selection.costs[view] == pytest.approx(
                total(dense, selection.kept) - total(dense, rest), abs=1e-9)
        selection.remove(int(rng.choice(np.flatnonzero(selection.kept))))


def test_the_cheapest_view_of_those_that_may_go_is_found():
    selection = Selection(worth(excess(), MARGIN), np.ones(40, dtype=bool))
    may_go = np.arange(40) % 3 == 0
    view, cost = selection.cheapest(may_go)
    assert view % 3 == 0
    assert cost == selection.costs[may_go].min()
    assert selection.cheapest(np.zeros(40, dtype=bool)) == (-1, np.inf)


def test_of_twins_one_goes_for_nothing_and_the_other_is_its_anchor():
    twins = csr_matrix(np.array([[0.0, 0.7, 0.0], [0.7, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    selection = Selection(worth(twins, MARGIN), np.ones(3, dtype=bool))
    view, cost = selection.cheapest(np.ones(3, dtype=bool))
    assert (view, cost) == (0, pytest.approx(0.0))
    selection.remove(0)
    assert selection.anchors(np.array([0])).tolist() == [1]
    # What is left serves views that nothing else does.
    assert selection.cheapest(np.ones(3, dtype=bool))[1] > 0.9


def test_backward_removal_keeps_nearly_what_the_best_choice_of_as_many_is_worth():
    values = worth(excess(12, seed=4), MARGIN)
    dense, selection = values.toarray(), Selection(values, np.ones(12, dtype=bool))
    while selection.kept.sum() > 5:
        selection.remove(selection.cheapest(np.ones(12, dtype=bool))[0])
    masks = np.array([[number >> bit & 1 for bit in range(12)] for number in range(4096)], bool)
    best = max(total(dense, mask) for mask in masks[masks.sum(axis=1) == 5])
    assert total(dense, selection.kept) >= 0.95 * best
