"""Update of a map by a session: missing places and appearances are added, obsolete ones removed.

A session keyframe at a place of the map is compared with the map as the localizer does. If the
best keyframe of the place does not stand out from all others, the map lacks this appearance of the
place, and the keyframe is added as a further experience (Churchill and Newman, Experience-based
navigation for long-term localisation, IJRR 2013).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from regvpr_core.arrays import Float32, Ids, Mask
from regvpr_core.config import check_settings, setting
from regvpr_core.errors import MapError
from regvpr_core.geometry import Array, rotation_angle
from regvpr_core.map_tools.alignment import AlignmentConfig
from regvpr_core.map_tools.experiences import Experiences, NAME, read_experiences
from regvpr_core.map_tools.merge import check_model
from regvpr_core.map_tools.session_poses import (
    session_poses,
    SessionPoses,
    SessionPosesConfig,
)
from regvpr_core.maps.files import new_folder, new_map_id
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter
from regvpr_core.recordings.camera_conflicts import conflict

BLOCK = 256
MEAN_PRIOR = 5.0
"""Weight in images of the map's mean descriptor in the session's mean, as in `Appearance`."""

SAME_LIGHT = 0.85
"""Least share of the visited keyframes of an earlier update that a session must match for the two
to count as similar in light."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateConfig:
    """Settings of what an update adds and removes."""

    place_m: float = setting(
        0.0,
        'Keyframes within this distance show one place; 0 for three times the spacing of the map.',
        0.0, 1000.0, unit='m')
    place_rad: float = setting(
        0.9, 'Keyframes of one place differ in direction by less than this.', 0.01, 3.2,
        unit='rad')
    margin: float = setting(
        0.15,
        'A place is recognised when the cosine of its best keyframe exceeds that of every other '
        'place by this.', 0.0, 1.0)
    step: float = setting(
        1.0,
        'An added keyframe stands for the session keyframes within this share of `place_m` that '
        'it would make recognised.', 0.0, 10.0)
    certainty: float = setting(
        0.15, 'Margin in cosine at which an added keyframe makes another recognised.',
        0.0, 1.0)
    experiences: int = setting(
        6, 'Appearances of a place that are kept, the last and most often matched first.', 1, 100)
    max_keyframes: int = setting(
        0, 'Keyframes of the map after the update; 0 for no limit.', 0, 10_000_000)
    age_updates: int = setting(
        5,
        'A keyframe is dropped after this many updates that saw its place in its light and did '
        'not match it, where another keyframe shows the place; 0 keeps all.', 0, 1000)
    max_shrink: float = setting(
        0.2, 'An update that would make the map smaller by more than this share is refused.',
        0.0, 1.0)
    poses: SessionPosesConfig = field(default_factory=SessionPosesConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)

    def __post_init__(self) -> None:
        check_settings(self, 'update')


@dataclass(slots=True, kw_only=True, eq=False)
class UpdatePlan:
    """Plan of an update.

    poses: of the session in the map. recognised, unrecognised, new: numbers of session keyframes
    at places that the map recognises, contains but does not recognise, and lacks. add: ids of
    session keyframes to add. drop: (N,) mask of the map's keyframes to remove. aged, over_budget:
    number of these, by reason. records: of the map's keyframes after the update, before removal.
    """

    poses: SessionPoses
    recognised: int
    unrecognised: int
    new: int
    add: Ids
    drop: Mask
    aged: int
    over_budget: int
    records: Experiences

    @property
    def keyframes(self) -> int:
        """Number of keyframes of the updated map."""
        return int((~self.drop).sum()) + len(self.add)

    @property
    def note(self) -> str:
        """One line for the history."""
        return (f'{len(self.poses.localized)} session keyframes, {int(self.poses.localized.sum())}'
                f' localized, {len(self.add)} added, {int(self.drop.sum())} dropped')


def plan_update(place_map: PlaceMap, session: PlaceMap, spacing_m: float, config: UpdateConfig,
                same_frame: bool = False,
                progress: Progress = lambda done, total: None) -> UpdatePlan:
    """Select keyframes to add and to remove; nothing is written.

    Args:
        place_map, session: open with a search index.
        spacing_m: spacing of the keyframes of the map, m.
        config: settings.
        same_frame: the session's poses are in the frame of the map.
        progress: called with session keyframes compared and in total.

    Raises:
        MapError: the session is of another model, camera, frame or scale, too little of it agrees
            with the map, or the map would shrink too far.
    """
    check_session(place_map, session, same_frame)
    poses = session_poses(place_map, session, spacing_m, config.poses, config.alignment,
                          same_frame)
    records = read_experiences(place_map)
    radius_m = config.place_m or 3.0 * spacing_m
    centre = _session_mean(place_map, session)
    seen = _compare(place_map, session, poses, centre, radius_m, config, progress)
    _count(records, seen)
    add = _choose(poses.T_map_cam, session, centre, seen, spacing_m, config, radius_m)
    drop, aged = _aged(place_map, records, seen, poses.T_map_cam[add], radius_m, config)
    over = _over_budget(place_map, records, drop, poses.T_map_cam[add], radius_m, config)
    plan = UpdatePlan(
        poses=poses, recognised=int(seen.recognised.sum()),
        unrecognised=int((seen.known & ~seen.recognised).sum()),
        new=int((poses.reached & ~seen.known).sum()), add=add, drop=drop | over, aged=aged,
        over_budget=int(over.sum()), records=records)
    if plan.keyframes < (1.0 - config.max_shrink) * len(place_map):
        raise MapError(f'the update would leave {plan.keyframes} of {len(place_map)} keyframes of '
                       f'{place_map.path}, less than 1 - max_shrink = '
                       f'{1.0 - config.max_shrink:g} of them; raise max_keyframes, age_updates '
                       f'or max_shrink')
    return plan


def check_session(place_map: PlaceMap, session: PlaceMap, same_frame: bool) -> None:
    """Refuse a session that cannot be compared with the map.

    Raises:
        MapError: it has no keyframes, is the map itself, or is of another model, camera or frame.
    """
    if not len(session):
        raise MapError(f'session {session.path} has no keyframes')
    if session.path.resolve() == place_map.path.resolve():
        raise MapError(f'{session.path} is the map itself; give a session map or a bag')
    check_model(place_map, session)
    for camera in sorted({*session.manifest.extrinsics, *session.cameras}):
        differs = conflict(camera, place_map.manifest, session.manifest)
        if differs:
            raise MapError(f'camera {camera!r} has other {differs} in {session.path} than in '
                           f'{place_map.path}; an update keeps to the cameras of the map')
    if same_frame and session.manifest.origin != place_map.manifest.origin:
        raise MapError(f'{session.path} is not in the frame of {place_map.path}: their origins '
                       f'on the Earth differ ({session.manifest.origin or "none"} and '
                       f'{place_map.manifest.origin or "none"}); leave out --same-frame')


def write_update(place_map: PlaceMap, session: PlaceMap, plan: UpdatePlan, out: Path,
                 source: str) -> None:
    """Write the updated map to a new folder.

    Args:
        place_map, session: as given to `plan_update`.
        plan: result of `plan_update`.
        out: folder that does not exist.
        source: name of the session among the sources of the map.

    Raises:
        MapError: a keyframe is damaged, or `out` exists or cannot be written.
    """
    kept = np.flatnonzero(~plan.drop)
    number = plan.records.updates + 1
    manifest = place_map.manifest
    sources = [*manifest.sources, *([source] if source not in manifest.sources else [])]
    extrinsics = {**session.manifest.extrinsics, **manifest.extrinsics}
    intrinsics = {**session.manifest.intrinsics, **manifest.intrinsics}
    manifest = replace(
        manifest, map_id=new_map_id(), sources=sources, extrinsics=extrinsics,
        intrinsics=intrinsics,
        features=manifest.features if manifest.features == session.manifest.features else '',
        config={**manifest.config, 'update': {'number': number, 'note': plan.note}})
    records = plan.records.taken(kept).joined(Experiences.new(len(plan.add), number))
    records.notes.append(plan.note)
    covariance = np.eye(3) * max(plan.poses.rms_m, 0.05) ** 2
    with new_folder(out) as folder, MapWriter.create(folder, manifest) as writer:
        for start in range(0, len(kept), BLOCK):
            writer.append(list(place_map.keyframes(kept[start:start + BLOCK])))
        for start in range(0, len(plan.add), BLOCK):
            ids = plan.add[start:start + BLOCK]
            writer.append([
                replace(keyframe, T_map_cam=plan.poses.T_map_cam[i], source=source,
                        covariance=covariance)
                for i, keyframe in zip(ids, session.keyframes(ids), strict=True)])
        projection = place_map.attachment('pca')
        if projection is not None:
            writer.attach('pca', projection)
        writer.attach(NAME, records.to_bytes())


@dataclass(slots=True, eq=False)
class _Seen:
    """Comparison of session keyframes with the map.

    known: (M,) the map contains the place. recognised: (M,) the place stands out. lacking: (M,)
    the map lacks it. best: (M,) the matched keyframe, -1 for none. rival: (M,) cosine of the best
    keyframe of another place. visited: (N,) keyframes of the map whose place was seen. useful:
    (N,) keyframes by which a place would have been recognised without the others.
    """

    known: Mask
    recognised: Mask
    lacking: Mask
    best: Ids
    rival: Array
    visited: Mask
    useful: Mask


def _compare(place_map: PlaceMap, session: PlaceMap, poses: SessionPoses, centre: Float32,
             radius_m: float, config: UpdateConfig, progress: Progress) -> _Seen:
    count = len(session)
    nobody, nothing = np.zeros(count, dtype=bool), np.zeros(len(place_map), dtype=bool)
    seen = _Seen(known=nobody, recognised=nobody.copy(), lacking=nobody.copy(),
                 best=np.full(count, -1), rival=np.full(count, -1.0), visited=nothing,
                 useful=nothing.copy())
    tree = cKDTree(place_map.T_map_cam[:, :3, 3])
    for i in np.flatnonzero(poses.reached):
        T = poses.T_map_cam[i]
        near = np.array(tree.query_ball_point(T[:3, 3], 2.0 * radius_m), dtype=np.int64)
        apart = np.linalg.norm(place_map.T_map_cam[near, :3, 3] - T[:3, 3], axis=1)
        turned = rotation_angle(T[:3, :3].T @ place_map.T_map_cam[near, :3, :3]) \
            if len(near) else apart
        own = near[(apart < radius_m) & (turned < config.place_rad)]
        if not len(own):
            seen.lacking[i] = True
            continue
        seen.known[i] = True
        seen.visited[own] = True
        row = session.descriptors(int(i), int(i) + 1)[0]
        similarities, ids = place_map.search(row, len(near) + 8, centre)
        away = ~np.isin(ids, near)
        rival = float(similarities[away].max()) if away.any() else -1.0
        seen.rival[i] = rival
        direct = place_map.centred(own) @ _unit(row - centre)
        seen.useful[own[direct > rival + config.margin]] = True
        seen.recognised[i] = direct.max() > rival + config.margin
        if seen.recognised[i]:
            seen.best[i] = own[direct.argmax()]
        seen.lacking[i] = not seen.recognised[i]
        if i % BLOCK == BLOCK - 1:
            progress(int(i) + 1, count)
    return seen


def _session_mean(place_map: PlaceMap, session: PlaceMap) -> Float32:
    """Mean descriptor (D,) of the session; that of a short session is pulled to the map's."""
    total = np.zeros_like(place_map.centre, dtype=np.float64)
    for start in range(0, len(session), BLOCK):
        total += session.descriptors(start, start + BLOCK).sum(axis=0, dtype=np.float64)
    mean = (MEAN_PRIOR * place_map.centre + total) / (MEAN_PRIOR + len(session))
    return np.asarray(mean, dtype=np.float32)


def _unit(row: Float32) -> Float32:
    return row / max(float(np.linalg.norm(row)), 1e-12)


def _count(records: Experiences, seen: _Seen) -> None:
    """Update the records of the map's keyframes."""
    matched = seen.best[seen.best >= 0]
    np.add.at(records.matched, matched, 1)
    records.last[np.unique(matched)] = records.updates + 1
    records.missed[seen.useful] = 0
    # Only keyframes of updates in similar light are judged: a session by night does not show
    # whether an appearance by day still exists.
    for update in np.unique(records.update[seen.visited]):
        members = seen.visited & (records.update == update)
        if seen.useful[members].mean() >= SAME_LIGHT:
            records.missed[members & ~seen.useful] += 1


def _choose(T: Array, session: PlaceMap, centre: Float32, seen: _Seen, spacing_m: float,
            config: UpdateConfig, radius_m: float) -> Ids:
    """Session keyframes to add: lacking ones that no chosen keyframe represents.

    A chosen keyframe represents others of its place that are recognised once it is in the map. New
    places keep the spacing of the map.
    """
    chosen: list[int] = []
    rows: list[Float32] = []
    for i in map(int, np.flatnonzero(seen.lacking)):
        row = _unit(session.descriptors(i, i + 1)[0] - centre)
        if chosen:
            others = np.array(chosen)
            reach = config.step * radius_m if seen.known[i] else spacing_m
            near = np.linalg.norm(T[others, :3, 3] - T[i, :3, 3], axis=1) < reach * (1.0 - 1e-6)
            near &= rotation_angle(T[i, :3, :3].T @ T[others, :3, :3]) < config.place_rad
            near &= np.array([session.cameras[j] == session.cameras[i] for j in chosen])
            if seen.known[i] and near.any():
                near[near] = np.stack([rows[k] for k in np.flatnonzero(near)]) @ row \
                    > seen.rival[i] + config.certainty
            if near.any():
                continue
        chosen.append(i)
        rows.append(row)
    return np.array(chosen, dtype=np.int64)


def _aged(place_map: PlaceMap, records: Experiences, seen: _Seen, T_added: Array,
          radius_m: float, config: UpdateConfig) -> tuple[Mask, int]:
    """Mask (N,) of keyframes whose appearance no longer exists."""
    drop = np.zeros(len(place_map), dtype=bool)
    if not config.age_updates:
        return drop, 0
    old = np.flatnonzero(records.missed >= config.age_updates)
    positions = place_map.T_map_cam[:, :3, 3]
    others = np.concatenate([positions[seen.useful], T_added[:, :3, 3]])
    if len(old) and len(others):
        gap, _ = cKDTree(others).query(positions[old])
        drop[old[gap < radius_m]] = True
    return drop, int(drop.sum())


def _over_budget(place_map: PlaceMap, records: Experiences, gone: Mask, T_added: Array,
                 radius_m: float, config: UpdateConfig) -> Mask:
    """Mask (N,) of keyframes beyond the limit of appearances per place or the size of the map.

    Those matched longest ago, then those matched least often, are removed first.
    """
    drop = np.zeros(len(place_map), dtype=bool)
    positions, R = place_map.T_map_cam[:, :3, 3], place_map.T_map_cam[:, :3, :3]
    best_first = np.lexsort((-records.matched, -records.last))
    best_first = best_first[~gone[best_first]]
    tree = cKDTree(positions)
    kept = np.zeros(len(place_map), dtype=bool)
    added = cKDTree(T_added[:, :3, 3]) if len(T_added) else None
    for i in best_first:
        near = np.array(tree.query_ball_point(positions[i], radius_m / 2), dtype=np.int64)
        near = near[kept[near]]
        near = near[rotation_angle(R[i].T @ R[near]) < config.place_rad] if len(near) else near
        groups = set(records.update[near].tolist()) | {int(records.update[i])}
        if added is not None and added.query_ball_point(positions[i], radius_m / 2):
            groups.add(records.updates + 1)
        kept[i] = len(groups) <= config.experiences
        drop[i] = not kept[i]
    excess = int(kept.sum()) + len(T_added) - config.max_keyframes
    if config.max_keyframes and excess > 0:
        for i in best_first[::-1]:
            if excess <= 0:
                break
            if not kept[i]:
                continue
            near = np.array(tree.query_ball_point(positions[i], radius_m), dtype=np.int64)
            if kept[near].sum() > 1:  # the place keeps another keyframe
                kept[i], drop[i] = False, True
                excess -= 1
        if excess > 0:
            raise MapError(f'max_keyframes is {config.max_keyframes}, but the places of '
                           f'{place_map.path} need {config.max_keyframes + excess}; raise it, or '
                           f'drop places with `regvpr map prune`')
    return drop
