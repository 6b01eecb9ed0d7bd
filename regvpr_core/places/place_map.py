"""A place map opened to be read: poses in memory, descriptors memory-mapped, search."""

import contextlib
from pathlib import Path
import shutil
import sqlite3
from typing import Any
import zlib

import numpy as np
import numpy.typing as npt

from regvpr_core.errors import MapError
from regvpr_core.geometry import pose_matrix
from regvpr_core.images import decode, RGB
from regvpr_core.places.index import ExactIndex
from regvpr_core.places.map_files import (
    connect,
    Manifest,
    MAX_KEYFRAMES,
    memory_map,
    read_manifest,
)

LOAD_ROWS = 4096

CENTRE_PRIOR = 10.0
"""Keyframes' worth of a mean of zero in a map's mean descriptor."""

Float32 = npt.NDArray[np.float32]


class PlaceMap:
    """An open map. Readers may be many, also beside a writer; writers one."""

    def __init__(self, path: Path, manifest: Manifest, database: sqlite3.Connection) -> None:
        """Used by `open`, `create` and `append`, which read or write the folder first."""
        self.path = path
        self.manifest = manifest
        self._database = database
        self._load()

    @classmethod
    def open(cls, path: str | Path, fingerprint: str | None = None) -> 'PlaceMap':
        """Open a map to read it.

        Args:
            path: the map's folder.
            fingerprint: of the model that will query it; None accepts any.

        Raises:
            MapError: no map, a damaged one, one of a newer format or of another model; says
                what to do.
        """
        path = Path(path)
        database = connect(path, writable=False)
        try:
            manifest = read_manifest(path, database)
            if fingerprint is not None and manifest.fingerprint != fingerprint:
                raise MapError(
                    f'map {path} was built with {manifest.model} '
                    f'({manifest.fingerprint[:12]}), not with the model in use '
                    f'({fingerprint[:12]}); set model to {manifest.model}, or build the map again')
            return cls(path, manifest, database)
        except BaseException:
            database.close()
            raise

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def map_id(self) -> str:
        """Identity of this map, kept for its life."""
        return self.manifest.map_id

    def search(
        self, descriptor: Float32, k: int, centre: Float32 | None = None
    ) -> tuple[Float32, npt.NDArray[np.int64]]:
        """The keyframes most similar to an image.

        Args:
            descriptor: (D,) of the image.
            k: how many.
            centre: (D,) mean descriptor of the images like this one; None takes the map's.

        Returns:
            similarities (cosine of the centred descriptors) and ids, best first, min(k, N) each.

        Raises:
            MapError: the descriptor has another length than the map's.
        """
        if descriptor.shape != self.centre.shape:
            raise MapError(f'a descriptor of shape {descriptor.shape} cannot be searched in a map '
                           f'of {self.manifest.dimension} numbers a place')
        query = unit(descriptor - (self.centre if centre is None else centre))
        similarities, ids = self._index.search(query[None], k)
        return similarities[0], ids[0]

    def centred(self, ids: npt.NDArray[np.int64]) -> Float32:
        """Centred descriptors (len(ids), D) of keyframes, unit rows."""
        rows = np.asarray(self._rows[ids], dtype=np.float32)
        return unit(unit(rows) - self.centre)

    def thumbnail(self, keyframe_id: int) -> RGB | None:
        """The stored picture of a keyframe, if one is."""
        row = self._database.execute(
            'SELECT thumbnail FROM keyframe WHERE id = ?', (int(keyframe_id),)).fetchone()
        if row is None or row[0] is None:
            return None
        return decode(row[0], f'thumbnail {keyframe_id} of {self.path}')

    def descriptors(self, start: int = 0, stop: int | None = None) -> Float32:
        """Descriptors (stop - start, D) of keyframes, unit rows."""
        return unit(np.asarray(self._rows[start:stop], dtype=np.float32))

    def copy_to(self, path: Path) -> None:
        """Write this map to a new folder, which appears only when it is whole.

        Raises:
            MapError: the folder exists or cannot be written.
        """
        if path.exists():
            raise MapError(f'{path} exists; choose a new folder for the map')
        partial = path.with_name(f'.{path.name}.partial')
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            with contextlib.closing(sqlite3.connect(partial / 'map.db')) as copy:
                self._database.backup(copy)
                # A writer may have gone on since this map was opened.
                copy.execute('DELETE FROM keyframe WHERE id >= ?', (len(self),))
                copy.commit()
            (partial / 'descriptors.f16').write_bytes(self._rows.tobytes())
            partial.replace(path)
        except (OSError, sqlite3.Error) as error:
            raise MapError(f'cannot write map {path}: {error}') from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def close(self) -> None:
        """Release the database."""
        self._database.close()

    def __enter__(self) -> 'PlaceMap':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load(self) -> None:
        """Read poses and stamps, and check the descriptors against them."""
        try:
            rows = self._database.execute(
                'SELECT id, stamp_ns, camera, x, y, z, qx, qy, qz, qw, source, descriptor_crc32 '
                'FROM keyframe ORDER BY id LIMIT ?', (MAX_KEYFRAMES,)).fetchall()
            self._check_rows(rows)
            self.stamps_ns = np.array([row[1] for row in rows], dtype=np.int64)
            self.cameras = [str(row[2]) for row in rows]
            values = np.array([row[3:10] for row in rows], dtype=np.float64).reshape(-1, 7)
            self.T_map_cam = pose_matrix(values[:, :3], values[:, 3:])
            self.sources = [str(row[10]) for row in rows]
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            raise MapError(f'map {self.path} is damaged: {error}') from error
        self._rows = memory_map(self.path, len(rows), self.manifest.dimension)
        total = np.zeros(self.manifest.dimension)
        for start in range(0, len(rows), LOAD_ROWS):
            block = self._rows[start:start + LOAD_ROWS]
            for offset, row in enumerate(block):
                if zlib.crc32(row.tobytes()) != rows[start + offset][11]:
                    raise MapError(f'map {self.path} is damaged: the descriptor of keyframe '
                                   f'{start + offset} has changed; build the map again')
            total += self.descriptors(start, start + len(block)).sum(axis=0, dtype=np.float64)
        if not np.isfinite(total).all():
            raise MapError(f'map {self.path} is damaged: a descriptor in it has no direction; '
                           f'build the map again')
        # What all images of the map share says nothing about the place, so it is taken off. A few
        # keyframes say little about what is shared: their mean counts for less.
        self.centre: Float32 = (total / (len(rows) + CENTRE_PRIOR)).astype(np.float32)
        self._index = ExactIndex(self.manifest.dimension)
        for start in range(0, len(rows), LOAD_ROWS):
            ids = np.arange(start, min(start + LOAD_ROWS, len(rows)))
            self._index.add(self.centred(ids))

    def _check_rows(self, rows: list[tuple[Any, ...]]) -> None:
        for expected, row in enumerate(rows):
            if row[0] != expected:
                raise MapError(f'map {self.path} is damaged: keyframe {expected} is missing')


def unit(rows: npt.NDArray[Any]) -> Float32:
    """Vectors (..., D) scaled to length 1; NaN where there is no direction."""
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)
