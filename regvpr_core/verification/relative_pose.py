"""Relative pose of two images, with the matches that agree on it.

PoseLib (Larsson) where it is installed, else OpenCV's USAC; both LO-RANSAC.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from regvpr_core.arrays import Mask
from regvpr_core.geometry import Array

LEAST_MATCHES = 8
ITERATIONS = 400
ROTATIONS = 100
CONFIDENCE = 0.999

STILL_SHARE = 0.85
"""Share of the inliers of a motion above which a pure rotation is assumed, if it explains them."""

PLANAR_SHARE = 0.9

MAX_DIRECTION_RAD = 0.1
"""Largest standard deviation of a valid direction, rad."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TwoView:
    """Two-view geometry of two images.

    inliers: (M,) mask of agreeing matches. rotation: (3, 3) of `T_query_reference`, None without
    intrinsics. direction: (3,) unit, of that transform's translation; None without parallax.
    direction_std_rad: its largest standard deviation. planar: one plane (or one rotation)
    explains nearly all matches.
    """

    inliers: Mask
    rotation: Array | None = None
    direction: Array | None = None
    direction_std_rad: float = np.inf
    planar: bool = False

    @property
    def count(self) -> int:
        """Number of inliers."""
        return int(self.inliers.sum())


def calibrated(query: Array, reference: Array, threshold: float) -> TwoView:
    """Essential matrix of matched rays.

    Args:
        query, reference: (M, 2) rays x/z, y/z.
        threshold: largest epipolar distance of an inlier, in the unit of the rays (px / focal).
    """
    if len(query) < LEAST_MATCHES:
        return TwoView(inliers=np.zeros(len(query), dtype=bool))
    T, inliers = _essential(query, reference, threshold)
    if inliers.sum() < LEAST_MATCHES:
        return TwoView(inliers=np.zeros(len(query), dtype=bool))
    # A rotation must fit two numbers per match, an essential matrix only one.
    turned, still = only_rotation(query, reference, 2.0 * threshold)
    if still.sum() >= STILL_SHARE * inliers.sum():
        return TwoView(inliers=still, rotation=turned, planar=True)
    planar = _homography(query, reference, threshold).sum() >= PLANAR_SHARE * inliers.sum()
    direction = T[:3, 3] / np.linalg.norm(T[:3, 3])
    std = direction_std(query[inliers], reference[inliers], T[:3, :3], direction)
    if std > MAX_DIRECTION_RAD:
        return TwoView(inliers=inliers, rotation=T[:3, :3], planar=bool(planar))
    return TwoView(inliers=inliers, rotation=T[:3, :3], direction=direction,
                   direction_std_rad=std, planar=bool(planar))


def uncalibrated(query: Array, reference: Array, threshold: float) -> TwoView:
    """Fundamental matrix, or homography if one plane explains all matches.

    Args:
        query, reference: (M, 2) pixels.
        threshold: largest distance of an inlier, px.
    """
    none = np.zeros(len(query), dtype=bool)
    if len(query) < LEAST_MATCHES:
        return TwoView(inliers=none)
    flat = _homography(query, reference, threshold)
    inliers = _fundamental(query, reference, threshold)
    planar = bool(flat.sum() >= PLANAR_SHARE * inliers.sum())
    if planar:  # a plane does not determine a fundamental matrix
        inliers = flat
    return TwoView(inliers=inliers if inliers.sum() >= LEAST_MATCHES else none, planar=planar)


def only_rotation(query: Array, reference: Array, threshold: float) -> tuple[Array, Mask]:
    """The rotation (3, 3) of `T_query_reference` by robust Kabsch, and the mask of its inliers.

    Correct if the camera turned on the spot, and a poor fit if it moved.
    """
    q, r = unit_rays(query), unit_rays(reference)
    pairs = np.random.default_rng(0).integers(0, len(q), (ROTATIONS, 2))
    tried = _kabsch(q[pairs], r[pairs])
    fits = np.linalg.norm(q - r @ np.swapaxes(tried, 1, 2), axis=2) < threshold
    found = fits[fits.sum(axis=1).argmax()]
    best = np.eye(3)
    for _ in range(3):
        if found.sum() < 3:
            break
        best = _kabsch(q[found], r[found])
        found = np.linalg.norm(q - r @ best.T, axis=1) < threshold
    return best, found


def direction_std(query: Array, reference: Array, R: Array, direction: Array) -> float:
    """Standard deviation in rad of a direction that is estimated together with the rotation.

    Args:
        query, reference: (M, 2) rays of the inliers. R: (3, 3). direction: (3,) unit.
    """
    q, b = unit_rays(query), unit_rays(reference) @ R.T
    normals = np.cross(q, b)
    d_q, d_b = np.cross(direction, q), np.cross(direction, b)
    # Sampson: epipolar residuals d . (q x b) in the unit of the rays.
    weight = 1.0 / np.maximum(np.hypot(np.linalg.norm(d_q, axis=1),
                                       np.linalg.norm(d_b, axis=1)), 1e-9)
    residual = weight * (normals @ direction)
    across = np.linalg.svd(direction[None])[2][1:]  # (2, 3) spans the sphere's tangent
    J = weight[:, None] * np.concatenate([np.cross(b, d_q), normals @ across.T], axis=1)
    freedom = len(q) - 5
    if freedom < 1:
        return np.inf
    try:
        covariance = np.linalg.inv(J.T @ J) * float(residual @ residual) / freedom
    except np.linalg.LinAlgError:
        return np.inf
    return float(np.sqrt(max(np.linalg.eigvalsh(covariance[3:, 3:])[-1], 0.0)))


def unit_rays(rays: Array) -> Array:
    """(N, 2) x/z, y/z as unit vectors (N, 3)."""
    full = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
    return np.asarray(full / np.linalg.norm(full, axis=1, keepdims=True))


def poselib_or_none() -> Any:
    """The module poselib, or None if it is not installed."""
    try:
        import poselib
    except ImportError:
        return None
    return poselib


def _kabsch(to: Array, of: Array) -> Array:
    """Least-squares rotations (..., 3, 3) between sets of vectors (..., M, 3)."""
    U, _, Vt = np.linalg.svd(np.swapaxes(to, -1, -2) @ of)
    U[..., 2] *= np.linalg.det(U @ Vt)[..., None]
    return np.asarray(U @ Vt)


def _essential(query: Array, reference: Array, threshold: float) -> tuple[Array, Mask]:
    """`T_query_reference` (4, 4) with unit translation, and inliers."""
    poselib = poselib_or_none()
    T = np.eye(4)
    if poselib is not None:
        camera = {'model': 'SIMPLE_PINHOLE', 'width': 2, 'height': 2, 'params': [1.0, 0.0, 0.0]}
        pose, info = poselib.estimate_relative_pose(
            reference, query, camera, camera,
            {'max_epipolar_error': threshold, 'max_iterations': ITERATIONS,
             'min_iterations': 50, 'success_prob': CONFIDENCE, 'seed': 0}, {})
        pose = getattr(pose, 'pose', pose)
        T[:3, :3], T[:3, 3] = pose.R, pose.t
        if not (np.isfinite(T).all() and np.linalg.norm(T[:3, 3]) > 1e-9):
            return np.eye(4), np.zeros(len(query), dtype=bool)
        return T, np.asarray(info['inliers'], dtype=bool)
    cv2.setRNGSeed(0)
    try:
        E, mask = cv2.findEssentialMat(reference, query, np.eye(3), method=cv2.USAC_MAGSAC,
                                       prob=CONFIDENCE, threshold=threshold)
        if E is None or E.shape != (3, 3):
            return np.eye(4), np.zeros(len(query), dtype=bool)
        inliers = mask[:, 0] > 0
        _, R, t, _ = cv2.recoverPose(E, reference[inliers], query[inliers], np.eye(3))
    except cv2.error:  # too few or identical points
        return np.eye(4), np.zeros(len(query), dtype=bool)
    T[:3, :3], T[:3, 3] = R, t[:, 0]
    return T, inliers


def _fundamental(query: Array, reference: Array, threshold: float) -> Mask:
    poselib = poselib_or_none()
    if poselib is not None:
        _, info = poselib.estimate_fundamental(
            reference, query, {'max_epipolar_error': threshold, 'max_iterations': ITERATIONS,
                               'min_iterations': 50, 'success_prob': CONFIDENCE, 'seed': 0}, {})
        return np.asarray(info['inliers'], dtype=bool)
    cv2.setRNGSeed(0)
    try:
        _, mask = cv2.findFundamentalMat(reference, query, cv2.USAC_MAGSAC, threshold, CONFIDENCE,
                                         ITERATIONS)
    except cv2.error:
        mask = None
    return np.zeros(len(query), dtype=bool) if mask is None else np.asarray(mask[:, 0] > 0)


def _homography(query: Array, reference: Array, threshold: float) -> Mask:
    cv2.setRNGSeed(0)
    try:
        _, mask = cv2.findHomography(reference, query, cv2.USAC_MAGSAC, threshold,
                                     maxIters=ITERATIONS, confidence=CONFIDENCE)
    except cv2.error:
        mask = None
    return np.zeros(len(query), dtype=bool) if mask is None else np.asarray(mask[:, 0] > 0)

