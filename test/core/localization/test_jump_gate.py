import csv
import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

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
        'the fix is 40.0 m from the position by odometry; fix 1 of 5 there')
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


@pytest.mark.parametrize(('sigmas', 'share'), [(2.0, 0.2615), (3.0, 0.0293), (4.0, 0.00113)])
@pytest.mark.parametrize('way_m', [1.0, 30.0])
def test_of_right_fixes_the_share_beyond_the_quantile_of_chi_squared_is_held(
    sigmas, share, way_m,
):
    rng, drift, count = np.random.default_rng(1), 0.05, 20_000
    # Position and heading of a fix err together, as those of a pose from points ahead do.
    root = np.diag([0.4, 0.2, 0.1, 0.01, 0.02, 0.03])
    root[1, 5] = 0.2
    turn = Rotation.from_euler('zyx', [0.7, -0.3, 0.2]).as_matrix()
    root = np.kron(np.eye(2), turn) @ root
    ahead, start = pose(way_m), pose(3.0, -2.0)
    start[:3, :3] = turn

    def seen(T: np.ndarray) -> PosePrior:
        error = root @ rng.standard_normal(6)
        T = T.copy()
        T[:3, 3] += error[:3]
        T[:3, :3] = Rotation.from_rotvec(error[3:]).as_matrix() @ T[:3, :3]
        return PosePrior(T, root @ root.T)

    held = 0
    for _ in range(count):
        gate = JumpGate(sigmas, 5, drift)
        gate.admit(seen(start), np.eye(4))
        odometry = ahead.copy()
        odometry[:3, 3] += drift * way_m * rng.standard_normal(3)
        held += gate.admit(seen(start @ ahead), odometry) != ''
    # Three standard deviations of the count, and a tenth for rotations that are not small and
    # the way that odometry itself measures.
    expected = share * count
    assert abs(held - expected) <= 3.0 * expected ** 0.5 + 0.1 * expected


def walked(real_data) -> np.ndarray:
    """Poses (N, 4, 4) of a HoloLens, by its own visual-inertial odometry, on a walk indoors."""
    with (real_data('hololens_office') / 'data.csv').open(encoding='utf-8') as file:
        return np.array([np.fromstring(row['pose_cam2world'], sep=' ').reshape(4, 4)
                         for row in csv.DictReader(file)])


def drifting(T: np.ndarray) -> np.ndarray:
    """The same way with 3 % of error in its length and a slow turn, in a frame of its own."""
    out = [pose(5.0, -3.0)]
    turn = Rotation.from_euler('y', 0.002).as_matrix()
    for before, after in itertools.pairwise(T):
        step = np.linalg.inv(before) @ after
        step[:3, 3] *= 1.03
        step[:3, :3] = step[:3, :3] @ turn
        out.append(out[-1] @ step)
    return np.array(out)


@pytest.fixture
def walk(real_data):
    """Odometry, and right fixes with the errors that their covariances say."""
    T_map_base = walked(real_data)
    rng = np.random.default_rng(4)
    fixes = []
    for T in T_map_base:
        T = T.copy()
        T[:3, 3] += rng.normal(0.0, 0.3, 3)
        fixes.append(PosePrior(T, np.diag([0.3 ** 2] * 3 + [0.05 ** 2] * 3)))
    return drifting(T_map_base), fixes


def test_on_a_real_walk_with_drifting_odometry_no_right_fix_is_held(walk):
    gate = JumpGate(4.0, 5, 0.1)
    assert [gate.admit(one, T) for T, one in zip(*walk, strict=True)].count('') == len(walk[1])


def test_on_a_real_walk_each_fix_at_a_look_alike_place_is_held_and_counted(walk):
    gate = JumpGate(4.0, 5, 0.1)
    said = []
    for number, (T, right) in enumerate(zip(*walk, strict=True)):
        wrong = PosePrior(right.T_map_base + pose(6.0) - np.eye(4), right.covariance)
        said.append(bool(gate.admit(wrong if number % 10 == 9 else right, T)))
    assert [n for n, held in enumerate(said) if held] == list(range(9, len(said), 10))
    assert gate.held == len(said) // 10


def test_on_a_real_walk_a_person_who_is_carried_away_is_believed_at_the_fifth_fix(walk):
    gate = JumpGate(4.0, 5, 0.1)
    said = [gate.admit(one if number < 200 else PosePrior(
        one.T_map_base + pose(6.0) - np.eye(4), one.covariance), T)
        for number, (T, one) in enumerate(zip(*walk, strict=True))]
    assert [n for n, text in enumerate(said) if text] == [200, 201, 202, 203]
