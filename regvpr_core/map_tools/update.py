"""Update of a map by a session: missing places and appearances are added, obsolete ones removed.

All keyframes of the session and of the map around it are views that a later drive may have
(`map_tools.coverage`). A session keyframe is added as a further experience of a known place
(Churchill and Newman, Experience-based navigation for long-term localisation, IJRR 2013) if views
would be recognised less clearly without it. At most as many keyframes are then removed, those that
the others can do without (`map_tools.selection`).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

from regvpr_core.arrays import Ids, Mask
from regvpr_core.config import check_settings, setting
from regvpr_core.errors import MapError
from regvpr_core.geometry import Array, rotation_angle
from regvpr_core.map_tools.alignment import AlignmentConfig
from regvpr_core.map_tools.coverage import compare, Coverage, Place
from regvpr_core.map_tools.experiences import Experiences, NAME, read_experiences
from regvpr_core.map_tools.history import update_note
from regvpr_core.map_tools.merge import check_model
from regvpr_core.map_tools.selection import Selection, worth
from regvpr_core.map_tools.session_cameras import session_cameras
from regvpr_core.map_tools.session_poses import (
    session_poses,
    SessionPoses,
    SessionPosesConfig,
    way_m,
    within_reach,
)
from regvpr_core.map_tools.trust import confirmed
from regvpr_core.map_tools.used_sessions import noted, refuse_used, source_name, used_sessions
from regvpr_core.maps.files import new_folder, new_map_id
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter

BLOCK = 256
RECORDINGS = 'recordings'
NO_POSES = np.zeros((0, 4, 4))

SAME_SPOT = 0.75
"""Keyframes within this share of `place_m` are appearances of one spot."""

SAME_LIGHT = 0.85
"""Least share of the visited keyframes of an earlier update that a session must match for the two
to count as similar in light."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateConfig:
    """Settings of what an update adds and removes."""

    place_m: float = setting(
        0.0,
        'Keyframes within this distance show one place; 0 for twice the spacing of the map.',
        0.0, 1000.0, unit='m')
    place_rad: float = setting(
        0.9, 'Keyframes of one place differ in direction by less than this.', 0.01, 3.2,
        unit='rad')
    margin: float = setting(
        0.1,
        'A keyframe recognises a place when its cosine exceeds that of every other place by this; '
        'larger values keep more keyframes.', 0.0, 1.0)
    share: float = setting(
        0.58, 'Largest size of the updated map, as a share of the keyframes of its first build '
        'and of all sessions; new places, and what the map had before, stay.', 0.0, 1.0)
    least_worth: float = setting(
        0.1, 'A session keyframe is added if the views of its place lose at least this much '
        'without it; 1 is the loss of one view.', 0.0, 10.0)
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
    trust: str = setting(
        'alignment',
        '`alignment`: stretches whose matches agree count. `confirmed`: only those of them that '
        'local features confirm, or that two passes reached by matches of their own.',
        choices=('alignment', 'confirmed'))
    other_cameras: bool = setting(
        False, 'Take cameras that the map does not have as further ones of it; else a session of '
        'another camera, or of one with another calibration, is refused.')
    poses: SessionPosesConfig = field(default_factory=SessionPosesConfig)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)

    def __post_init__(self) -> None:
        check_settings(self, 'update')


@dataclass(slots=True, kw_only=True, eq=False)
class UpdatePlan:
    """Plan of an update.

    poses: of the session in the map. recognised, unrecognised, new: numbers of session keyframes
    at places that the map recognises, contains but does not recognise, and lacks. add: ids of
    session keyframes to add. drop: (N,) mask of the map's keyframes to remove. aged, redundant,
    over_budget: number of these, by reason. records: of the map's keyframes after the update,
    before removal. anchors: mask over `add`, keyframes that represent removed ones. spacing_m: of
    the keyframes of the map as it was first built.
    """

    poses: SessionPoses
    recognised: int
    unrecognised: int
    new: int
    add: Ids
    drop: Mask
    aged: int
    redundant: int
    over_budget: int
    records: Experiences
    anchors: Mask
    spacing_m: float
    cameras: dict[str, str]
    given: int

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
                same_frame: bool = False, witnesses: Array = NO_POSES,
                progress: Progress = lambda done, total: None) -> UpdatePlan:
    """Select keyframes to add and to remove; nothing is written.

    Args:
        place_map, session: open with a search index.
        spacing_m: spacing of the keyframes of the map, m.
        config: settings.
        same_frame: the session's poses are in the frame of the map.
        witnesses: (W, 4, 4) poses in the map of localized keyframes of other sessions, for the
            trust `confirmed`.
        progress: called with session keyframes compared and in total.

    Raises:
        MapError: the session is of another model, camera, frame or scale, too little of it agrees
            with the map, or the map would shrink too far.
    """
    check_session(place_map, session, same_frame)
    cameras = session_cameras(place_map, session, config.other_cameras)
    poses = session_poses(place_map, session, spacing_m, config.poses, config.alignment,
                          same_frame)
    radius_m = config.place_m or 2.0 * spacing_m
    if config.trust == 'confirmed':
        poses = _confirmed(place_map, session, poses, radius_m, config, witnesses)
    records = read_experiences(place_map)
    coverage = compare(place_map, session, poses.T_map_cam, poses.reached, Place(
        radius_m=radius_m, angle_rad=config.place_rad, margin=config.margin), progress)
    if session.map_id not in used_sessions(place_map):  # a grown session counts once
        _count(records, coverage)
    visited = coverage.map_ids
    kept, fixed = _added(poses.T_map_cam, coverage, spacing_m, config)
    T_added = poses.T_map_cam[coverage.session_ids[kept[len(visited):]]]
    aged = _aged(place_map, records, coverage.useful, T_added, radius_m, config)
    kept[:len(visited)] &= ~aged[visited]
    given = given_keyframes(place_map) + _further(place_map, session, coverage)
    elsewhere = int((~aged).sum() - (~aged[visited]).sum())
    kept, serving = _redundant(coverage, records, kept, fixed, int(config.share * given)
                               - elsewhere, SAME_SPOT * radius_m, config)
    add = coverage.session_ids[kept[len(visited):]]
    T_added = poses.T_map_cam[add]
    records.anchor[visited[serving[:len(visited)]]] = 1
    anchors = serving[len(visited):][kept[len(visited):]]
    redundant = np.zeros(len(place_map), dtype=bool)
    redundant[visited] = ~kept[:len(visited)] & ~aged[visited]
    over = _over_budget(place_map, records, aged | redundant, T_added, radius_m, config)
    plan = UpdatePlan(
        poses=poses, recognised=int(coverage.recognised.sum()),
        unrecognised=int((coverage.known & ~coverage.recognised).sum()),
        new=int((~coverage.known).sum()), add=add, drop=aged | redundant | over,
        aged=int(aged.sum()), redundant=int(redundant.sum()), over_budget=int(over.sum()),
        records=records, anchors=anchors, spacing_m=spacing_m, cameras=cameras,
        given=given)
    refuse_shrinking(place_map.path, len(place_map), plan.keyframes, config)
    return plan


def refuse_shrinking(path: Path, before: int, after: int, config: UpdateConfig) -> None:
    """Refuse an update, by one session or several, that would leave too few keyframes.

    Raises:
        MapError: the map would be smaller by more than `max_shrink`.
    """
    if after < (1.0 - config.max_shrink) * before:
        raise MapError(f'the update would leave {after} of {before} keyframes of {path}, less '
                       f'than 1 - max_shrink = {1.0 - config.max_shrink:g} of them; raise '
                       f'max_keyframes, age_updates or max_shrink')


def check_session(place_map: PlaceMap, session: PlaceMap, same_frame: bool) -> None:
    """Refuse a session that cannot be compared with the map.

    Raises:
        MapError: it has no keyframes, is the map itself, was used before, or is of another model
            or frame.
    """
    if not len(session):
        raise MapError(f'session {session.path} has no keyframes')
    if session.path.resolve() == place_map.path.resolve():
        raise MapError(f'{session.path} is the map itself; give a session map or a bag')
    refuse_used(place_map, session)
    if session.manifest.compress and (
            (session.manifest.compress, session.attachment('pca'))
            != (place_map.manifest.compress, place_map.attachment('pca'))):
        raise MapError(f'session {session.path} is compressed ({session.manifest.compress}), by '
                       f'other directions than {place_map.path}; give the session that it was '
                       f'made from: it is shortened as the map is')
    check_model(place_map, session)
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
        source: name of the session; a number is appended if a source of the map has this name.

    Raises:
        MapError: a keyframe is damaged, or `out` exists or cannot be written.
    """
    kept = np.flatnonzero(~plan.drop)
    number = plan.records.updates + 1
    manifest = place_map.manifest
    source = source_name(place_map, session, source)
    sources = [*manifest.sources, *([source] if source not in manifest.sources else [])]
    extrinsics = {plan.cameras[name]: values
                  for name, values in session.manifest.extrinsics.items()} | manifest.extrinsics
    intrinsics = {plan.cameras.get(name, name): values
                  for name, values in session.manifest.intrinsics.items()} | manifest.intrinsics
    manifest = replace(
        manifest, map_id=new_map_id(), sources=sources, extrinsics=extrinsics,
        intrinsics=intrinsics,
        config={**manifest.config, 'update': {
            'number': number, 'note': plan.note, 'spacing_m': plan.spacing_m,
            'given': plan.given,
            'sessions': noted(place_map, session, source)}})
    added = Experiences.new(len(plan.add), number)
    added.anchor[plan.anchors] = 1
    records = plan.records.taken(kept).joined(added)
    records.notes.append(plan.note)
    # A map without local features takes none; one with them keeps its own.
    alike = bool(manifest.features) and manifest.features == session.manifest.features
    covariance = np.eye(3) * max(plan.poses.rms_m, 0.05) ** 2
    with new_folder(out) as folder, MapWriter.create(folder, manifest) as writer:
        for start in range(0, len(kept), BLOCK):
            writer.append(list(place_map.keyframes(kept[start:start + BLOCK])))
        for start in range(0, len(plan.add), BLOCK):
            ids = plan.add[start:start + BLOCK]
            writer.append([
                replace(keyframe, T_map_cam=plan.poses.T_map_cam[i], source=source,
                        camera=plan.cameras[keyframe.camera], covariance=covariance,
                        local_features=keyframe.local_features if alike else None)
                for i, keyframe in zip(ids, session.keyframes(ids), strict=True)])
        for name in ('pca', RECORDINGS):
            kept_value = place_map.attachment(name)
            if kept_value is not None:
                writer.attach(name, kept_value)
        writer.attach(NAME, records.to_bytes())


def _confirmed(place_map: PlaceMap, session: PlaceMap, poses: SessionPoses, radius_m: float,
               config: UpdateConfig, witnesses: Array) -> SessionPoses:
    """The poses of a session; only confirmed stretches count as localized.

    Raises:
        MapError: no stretch is confirmed.
    """
    sure = confirmed(place_map, session, poses, radius_m, config.place_rad, witnesses)
    if not sure.any():
        raise MapError(
            f'no stretch of {session.path} is confirmed: {int(poses.localized.sum())} of '
            f'{len(sure)} keyframes are localized, but neither local features nor a second pass '
            f'agree; drive the way twice, build the map with --features, or look at the session '
            f'and give it to regvpr map update')
    reach_m = config.poses.reach * poses.stretch_m
    return replace(poses, localized=sure,
                   reached=within_reach(way_m(session.T_map_cam), sure, reach_m))


def _count(records: Experiences, coverage: Coverage) -> None:
    """Update the records of the map's keyframes."""
    matched = coverage.best[coverage.recognised]
    np.add.at(records.matched, matched, 1)
    records.last[np.unique(matched)] = records.updates + 1
    visited, useful = (np.zeros(len(records.missed), dtype=bool) for _ in range(2))
    visited[coverage.map_ids], useful[coverage.useful] = True, True
    records.missed[useful] = 0
    # Only keyframes of updates in similar light are judged: a session by night does not show
    # whether an appearance by day still exists.
    for update in np.unique(records.update[visited]):
        members = visited & (records.update == update)
        if useful[members].mean() >= SAME_LIGHT:
            records.missed[members & ~useful] += 1


def given_keyframes(place_map: PlaceMap) -> int:
    """Number of keyframes that a map was built and updated with."""
    given = update_note(place_map).get('given')
    return given if isinstance(given, int) and given >= len(place_map) else len(place_map)


def _further(place_map: PlaceMap, session: PlaceMap, coverage: Coverage) -> int:
    """Number of compared keyframes of a session; of one that has grown, those that are new."""
    used = used_sessions(place_map).get(session.map_id)
    return min(len(coverage.session_ids), len(session) - (used.keyframes if used else 0))


def _added(T: Array, coverage: Coverage, spacing_m: float, config: UpdateConfig
           ) -> tuple[Mask, Mask]:
    """Mask (V,) of the views of the map, and of those of the session that others lack most.

    Also a mask (V,) of those at new places that stay in any case: one for each spacing of the map.
    """
    fixed = np.zeros(len(coverage.map_ids) + len(coverage.session_ids), dtype=bool)
    new: list[int] = []
    for view in map(int, np.flatnonzero(~coverage.known)):
        here, others = T[coverage.session_ids[view]], T[coverage.session_ids[new]]
        near = np.linalg.norm(others[:, :3, 3] - here[:3, 3], axis=1) < spacing_m * (1.0 - 1e-6)
        near &= rotation_angle(here[:3, :3].T @ others[:, :3, :3]) < config.place_rad
        if not near.any():
            new.append(view)
    start = len(coverage.map_ids)
    fixed[start + np.array(new, dtype=np.int64)] = True
    selection = Selection(worth(coverage.excess, config.margin), np.ones(len(fixed), dtype=bool))
    may_go = ~fixed & (np.arange(len(fixed)) >= start)
    while True:
        view, cost = selection.cheapest(may_go)
        if view < 0 or cost > config.least_worth:
            return selection.kept, fixed
        selection.remove(view)


def _redundant(coverage: Coverage, records: Experiences, kept: Mask, fixed: Mask, most: int,
               within_m: float, config: UpdateConfig) -> tuple[Mask, Mask]:
    """Views (V,) that are kept, and a mask (V,) of those that serve removed keyframes of the map.

    Views are removed while that costs little, or the map has more than `most` of them; at most as
    many as were added at places of the map, so that an update does not thin it out. A keyframe
    that serves removed ones is an anchor, and is not removed later.
    """
    start = len(coverage.map_ids)
    may_go = ~fixed
    may_go[:start] &= records.anchor[coverage.map_ids] == 0
    # Others within this distance only, so that the map stays dense enough for poses.
    selection = Selection(worth(coverage.within(within_m), config.margin), kept)
    left = int(kept[start:][coverage.known].sum()) - int((~kept[:start]).sum())
    while left > 0:
        view, cost = selection.cheapest(may_go)
        if view < 0 or (cost > config.least_worth and int(selection.kept.sum()) <= most):
            break
        selection.remove(view)
        left -= 1
    anchors = np.zeros(len(kept), dtype=bool)
    anchors[selection.anchors(np.flatnonzero(kept[:start] & ~selection.kept[:start]))] = True
    return selection.kept, anchors


def _aged(place_map: PlaceMap, records: Experiences, useful: Ids, T_added: Array,
          radius_m: float, config: UpdateConfig) -> Mask:
    """Mask (N,) of keyframes that no longer match and have a useful keyframe near them."""
    drop = np.zeros(len(place_map), dtype=bool)
    if not config.age_updates:
        return drop
    old = np.flatnonzero(records.missed >= config.age_updates)
    positions = place_map.T_map_cam[:, :3, 3]
    others = np.concatenate([positions[useful], T_added[:, :3, 3]])
    if len(old) and len(others):
        gap, _ = cKDTree(others).query(positions[old])
        drop[old[gap < radius_m]] = True
    return drop


def _over_budget(place_map: PlaceMap, records: Experiences, gone: Mask, T_added: Array,
                 radius_m: float, config: UpdateConfig) -> Mask:
    """Mask (N,) of keyframes beyond the limit of appearances per place or the size of the map.

    Keyframes that were last matched longest ago are removed first; if equal, those matched least
    often.
    """
    drop = np.zeros(len(place_map), dtype=bool)
    positions, R = place_map.T_map_cam[:, :3, 3], place_map.T_map_cam[:, :3, :3]
    near_m = SAME_SPOT * radius_m
    best_first = np.lexsort((-records.matched, -records.last))
    best_first = best_first[~gone[best_first]]
    tree = cKDTree(positions)
    kept = np.zeros(len(place_map), dtype=bool)
    added = cKDTree(T_added[:, :3, 3]) if len(T_added) else None
    for i in best_first:
        near = np.array(tree.query_ball_point(positions[i], near_m), dtype=np.int64)
        near = near[kept[near]]
        near = near[rotation_angle(R[i].T @ R[near]) < config.place_rad] if len(near) else near
        groups = set(records.update[near].tolist()) | {int(records.update[i])}
        if added is not None and added.query_ball_point(positions[i], near_m):
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
