"""Absolute trajectory error by evo."""

from evo.core.metrics import APE, PoseRelation, StatisticsType
from evo.core.trajectory import PosePath3D
import numpy as np


def trajectory_error(poses: np.ndarray, truth: np.ndarray) -> float:
    """RMS position error, m, of poses (N, 4, 4) after rigid alignment with the truth (Umeyama)."""
    reference, estimate = PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(poses))
    estimate.align(reference)
    error = APE(PoseRelation.translation_part)
    error.process_data((reference, estimate))
    return float(error.get_statistic(StatisticsType.rmse))


def aligned(poses: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Poses (N, 4, 4) after rigid alignment with the truth."""
    estimate = PosePath3D(poses_se3=list(poses))
    estimate.align(PosePath3D(poses_se3=list(truth)))
    return np.array(estimate.poses_se3)
