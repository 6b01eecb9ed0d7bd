import numpy as np
import pytest

from regvpr_core.localization.jump_gate import JumpGate
from regvpr_core.localization.pose_prior import PosePrior


def pose(x: float, y: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    T[:2, 3] = x, y
    return T


def fix(x: float, y: float = 0.0, sigma_m: float = 0.5) -> PosePrior:
    return PosePrior(pose(x, y), np.diag([sigma_m ** 2] * 3 + [1e-4] * 3))


def test_fixes_that_follow_odometry_are_let_through_also_where_frames_are_turned():
    gate = JumpGate(4.0, 5, 0.1)
    turn = np.array([[0, -1, 0, 9], [1, 0, 0, 2], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    for x in range(20):
        assert gate.admit(fix(float(x)), turn @ pose(float(x))) == ''
    assert gate.held == 0


def test_one_fix_far_from_where_odometry_leads_is_held_and_the_next_right_one_is_not():
    gate = JumpGate(4.0, 5, 0.1)
    gate.admit(fix(0.0), pose(0.0))
    assert gate.admit(fix(41.0), pose(1.0)) == (
        'the fix is 40.0 m from where odometry leads; fix 1 of 5 there')
    assert gate.admit(fix(2.0), pose(2.0)) == ''
    assert gate.held == 1


@pytest.mark.parametrize('fixes', [1, 3, 5])
def test_a_fix_that_persists_is_let_through_and_is_then_what_others_are_compared_with(fixes):
    gate = JumpGate(4.0, fixes, 0.1)
    gate.admit(fix(0.0), pose(0.0))
    said = [gate.admit(fix(40.0 + i), pose(float(i))) for i in range(1, fixes + 3)]
    assert [bool(text) for text in said] == [True] * (fixes - 1) + [False] * 3
    assert gate.admit(fix(1.0), pose(float(fixes + 3))) != '' or fixes == 1


def test_fixes_that_contradict_each_other_are_never_let_through():
    gate = JumpGate(4.0, 3, 0.1)
    gate.admit(fix(0.0), pose(0.0))
    assert all(gate.admit(fix(100.0 * i), pose(0.1 * i)) for i in range(1, 30))
    assert gate.held == 29


def test_the_farther_the_way_and_the_wider_the_fix_the_more_is_allowed():
    def held(way_m: float, sigma_m: float) -> bool:
        gate = JumpGate(4.0, 5, 0.05)
        gate.admit(fix(0.0, sigma_m=sigma_m), pose(0.0))
        return gate.admit(fix(way_m + 6.0, sigma_m=sigma_m), pose(way_m)) != ''

    assert held(1.0, 0.5)
    assert not held(100.0, 0.5)
    assert not held(1.0, 3.0)


def test_without_odometry_or_with_no_limit_every_fix_is_let_through():
    assert all(JumpGate(4.0, 5, 0.1).admit(fix(100.0 * i), None) == '' for i in range(5))
    off = JumpGate(0.0, 5, 0.1)
    assert all(off.admit(fix(100.0 * i), pose(0.0)) == '' for i in range(5))


def test_after_a_reset_the_first_fix_is_let_through():
    gate = JumpGate(4.0, 5, 0.1)
    gate.admit(fix(0.0), pose(0.0))
    gate.reset()
    assert gate.admit(fix(500.0), pose(0.0)) == ''
