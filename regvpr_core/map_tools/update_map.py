"""Updates a map by several sessions and replaces the old map by the finished one."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
from dataclasses import dataclass, field
import os
from pathlib import Path
import shutil
import tempfile

import numpy as np

from regvpr_core.errors import MapError
from regvpr_core.geometry import Array
from regvpr_core.localization.belief import spacing
from regvpr_core.localization.stored_calibration import calibrate_and_store
from regvpr_core.map_tools.compression import compress_alike
from regvpr_core.map_tools.history import replace_map, update_note
from regvpr_core.map_tools.session_cameras import session_cameras
from regvpr_core.map_tools.session_poses import session_poses
from regvpr_core.map_tools.update import (
    check_session,
    NO_POSES,
    plan_update,
    refuse_shrinking,
    UpdateConfig,
    UpdatePlan,
    write_update,
)
from regvpr_core.maps.files import lock_folder
from regvpr_core.maps.place_map import PlaceMap

LARGEST_SPACING_M = 1000.0

Progress = Callable[[int, int], None]
LeftOut = Callable[[Path, MapError], None]


@dataclass(slots=True, kw_only=True, eq=False)
class UpdateReport:
    """Result of an update. sessions: those that were used, in order. plans: of each of them."""

    before: int
    after: int
    sessions: list[Path] = field(default_factory=list)
    plans: list[UpdatePlan] = field(default_factory=list)


def update_map(path: Path, sessions: Sequence[tuple[Path, str]], config: UpdateConfig, *,
               same_frame: bool = False, dry_run: bool = False, keep: int = 3,
               witnesses: Sequence[Array] = (), left_out: LeftOut | None = None,
               progress: Progress = lambda done, total: None) -> UpdateReport:
    """Update a map by sessions, in the order given.

    The map is not changed until the new one is finished and calibrated. Then the two are exchanged
    atomically, and the old one becomes a version (`map_tools.history`).

    Args:
        path: folder of the map, or a link to it.
        sessions: folder of each session map, and the name of its source.
        config: settings.
        same_frame: the sessions' poses are in the frame of the map.
        dry_run: the map is not replaced.
        keep: number of earlier versions to keep.
        witnesses: for each session (W, 4, 4) localized poses of others (`localized_poses`); none
            if empty.
        left_out: called with a session that is refused and the reason; the update is then made by
            the others. None: the update is refused.
        progress: called with session keyframes compared and in total.

    Raises:
        MapError: as `plan_update`, another update is running, or the disk is full. The map is
            then unchanged.
    """
    if not sessions:
        raise MapError('an update needs a session: a session map of the node, or a bag')
    path = path.resolve()
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(os.close, lock_folder(path))
        staging = [path.with_name(f'.{path.name}.update{number}') for number in range(2)]
        for folder in staging:
            shutil.rmtree(folder, ignore_errors=True)
        locks = cleanup.enter_context(contextlib.ExitStack())
        for folder in staging:
            cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        report = UpdateReport(before=0, after=0)
        current = path
        for (session_path, source), seen in zip(
                sessions, witnesses or [NO_POSES] * len(sessions), strict=True):
            new = staging[current == staging[0]]
            shutil.rmtree(new, ignore_errors=True)
            try:
                _step(current, session_path, source, new, config, same_frame, report, seen,
                      progress)
            except MapError as error:
                if left_out is None:
                    raise
                left_out(session_path, error)
            else:
                current = new
        if report.plans:
            refuse_shrinking(path, report.before, report.after, config)
        if report.plans and not dry_run:
            calibrate_and_store(current)
            # The new map stays locked until all that belongs to this update is removed.
            locks.callback(os.close, lock_folder(current))
            replace_map(path, current, keep)
        return report


def _step(path: Path, session_path: Path, source: str, out: Path, config: UpdateConfig,
          same_frame: bool, report: UpdateReport, witnesses: Array, progress: Progress
          ) -> None:
    """Update a map by one session and write the result to `out`."""
    with PlaceMap.open(path) as place_map, _session(session_path, place_map) as session:
        spacing_m = built_spacing(place_map)
        plan = plan_update(place_map, session, spacing_m, config, same_frame, witnesses,
                           progress)
        write_update(place_map, session, plan, out, source)
        report.before = report.before or len(place_map)
        report.after = plan.keyframes
        report.sessions.append(session_path)
        report.plans.append(plan)


@contextlib.contextmanager
def _session(path: Path, place_map: PlaceMap) -> Iterator[PlaceMap]:
    """A session, open; its descriptors are shortened if those of the map are."""
    with PlaceMap.open(path) as session:
        if (not place_map.manifest.compress or session.manifest.compress
                or session.manifest.fingerprint != place_map.manifest.fingerprint):
            yield session
            return
        with tempfile.TemporaryDirectory(prefix='regvpr_session_') as folder:
            short = Path(folder) / 'session'
            compress_alike(session, place_map, short)
            try:
                with PlaceMap.open(short) as shorter:
                    yield shorter
            except MapError as error:
                raise MapError(str(error).replace(str(short), str(path))) from error


def localized_poses(path: Path, session_path: Path, config: UpdateConfig) -> Array:
    """Poses (W, 4, 4) in the map of the localized keyframes of a session.

    Raises:
        MapError: as `plan_update`.
    """
    with PlaceMap.open(path) as place_map, _session(session_path, place_map) as session:
        check_session(place_map, session, same_frame=False)
        session_cameras(place_map, session, config.other_cameras)
        poses = session_poses(place_map, session, built_spacing(place_map), config.poses,
                              config.alignment, same_frame=False)
        return np.asarray(poses.T_map_cam[poses.localized])


def built_spacing(place_map: PlaceMap) -> float:
    """Spacing of the keyframes of a map when it was first built, m; updates drop some of them."""
    metres = update_note(place_map).get('spacing_m')
    if isinstance(metres, float) and 0.0 < metres < LARGEST_SPACING_M:
        return metres
    return drive_spacing(place_map)


def drive_spacing(place_map: PlaceMap) -> float:
    """Spacing of the keyframes of a map, m; keyframes within a centimetre count as one.

    1 m if no drive has two keyframes.
    """
    names = place_map.drives
    _, numbers = np.unique(names, return_inverse=True)
    spots = np.column_stack([numbers, np.round(place_map.T_map_cam[:, :3, 3], 2)])
    ids = np.unique(spots, axis=0, return_index=True)[1]
    return spacing(place_map.T_map_cam[ids], [names[i] for i in ids]) or 1.0
