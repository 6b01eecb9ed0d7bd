"""Wheel odometry that drifts."""

import math

import numpy as np

from examples.town.camera import Floats, planar_pose, yaw_of
from examples.town.config import LapConfig

STEP_NOISE_M = 0.004  # standard deviation per square root of a metre
TURN_NOISE_RAD = 0.0006


def drifting(steps: list[Floats], lap: LapConfig) -> list[Floats]:
    """Add up motion steps with a lap's errors.

    The lap has a scale error and a yaw drift per metre of its own; every step adds white noise.

    Args:
        steps: (4, 4) true motions T_before_after between odometry stamps.
        lap: The lap, for its seed and the size of its errors.

    Returns:
        One more pose than steps, T_odom_base (4, 4) each, the first one the identity.
    """
    rng = np.random.default_rng([lap.seed, 71])
    scale = 1 + float(rng.normal(0, lap.odom_scale_std))
    bias = lap.odom_yaw_bias * float(rng.choice([-1.0, 1.0]))
    poses, pose = [np.eye(4)], np.eye(4)
    for step in steps:
        far = math.hypot(step[0, 3], step[1, 3])
        root = math.sqrt(far)
        x = step[0, 3] * scale + rng.normal(0, STEP_NOISE_M) * root
        y = step[1, 3] * scale + rng.normal(0, STEP_NOISE_M) * root
        turn = yaw_of(step) + bias * far + rng.normal(0, TURN_NOISE_RAD) * root
        pose = pose @ planar_pose(x, y, turn)
        poses.append(pose)
    return poses
