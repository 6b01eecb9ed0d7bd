"""Merge maps of one model in the frame of the first."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from regvpr_core.errors import MapError
from regvpr_core.geometry import Array, quat_xyzw
from regvpr_core.maps.files import Manifest, map_bytes, new_folder, new_map_id
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.recordings.camera_conflicts import conflict

BLOCK = 256

Progress = Callable[[int, int], None]


@dataclass(slots=True)
class MergeReport:
    """Summary of a merge. notes: data that could not be kept."""

    keyframes: dict[str, int] = field(default_factory=dict)
    cameras: list[str] = field(default_factory=list)
    size_bytes: int = 0
    notes: list[str] = field(default_factory=list)


def merge_maps(
    maps: Sequence[PlaceMap],
    transforms: Sequence[Array],
    out: Path,
    *,
    rename_cameras: bool = False,
    progress: Progress = lambda done, total: None,
) -> MergeReport:
    """Write the keyframes of all maps to a new one; ids are renumbered, sources are kept.

    Args:
        maps: two or more, of one model; may be open with the index `none`.
        transforms: `T_first_other` (4, 4) of each map except the first.
        out: the new folder.
        rename_cameras: rename a camera of a later map to `NAME_2` if its calibration differs; else
            such maps are refused.
        progress: called with keyframes done and in total.

    Raises:
        MapError: a map is given twice, the maps are of different models or projections, two
            cameras share a name, a keyframe is damaged, or `out` exists or cannot be written.
    """
    first = maps[0]
    paths = [place_map.path.resolve() for place_map in maps]
    for path in paths:
        if paths.count(path) > 1:
            raise MapError(f'map {path} is given twice')
    for other in maps[1:]:
        check_model(first, other)
    report = MergeReport()
    names = _camera_names(maps, rename_cameras)
    manifest = _merged_manifest(maps, transforms, names, report)
    total, done = sum(map(len, maps)), 0
    with new_folder(out) as folder, MapWriter.create(folder, manifest) as writer:
        for place_map, T_first_map, renamed in zip(
                maps, [np.eye(4), *transforms], names, strict=True):
            for start in range(0, len(place_map), BLOCK):
                ids = range(start, min(start + BLOCK, len(place_map)))
                writer.append([_moved(keyframe, T_first_map, renamed)
                               for keyframe in place_map.keyframes(ids)])
                done += len(ids)
                progress(done, total)
            report.keyframes[str(place_map.path)] = len(place_map)
        _attachments(maps, writer, report)
    report.cameras = sorted({renamed.get(camera, camera)
                             for place_map, renamed in zip(maps, names, strict=True)
                             for camera in place_map.cameras})
    report.size_bytes = map_bytes(out)
    return report


def check_model(first: PlaceMap, other: PlaceMap) -> None:
    """Refuse maps whose descriptors cannot be compared.

    Raises:
        MapError: the models or the projections differ.
    """
    a, b = first.manifest, other.manifest
    if a.fingerprint == b.fingerprint and (
            a.compress != b.compress or first.attachment('pca') != other.attachment('pca')):
        raise MapError(
            f'{first.path} ({a.compress or "not compressed"}) and {other.path} '
            f'({b.compress or "not compressed"}) do not compare: a PCA is learnt anew for each '
            f'map; merge the maps that they were made from, then compress the result')
    if (a.fingerprint, a.dimension) != (b.fingerprint, b.dimension):
        raise MapError(
            f'{first.path} was built with {a.model} ({a.fingerprint[:12]}), {other.path} with '
            f'{b.model} ({b.fingerprint[:12]}); bring one to the model of the other by '
            f'`regvpr map convert {other.path} --model {a.model} --out NEW`')
    if a.features and b.features and a.features != b.features:
        raise MapError(f'{first.path} holds local features {a.features!r}, {other.path} '
                       f'{b.features!r}; build one again with those of the other')


def _camera_names(maps: Sequence[PlaceMap], rename: bool) -> list[dict[str, str]]:
    """New camera names for each map; a camera without calibration is compatible with any."""
    known: dict[str, tuple[PlaceMap, str]] = {}
    taken = {camera for place_map in maps
             for camera in {*place_map.cameras, *place_map.manifest.extrinsics}}
    names = []
    for number, place_map in enumerate(maps, 1):
        renamed: dict[str, str] = {}
        for camera in sorted({*place_map.cameras, *place_map.manifest.extrinsics}):
            if camera not in known:
                known[camera] = place_map, camera
                continue
            other = known[camera][0]
            differs = conflict(camera, other.manifest, place_map.manifest)
            if not differs:
                continue
            if not rename:
                raise MapError(f'camera {camera!r} has other {differs} in {place_map.path} than '
                               f'in {other.path}; --rename-cameras keeps both under two names')
            new = f'{camera}_{number}'
            while new in taken:
                new += '_'
            taken.add(new)
            renamed[camera] = new
        names.append(renamed)
    return names


def _merged_manifest(maps: Sequence[PlaceMap], transforms: Sequence[Array],
                     names: Sequence[dict[str, str]], report: MergeReport) -> Manifest:
    extrinsics: dict[str, list[float]] = {}
    intrinsics: dict[str, dict[str, Any]] = {}
    sources: dict[str, None] = {}
    for place_map, renamed in zip(maps, names, strict=True):
        for kept, given in ((extrinsics, place_map.manifest.extrinsics),
                            (intrinsics, place_map.manifest.intrinsics)):
            for camera, values in given.items():
                kept.setdefault(renamed.get(camera, camera), values)  # type: ignore[arg-type]
        sources |= dict.fromkeys(place_map.manifest.sources)
    first = maps[0].manifest
    features = {m.manifest.features for m in maps}
    if len(features) > 1:
        report.notes.append('not all maps hold local features: places of the others cannot be '
                            'verified')
    for other in maps[1:]:
        if other.manifest.map_frame != first.map_frame:
            report.notes.append(f'{other.path} was in frame {other.manifest.map_frame!r}, and is '
                                f'in {first.map_frame!r} now')
    merged = [{'map_id': m.manifest.map_id,
               'T_first_map': [*map(float, T[:3, 3]), *map(float, quat_xyzw(T))]}
              for m, T in zip(maps, [np.eye(4), *transforms], strict=True)]
    return replace(first, map_id=new_map_id(), extrinsics=extrinsics, intrinsics=intrinsics,
                   sources=list(sources), features=max(features),
                   config={**first.config, 'merged': merged})


def _moved(keyframe: Keyframe, T: Array, renamed: dict[str, str]) -> Keyframe:
    covariance = keyframe.covariance
    return replace(
        keyframe, T_map_cam=T @ keyframe.T_map_cam,
        camera=renamed.get(keyframe.camera, keyframe.camera),
        covariance=None if covariance is None else T[:3, :3] @ covariance @ T[:3, :3].T)


def _attachments(maps: Sequence[PlaceMap], writer: MapWriter, report: MergeReport) -> None:
    """Keep the common projection; other learnt attachments are computed again."""
    if writer.manifest.compress:
        projection = maps[0].attachment('pca')
        if projection is not None:
            writer.attach('pca', projection)
    if any(place_map.attachment('calibration') is not None for place_map in maps):
        report.notes.append('the calibration of the single maps is not kept: it is learnt again '
                            'from the merged map')
