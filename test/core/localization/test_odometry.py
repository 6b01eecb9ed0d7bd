"""One clock and one odometry, for images with and without a pose."""

import numpy as np
import pytest

from regvpr_core.localization.odometry import Clock, Odometry, Order

SECOND = 10**9


def at(x: float) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x
    return T


def test_a_stamp_up_to_a_second_back_is_late_and_one_further_back_begins_anew():
    clock = Clock()
    assert clock.see(10 * SECOND) is Order.NEXT
    assert clock.see(10 * SECOND) is Order.NEXT
    assert clock.see(9 * SECOND) is Order.LATE
    assert clock.newest_ns == 10 * SECOND
    assert clock.see(9 * SECOND - 1) is Order.JUMPED_BACK
    assert clock.newest_ns == 9 * SECOND - 1


@pytest.mark.parametrize('every', [1, 2, 5])
def test_the_way_is_measured_where_only_some_images_have_odometry(every):
    odometry = Odometry()
    for n in range(21):
        moment = odometry.put(n * SECOND, at(1.5 * n) if n % every == 0 else None)
    assert moment.way_m == pytest.approx(30.0)
    assert odometry.part == 0


@pytest.mark.parametrize('between', [0, 1, 4])
def test_images_without_odometry_do_not_hide_a_restart(between):
    odometry = Odometry()
    before = odometry.put(0, at(500.0))
    for n in range(between):
        odometry.put((n + 1) * SECOND // 8, None)
    after = odometry.put(SECOND, at(0.0))
    assert after.part == 1
    assert before.motion_to(after) is None
    assert after.way_m == 0.0
    assert odometry.at(SECOND // 2) is None
    onward = odometry.put(2 * SECOND, at(3.0))
    np.testing.assert_allclose(after.motion_to(onward), at(3.0))
    assert onward.way_m == pytest.approx(3.0)


def test_a_pose_at_a_stamp_is_interpolated_over_gaps_that_are_short_enough():
    odometry = Odometry(max_gap_s=0.5)
    for stamp_s, x in ((0.0, 0.0), (0.4, 2.0), (2.0, 3.0)):
        odometry.put(int(stamp_s * SECOND), at(x))
    np.testing.assert_allclose(odometry.at(SECOND // 10), at(0.5))
    assert odometry.at(SECOND) is None
    np.testing.assert_allclose(odometry.at(int(2.4 * SECOND)), at(3.0))
    assert odometry.at(int(2.6 * SECOND)) is None
    assert odometry.at(-1) is None


def test_a_late_pose_fills_a_gap_and_moves_nothing():
    odometry = Odometry(max_gap_s=0.3)
    odometry.put(0, at(0.0))
    odometry.put(SECOND // 2, at(2.0))
    assert odometry.at(SECOND // 4) is None
    odometry.put(SECOND // 4, at(1.5))
    np.testing.assert_allclose(odometry.at(SECOND // 4), at(1.5))
    assert odometry.way_m == pytest.approx(2.0)
    assert odometry.newest_ns == SECOND // 2


def test_time_that_jumped_back_forgets_poses_and_way():
    odometry = Odometry()
    odometry.put(10 * SECOND, at(0.0))
    odometry.put(11 * SECOND, at(5.0))
    again = odometry.put(0, at(0.0))
    assert again.way_m == 0.0
    assert odometry.at(10 * SECOND) is None


def test_poses_are_kept_for_the_horizon_and_a_pose_that_is_not_finite_is_none():
    odometry = Odometry(horizon_s=2.0)
    for n in range(6):
        odometry.put(n * SECOND, at(float(n)))
    assert odometry.at(2 * SECOND) is None
    np.testing.assert_allclose(odometry.at(3 * SECOND), at(3.0))
    assert odometry.put(6 * SECOND, np.full((4, 4), np.nan)).T_odom_base is None
    assert odometry.way_m == pytest.approx(5.0)
