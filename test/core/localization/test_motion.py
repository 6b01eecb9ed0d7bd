"""Where a camera may be at the next image, along the drives of a map."""

import numpy as np
import pytest

from regvpr_core.localization.belief import Belief, BeliefConfig, GAP_S
from regvpr_core.localization.motion import Motion

LEAST_TRACE = 1.0 + 2.0 * np.cos(0.9)


def motion_of(T: np.ndarray, spacing_m: float = 2.0, drives=()) -> Motion:
    return Motion(T, spacing_m, LEAST_TRACE, drives)


def positions(poses: np.ndarray) -> np.ndarray:
    return poses[:, :3, 3]


def quarter_turn(street) -> np.ndarray:
    """Ten keyframes along x, then ten along y."""
    T = street(20)
    corner = T[9, :3, 3]
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    T[10:, :3, :3] = turn @ T[10:, :3, :3]
    for k in range(10, 20):
        T[k, :3, 3] = corner + np.array([0.0, 2.0 * (k - 9), 0.0])
    return T


def test_a_camera_moves_along_the_drive_of_the_map_round_its_corners(street):
    T = quarter_turn(street)
    ahead = motion_of(T).along(np.array([8, 12]), np.array([6.0, -5.0]))
    np.testing.assert_allclose(positions(ahead)[0], T[9, :3, 3] + [0.0, 4.0, 0.0], atol=1e-12)
    np.testing.assert_allclose(positions(ahead)[1], T[9, :3, 3] + [0.0, 1.0, 0.0], atol=1e-12)
    # It looks as the nearer keyframe does.
    np.testing.assert_allclose(ahead[0, :3, :3], T[11, :3, :3])


def test_beyond_its_ends_a_drive_is_extended(street):
    T = street(5)
    ahead = positions(motion_of(T).along(np.array([4, 0]), np.array([3.0, -3.0])))
    np.testing.assert_allclose(ahead, [T[4, :3, 3] + [3.0, 0, 0], T[0, :3, 3] - [3.0, 0, 0]])


def test_a_gap_and_another_drive_end_the_way(street):
    T = street(8)
    T[4:, 1, 3] = 100.0
    for motion in (motion_of(T), motion_of(T, 50.0, ['a'] * 4 + ['b'] * 4)):
        end = positions(motion.along(np.array([3]), np.array([4.0])))[0]
        np.testing.assert_allclose(end, T[3, :3, 3] + [4.0, 0.0, 0.0])


def test_drives_that_are_mixed_in_the_map_are_each_in_order(street):
    T = np.concatenate([street(6), street(6)])
    T[6:, 1, 3] = 50.0
    mixed = T.reshape(2, 6, 4, 4).transpose(1, 0, 2, 3).reshape(12, 4, 4)  # one of each in turn
    ahead = motion_of(mixed, drives=['a', 'b'] * 6).along(np.array([0, 1]), np.array([4.0, 4.0]))
    np.testing.assert_allclose(positions(ahead), [mixed[4, :3, 3], mixed[5, :3, 3]])


def test_a_drive_of_one_keyframe_leads_where_its_camera_looks(street):
    T = street(1)
    ahead = motion_of(T).along(np.array([0]), np.array([2.5]))
    np.testing.assert_allclose(positions(ahead)[0], T[0, :3, 3] + 2.5 * T[0, :3, 2])


def test_steps_lead_to_keyframes_in_reach_that_look_the_same_way(street):
    T = street(9)
    back = T.copy()
    back[:, :3, :3] = back[:, :3, :3] @ np.diag([-1.0, 1.0, -1.0])  # the other way round
    steps = motion_of(np.concatenate([T, back])).steps(T[4:5], np.array([1.0]))
    assert steps.followed == 1
    assert sorted(steps.keyframes.tolist()) == [3, 4, 5]
    weights = dict(zip(steps.keyframes.tolist(), steps.weights, strict=True))
    assert weights[4] == pytest.approx(1.0)
    assert weights[3] == weights[5] == pytest.approx(np.exp(-2.0))


def seen_in_turn(belief: Belief, *rows: list[int]) -> None:
    """Images without odometry, a second apart, each as like the keyframes of all rows."""
    for keyframes in zip(*rows, strict=True):
        belief.predict(None, 1.0)
        belief.update(np.array(keyframes), np.full(len(keyframes), 1.5), others=-1.0)


@pytest.mark.parametrize('even', [
    list(range(10, 22)), list(range(30, 18, -1)), [20] * 12, list(range(5, 29, 2))],
    ids=['forwards', 'backwards', 'standing', 'twice as fast'])
def test_without_odometry_matches_that_advance_evenly_are_believed_over_those_that_jump(
        street, even):
    T = np.concatenate([street(40), street(40)])
    T[40:, 1, 3] = 500.0
    belief = Belief(T, BeliefConfig(drift_mps=8.0))
    jumping = [55 + 3 * (n % 2) - 3 * (n % 3) for n in range(12)]
    seen_in_turn(belief, even, jumping)
    assert belief.probability(even[-1]) > 0.8
    assert belief.probability(jumping[-1]) < 0.15


def test_a_speed_above_the_largest_of_the_robot_is_not_believed(street):
    rows = list(range(5, 35, 3))  # 6 m an image
    slow, quick = (Belief(street(40), BeliefConfig(drift_mps=v)) for v in (1.0, 8.0))
    for belief in (slow, quick):
        seen_in_turn(belief, rows)
    assert quick.off_map < 0.5 * slow.off_map


def test_after_a_long_gap_without_odometry_a_robot_may_be_anywhere(street):
    belief = Belief(street(40), BeliefConfig())
    seen_in_turn(belief, list(range(5, 15)))
    off_map = belief.off_map
    belief.predict(None, GAP_S + 1.0)
    np.testing.assert_allclose(belief.places, belief.places[0])
    assert belief.off_map == pytest.approx(off_map, abs=0.01)


def test_a_robot_off_the_map_enters_it_at_the_rate_that_is_set(street):
    belief = Belief(street(40), BeliefConfig(off_map_prior=0.99, enter=0.1))
    belief.predict(None, 1.0)
    assert belief.off_map == pytest.approx(0.99 * 0.9)
    np.testing.assert_allclose(belief.places, (0.01 + 0.099) / 40)
