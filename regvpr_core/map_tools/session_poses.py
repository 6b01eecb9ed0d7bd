"""Poses of the keyframes of a session in the frame of a map, corrected for drift.

The session's poses drift, so one transform is not enough. Mutual nearest neighbours among the
descriptors are matches, and a robust transform selects those that agree. Then each keyframe gets
the least-squares transform of the agreeing matches near it along the drive, which follows drift.
Here each pass through a place has matches of its own.
"""

from dataclasses import dataclass

import numpy as np

from regvpr_core.arrays import Ids, Mask
from regvpr_core.config import check_settings, setting
from regvpr_core.errors import MapError
from regvpr_core.geometry import Array
from regvpr_core.map_tools.alignment import (
    agreeing,
    align_poses,
    AlignmentConfig,
    camera_points,
    fit,
    least_agreeing,
    matches_of_passes,
)
from regvpr_core.map_tools.used_sessions import own_keyframes
from regvpr_core.maps.place_map import PlaceMap

GROWTH = 4
"""Rounds in which matches that agree with the corrected poses join the fit."""

FAR = 3.0
"""A match has no weight for a keyframe that is further away along the drive than this many
stretches (`SessionPosesConfig.stretch_m`)."""

SCALE_ERROR = 0.15
"""Largest relative difference between distances in the session and in the map. Beyond it the scale
of the session is wrong."""

PASS_APART = 2.0
"""Keyframes belong to different passes if the distance driven between them exceeds this many
stretches."""

SCALE_PAIRS = 20
"""Least number of pairs of matches to estimate the scale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPosesConfig:
    """Settings for placing a session in a map."""

    stretch_m: float = setting(
        0.0,
        'Way along which matches must agree before a session counts as localized there; 0 for '
        'ten times the spacing of the map.', 0.0, 10000.0, unit='m')
    agreeing: int = setting(
        4, 'Least number of matches that agree within the stretch.', 2, 1000)
    reach: float = setting(
        10.0,
        'A place that the map lacks is accepted up to this many stretches from a localized one.',
        0.0, 1000.0)

    def __post_init__(self) -> None:
        check_settings(self, 'poses')


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SessionPoses:
    """Poses of the keyframes of a session in the frame of the map.

    T_map_cam: (N, 4, 4). localized: (N,) enough matches agree around the keyframe. reached: (N,)
    it is localized or close enough to such a keyframe. matches, inliers: number of matches, and of
    those that agree. rms_m: of the agreeing matches. stretch_m: length of a stretch.
    pairs: ids in the map and in the session of the agreeing matches.
    """

    T_map_cam: Array
    localized: Mask
    reached: Mask
    matches: int
    inliers: int
    rms_m: float
    stretch_m: float
    pairs: tuple[Ids, Ids]


def session_poses(place_map: PlaceMap, session: PlaceMap, spacing_m: float,
                  config: SessionPosesConfig, alignment: AlignmentConfig,
                  same_frame: bool) -> SessionPoses:
    """Place a session in a map.

    Args:
        place_map, session: open with a search index, of one model.
        spacing_m: of the keyframes of the map.
        config: settings.
        alignment: settings of the robust transform.
        same_frame: the session's poses are already in the frame of the map; they are checked, not
            changed.

    Raises:
        MapError: too little of the session agrees with the map; the message says how much, and
            the cause if it is known.
    """
    stretch_m = config.stretch_m or 10.0 * spacing_m
    way = way_m(session.T_map_cam)
    ids_map, ids_session, sole = matches_of_passes(place_map, session, alignment.sample, way,
                                                   PASS_APART * stretch_m,
                                                   ~own_keyframes(place_map, session))
    one_map, one_session = ids_map[sole], ids_session[sole]
    T = np.eye(4)
    if not same_frame:
        try:
            # Only the best match of each keyframe of the map: at places that the map lacks, the
            # matches of all passes are wrong.
            T = align_poses(place_map.T_map_cam[one_map], session.T_map_cam[one_session],
                            alignment, (place_map.path, session.path)).T_a_b
        except MapError as error:
            hint = _scale_hint(place_map.T_map_cam[one_map], session.T_map_cam[one_session])
            raise MapError(str(error).replace('give --transform', hint or (
                'was it driven elsewhere? If both are in one frame, give --same-frame'))
            ) from error
    poses = T @ session.T_map_cam
    agree = agreeing(place_map.T_map_cam[ids_map], poses[ids_session], alignment)
    for _ in range(0 if same_frame else GROWTH):
        poses = _corrected(T @ session.T_map_cam, place_map.T_map_cam[ids_map[agree]],
                           ids_session[agree], way, stretch_m, alignment.dof)
        agree = agreeing(place_map.T_map_cam[ids_map], poses[ids_session], alignment)
    localized = _localized(way, ids_session[agree], stretch_m, config.agreeing)
    if same_frame:
        # The poses are not corrected, so the session as a whole is accepted or refused: enough
        # matches must agree, and more than of random pairs.
        chance = agreeing(place_map.T_map_cam[np.random.default_rng(0).permutation(ids_map)],
                        poses[ids_session], alignment).sum()
        localized = np.full(len(poses), agree.sum() >= least_agreeing(
            len(agree), int(chance), alignment))
    if not localized.any():
        raise MapError(f'session {session.path} is not localized in map {place_map.path}: '
                       f'{int(agree.sum())} of {len(agree)} matches agree, nowhere '
                       f'{config.agreeing} within {stretch_m:.1f} m; is it of the same place, '
                       f'and in the same frame?')
    errors = np.linalg.norm((poses[ids_session] - place_map.T_map_cam[ids_map])[agree, :3, 3],
                            axis=1)
    return SessionPoses(
        T_map_cam=poses, localized=localized, reached=within_reach(
            way, localized, config.reach * stretch_m),
        matches=len(agree), inliers=int(agree.sum()),
        rms_m=float(np.sqrt((errors ** 2).mean())), stretch_m=stretch_m,
        pairs=(ids_map[agree], ids_session[agree]))


def within_reach(way: Array, localized: Mask, reach_m: float) -> Mask:
    """Mask (N,) of keyframes at most `reach_m` of driving away from a localized one."""
    if not localized.any():
        return localized.copy()
    return np.asarray(np.abs(way[:, None] - way[localized][None]).min(axis=1) <= reach_m)


def way_m(T: Array) -> Array:
    """Distance driven (N,) up to each pose (N, 4, 4), in the order given, m."""
    steps = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


def _localized(way: Array, ids: Ids, stretch_m: float, agreeing: int) -> Mask:
    """Mask (N,) of keyframes with enough agreeing matches within half a stretch on each side."""
    at = np.sort(way[ids])
    count = (np.searchsorted(at, way + stretch_m / 2, side='right')
             - np.searchsorted(at, way - stretch_m / 2))
    return np.asarray(count >= agreeing)


def _corrected(poses: Array, T_map: Array, ids: Ids, way: Array, stretch_m: float,
               dof: int) -> Array:
    """Poses (N, 4, 4), each moved by the fit of the agreeing matches near it along the drive."""
    if not len(ids):
        return poses
    result = poses.copy()
    a, b = camera_points(T_map), camera_points(poses[ids])
    for i in range(len(poses)):
        apart = np.abs(way[ids] - way[i])
        near = apart <= max(FAR * stretch_m, float(np.partition(apart, min(2, len(apart) - 1))[
            min(2, len(apart) - 1)]))
        weights = np.exp(-apart[near] / stretch_m) + 1e-9
        result[i] = fit(a[near], b[near], dof, np.repeat(weights[:, None], a.shape[1], 1)
                        ) @ poses[i]
    return result


def _scale_hint(T_a: Array, T_b: Array) -> str:
    """Message if distances between matches differ by a common factor; else empty."""
    if len(T_a) <= SCALE_PAIRS:
        return ''
    lag = max(2, len(T_a) // SCALE_PAIRS)
    a, b = (np.linalg.norm(T[lag:, :3, 3] - T[:-lag, :3, 3], axis=1) for T in (T_a, T_b))
    moved = b > 1e-3
    if moved.sum() < SCALE_PAIRS:
        return ''
    low, middle, high = np.percentile(a[moved] / b[moved], [25, 50, 75])
    if abs(np.log(max(middle, 1e-9))) < np.log1p(SCALE_ERROR) or high - low > 0.5 * middle:
        return ''
    return (f'distances in the map are {middle:.2f} times those of the session: does its '
            f'odometry have another scale?')
