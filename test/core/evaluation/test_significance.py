"""Intervals and paired tests against values worked out by hand."""

import numpy as np
import pytest

from regvpr_core.evaluation.significance import interval, paired


def first(right: int, count: int) -> np.ndarray:
    return np.arange(count) < right


def test_the_interval_of_half_of_a_hundred_is_that_of_the_binomial():
    # Normal approximation: 0.5 +- 1.96 * sqrt(0.25 / 100) = 0.402 to 0.598.
    low, high = interval(first(50, 100))
    assert low == pytest.approx(0.402, abs=0.011)
    assert high == pytest.approx(0.598, abs=0.011)


def test_the_interval_narrows_with_the_root_of_the_queries():
    widths = [np.ptp(interval(first(n // 2, n))) for n in (100, 10_000)]
    assert widths[0] / widths[1] == pytest.approx(10.0, rel=0.1)


def test_all_right_and_no_query_have_the_intervals_that_there_are():
    assert interval(first(7, 7)) == (1.0, 1.0)
    assert interval(first(0, 0)) == (0.0, 1.0)


def test_mcnemar_counts_only_queries_on_which_two_models_differ():
    a = np.zeros(100, dtype=bool)
    b = a.copy()
    a[:10] = True
    b[:2] = b[90:] = True
    found = paired(a, b)
    assert (found.only_first, found.only_second) == (8, 10)
    # 2 * P(X <= 8), X binomial(18, 1/2): 2 * 106762 / 2**18.
    assert found.p == pytest.approx(0.8145, abs=1e-3)
    assert not found.differ
    assert found.difference == pytest.approx(-0.02)


def test_eight_against_none_is_significant_and_five_against_none_is_not():
    assert paired(first(8, 50), first(0, 50)).p == pytest.approx(2 / 2**8)
    assert paired(first(8, 50), first(0, 50)).differ
    assert not paired(first(5, 50), first(0, 50)).differ
    same = paired(first(5, 50), first(5, 50))
    assert (same.difference, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
