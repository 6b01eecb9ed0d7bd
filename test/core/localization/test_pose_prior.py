import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.errors import ConfigError
from regvpr_core.geometry import distance, inverse
from regvpr_core.localization.belief import Belief, BeliefConfig
from regvpr_core.localization.pose_prior import estimate, PosePriorConfig

FLOOR = PosePriorConfig(position_floor_m=0.5, rotation_floor_rad=0.1)


def believe(T: np.ndarray, weights: dict[int, float]) -> Belief:
    belief = Belief(T, BeliefConfig())
    belief.places = np.zeros(len(T))
    for keyframe, weight in weights.items():
        belief.places[keyframe] = weight
    belief.off_map = 1.0 - float(belief.places.sum())
    return belief


def test_one_keyframe_gives_its_pose_and_the_least_widths(street):
    T = street(20)
    prior = estimate(believe(T, {7: 0.9}), 7, T, np.eye(4), FLOOR)
    np.testing.assert_allclose(prior.T_map_base, T[7], atol=1e-12)
    np.testing.assert_allclose(prior.variances[:3], 0.25 + 2.0**2 / 12.0)
    np.testing.assert_allclose(prior.variances[3:], 0.01)


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
    # Keyframe 15 is another place. x is 14 with 3/4 and 16 with 1/4.
    assert prior.T_map_base[0, 3] == pytest.approx(14.5)
    assert prior.variances[0] == pytest.approx(0.75 + 0.25 + 4.0 / 12.0)
    assert prior.variances[1] == pytest.approx(0.25 + 4.0 / 12.0)


def test_rotations_are_averaged_and_their_spread_is_about_the_maps_axes():
    T = np.tile(np.eye(4), (3, 1, 1))
    for i, angle in enumerate((-0.2, 0.2, 0.0)):
        T[i, :3, :3] = Rotation.from_euler('z', angle).as_matrix()
        T[i, 0, 3] = 0.1 * i
    prior = estimate(believe(T, {0: 0.4, 1: 0.4}), 0, T, np.eye(4), FLOOR)
    np.testing.assert_allclose(prior.T_map_base[:3, :3], np.eye(3), atol=1e-9)
    np.testing.assert_allclose(prior.variances[3:], [0.01, 0.01, 0.01 + 0.04], atol=1e-9)


def test_moving_the_map_moves_the_prior_with_it(street, rigid):
    rng = np.random.default_rng(0)
    T = street(30)
    T[:, :3, 3] += rng.normal(scale=0.3, size=(30, 3))
    T_base_cam = rigid  # any transform will do
    weights = {10: 0.5, 11: 0.3, 9: 0.1}
    plain = estimate(believe(T, weights), 10, T, T_base_cam, FLOOR)
    moved = estimate(believe(rigid @ T, weights), 10, rigid @ T, T_base_cam, FLOOR)
    metres, radians = distance(moved.T_map_base, rigid @ plain.T_map_base)
    assert float(metres) < 1e-9
    assert float(radians) < 1e-6
    # Variances belong to the axes of the map; their sums do not.
    assert moved.variances[:3].sum() == pytest.approx(plain.variances[:3].sum())
    assert moved.variances[3:].sum() == pytest.approx(plain.variances[3:].sum())


def test_variances_are_positive_and_finite_for_any_belief(street):
    rng = np.random.default_rng(0)
    T = street(50, 0.5)
    T[:, :3, :3] = T[:, :3, :3] @ Rotation.from_rotvec(
        rng.normal(scale=0.3, size=(50, 3))).as_matrix()
    for _ in range(50):
        keyframe = int(rng.integers(50))
        weights = dict(enumerate(rng.exponential(size=50) ** 8)) | {keyframe: 1e-12}
        prior = estimate(believe(T, weights), keyframe, T, np.eye(4), FLOOR)
        assert prior.variances.shape == (6,)
        assert np.isfinite(prior.variances).all()
        assert (prior.variances >= 0.01).all()
        R = prior.T_map_base[:3, :3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize('settings', [{'position_floor_m': 0.0}, {'rotation_floor_rad': 4.0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=f'pose_prior.{next(iter(settings))} is'):
        PosePriorConfig(**settings)
