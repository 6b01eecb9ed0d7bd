"""Alignment of two maps: the transform between their frames, from places seen by both.

Mutual nearest neighbours among the descriptors are matches. Each matched pair of poses gives
a transform, exact if both cameras stood at the same spot. RANSAC (Fischler and Bolles, 1981) finds
the transform with most inliers, and a least-squares fit over the inliers refines it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regvpr_core.arrays import Float32, Ids, Mask
from regvpr_core.config import check_settings, setting
from regvpr_core.errors import ConfigError, MapError
from regvpr_core.geometry import Array
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.search.rows import unit

BLOCK = 1024
IDENTITY = np.eye(4)
ARM_M = 3.0
"""Weight of rotation against position: an error of 1 rad counts as this distance, m."""

LOTS = 3
REFINEMENTS = 20
LEAST_SCALE_M = 0.2
MOST_PAIRS = 1_000_000
"""Number of pairs of poses that are compared at once."""

CHANCE_SIGMAS = 3.0
BEYOND = 0.75
"""Share of the matches beyond those expected by chance that must agree in a small map."""

SMALL = 0.1
"""An `inlier_m` of this share of the extent of a small map tells matches from chance."""

RIVAL = 0.5
"""The result is ambiguous if another transform has more than this share of the inliers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentConfig:
    """Settings of the alignment."""

    dof: int = setting(4, 'Degrees of freedom: 4 (both maps are level: yaw and translation) or 6.')
    sample: int = setting(4000, 'Keyframes of a map that are compared, spread over it.', 10, 20000)
    inlier_m: float = setting(
        5.0, 'Largest distance between the poses of a match that agrees.', 0.1, 100.0, unit='m')
    inlier_rad: float = setting(
        0.6, 'Largest angle between the poses of a match that agrees.', 0.05, 3.2, unit='rad')
    least_inliers: int = setting(
        6,
        'Least number of matches that agree; in any case twice the number expected by chance, or '
        'in a small map nearly all of them.', 3, 10000)
    least_extent_m: float = setting(
        5.0, 'Least extent of the matches that agree.', 0.0, 1000.0, unit='m')
    hypotheses: int = setting(2000, 'Transforms that are tried.', 10, 100000)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.dof not in (4, 6):
            raise ConfigError(f'dof is {self.dof}; expected 4 (level maps) or 6')


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Alignment:
    """Transform from the frame of map b to the frame of map a.

    T_a_b: (4, 4). matches: number of matched places. inliers: number of those that agree.
    rms_m: RMS distance between matched keyframes; above 0 because the cameras stood apart.
    """

    T_a_b: Array
    matches: int
    inliers: int
    rms_m: float


def align_maps(a: PlaceMap, b: PlaceMap, config: AlignmentConfig) -> Alignment:
    """Estimate `T_a_b` of two open maps of one model.

    Raises:
        MapError: too few inliers, all inliers at one spot, or the result is ambiguous.
    """
    ids_a, ids_b = matches(a, b, config.sample)
    return align_poses(a.T_map_cam[ids_a], b.T_map_cam[ids_b], config, (a.path, b.path))


def matches(a: PlaceMap, b: PlaceMap, sample: int) -> tuple[Ids, Ids]:
    """Mutual nearest neighbours (M,) among `sample` keyframes of each map."""
    ids_a, ids_b, sole = matches_of_passes(a, b, sample, np.zeros(len(b)), 1.0)
    return ids_a[sole], ids_b[sole]


def matches_of_passes(a: PlaceMap, b: PlaceMap, sample: int, way_b: Array, apart_m: float,
                      usable: Mask | None = None) -> tuple[Ids, Ids, Mask]:
    """Mutual nearest neighbours of a map and each pass of a drive.

    Args:
        a, b: open maps of one model.
        sample: largest number of keyframes of a map that are compared, spread over it.
        way_b: (N,) distance driven up to each keyframe of b, m, rising.
        apart_m: distance driven between two passes. A match has to be the best only among the
            keyframes of b within this distance, so that each pass has matches of its own.
        usable: (N,) keyframes of a that are compared; None: all.

    Returns:
        ids (M,) in a and in b, and a mask of the matches that are best among all keyframes of b.
    """
    from_a = np.arange(len(a)) if usable is None else np.flatnonzero(usable)
    ids_a, ids_b = from_a[_spread(len(from_a), sample)], _spread(len(b), sample)
    if not (len(ids_a) and len(ids_b)):
        return ids_a[:0], ids_b[:0], np.zeros(0, bool)
    # Each map is centred by its own mean, because light shifts all descriptors of a map alike.
    centre_b = _mean(b, ids_b)
    rows_a = unit(np.concatenate(list(_blocks(a, ids_a))) - _mean(a, ids_a))
    # (B, A), 64 MB for two maps of 4,000.
    similar = np.concatenate([unit(rows - centre_b) @ rows_a.T for rows in _blocks(b, ids_b)])
    best = similar.argmax(axis=1)
    way, own = way_b[ids_b], similar[np.arange(len(ids_b)), best]
    first = np.searchsorted(way, way - apart_m, side='right')
    end = np.searchsorted(way, way + apart_m, side='left')
    mutual = np.array([own[n] >= similar[first[n]:end[n], best[n]].max()
                       for n in range(len(ids_b))])
    sole = similar.argmax(axis=0)[best] == np.arange(len(ids_b))
    return ids_a[best[mutual]], ids_b[mutual], sole[mutual]


def least_agreeing(count: int, chance: int, config: AlignmentConfig) -> int:
    """Least number of `count` matches that must agree if `chance` of them do so by chance.

    Twice as many. In a small map half of them may agree by chance; then three quarters of the
    others must as well, and three standard deviations more than chance explains.
    """
    deviation = np.sqrt(chance * (1.0 - chance / max(count, 1)))
    small = max(chance + CHANCE_SIGMAS * deviation, count - (1.0 - BEYOND) * (count - chance))
    return max(config.least_inliers, int(np.ceil(min(2 * chance, small))))


def align_poses(T_a: Array, T_b: Array, config: AlignmentConfig,
                paths: tuple[Path, Path]) -> Alignment:
    """Estimate `T_a_b` from matched poses (N, 4, 4) with many outliers.

    Raises:
        MapError: as `align_maps`.
    """
    of = f'{paths[1]} in {paths[0]}'
    rng = np.random.default_rng(0)
    T, inliers = _ransac(T_a, T_b, config, rng)
    count = int(inliers.sum())
    reach = float(np.linalg.norm(np.ptp(T_a[inliers, :3, 3], axis=0))) if count else 0.0
    if count >= config.least_inliers and reach < config.least_extent_m:
        raise MapError(f'cannot place {of}: the {count} matched places that agree lie within '
                       f'{reach:.1f} m, at least {config.least_extent_m:g} m are needed; give '
                       f'--transform')
    # In a small map wrong matches agree by chance; random pairs show how many.
    chance = max(int(_ransac(T_a, T_b[rng.permutation(len(T_b))], config, rng)[1].sum())
                 for _ in range(LOTS))
    needed = least_agreeing(len(T_a), chance, config)
    if needed > max(len(T_a), config.least_inliers):
        extent_m = float(np.linalg.norm(np.ptp(T_a[:, :3, 3], axis=0)))
        raise MapError(
            f'cannot place {of}: the {len(T_a)} matched places lie within {extent_m:.0f} m, where '
            f'{chance} of them agree by chance to {config.inlier_m:g} m; set alignment.inlier_m '
            f'to {max(0.1, extent_m * SMALL):.2g}, or give --transform')
    if count < needed:
        raise MapError(f'cannot place {of}: {count} of {len(T_a)} matched places agree, {chance} '
                       f'do by chance and at least {needed} must; give --transform')
    _, others = _ransac(T_a[~inliers], T_b[~inliers], config, rng)
    if others.sum() > RIVAL * count:
        raise MapError(f'cannot place {of}: two transforms fit, with {count} and '
                       f'{int(others.sum())} matched places; give --transform')
    errors = np.linalg.norm((T @ T_b[inliers])[:, :3, 3] - T_a[inliers, :3, 3], axis=1)
    return Alignment(T_a_b=T, matches=len(T_a), inliers=count,
                     rms_m=float(np.sqrt((errors ** 2).mean())))


def _ransac(T_a: Array, T_b: Array, config: AlignmentConfig, rng: np.random.Generator
            ) -> tuple[Array, Mask]:
    """The transform with most inliers, refined on them, and the inlier mask."""
    best, best_T = np.zeros(len(T_a), dtype=bool), np.eye(4)
    if len(T_a) < 2:
        return best_T, best
    points_a, points_b = camera_points(T_a), camera_points(T_b)
    first = rng.integers(len(T_a), size=config.hypotheses)
    pairs = np.stack([first, (first + rng.integers(1, len(T_a), size=len(first))) % len(T_a)], 1)
    # A wrong pair of matches is found early: its distances in the two maps differ.
    gap_a, gap_b = (np.linalg.norm(T[pairs[:, 0], :3, 3] - T[pairs[:, 1], :3, 3], axis=1)
                    for T in (T_a, T_b))
    pairs = pairs[np.abs(gap_a - gap_b) <= 2 * config.inlier_m]
    size = max(1, MOST_PAIRS // len(T_a))
    for some in (pairs[start:start + size] for start in range(0, len(pairs), size)):
        T = fit(points_a[some], points_b[some], config.dof)
        inliers = agreeing(T_a, T_b, config, T)
        at = int(inliers.sum(axis=1).argmax())
        if inliers[at].sum() > best.sum():
            best, best_T = inliers[at], T[at]
    if best.any():
        best_T = _refined(best_T, points_a[best], points_b[best], config.dof)
        best = agreeing(T_a, T_b, config, best_T)
    return best_T, best


def _refined(T: Array, points_a: Array, points_b: Array, dof: int) -> Array:
    """Robust fit to points (N, 4, 3); outliers get low weights (Geman and McClure, 1985)."""
    for _ in range(REFINEMENTS):
        errors = np.linalg.norm(points_b @ T[:3, :3].T + T[:3, 3] - points_a, axis=-1)
        scale = max(float(np.median(errors)), LEAST_SCALE_M)
        T = fit(points_a, points_b, dof, 1.0 / (1.0 + (errors / scale) ** 2) ** 2)
    return T


def fit(points_a: Array, points_b: Array, dof: int, weights: Array | None = None) -> Array:
    """Least-squares rigid transforms (..., 4, 4) from points_b (..., N, P, 3) to points_a.

    Kabsch (1976) for 6 degrees of freedom; for 4 a closed form with rotation about z. weights:
    (..., N, P) of the points.
    """
    a, b = (points.reshape(*points.shape[:-3], -1, 3) for points in (points_a, points_b))
    w = np.ones((*a.shape[:-1], 1)) if weights is None else weights.reshape(*a.shape[:-1], 1)
    w = w / w.sum(axis=-2, keepdims=True)
    middle_a, middle_b = ((w * points).sum(axis=-2, keepdims=True) for points in (a, b))
    H = np.swapaxes(w * (b - middle_b), -1, -2) @ (a - middle_a)
    if dof == 4:
        yaw = np.arctan2(H[..., 0, 1] - H[..., 1, 0], H[..., 0, 0] + H[..., 1, 1])
        R = np.zeros_like(H)
        R[..., 0, 0] = R[..., 1, 1] = np.cos(yaw)
        R[..., 1, 0] = np.sin(yaw)
        R[..., 0, 1] = -R[..., 1, 0]
        R[..., 2, 2] = 1.0
    else:
        U, _, Vt = np.linalg.svd(H)
        V, U_t = np.swapaxes(Vt, -1, -2), np.swapaxes(U, -1, -2)
        V[..., :, 2] *= np.sign(np.linalg.det(V @ U_t))[..., None]
        R = V @ U_t
    T = np.zeros((*H.shape[:-2], 4, 4))
    T[..., :3, :3] = R
    T[..., :3, 3] = (middle_a - middle_b @ np.swapaxes(R, -1, -2))[..., 0, :]
    T[..., 3, 3] = 1.0
    return T


def agreeing(T_a: Array, T_b: Array, config: AlignmentConfig, T_a_b: Array = IDENTITY) -> Mask:
    """Pairs of poses (N, 4, 4) that show one place after a transform of the second ones.

    T_a_b: (..., 4, 4). The mask is (..., N).
    """
    R = T_a_b[..., :3, :3]
    moved = T_b[:, :3, 3] @ np.swapaxes(R, -1, -2) + T_a_b[..., None, :3, 3]
    near = np.linalg.norm(moved - T_a[:, :3, 3], axis=-1) < config.inlier_m
    # Trace of the rotation from one pose to the other: 1 + 2 cos(angle).
    R_a_b = (T_a[:, :3, :3] @ np.swapaxes(T_b[:, :3, :3], -1, -2)).reshape(-1, 9)
    traces = R.reshape(*R.shape[:-2], 9) @ R_a_b.T
    return np.asarray(near & (traces > 1.0 + 2.0 * np.cos(min(config.inlier_rad, np.pi))))


def camera_points(T: Array) -> Array:
    """Points (N, 4, 3) that represent poses: the camera centre and a point on each axis."""
    arms = np.swapaxes(T[:, :3, :3], -1, -2) * ARM_M
    return np.concatenate([T[:, None, :3, 3], T[:, None, :3, 3] + arms], axis=1)


def _spread(count: int, sample: int) -> Ids:
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, sample)).astype(np.int64))


def _blocks(place_map: PlaceMap, ids: Ids) -> Iterator[Float32]:
    for start in range(0, len(ids), BLOCK):
        yield place_map.descriptors_of(ids[start:start + BLOCK])


def _mean(place_map: PlaceMap, ids: Ids) -> Float32:
    total = sum(rows.sum(axis=0, dtype=np.float64) for rows in _blocks(place_map, ids))
    return np.asarray(total / len(ids), dtype=np.float32)
