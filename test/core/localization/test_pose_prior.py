import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.errors import ConfigError
from regvpr_core.geometry import distance, inverse
from regvpr_core.localization.belief import Belief, BeliefConfig
from regvpr_core.localization.pose_prior import (
    estimate,
    HUBER_M,
    HUBER_RAD,
    of_verified,
    PosePriorConfig,
    road_axes,
    robust_mean,
    ROUNDS,
)
from regvpr_core.verification.metric_pose import MetricPose

FLOOR = PosePriorConfig(spread_share=1.0, position_floor_m=0.5, lane_m=0.3, height_m=0.1,
                        rotation_floor_rad=0.1)


def believe(T: np.ndarray, weights: dict[int, float]) -> Belief:
    """A belief of these probabilities: 0 at other keyframes, the rest off the map."""
    belief = Belief(T, BeliefConfig())
    places = np.zeros(len(T))
    for keyframe, weight in weights.items():
        places[keyframe] = weight
    with np.errstate(divide='ignore'):
        odds = np.log(places / belief.floor) - np.log((1.0 - places.sum()) / belief.off_map)
    belief.update(np.arange(len(T)), odds)
    return belief


def verified_at(T: np.ndarray, std_m: float = 0.05, std_rad: float = 0.01) -> MetricPose:
    return MetricPose(T_map_cam=T, covariance=np.diag([std_m**2] * 3 + [std_rad**2] * 3),
                      points=80, rms=0.001)


def test_one_keyframe_gives_its_pose_and_the_least_widths_along_across_and_up(street):
    T = street(20)
    prior = estimate(believe(T, {7: 0.9}), 7, T, np.eye(4), FLOOR)
    np.testing.assert_allclose(prior.T_map_base, T[7], atol=1e-12)
    # The street is 2 m a keyframe along x. This base looks along x and its z is the road's left.
    np.testing.assert_allclose(prior.variances[0], 0.25 + 2.0**2 / 12.0)
    np.testing.assert_allclose(sorted(prior.variances[1:3]), [0.01, 0.09])
    np.testing.assert_allclose(prior.variances[3:], 0.01)
    np.testing.assert_allclose(prior.covariance, np.diag(prior.variances), atol=1e-12)
    assert not prior.verified


def test_on_a_diagonal_road_the_errors_along_and_across_are_told_apart():
    yaw = 0.7
    turn = Rotation.from_euler('z', yaw).as_matrix()
    T = np.tile(np.eye(4), (20, 1, 1))
    T[:, :3, :3] = turn
    T[:, :3, 3] = np.arange(20)[:, None] * 2.0 * turn[:, 0]
    prior = estimate(believe(T, {7: 0.9}), 7, T, np.eye(4), FLOOR)
    along, left, up = turn.T
    block = prior.covariance[:3, :3]
    assert along @ block @ along == pytest.approx(0.25 + 4.0 / 12.0)
    assert left @ block @ left == pytest.approx(0.09)
    assert up @ block @ up == pytest.approx(0.01)
    assert block[0, 1] > 0.1  # not a diagonal


def test_the_pose_is_that_of_the_base(street):
    T_base_cam = np.eye(4)
    T_base_cam[:3, :3] = Rotation.from_euler('zx', [0.3, -1.2]).as_matrix()
    T_base_cam[:3, 3] = [0.5, -0.2, 1.1]
    T = street(20)
    prior = estimate(believe(T, {7: 0.9}), 7, T, T_base_cam, FLOOR)
    np.testing.assert_allclose(prior.T_map_base, T[7] @ inverse(T_base_cam), atol=1e-12)


def test_several_keyframes_give_their_weighted_mean_and_spread(street):
    T = street(20)
    prior = estimate(believe(T, {7: 0.6, 8: 0.2, 15: 0.1}), 7, T, np.eye(4), FLOOR)
    # Keyframe 15 is another place. x is 14 with 3/4 and 16 with 1/4, hardly bent by Huber.
    assert prior.T_map_base[0, 3] == pytest.approx(14.5, abs=0.1)
    assert prior.variances[0] == pytest.approx(0.75 + 0.25 + 4.0 / 12.0, abs=0.1)
    half = PosePriorConfig(spread_share=0.5, position_floor_m=0.5)
    narrower = estimate(believe(T, {7: 0.6, 8: 0.2}), 7, T, np.eye(4), half)
    assert prior.variances[0] - narrower.variances[0] == pytest.approx(0.375, abs=0.05)


def test_one_far_keyframe_of_little_belief_pulls_less_than_by_its_square(street):
    T = street(3, 1.0)
    T[2, 0, 3] = 4.9
    mean, weights = robust_mean(T, np.array([0.45, 0.45, 0.1]))
    assert mean[0, 3] < 0.5 * 0.9 + 0.1 * 4.9 - 0.15
    assert weights[2] < 0.06
    assert weights.sum() == pytest.approx(1.0)
    plain, kept = robust_mean(T[:2], np.array([0.5, 0.5]))
    assert plain[0, 3] == pytest.approx(0.5)
    np.testing.assert_allclose(kept, 0.5)


@pytest.mark.parametrize('spread_rad', [0.03, 0.2, 0.6])
def test_the_robust_mean_is_that_of_weighted_quaternions(spread_rad):
    rng = np.random.default_rng(4)
    T = np.tile(np.eye(4), (9, 1, 1))
    T[:, :3, :3] = (Rotation.from_rotvec(spread_rad * rng.normal(size=(9, 3)))
                    * Rotation.from_rotvec([0.3, -1.1, 2.0])).as_matrix()
    T[:, :3, 3] = rng.normal(0.0, 2.0, (9, 3))
    first = rng.dirichlet(np.ones(9))
    # Markley et al. (2007): the eigenvector of the weighted sum of the quaternions' products.
    quats, used = Rotation.from_matrix(T[:, :3, :3]).as_quat(), first
    for _ in range(ROUNDS):
        centre = np.linalg.eigh((used[:, None] * quats).T @ quats)[1][:, -1]
        position = used @ T[:, :3, 3]
        metres = np.linalg.norm(T[:, :3, 3] - position, axis=1)
        radians = 2.0 * np.arccos(np.minimum(np.abs(quats @ centre), 1.0))
        used = first * np.minimum(1.0, HUBER_M / np.maximum(metres, 1e-9)) \
            * np.minimum(1.0, HUBER_RAD / np.maximum(radians, 1e-9))
        used = used / used.sum()
    mean, weights = robust_mean(T, first)
    np.testing.assert_allclose(mean[:3, 3], position, atol=1e-8)
    np.testing.assert_allclose(mean[:3, :3], Rotation.from_quat(centre).as_matrix(), atol=1e-8)
    np.testing.assert_allclose(weights, used, atol=1e-8)


def test_rotations_are_averaged_and_their_spread_is_about_the_maps_axes():
    T = np.tile(np.eye(4), (3, 1, 1))
    for i, angle in enumerate((-0.2, 0.2, 0.0)):
        T[i, :3, :3] = Rotation.from_euler('z', angle).as_matrix()
        T[i, 0, 3] = 0.1 * i
    prior = estimate(believe(T, {0: 0.4, 1: 0.4}), 0, T, np.eye(4), FLOOR)
    np.testing.assert_allclose(prior.T_map_base[:3, :3], np.eye(3), atol=1e-9)
    np.testing.assert_allclose(prior.variances[3:], [0.01, 0.01, 0.01 + 0.04], atol=1e-9)


def test_moving_the_map_moves_the_prior_and_its_covariance_with_it(street, rigid):
    rng = np.random.default_rng(0)
    T = street(30)
    T[:, :3, 3] += rng.normal(scale=0.3, size=(30, 3))
    T_base_cam = rigid  # any transform will do
    weights = {10: 0.5, 11: 0.3, 9: 0.1}
    verified = verified_at(T[10] @ rigid @ inverse(rigid))
    axes = np.kron(np.eye(2), rigid[:3, :3])
    for pose in (None, verified):
        moved_pose = None if pose is None else MetricPose(
            T_map_cam=rigid @ pose.T_map_cam, covariance=axes @ pose.covariance @ axes.T,
            points=80, rms=0.001)
        plain = estimate(believe(T, weights), 10, T, T_base_cam, FLOOR, pose)
        moved = estimate(believe(rigid @ T, weights), 10, rigid @ T, T_base_cam, FLOOR,
                         moved_pose)
        metres, radians = distance(moved.T_map_base, rigid @ plain.T_map_base)
        assert float(metres) < 1e-9
        assert float(radians) < 1e-6
        np.testing.assert_allclose(moved.covariance, axes @ plain.covariance @ axes.T, atol=1e-9)
        assert plain.verified == moved.verified == (pose is not None)


def test_covariances_are_positive_definite_for_any_belief(street):
    rng = np.random.default_rng(0)
    T = street(50, 0.5)
    T[:, :3, :3] = T[:, :3, :3] @ Rotation.from_rotvec(
        rng.normal(scale=0.3, size=(50, 3))).as_matrix()
    for _ in range(50):
        keyframe = int(rng.integers(50))
        places = rng.exponential(size=50) ** 8
        weights = dict(enumerate(0.9 * places / places.sum())) | {keyframe: 1e-12}
        prior = estimate(believe(T, weights), keyframe, T, np.eye(4), FLOOR)
        np.testing.assert_allclose(prior.covariance, prior.covariance.T, atol=1e-12)
        assert np.linalg.eigvalsh(prior.covariance).min() > 0.005
        assert np.isfinite(prior.covariance).all()
        R = prior.T_map_base[:3, :3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-9)


def test_a_verified_pose_that_fits_is_taken_and_is_surer_than_the_belief(street):
    T = street(20)
    belief = believe(T, {7: 0.6, 8: 0.3})
    truth = T[7].copy()
    truth[:3, 3] += [0.8, 0.3, 0.0]
    prior = estimate(belief, 7, T, np.eye(4), PosePriorConfig(), verified_at(truth))
    assert prior.verified
    np.testing.assert_allclose(prior.T_map_base, truth, atol=1e-12)
    config = PosePriorConfig()
    wanted = (config.verified_scale * 0.05) ** 2 + config.verified_floor_m**2
    np.testing.assert_allclose(prior.variances[:3], wanted)


@pytest.mark.parametrize('offset', [(30.0, 0.0, 0.0), (0.0, 4.0, 0.0), (0.0, 0.0, 5.0)])
def test_a_verified_pose_that_the_belief_contradicts_is_not_taken(street, offset):
    T = street(20)
    wrong = T[7].copy()
    wrong[:3, 3] += offset
    belief = believe(T, {7: 0.6, 8: 0.3})
    prior = estimate(belief, 7, T, np.eye(4), PosePriorConfig(), verified_at(wrong))
    plain = estimate(belief, 7, T, np.eye(4), PosePriorConfig())
    assert not prior.verified
    np.testing.assert_array_equal(prior.T_map_base, plain.T_map_base)
    np.testing.assert_array_equal(prior.covariance, plain.covariance)


def test_the_belief_is_about_its_own_camera_whichever_took_the_verified_image(street):
    """A camera that looks to the left took the image; the belief is about the one in front."""
    T = street(20)
    belief = believe(T, {7: 0.6, 8: 0.3})
    left = np.eye(4)
    left[:3, :3] = Rotation.from_euler('y', -90, degrees=True).as_matrix()
    left[:3, 3] = [0.0, 0.0, 0.5]
    plain = estimate(belief, 7, T, np.eye(4), PosePriorConfig())
    fits = estimate(belief, 7, T, np.eye(4), PosePriorConfig(),
                    verified_at(plain.T_map_base @ left), left)
    assert fits.verified
    np.testing.assert_allclose(fits.T_map_base, plain.T_map_base, atol=1e-9)
    far = T[15] @ left
    refused = estimate(belief, 7, T, np.eye(4), PosePriorConfig(), verified_at(far), left)
    assert not refused.verified
    np.testing.assert_array_equal(refused.T_map_base, plain.T_map_base)


def test_a_verified_pose_is_given_for_the_base_with_what_the_lever_adds():
    T_cam_base = np.eye(4)
    T_cam_base[0, 3] = -10.0
    config = PosePriorConfig(verified_scale=1.0, verified_floor_m=0.001, verified_floor_rad=0.001)
    prior = of_verified(verified_at(np.eye(4), 0.05, 0.02), T_cam_base, config)
    np.testing.assert_allclose(prior.T_map_base[:3, 3], [-10.0, 0.0, 0.0])
    assert prior.variances[0] == pytest.approx(0.0025, rel=0.01)
    assert prior.variances[1] == pytest.approx(0.0025 + 0.04, rel=0.01)


def test_errors_drawn_as_the_model_says_have_the_squares_they_should(street):
    """The widths mean what they say: a robot beside and between keyframes, seen 2000 times."""
    rng = np.random.default_rng(1)
    T = street(40, 2.0)
    config = PosePriorConfig()
    squares = []
    for _ in range(2000):
        # Between keyframes: as the belief has it, plus its own error; across: the lane.
        keyframe = int(rng.integers(10, 30))
        prior = estimate(believe(T, {keyframe: 0.9}), keyframe, T, np.eye(4), config)
        error = np.array([rng.uniform(-1.0, 1.0) + rng.normal(0.0, config.position_floor_m),
                          rng.normal(0.0, config.lane_m), rng.normal(0.0, config.height_m)])
        axes = road_axes(T[keyframe - 2:keyframe + 3], T[keyframe])
        world = axes @ error
        squares.append(world @ np.linalg.solve(prior.covariance[:3, :3], world))
    assert np.mean(squares) / 3 == pytest.approx(1.0, abs=0.1)


def test_a_place_of_one_keyframe_takes_the_way_that_the_base_looks():
    T = np.eye(4)[None]
    np.testing.assert_allclose(road_axes(T, T[0]), np.eye(3))
    # A lift: keyframes stand above each other.
    shaft = np.tile(np.eye(4), (4, 1, 1))
    shaft[:, 2, 3] = np.arange(4)
    axes = road_axes(shaft, shaft[0])
    assert abs(axes[2, 0]) == pytest.approx(1.0)
    np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)


@pytest.mark.parametrize('settings', [
    {'position_floor_m': 0.0}, {'rotation_floor_rad': 4.0}, {'lane_m': 0.0},
    {'height_m': float('nan')}, {'spread_share': 1.5}, {'verified_scale': 0.5},
    {'verified_floor_m': 0.0}, {'verified_floor_rad': 9.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=f'pose_prior.{next(iter(settings))} is'):
        PosePriorConfig(**settings)
