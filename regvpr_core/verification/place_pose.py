"""Pose of an image from views of known pose: keyframes of a map, or of the session."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from regvpr_core.geometry import Array
from regvpr_core.verification.camera_rays import Intrinsics
from regvpr_core.verification.feature_matches import match_features, refined
from regvpr_core.verification.local_features import LocalFeatures
from regvpr_core.verification.metric_pose import metric_pose, MetricPose
from regvpr_core.verification.relative_pose import calibrated

ERROR_SHARE = {'patch': 0.02, 'xfeat': 0.004}
"""Largest error of an inlier as a share of the image's width: 6 or 1.3 of 320 px."""

FLOOR_SHARE = {'patch': 0.005, 'xfeat': 0.0005}
"""Lower bound of the standard deviation of points in the covariance of a pose."""

COVARIANCE_RATIO = {'patch': 2.0, 'xfeat': 1.0}
"""Factor on the covariance of a pose by kind of features, because errors of points correlate."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class View:
    """One image whose pose is known. T_world_cam: (4, 4); all views of a place in one world."""

    features: LocalFeatures
    camera: Intrinsics
    T_world_cam: Array


def place_pose(
    features: LocalFeatures, camera: Intrinsics, views: Sequence[View], error_share: float = 0.0
) -> MetricPose | None:
    """Pose of an image in the world of views of the same place, in metres.

    Args:
        features: of the image. camera: intrinsics of the image's camera.
        views: two or more at different positions.
        error_share: largest error of an inlier as a share of the image's width; 0: by kind.

    Returns:
        None if the views share too few points or are too close together.
    """
    if len(views) < 2:
        return None
    share = error_share or ERROR_SHARE[features.kind]
    threshold = share * features.width / camera.focal_px(features.width)
    own = camera.rays(features.xy, features.width, features.height)
    rays = np.zeros((len(views), len(features), 2))
    seen = np.zeros((len(views), len(features)), dtype=bool)
    for number, view in enumerate(views):
        pairs = match_features(features, view.features)
        rays[number, pairs[0]] = view.camera.rays(
            refined(features, view.features, pairs), view.features.width, view.features.height)
        agree = calibrated(own[pairs[0]], rays[number, pairs[0]], threshold)
        seen[number, pairs[0]] = agree.inliers
    pose = metric_pose(own, rays, seen, np.stack([view.T_world_cam for view in views]),
                       2.0 * threshold, FLOOR_SHARE[features.kind] / share * threshold)
    return pose if pose is None else replace(
        pose, covariance=COVARIANCE_RATIO[features.kind] * pose.covariance)
