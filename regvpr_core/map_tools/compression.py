"""Compression of map descriptors, with the loss in recall."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Float32, Ids
from regvpr_core.errors import MapError
from regvpr_core.maps.files import new_folder, new_map_id
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter
from regvpr_core.search.projection import learn, Projection, target

BLOCK = 256

SAMPLE_A_DIRECTION, LEAST_SAMPLE = 4, 2048
"""Number of keyframes to learn from, per kept direction; they are spread over the map."""

ASKED = 500
"""Number of query keyframes for the report, spread over the map."""

PASS_NS = 60_000_000_000
"""Keyframes of one source closer in time than this, in seconds, belong to one pass. They are near
duplicates, which any descriptor finds."""

ENOUGH = 20
"""Recall is measured across passes if at least this many keyframes have a neighbour there."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressReport:
    """Loss by compression, measured leave-one-out within the map.

    dimension_before, dimension_after: length of a descriptor. other_passes: whether queries are
    the keyframes with a neighbour of another pass and only other passes are searched; if the map
    has too few of these, all keyframes. asked: number of queries. recall_before, recall_after:
    share of queries whose best match is within `radius_m`. same: share of queries whose best
    match did not change. size_bytes_before, size_bytes_after: of `descriptors.f16`. The
    directions were learnt from the same keyframes, so another drive may lose more.
    """

    keyframes: int
    dimension_before: int
    dimension_after: int
    other_passes: bool
    asked: int
    radius_m: float
    recall_before: float
    recall_after: float
    same: float
    size_bytes_before: int
    size_bytes_after: int


def compress_map(path: Path, compress: str, out: Path, *, radius_m: float = 5.0, map_id: str = '',
                 finish: Callable[[MapWriter], None] = lambda writer: None,
                 progress: Progress = lambda done, total: None) -> CompressReport:
    """Write a map whose descriptors are whitened and shortened by PCA learnt from it.

    Args:
        path: the map; it is not changed.
        compress: `pca:d` with the new length d.
        out: the new folder, which appears only once it is complete.
        radius_m: largest distance of keyframes of one place, for the report.
        map_id: identifier of the new map; '' creates one.
        finish: called with the writer of the new map at the end.
        progress: called with keyframes done and in total.

    Raises:
        MapError: the map is compressed already or has too few keyframes, or `out` exists or
            cannot be written.
    """
    size = target(compress)
    with PlaceMap.open(path, index='none') as place_map:
        manifest = place_map.manifest
        if manifest.compress:
            raise MapError(f'map {path} is compressed already ({manifest.compress}); compress the '
                           f'map it was made from')
        # 1. Learn the projection.
        count = min(len(place_map), max(LEAST_SAMPLE, SAMPLE_A_DIRECTION * size))
        if not count:
            raise MapError(f'map {path} holds no keyframe to learn {size} directions from')
        projection = learn(_read(place_map, _spread(len(place_map), count)), size)
        # 2. Write all keyframes, and the attachments that do not depend on the descriptors.
        compressed = replace(manifest, dimension=size, compress=compress,
                             map_id=map_id or new_map_id())
        with new_folder(out) as folder, MapWriter.create(folder, compressed) as writer:
            _append(place_map, projection.apply, writer, progress)
            writer.attach('pca', projection.to_bytes())
            finish(writer)
            # 3. Compare the neighbours before and after, then rename the folder.
            with PlaceMap.open(folder, index='none') as shorter:
                return _compare(place_map, shorter, projection, radius_m)


def compress_alike(session: PlaceMap, place_map: PlaceMap, out: Path) -> None:
    """Write a session with its descriptors in the form that they have in a compressed map.

    Args:
        session: open, of the model of the map; it is not compressed.
        place_map: open; its projection is used.
        out: the new folder.

    Raises:
        MapError: the descriptors have another length than the model's, or `out` cannot be written.
    """
    manifest = replace(session.manifest, dimension=place_map.manifest.dimension,
                       compress=place_map.manifest.compress)
    with new_folder(out) as folder, MapWriter.create(folder, manifest) as writer:
        _append(session, place_map.project, writer)
        projection = place_map.attachment('pca')
        if projection is not None:
            writer.attach('pca', projection)


def _append(place_map: PlaceMap, shorten: Callable[[Float32], Float32], writer: MapWriter,
            progress: Progress = lambda done, total: None) -> None:
    """Write all keyframes of a map with shorter descriptors."""
    for start in range(0, len(place_map), BLOCK):
        writer.append([
            replace(keyframe, descriptor=shorten(keyframe.descriptor))
            for keyframe in place_map.keyframes(
                range(start, min(start + BLOCK, len(place_map))))])
        progress(len(writer), len(place_map))


def _compare(before: PlaceMap, after: PlaceMap, projection: Projection,
             radius_m: float) -> CompressReport:
    asked = _spread(len(before), ASKED)
    positions = before.T_map_cam[:, :3, 3]
    left_out = _passes(before, asked)
    seen_again = np.array([bool((np.linalg.norm(positions[~out] - positions[i], axis=1)
                                 <= radius_m).any())
                           for i, out in zip(asked, left_out, strict=True)], dtype=bool)
    other_passes = int(seen_again.sum()) >= ENOUGH
    if other_passes:
        asked, left_out = asked[seen_again], left_out[seen_again]
    else:
        left_out = np.arange(len(before)) == asked[:, None]
    first = [_neighbours(place_map, asked, left_out) for place_map in (before, after)]
    recalls = [float((np.linalg.norm(positions[ids] - positions[asked], axis=1)
                      <= radius_m).mean()) for ids in first]
    dimension, shorter = before.manifest.dimension, after.manifest.dimension
    return CompressReport(
        keyframes=len(before), dimension_before=dimension, dimension_after=shorter,
        other_passes=other_passes, asked=len(asked), radius_m=radius_m,
        recall_before=recalls[0], recall_after=recalls[1],
        same=float((first[0] == first[1]).mean()),
        size_bytes_before=2 * dimension * len(before), size_bytes_after=2 * shorter * len(before))


def _passes(place_map: PlaceMap, asked: Ids) -> npt.NDArray[np.bool_]:
    """Mask (A, N) of keyframes in the same pass as each of `asked`, including itself."""
    numbers: dict[str, int] = {}
    source = np.array([numbers.setdefault(name, len(numbers)) for name in place_map.sources])
    stamps = place_map.stamps_ns.astype(np.float64)
    return np.array([(source == source[i]) & (np.abs(stamps - stamps[i]) < PASS_NS)
                     for i in asked]).reshape(len(asked), len(place_map))


def _neighbours(place_map: PlaceMap, asked: Ids, left_out: npt.NDArray[np.bool_]) -> Ids:
    """The most similar keyframe of each of `asked`, except the masked ones, as in a search."""
    total = np.zeros(place_map.manifest.dimension)
    for start in range(0, len(place_map), BLOCK):
        total += place_map.descriptors(start, start + BLOCK).sum(axis=0, dtype=np.float64)
    centre = (total / len(place_map)).astype(np.float32)
    queries = _read(place_map, asked) - centre
    best = np.full(len(asked), -np.inf)
    ids = np.full(len(asked), -1, dtype=np.int64)
    for start in range(0, len(place_map), BLOCK):
        rows = place_map.descriptors(start, start + BLOCK) - centre
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        products = np.where(left_out[:, start:start + len(rows)], -np.inf, queries @ rows.T)
        column = products.argmax(axis=1)
        value = products[np.arange(len(asked)), column]
        ids[value > best] = start + column[value > best]
        best = np.maximum(best, value)
    return ids


def _read(place_map: PlaceMap, ids: Ids) -> Float32:
    rows = np.concatenate([place_map.descriptors(int(i), int(i) + 1) for i in ids])
    if not np.isfinite(rows).all():
        raise MapError(f'map {place_map.path} is damaged: a descriptor in it has no direction; '
                       f'`regvpr map verify {place_map.path}` says which')
    return rows


def _spread(total: int, count: int) -> Ids:
    return np.unique(np.linspace(0, total - 1, min(total, count)).astype(np.int64)) if total \
        else np.zeros(0, np.int64)
