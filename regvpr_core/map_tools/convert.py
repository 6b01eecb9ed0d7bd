"""Conversion of a map to another model, from its thumbnails or from the original images."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
import itertools
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from regvpr_core.config import to_mapping
from regvpr_core.errors import ConfigError, ImageError, MapError
from regvpr_core.images import read, RGB
from regvpr_core.maps.files import map_bytes, new_folder, new_map_id
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter
from regvpr_core.models.encoder import Encoder
from regvpr_core.recordings.folders import find_pictures
from regvpr_core.recordings.image_records import text_of_name
from regvpr_core.recordings.source_names import path_names
from regvpr_core.verification.local_extractor import LocalExtractor

BLOCK = 256

Pictures = Iterator[tuple[int, Callable[[], RGB | None]]]
Progress = Callable[[int, int], None]
Key = TypeVar('Key', bound=Hashable)


@dataclass(slots=True)
class ConvertReport:
    """Number of keyframes by image source. left_out: no image was available."""

    kept: int = 0
    from_originals: int = 0
    from_thumbnails: int = 0
    left_out: int = 0
    first_error: str = ''
    size_bytes: int = 0


def convert_map(
    place_map: PlaceMap,
    encoder: Encoder,
    out: Path,
    originals: Iterable[tuple[int, Callable[[], RGB | None]]] = (),
    *,
    thumbnails: bool = True,
    features: str = '',
    batch: int = 8,
    progress: Progress = lambda done, total: None,
) -> ConvertReport:
    """Write a new map with the same places and descriptors by `encoder`.

    Poses, stamps, names and thumbnails are copied; data learnt from the old descriptors are not.
    Local features are made anew. Ids are renumbered if keyframes are left out.

    Args:
        place_map: may be open with the index `none`.
        encoder: of the new model.
        out: the new folder.
        originals: ids of keyframes with their full images, in any order.
        thumbnails: describe keyframes without an original from their thumbnails; else leave them
            out.
        features: kind of local features to make, '' for none (`features_for`).
        batch: images a network pass.
        progress: called with keyframes described and in total.

    Raises:
        MapError: no keyframe could be described, one is damaged, or `out` exists or cannot be
            written.
    """
    report = ConvertReport()
    extractor = LocalExtractor(features, encoder) if features else None
    with new_folder(out) as folder, (folder.parent / 'features').open('w+b') as packed:
        # Images come in any order, rows are appended by id: they are buffered on disk.
        places: dict[int, tuple[int, int]] = {}
        shape = (max(len(place_map), 1), encoder.dimension)
        rows = np.memmap(folder.parent / 'rows.f16', dtype='<f2', mode='w+', shape=shape)
        described = np.zeros(len(place_map), dtype=bool)

        def describe(pictures: Pictures) -> int:
            before = int(described.sum())
            for ids, images in _batches(_decoded(pictures, described, report), batch):
                if extractor is None:
                    rows[ids] = encoder.describe_batch(images)
                else:
                    rows[ids], found = extractor([extractor.prepare(rgb) for rgb in images])
                    for i, data in zip(ids, found, strict=True):
                        places[i] = packed.tell(), packed.write(data or b'')
                described[ids] = True
                progress(int(described.sum()), len(place_map))
            return int(described.sum()) - before

        def local_features(i: int) -> bytes | None:
            if i not in places:
                return None
            start, size = places[i]
            packed.seek(start)
            return packed.read(size)

        report.from_originals = describe(iter(originals))
        if thumbnails:
            report.from_thumbnails = describe(_thumbnails(place_map, ~described))
        report.left_out = int((~described).sum())
        if not described.any():
            because = f' ({report.first_error})' if report.first_error else ''
            raise MapError(f'no keyframe of {place_map.path} can be described anew: no thumbnail '
                           f'is stored and no image was found{because}; give --bag SOURCE')
        manifest = replace(
            place_map.manifest, map_id=new_map_id(), model=encoder.name,
            fingerprint=encoder.fingerprint, dimension=encoder.dimension, features=features,
            compress='', preprocessing=to_mapping(encoder.preprocessing))
        ids = np.flatnonzero(described)
        with MapWriter.create(folder, manifest) as writer:
            for start in range(0, len(ids), BLOCK):
                part = ids[start:start + BLOCK]
                writer.append([
                    replace(keyframe, descriptor=np.asarray(row, np.float32),
                            local_features=local_features(int(i)))
                    for i, row, keyframe in zip(part, rows[part], place_map.keyframes(part),
                                                strict=True)])
            report.kept = len(writer)
    report.size_bytes = map_bytes(out)
    return report


def features_for(encoder: Encoder, kind: str) -> str:
    """The kind of local features of a map, where they can be made with this model; else ''."""
    if kind != 'patch':
        return kind
    try:
        encoder.describe_with_tokens(np.zeros((64, 64, 3), np.uint8))
    except ConfigError:  # a network without patch tokens
        return ''
    return kind


def source_of(place_map: PlaceMap, path: Path) -> str | None:
    """The map's name of a recording or folder, or None if it has no such source."""
    known = set(place_map.sources)
    return next((name for name in reversed(path_names(path)) if name in known), None)


class Recorded:
    """Index of keyframes by camera and stamp, for lookup from one recording.

    Only keyframes of the recording's source; of all sources if the map has none of its name.
    """

    def __init__(self, place_map: PlaceMap, path: Path) -> None:
        pairs = list(zip(place_map.cameras, place_map.stamps_ns.tolist(), strict=True))
        self._ids = _by_key(place_map, path, pairs)

    def find(self, camera: str, stamp_ns: int) -> list[int]:
        """Ids of keyframes that match an image: none, one, or several with equal keys."""
        return self._ids.get((camera, stamp_ns), [])


def from_folder(
    place_map: PlaceMap, folder: Path, unclear: set[int] | None = None
) -> Pictures:
    """Images in a folder whose names match keyframes of the map.

    Only keyframes of the folder's source; of all sources if the map has none of its name. Names
    from the map are compared with the folder's list and never opened: the map is untrusted.

    Args:
        place_map: the map.
        folder: folder of the images.
        unclear: collects keyframes that share a name and therefore match no image.

    Raises:
        BagError: the folder cannot be read.
    """
    ids = _by_key(place_map, folder, place_map.images)
    for name in find_pictures(folder).names:
        found = ids.get(text_of_name(name), [])
        if len(found) == 1:
            yield found[0], partial(read, folder / name)
        elif unclear is not None:
            unclear.update(found)


def _by_key(place_map: PlaceMap, path: Path, keys: Sequence[Key]) -> dict[Key, list[int]]:
    """Ids of the keyframes that may come from a path, by key."""
    source = source_of(place_map, path)
    ids: dict[Key, list[int]] = {}
    for i, (key, of) in enumerate(zip(keys, place_map.sources, strict=True)):
        if source is None or of == source:
            ids.setdefault(key, []).append(i)
    return ids


def _thumbnails(place_map: PlaceMap, wanted: npt.NDArray[np.bool_]) -> Pictures:
    return ((int(i), partial(place_map.thumbnail, int(i))) for i in np.flatnonzero(wanted))


def _decoded(
    pictures: Pictures, done: npt.NDArray[np.bool_], report: ConvertReport
) -> Iterator[tuple[int, RGB]]:
    taken = done.copy()
    for i, picture in pictures:
        if taken[i]:
            continue
        try:
            rgb = picture()
        except ImageError as error:
            report.first_error = report.first_error or str(error)
            continue
        if rgb is not None:
            taken[i] = True
            yield i, rgb


def _batches(
    items: Iterator[tuple[int, RGB]], size: int
) -> Iterator[tuple[list[int], list[RGB]]]:
    while group := list(itertools.islice(items, size)):
        yield [i for i, _ in group], [rgb for _, rgb in group]
