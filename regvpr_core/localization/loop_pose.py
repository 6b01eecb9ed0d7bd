"""Relative pose of two images of one session, when the robot returns to a place."""

from collections.abc import Sequence

import numpy as np

from regvpr_core.geometry import Array, inverse
from regvpr_core.localization.pose_prior import of_verified, PosePriorConfig, relative_to
from regvpr_core.verification.camera_rays import Intrinsics
from regvpr_core.verification.local_features import LocalFeatures
from regvpr_core.verification.place_pose import place_pose, View

PLACE_STD_M = (2.5, 1.0, 0.5)
"""Standard deviations ahead, sideways and up of a closure without a verified pose, m."""

PLACE_STD_RAD = 0.2


def loop_pose(
    features: LocalFeatures,
    camera: Intrinsics,
    views: Sequence[View],
    T_base_cam: Array,
    config: PosePriorConfig | None = None,
) -> tuple[Array, Array] | None:
    """Pose of the robot relative to its pose at a keyframe, from local features.

    Args:
        features: of the image. camera: intrinsics of the camera.
        views: the keyframe first, then neighbours of the same pass, with poses by odometry, which
            is accurate over the few metres between them.
        T_base_cam: (4, 4) of the camera, the same for all.
        config: least standard deviations of a verified pose.

    Returns:
        `T_reference_query` (4, 4) of the base, and its covariance (6, 6) of x, y, z (m^2) and of
        rotations (rad^2) about the reference's axes; None if the views do not determine it.
    """
    pose = place_pose(features, camera, views)
    if pose is None:
        return None
    T_cam_base = inverse(T_base_cam)
    prior = of_verified(pose, T_cam_base, config or PosePriorConfig())
    return relative_to(views[0].T_world_cam @ T_cam_base, prior)


def place_apart() -> tuple[Array, Array]:
    """Relative pose without a verified pose: the identity, and a covariance as large as a place.

    The base is assumed to look along x.
    """
    std = np.array([*PLACE_STD_M, *[PLACE_STD_RAD] * 3])
    return np.eye(4), np.diag(std**2)
