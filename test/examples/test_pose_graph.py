"""The pose graph example: GTSAM with our closures, on drives that need no rendering."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('gtsam', reason='gtsam is not installed')
pytest.importorskip('evo', reason='evo is not installed')

from examples.pose_graph.__main__ import main, solved
from examples.pose_graph.drive import Drive, run_session, wrong_closure
from examples.pose_graph.error import trajectory_error
from examples.pose_graph.graph import Closure, local_covariance, OdometryNoise, solve
from examples.pose_graph.picture import draw
from examples.town import LapConfig, TownConfig
from examples.town.camera import T_BASE_CAM
from examples.town.drive import Drive as TownDrive
from examples.town.town import Frame
from regvpr_core.localization.session import SessionConfig, SessionLoops
from regvpr_core.verification.camera_rays import Intrinsics
from regvpr_core.verification.local_features import LocalFeatures

CAMERA = Intrinsics(width=320, height=240,
                    K=np.array([[210.0, 0, 159.5], [0, 210.0, 119.5], [0, 0, 1]]))


class Walls:
    """Points along all streets; an image shows those ahead of the camera. Nothing is rendered.

    Stands for the extractor: descriptors change smoothly along the way and with its direction.
    """

    def __init__(self, drive: TownDrive, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        way = np.array(drive.T_map_base)[:, :3, 3]
        corners = way[rng.integers(len(way), size=6000)]
        self.points = corners + rng.uniform([-9, -9, 0], [9, 9, 6], (6000, 3))
        rows = rng.normal(size=(6000, 64)).astype(np.float32)
        self.rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self.waves = rng.normal(size=(96, 4)) * [0.12, 0.12, 1.0, 1.0]
        self.phases = rng.uniform(0, 2 * np.pi, 96)
        self.rng = rng
        self.truth = iter(np.array(drive.T_map_base)[::4])

    def describe(self, _rgb):
        T = next(self.truth)
        x = np.array([*T[:2, 3], T[0, 0], T[1, 0]])
        row = np.cos(self.waves @ x + self.phases) + 0.15 * self.rng.normal(size=96)
        T_cam = T @ T_BASE_CAM
        local = (self.points - T_cam[:3, 3]) @ T_cam[:3, :3]
        xy = local[:, :2] / np.maximum(local[:, 2:], 0.1) * 210.0 + [159.5, 119.5]
        seen = (local[:, 2] > 3.0) & (local[:, 2] < 25.0) \
            & ((xy > 0) & (xy < [319.0, 239.0])).all(axis=1)
        ids = np.flatnonzero(seen)[:200]
        noisy = xy[ids] + 0.5 * self.rng.normal(size=(len(ids), 2))
        return (row / np.linalg.norm(row)).astype(np.float32), LocalFeatures(
            kind='xfeat', width=320, height=240, xy=noisy, descriptors=self.rows[ids])


@pytest.fixture(scope='module')
def drive() -> Drive:
    """Two laps with the town's drifting odometry and the real session."""
    lap = LapConfig(seed=5, laps=2.0, rate_hz=2.5)
    path = TownDrive(TownConfig(), lap, 0)
    blank = np.zeros((1, 1, 3), np.uint8)
    frames = [Frame(path.stamp_ns[t], blank, path.T_map_base[t], path.T_odom_base[t])
              for t in map(path.tick_of_frame, range(path.frames))]
    encoder = SimpleNamespace(dimension=96, fingerprint='walls')
    return run_session(frames, Walls(path), SessionLoops(encoder, SessionConfig()), CAMERA,
                       T_BASE_CAM)


@pytest.fixture(scope='module')
def outcome(drive):
    return solved(drive)


def test_the_session_closes_loops_with_poses_in_metres(drive):
    assert len(drive.closures) >= 20
    assert sum(one.verified for one in drive.closures) >= 0.8 * len(drive.closures)
    for one in drive.closures:
        truth = np.linalg.inv(drive.T_true_base[one.reference]) @ drive.T_true_base[one.query]
        assert np.linalg.norm(truth[:3, 3]) < 12.0
        if one.verified:
            error = (truth - one.T_reference_query)[:3, 3]
            assert np.linalg.norm(error) < 0.5
            assert np.linalg.eigvalsh(one.covariance).min() > 0.0


def test_our_closures_take_off_four_fifths_of_the_error_of_odometry(outcome):
    summary, _ = outcome
    assert summary['ate_odometry_m'] > 1.0
    assert summary['times_better'] >= 5.0


def test_a_wrong_closure_is_not_believed_and_breaks_nothing(outcome):
    summary, _ = outcome
    assert summary['wrong_one_believed'] < 0.01
    assert summary['times_better_with_wrong'] >= 5.0
    assert summary['ate_with_wrong_m'] < summary['ate_closed_m'] + 0.05
    # And it was bad enough to break a graph that believes it.
    assert summary['ate_wrong_believed_m'] > 2.0 * summary['ate_odometry_m']


def test_the_picture_is_drawn_and_small(drive, outcome, tmp_path):
    summary, solutions = outcome
    path = tmp_path / 'graph.png'
    draw(drive, solutions, summary, path)
    assert 10_000 < path.stat().st_size < 200_000


def test_without_closures_odometry_is_left_as_it_is(drive):
    solution = solve(drive.T_odom_base, [])
    np.testing.assert_array_equal(solution.T_world_base, drive.T_odom_base)
    assert len(solution.weights) == 0


def test_a_square_closed_by_hand_comes_out_square():
    # Four sides of 10 m; odometry turns 2 degrees too far at each corner.
    step, turn = np.eye(4), np.eye(4)
    step[0, 3] = 1.0
    angle = np.radians(92.0)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    true_turn = np.eye(4)
    true_turn[:2, :2] = [[0.0, -1.0], [1.0, 0.0]]
    odometry, truth = [np.eye(4)], [np.eye(4)]
    for number in range(40):
        last = number % 10 == 9
        odometry.append(odometry[-1] @ step @ (turn if last else np.eye(4)))
        truth.append(truth[-1] @ step @ (true_turn if last else np.eye(4)))
    closure = Closure(reference=0, query=40, T_reference_query=np.eye(4),
                      covariance=1e-4 * np.eye(6), verified=True)
    noise = OdometryNoise(rad_per_m=0.02)
    solution = solve(np.array(odometry), [closure], noise)
    assert solution.weights[0] > 0.99
    assert np.linalg.norm(solution.T_world_base[-1][:3, 3]) < 0.05
    before, after = (trajectory_error(np.array(poses), np.array(truth))
                     for poses in (odometry, solution.T_world_base))
    assert after < before


def test_a_covariance_is_turned_into_the_axes_and_the_order_of_gtsam():
    T = np.eye(4)
    T[:2, :2] = [[0.0, -1.0], [1.0, 0.0]]  # the later pose looks along the earlier one's y
    closure = Closure(reference=0, query=1, T_reference_query=T,
                      covariance=np.diag([1.0, 4.0, 9.0, 0.1, 0.2, 0.3]))
    np.testing.assert_allclose(local_covariance(closure),
                               np.diag([0.2, 0.1, 0.3, 4.0, 1.0, 9.0]), atol=1e-12)


def test_the_error_does_not_depend_on_where_the_world_begins(drive):
    moved = np.eye(4)
    moved[:2, :2] = [[0.6, -0.8], [0.8, 0.6]]
    moved[:3, 3] = [100.0, -50.0, 3.0]
    first, second = (trajectory_error(poses, drive.T_true_base)
                     for poses in (drive.T_odom_base, moved @ drive.T_odom_base))
    assert first == pytest.approx(second, rel=1e-6)
    assert trajectory_error(drive.T_true_base, drive.T_true_base) == pytest.approx(0.0, abs=1e-9)


def test_the_injected_closure_is_of_two_places_far_apart(drive):
    wrong = wrong_closure(drive.closures, len(drive.keyframes))
    apart = drive.T_true_base[wrong.query] - drive.T_true_base[wrong.reference]
    assert np.linalg.norm(apart[:3, 3]) > 20.0


def test_the_command_says_what_it_takes_and_refuses_the_rest(capsys):
    with pytest.raises(SystemExit) as caught:
        main(['--features', 'sift'])
    assert caught.value.code == 2
    assert 'sift' in capsys.readouterr().err
