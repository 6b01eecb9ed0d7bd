"""Which stretches of a session may change a map without a check by a person.

Matches that agree on one transform can be wrong together: a wrong fix in a corridor that looks
like another one agrees with its odometry. Independent evidence is needed: local features of
several matches, or a second pass that was placed by matches of its own.
"""

import numpy as np
from scipy.spatial import cKDTree

from regvpr_core.arrays import Mask
from regvpr_core.geometry import Array, rotation_angle
from regvpr_core.map_tools.session_poses import PASS_APART, SessionPoses, way_m
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.verification.feature_matches import match_features, refined
from regvpr_core.verification.local_features import LocalFeatures
from regvpr_core.verification.place_pose import ERROR_SHARE
from regvpr_core.verification.relative_pose import uncalibrated
from regvpr_core.verification.verification import log_odds, stored_features

LEAST_VERIFIED = 2
"""Least number of matches within a stretch that local features must confirm."""

MOST_VERIFIED = 300
"""Largest number of matches of a session to verify, spread over it; each takes about 10 ms."""


def confirmed(place_map: PlaceMap, session: PlaceMap, poses: SessionPoses, radius_m: float,
              place_rad: float, witnesses: Array) -> Mask:
    """Keyframes (M,) of a session on stretches with independent evidence.

    Args:
        place_map, session: the open maps.
        poses: of the session in the map.
        radius_m, place_rad: passes within this distance and angle show the same place.
        witnesses: (W, 4, 4) poses in the map of localized keyframes of other sessions.
    """
    way = way_m(session.T_map_cam)
    return poses.localized & (
        _passed_again(poses, way, radius_m, place_rad, witnesses)
        | _verified(place_map, session, poses, way))


def _passed_again(poses: SessionPoses, way: Array, radius_m: float, place_rad: float,
                  witnesses: Array) -> Mask:
    """Keyframes (M,) whose place another pass also reached, localized by other matches."""
    ids = np.flatnonzero(poses.localized)
    T = np.concatenate([poses.T_map_cam[ids], witnesses.reshape(-1, 4, 4)])
    # Witnesses are of other sessions, so they are never of the same pass.
    along = np.concatenate([way[ids], np.full(len(T) - len(ids), np.inf)])
    found = np.zeros(len(way), dtype=bool)
    tree = cKDTree(T[:, :3, 3])
    for i in ids:
        near = np.array(tree.query_ball_point(poses.T_map_cam[i, :3, 3], radius_m))
        near = near[np.abs(along[near] - way[i]) > PASS_APART * poses.stretch_m]
        found[i] = bool((rotation_angle(poses.T_map_cam[i, :3, :3].T @ T[near, :3, :3])
                         < place_rad).any())
    return found


def _verified(place_map: PlaceMap, session: PlaceMap, poses: SessionPoses, way: Array) -> Mask:
    """Keyframes (M,) with enough matches that local features confirm within half a stretch."""
    kind = place_map.manifest.features
    if not kind or session.manifest.features != kind:
        return np.zeros(len(way), dtype=bool)
    ids_map, ids_session = poses.pairs
    step = max(1, -(-len(ids_map) // MOST_VERIFIED))
    right = np.array([
        _agree(stored_features(place_map, int(a)), stored_features(session, int(b)))
        for a, b in zip(ids_map[::step], ids_session[::step], strict=True)], dtype=bool)
    at = np.sort(way[ids_session[::step][right]])
    half = poses.stretch_m / 2.0
    count = np.searchsorted(at, way + half, 'right') - np.searchsorted(at, way - half)
    return np.asarray(count >= LEAST_VERIFIED)


def _agree(a: LocalFeatures | None, b: LocalFeatures | None) -> bool:
    """Whether the local features of two images match as they do for images of one place."""
    if a is None or b is None or a.kind != b.kind:
        return False
    pairs = match_features(a, b)
    view = uncalibrated(a.xy[pairs[0]], refined(a, b, pairs), ERROR_SHARE[a.kind] * a.width)
    return log_odds(a.kind, view.count, max(len(a), len(b))) > 0.0
