"""Metric pose of an image from keyframes of known pose, with a covariance.

Points that the image shares with two or more keyframes are triangulated from the keyframes. PnP
with RANSAC estimates the pose of the image (PoseLib if installed, else OpenCV). Then the pose and
all points are adjusted together with fixed keyframes. The covariance of the pose is the inverse of
its Schur complement, times the variance of the residuals.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from regvpr_core.arrays import Mask
from regvpr_core.geometry import Array, inverse
from regvpr_core.verification.relative_pose import CONFIDENCE, ITERATIONS, poselib_or_none

LEAST_POINTS = 20
LEAST_PARALLAX_RAD = 0.02
"""Least angle between the rays of a triangulated point, rad."""

STEPS = 12
MAX_POSITION_M = 3.0
"""Largest standard deviation of a useful pose, m."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MetricPose:
    """Pose of the camera in the map.

    T_map_cam: (4, 4). covariance: (6, 6) of x, y, z (m^2) and of rotations about the map's axes
    (rad^2), in that order: truth = (Exp(rotation) R, t + translation).
    points: number of points used. rms: of their residuals, in the unit of the rays.
    """

    T_map_cam: Array
    covariance: Array
    points: int
    rms: float


def metric_pose(
    query: Array, references: Array, seen: Mask, T_map_refs: Array, threshold: float, sigma: float
) -> MetricPose | None:
    """Pose of an image from points that it shares with keyframes.

    Args:
        query: (N, 2) rays x/z, y/z of its points.
        references: (V, N, 2) rays of the same points in the keyframes.
        seen: (V, N) mask of the keyframes in which each point was found.
        T_map_refs: (V, 4, 4) poses of the keyframes' cameras.
        threshold: largest reprojection error of an inlier, in the unit of the rays.
        sigma: lower bound of the standard deviation of rays, same unit.

    Returns:
        None if keyframes share too few points or are too close together.
    """
    # 1. Triangulate the points from the keyframes.
    points, good = triangulate(references, seen, T_map_refs, threshold)
    if good.sum() < LEAST_POINTS:
        return None
    # 2. Estimate the pose of the image by PnP.
    T_cam_map, inliers = _pnp(query[good], points[good], threshold)
    good[np.flatnonzero(good)[~inliers]] = False
    if good.sum() < LEAST_POINTS:
        return None
    # 3. Adjust pose and points together; drop outliers and repeat.
    views = np.concatenate([query[None], references])
    shown = np.concatenate([np.ones((1, len(query)), dtype=bool), seen])
    T_cams_map = np.concatenate([T_cam_map[None], inverse(T_map_refs)])
    for _ in range(2):
        T_cams_map[0], adjusted = _adjust(T_cams_map, points[good], views[:, good], shown[:, good])
        points[good] = adjusted
        error, depth = reprojection(T_cams_map, points, views)
        fits = ((error < threshold) & (depth > 0.0)) | ~shown
        good &= fits.all(axis=0)
        if good.sum() < LEAST_POINTS:
            return None
    return _with_covariance(T_cams_map, points[good], views[:, good], shown[:, good], sigma)


def triangulate(
    rays: Array, seen: Mask, T_map_cams: Array, threshold: float
) -> tuple[Array, Mask]:
    """Triangulated points (N, 3) in the map, and the mask of valid ones.

    Args:
        rays: (V, N, 2) x/z, y/z. seen: (V, N). T_map_cams: (V, 4, 4).
        threshold: largest reprojection error.
    """
    V, N = seen.shape
    T = inverse(T_map_cams)
    # Linear (DLT): each view that sees the point gives two equations.
    A = rays[..., None] * T[:, None, 2:3, :] - T[:, None, :2, :]  # (V, N, 2, 4)
    A = np.where(seen[..., None, None], A, 0.0).transpose(1, 0, 2, 3).reshape(N, 2 * V, 4)
    centre = T_map_cams[:, :3, 3].mean(axis=0)  # for numerical conditioning
    shift = np.eye(4)
    shift[:3, 3] = centre
    A = A @ shift
    normal = np.swapaxes(A[..., :3], 1, 2) @ A[..., :3] + 1e-12 * np.eye(3)
    right = -(np.swapaxes(A[..., :3], 1, 2) @ A[..., 3:])
    points = np.linalg.solve(normal, right)[..., 0] + centre
    error, depth = reprojection(T, points, rays)
    sound = (((error < threshold) & (depth > 0.1)) | ~seen).all(axis=0)
    sound &= _parallax(points, seen, T_map_cams) > LEAST_PARALLAX_RAD
    return points, sound & (seen.sum(axis=0) >= 2)


def reprojection(T_cams_map: Array, points: Array, rays: Array) -> tuple[Array, Array]:
    """Distances (V, N) of projected points from rays, and depths (V, N)."""
    local = points @ np.swapaxes(T_cams_map[:, :3, :3], 1, 2) + T_cams_map[:, None, :3, 3]
    depth = local[..., 2]
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    return np.linalg.norm(local[..., :2] / safe[..., None] - rays, axis=2), depth


def _parallax(points: Array, seen: Mask, T_map_cams: Array) -> Array:
    """Largest angle (N,) in rad between two views' rays to each point."""
    ways = points[None] - T_map_cams[:, None, :3, 3]
    ways = ways / np.maximum(np.linalg.norm(ways, axis=2, keepdims=True), 1e-9)
    largest = np.zeros(len(points))
    for first in range(len(seen)):
        for second in range(first + 1, len(seen)):
            chord = np.linalg.norm(ways[first] - ways[second], axis=1)
            both = seen[first] & seen[second]
            largest = np.where(both, np.maximum(largest, chord), largest)
    return largest


def _pnp(rays: Array, points: Array, threshold: float) -> tuple[Array, Mask]:
    """`T_cam_map` (4, 4) and inliers."""
    poselib = poselib_or_none()
    T = np.eye(4)
    middle = points.mean(axis=0)
    none = np.zeros(len(points), dtype=bool)
    if poselib is not None:
        camera = {'model': 'SIMPLE_PINHOLE', 'width': 2, 'height': 2, 'params': [1.0, 0.0, 0.0]}
        pose, info = poselib.estimate_absolute_pose(
            rays, points - middle, camera,
            {'max_reproj_error': threshold, 'max_iterations': ITERATIONS, 'min_iterations': 50,
             'success_prob': CONFIDENCE, 'seed': 0}, {})
        pose = getattr(pose, 'pose', pose)
        T[:3, :3], T[:3, 3] = pose.R, pose.t
        inliers = np.asarray(info['inliers'], dtype=bool)
    else:
        cv2.setRNGSeed(0)
        try:
            found, turn, t, index = cv2.solvePnPRansac(
                points - middle, rays, np.eye(3), None, iterationsCount=ITERATIONS,
                reprojectionError=threshold, confidence=CONFIDENCE, flags=cv2.SOLVEPNP_AP3P)
        except cv2.error:
            return T, none
        if not found or index is None:
            return T, none
        T[:3, :3], T[:3, 3] = cv2.Rodrigues(turn)[0], t[:, 0]
        inliers = none.copy()
        inliers[index[:, 0]] = True
    if not np.isfinite(T).all():
        return np.eye(4), none
    T[:3, 3] -= T[:3, :3] @ middle
    return T, inliers


def _normal(
    T_cams_map: Array, points: Array, rays: Array, shown: Mask
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Normal equations of pose (view 0) and points: Hpp, Hpl, Hll, bp, bl, residuals.

    The pose is `Exp(rotation) R, t + translation` of the camera in the map; translation first.
    """
    T_map_cam = inverse(T_cams_map[0])
    R = T_cams_map[:, :3, :3]
    local = points @ np.swapaxes(R, 1, 2) + T_cams_map[:, None, :3, 3]  # (V, N, 3)
    z = np.maximum(local[..., 2], 1e-6)
    residual = np.where(shown[..., None], local[..., :2] / z[..., None] - rays, 0.0)
    project = np.zeros((*z.shape, 2, 3))
    project[..., 0, 0] = project[..., 1, 1] = 1.0 / z
    project[..., 0, 2] = -local[..., 0] / z**2
    project[..., 1, 2] = -local[..., 1] / z**2
    project = np.where(shown[..., None, None], project, 0.0)
    of_point = project @ R[:, None]  # (V, N, 2, 3)
    # local = R_cam_map Exp(-rotation) (X - t - translation)
    arm = points - T_map_cam[:3, 3]
    of_pose = np.concatenate([-of_point[0], of_point[0] @ _skew(arm)], axis=2)  # (N, 2, 6)
    Hpp = np.einsum('nij,nik->jk', of_pose, of_pose)
    Hpl = np.swapaxes(of_pose, 1, 2) @ of_point[0]  # (N, 6, 3)
    Hll = np.einsum('vnij,vnik->njk', of_point, of_point)
    bp = np.einsum('nij,ni->j', of_pose, residual[0])
    bl = np.einsum('vnij,vni->nj', of_point, residual)
    return Hpp, Hpl, Hll, bp, bl, residual


def _adjust(T_cams_map: Array, points: Array, rays: Array, shown: Mask) -> tuple[Array, Array]:
    """Levenberg-Marquardt over the pose of view 0 and all points, with fixed keyframes."""
    views, damping = T_cams_map.copy(), 1e-6
    cost = np.inf
    kept = views[0].copy(), points.copy()
    for _ in range(STEPS):
        Hpp, Hpl, Hll, bp, bl, residual = _normal(views, points, rays, shown)
        new = float((residual**2).sum())
        if new > cost:  # the step increased the cost: undo it and raise the damping
            views[0], points = kept[0].copy(), kept[1].copy()
            damping *= 100.0
            if damping > 1.0:
                break
            Hpp, Hpl, Hll, bp, bl, _ = _normal(views, points, rays, shown)
        else:
            done = cost - new < 1e-9 * new
            cost, kept = new, (views[0].copy(), points.copy())
            if done:
                break
        Hll = Hll * (1.0 + damping * np.eye(3)) + 1e-12 * np.eye(3)
        Hpp = Hpp * (1.0 + damping * np.eye(6)) + 1e-12 * np.eye(6)
        back = Hpl @ np.linalg.inv(Hll)  # (N, 6, 3)
        S = Hpp - (back @ np.swapaxes(Hpl, 1, 2)).sum(axis=0)
        step = np.linalg.solve(S, -(bp - np.einsum('nij,nj->i', back, bl)))
        points = points - np.linalg.solve(
            Hll, (bl + np.einsum('nij,i->nj', Hpl, step))[..., None])[..., 0]
        T_map_cam = inverse(views[0])
        T_map_cam[:3, :3] = Rotation.from_rotvec(step[3:]).as_matrix() @ T_map_cam[:3, :3]
        T_map_cam[:3, 3] += step[:3]
        views[0] = inverse(T_map_cam)
    return kept


def _with_covariance(
    T_cams_map: Array, points: Array, rays: Array, shown: Mask, sigma: float
) -> MetricPose | None:
    Hpp, Hpl, Hll, _, _, residual = _normal(T_cams_map, points, rays, shown)
    S = Hpp - (Hpl @ np.linalg.inv(Hll + 1e-12 * np.eye(3)) @ np.swapaxes(Hpl, 1, 2)).sum(axis=0)
    freedom = 2 * int(shown.sum()) - 3 * len(points) - 6
    variance = float((residual**2).sum()) / max(freedom, 1)
    try:
        covariance = np.linalg.inv(S) * max(variance, sigma**2)
        np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:  # the points do not determine the pose
        return None
    covariance = (covariance + covariance.T) / 2.0
    if np.sqrt(np.trace(covariance[:3, :3])) > MAX_POSITION_M:
        return None
    return MetricPose(T_map_cam=inverse(T_cams_map[0]), covariance=covariance, points=len(points),
                      rms=float(np.sqrt((residual**2).sum() / (2 * shown.sum()))))


def _skew(v: Array) -> Array:
    """Matrices (N, 3, 3) of cross products with vectors (N, 3)."""
    zero = np.zeros(len(v))
    rows = [zero, -v[:, 2], v[:, 1], v[:, 2], zero, -v[:, 0], -v[:, 1], v[:, 0], zero]
    return np.stack(rows, axis=1).reshape(-1, 3, 3)


def of_base(T_map_cam: Array, covariance: Array, T_cam_base: Array) -> tuple[Array, Array]:
    """The pose (4, 4) of another frame fixed to the camera, and its covariance (6, 6)."""
    T_map_base = T_map_cam @ T_cam_base
    arm = T_map_base[:3, 3] - T_map_cam[:3, 3]
    J = np.eye(6)
    J[:3, 3:] = -_skew(arm[None])[0]
    return T_map_base, J @ covariance @ J.T
