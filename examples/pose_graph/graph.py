"""A pose graph of odometry and loop closures, solved by GTSAM with a robust kernel.

Odometry is trusted; each closure may be wrong. Graduated non-convexity (Yang et al., RA-L 2020)
selects the correct closures. It starts from a convex problem in which all closures have some
weight. So, unlike a fixed robust kernel, it does not depend on the size of the drift.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import gtsam
import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Closure:
    """Indices of two keyframes of the drive, and the pose of the later relative to the earlier.

    T_reference_query: (4, 4) of the base. covariance: (6, 6) of x, y, z and rotations, about the
    axes of the reference. verified: whether local features gave it.
    """

    reference: int
    query: int
    T_reference_query: np.ndarray
    covariance: np.ndarray
    verified: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OdometryNoise:
    """Standard deviations of odometry per metre driven, and their least values per step."""

    metres_per_m: float = 0.02
    rad_per_m: float = 0.001
    least_m: float = 0.005
    least_rad: float = 0.0005


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Poses (N, 4, 4), and the final weight (K,) of each closure, 0 to 1."""

    T_world_base: np.ndarray
    weights: np.ndarray


def solve(
    T_odom_base: np.ndarray, closures: Sequence[Closure], noise: OdometryNoise | None = None,
    robust: bool = True,
) -> Solution:
    """Correct the drift of a drive.

    Args:
        T_odom_base: (N, 4, 4) drifting poses of the keyframes.
        closures: between them.
        noise: of the odometry.
        robust: reject wrong closures; otherwise every closure is used.
    """
    noise = noise or OdometryNoise()
    graph, start = gtsam.NonlinearFactorGraph(), gtsam.Values()
    graph.add(gtsam.PriorFactorPose3(0, gtsam.Pose3(T_odom_base[0]),
                                     gtsam.noiseModel.Isotropic.Sigma(6, 1e-4)))
    for number, T in enumerate(T_odom_base):
        start.insert(number, gtsam.Pose3(T))
    for number in range(len(T_odom_base) - 1):
        step = np.linalg.inv(T_odom_base[number]) @ T_odom_base[number + 1]
        way_m = float(np.linalg.norm(step[:3, 3]))
        sigmas = [noise.least_rad + noise.rad_per_m * way_m] * 3 \
            + [noise.least_m + noise.metres_per_m * way_m] * 3
        graph.add(gtsam.BetweenFactorPose3(number, number + 1, gtsam.Pose3(step),
                                           gtsam.noiseModel.Diagonal.Sigmas(sigmas)))
    trusted = graph.size()
    for closure in closures:
        graph.add(gtsam.BetweenFactorPose3(
            closure.reference, closure.query, gtsam.Pose3(closure.T_reference_query),
            gtsam.noiseModel.Gaussian.Covariance(local_covariance(closure))))
    if not closures:
        return Solution(np.array(T_odom_base), np.zeros(0))
    if not robust:
        solved = gtsam.LevenbergMarquardtOptimizer(graph, start).optimize()
        return Solution(poses(solved, len(T_odom_base)), np.ones(len(closures)))
    parameters = gtsam.GncLMParams()
    parameters.setLossType(gtsam.GncLossType.TLS)
    parameters.setKnownInliers(list(range(trusted)))
    optimizer = gtsam.GncLMOptimizer(graph, start, parameters)
    solved = optimizer.optimize()
    return Solution(poses(solved, len(T_odom_base)), np.array(optimizer.getWeights())[trusted:])


def local_covariance(closure: Closure) -> np.ndarray:
    """Covariance (6, 6) as in GTSAM: rotations first, about the axes of the later keyframe."""
    axes = np.kron(np.eye(2), closure.T_reference_query[:3, :3].T)
    covariance = axes @ closure.covariance @ axes.T
    order = [3, 4, 5, 0, 1, 2]
    return np.asarray(covariance[np.ix_(order, order)])


def poses(values: gtsam.Values, count: int) -> np.ndarray:
    """Convert GTSAM's values to poses (N, 4, 4)."""
    return np.array([values.atPose3(number).matrix() for number in range(count)])
