"""Each figure against one worked out by hand."""

import numpy as np
import pytest

from regvpr_core.errors import ConfigError
from regvpr_core.evaluation.localization_metrics import (
    fix_figures,
    frames_to_fix,
    nees,
    nees_figures,
)

SECOND = 10**9


def test_the_figures_of_a_drive():
    figures = fix_figures([0, SECOND, 2 * SECOND, 3 * SECOND],
                          [False, True, True, True], [True, False, True, True], way_m=500.0)
    assert (figures.frames, figures.fixes) == (4, 3)
    assert figures.precision == pytest.approx(2 / 3)
    assert figures.recall == 0.5
    assert figures.time_to_first_fix_s == 2.0
    assert figures.false_fixes_per_km == 2.0


def test_a_drive_without_a_fix_is_precise_and_recalls_nothing():
    figures = fix_figures([5, 6], [False, False], [False, True], way_m=0.0)
    assert (figures.precision, figures.recall, figures.false_fixes_per_km) == (1.0, 0.0, 0.0)
    assert figures.time_to_first_fix_s == np.inf


def test_frames_to_a_fix_count_the_first_one():
    assert frames_to_fix([1, 0, 0, 1, 1], [1, 1, 1, 0, 1], start=1) == 4
    assert frames_to_fix([1, 0], [1, 1], start=0) == 1
    assert frames_to_fix([1, 0], [1, 1], start=1) is None


def test_normalised_errors_by_hand():
    np.testing.assert_allclose(nees([[2.0, 0.0], [1.0, 1.0]], [np.diag([4.0, 1.0])] * 2),
                               [1.0, 1.25])
    with pytest.raises(ConfigError, match='not positive definite'):
        nees([[1.0]], [[[0.0]]])


def test_honest_covariances_have_a_mean_of_one_and_hold_95_percent():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(3, 3))
    C = A @ A.T + np.eye(3)
    errors = rng.multivariate_normal(np.zeros(3), C, 20_000)
    figures = nees_figures(errors, np.tile(C, (len(errors), 1, 1)))
    assert figures.mean == pytest.approx(1.0, abs=0.03)
    assert figures.within_95 == pytest.approx(0.95, abs=0.005)
    proud = nees_figures(errors, np.tile(C / 4.0, (len(errors), 1, 1)))
    assert proud.mean == pytest.approx(4.0, abs=0.1)
    with pytest.raises(ConfigError, match='errors of 4 numbers'):
        nees_figures(np.zeros((1, 4)), np.eye(4)[None])
