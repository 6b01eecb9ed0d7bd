"""Pose with covariance, from local features or from the belief over keyframes.

The covariance is (6, 6) over x, y, z (m^2) and rotations about the map's fixed axes (rad^2), in
this order, as geometry_msgs/PoseWithCovariance defines it: the true pose is
(Exp(rotation) R, t + translation).
"""

from dataclasses import dataclass
import math

import numpy as np

from regvpr_core.config import check_settings, setting
from regvpr_core.geometry import Array, inverse, rotation_vector
from regvpr_core.localization.belief import Belief
from regvpr_core.verification.metric_pose import MetricPose, of_base

ROUNDS = 10
HUBER_M = 1.5
"""Distance from the mean beyond which Huber's weights fall: a least-squares mean would be pulled
away by one far keyframe of small probability."""

HUBER_RAD = 0.3
LEAST_LENGTH_M = 1e-3
ONES, UNIT = np.ones(3), np.eye(3)

GATE = 11.34
"""99 % quantile of the chi-squared distribution with 3 degrees of freedom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PosePriorConfig:
    """Least standard deviations of a pose prior, learnt in the rendered town (seed 7)."""

    spread_share: float = setting(
        0.12,
        "Share of the variance of the belief over the place's keyframes that enters the "
        'covariance.', 0.0, 1.0)
    position_floor_m: float = setting(
        0.2, 'Least standard deviation along the road, beside the spacing of keyframes.',
        0.01, 100.0, unit='m')
    lane_m: float = setting(
        0.22, 'Standard deviation across the road: a robot drives beside the line of the map.',
        0.01, 100.0, unit='m')
    height_m: float = setting(0.1, 'Standard deviation of height.', 0.01, 100.0, unit='m')
    rotation_floor_rad: float = setting(
        0.04, 'Least standard deviation of rotation.', 0.001, 3.0, unit='rad')
    verified_scale: float = setting(
        2.0,
        'Factor on the residual standard deviation of a verified pose, as errors of points are '
        'correlated.', 1.0, 100.0)
    verified_floor_m: float = setting(
        0.03, 'Least standard deviation of a verified position.', 0.001, 100.0, unit='m')
    verified_floor_rad: float = setting(
        0.005, 'Least standard deviation of a verified rotation.', 0.001, 3.0, unit='rad')

    def __post_init__(self) -> None:
        check_settings(self, 'pose_prior')


@dataclass(frozen=True, slots=True, eq=False)
class PosePrior:
    """Pose of the base frame in the map.

    T_map_base: (4, 4). covariance: (6, 6), see above: positive definite. verified: whether local
    features gave it.
    """

    T_map_base: Array
    covariance: Array
    verified: bool = False

    @property
    def variances(self) -> Array:
        """Diagonal (6,) of the covariance: finite and positive."""
        return np.diag(self.covariance).copy()

    def __repr__(self) -> str:
        x, y, z = self.T_map_base[:3, 3]
        deviation = np.sqrt(self.variances[:3].sum())
        return f'PosePrior(x={x:.2f}, y={y:.2f}, z={z:.2f}, deviation_m={deviation:.2f})'


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoseHypothesis:
    """A place where the robot may be, to be tested by other software (NDT, AMCL, ICP).

    keyframe_id: its most likely keyframe. probability: of the place, by the belief. prior: pose
    of the base frame at the place, with covariance.
    """

    keyframe_id: int
    probability: float
    prior: PosePrior


def estimate(
    belief: Belief,
    keyframe: int,
    T_map_cam: Array,
    T_base_cam: Array,
    config: PosePriorConfig,
    verified: MetricPose | None = None,
    T_base_verified: Array | None = None,
) -> PosePrior:
    """The verified pose if it agrees with the belief, else the mean of the accepted place.

    Args:
        belief: after the update with this image.
        keyframe: the most likely one.
        T_map_cam: (N, 4, 4) keyframe poses.
        T_base_cam: (4, 4) of the camera that the belief is about.
        config: least standard deviations.
        verified: pose of a camera from local features; ignored if the belief contradicts it.
        T_base_verified: (4, 4) of the camera that `verified` is about; None: `T_base_cam`.
    """
    believed = of_belief(belief, keyframe, T_map_cam, T_base_cam, config)
    if verified is None:
        return believed
    mount = T_base_cam if T_base_verified is None else T_base_verified
    measured = of_verified(verified, inverse(mount), config)
    # A pose that contradicts the belief of all images so far is wrong.
    step = measured.T_map_base[:3, 3] - believed.T_map_base[:3, 3]
    both = (measured.covariance + believed.covariance)[:3, :3]
    return measured if step @ np.linalg.solve(both, step) < GATE else believed


def of_belief(
    belief: Belief, keyframe: int, T_map_cam: Array, T_base_cam: Array, config: PosePriorConfig
) -> PosePrior:
    """Robust mean of the keyframes of the accepted place; arguments as `estimate`."""
    ids = belief.around(keyframe)
    masses = belief.masses(ids)
    T_map_base = T_map_cam[ids] @ inverse(T_base_cam)
    mean, weights = robust_mean(T_map_base, masses / masses.sum())

    # 1. Spread of the belief.
    steps = T_map_base[:, :3, 3] - mean[:3, 3]
    turns = rotation_vector(T_map_base[:, :3, :3] @ mean[:3, :3].T)
    covariance = np.zeros((6, 6))
    shares = config.spread_share * weights[:, None]
    covariance[:3, :3] = (shares * steps).T @ steps
    covariance[3:, 3:] = (shares * turns).T @ turns
    # 2. Position between two keyframes (uniform: spacing^2 / 12), and beside the line through
    #    them, which keyframes cannot determine.
    axes = road_axes(T_map_base, mean)
    along = config.position_floor_m**2 + belief.spacing_m**2 / 12.0
    covariance[:3, :3] += (axes * (along, config.lane_m**2, config.height_m**2)) @ axes.T
    covariance[3:, 3:] += config.rotation_floor_rad**2 * UNIT
    return PosePrior(mean, covariance)


def of_verified(pose: MetricPose, T_cam_base: Array, config: PosePriorConfig) -> PosePrior:
    """A pose prior of the base from a verified camera pose; `config` widens the covariance."""
    floor = np.diag([config.verified_floor_m**2] * 3 + [config.verified_floor_rad**2] * 3)
    covariance = config.verified_scale**2 * pose.covariance + floor
    T_map_base, covariance = of_base(pose.T_map_cam, covariance, T_cam_base)
    return PosePrior(T_map_base, covariance, verified=True)


def relative_to(T_map_reference: Array, pose: PosePrior) -> tuple[Array, Array]:
    """A pose relative to another (4, 4), and its covariance about the axes of the latter."""
    turn = np.kron(np.eye(2), T_map_reference[:3, :3].T)
    return inverse(T_map_reference) @ pose.T_map_base, turn @ pose.covariance @ turn.T


def robust_mean(T: Array, weights: Array) -> tuple[Array, Array]:
    """Robust mean of poses (K, 4, 4) on SE(3), and their final weights, which sum to 1.

    Iteratively reweighted with Huber's weights, position and rotation separately, starting from
    the weights (K,), which sum to 1.
    """
    turns, positions = T[:, :3, :3].reshape(-1, 9), T[:, :3, 3]
    # Rotations this close together are all near their mean, so that none is weighed down.
    alike = bool((turns @ turns[0]).min() > 1.0 + 2.0 * np.cos(0.5 * HUBER_RAD))
    mean, new = np.eye(4), weights
    for _ in range(ROUNDS):
        used = new
        centre = used @ positions
        steps = positions - centre
        # Huber's weights but for a factor, which does not matter.
        new = weights / np.maximum(np.sqrt((steps * steps) @ ONES), HUBER_M)
        if not alike:
            turn = _mean_rotation(turns, used)
            radians = np.arccos(np.clip(0.5 * (turns @ turn.reshape(9) - 1.0), -1.0, 1.0))
            new /= np.maximum(radians, HUBER_RAD)
        new /= new.sum()
        if np.abs(new - used).max() < 1e-9:
            break
    mean[:3, 3] = centre
    mean[:3, :3] = _mean_rotation(turns, used)
    return mean, new


def _mean_rotation(turns: Array, weights: Array) -> Array:
    """Mean rotation (3, 3) of rotations (K, 9) after Markley et al., Averaging quaternions (2007).

    It is the rotation nearest to the mean matrix (their section on the Frobenius norm).
    """
    left, _, right = np.linalg.svd((weights @ turns).reshape(3, 3))
    left[:, 2] *= np.linalg.det(left @ right)
    return np.asarray(left @ right)


def road_axes(T_map_base: Array, mean: Array) -> Array:
    """Rotation (3, 3) with columns along the road, across it, and up.

    The road is the line through the place's keyframes; if these are at one spot, the direction in
    which the base looks (x ahead). Up is the base's z.
    """
    positions = T_map_base[:, :3, 3]
    _, lengths, lines = np.linalg.svd(positions - positions.mean(axis=0), full_matrices=False)
    along = lines[0] if lengths[0] > LEAST_LENGTH_M else mean[:3, 0]
    up = mean[:3, 2] - (mean[:3, 2] @ along) * along
    if math.hypot(*up) < 1e-6:  # a lift: the road is vertical
        up = mean[:3, 0] - (mean[:3, 0] @ along) * along
    up /= math.hypot(*up)
    across = up[[1, 2, 0]] * along[[2, 0, 1]] - up[[2, 0, 1]] * along[[1, 2, 0]]  # up x along
    return np.stack([along, across, up], axis=1)
