"""Appending keyframes to a place map, so that a crash at any moment loses none.

A keyframe is committed when its row in SQLite is: its descriptor was written and synced before.
What a crash left behind in `descriptors.f16` beyond the committed rows is never read.
"""

from collections.abc import Sequence
import contextlib
from dataclasses import dataclass
import fcntl
import os
from pathlib import Path
import sqlite3
from typing import Any
import zlib

import numpy as np
import numpy.typing as npt

from regvpr_core.errors import MapError
from regvpr_core.geometry import Array, quat_xyzw
from regvpr_core.images import encode_jpeg, RGB
from regvpr_core.places.map_files import (
    connect,
    Manifest,
    manifest_json,
    memory_map,
    read_manifest,
    SCHEMA,
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Keyframe:
    """One place. T_map_cam: (4, 4). covariance: (3, 3) m^2 of the position, where known."""

    stamp_ns: int
    camera: str
    T_map_cam: Array
    descriptor: npt.NDArray[np.float32]
    source: str = ''
    covariance: Array | None = None
    thumbnail: RGB | None = None


class MapWriter:
    """Appends keyframes to a map. One at a time: a second writer is refused."""

    def __init__(self, path: Path, manifest: Manifest, database: sqlite3.Connection,
                 lock: int) -> None:
        """Used by `create` and `append_to`."""
        self.path = path
        self.manifest = manifest
        self._database = database
        self._lock = lock
        self._count = int(database.execute('SELECT COUNT(*) FROM keyframe').fetchone()[0])
        memory_map(path, self._count, manifest.dimension)  # refuses a file that is too short
        self._file = (path / 'descriptors.f16').open('r+b')
        self._file.truncate(self._count * manifest.dimension * 2)

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> 'MapWriter':
        """Make a new, empty map.

        Raises:
            MapError: the folder exists and is not empty, or cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise MapError(f'{path} is not empty; choose a new folder for the map')
            (path / 'descriptors.f16').touch()
            with contextlib.closing(sqlite3.connect(path / 'map.db')) as database:
                database.execute('PRAGMA journal_mode=WAL')
                database.executescript(SCHEMA)
                database.execute('INSERT INTO manifest VALUES (?)', (manifest_json(manifest),))
                database.commit()
        except (OSError, sqlite3.Error) as error:
            raise MapError(f'cannot write map {path}: {error}') from error
        return cls.append_to(path)

    @classmethod
    def append_to(cls, path: Path) -> 'MapWriter':
        """Open a map to append to it.

        Raises:
            MapError: no map, a damaged one, or another writer has it.
        """
        try:
            lock = os.open(path / 'map.lock', os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise MapError(f'cannot write map {path}: {error.strerror}') from error
        with contextlib.ExitStack() as on_error:
            on_error.callback(os.close, lock)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                database = connect(path, writable=True)
                on_error.callback(database.close)
                writer = cls(path, read_manifest(path, database), database, lock)
            except BlockingIOError as error:
                raise MapError(f'map {path} is being written by another process') from error
            except (OSError, sqlite3.Error) as error:
                raise MapError(f'cannot write map {path}: {error}') from error
            on_error.pop_all()
        return writer

    def __len__(self) -> int:
        return self._count

    def append(self, keyframes: Sequence[Keyframe]) -> None:
        """Commit keyframes, all or none; afterwards they survive a crash and a power cut.

        Raises:
            MapError: a descriptor has another length or no direction, a pose is not finite, or
                the disk is full.
        """
        rows = np.zeros((len(keyframes), self.manifest.dimension), dtype='<f2')
        for row, keyframe in zip(rows, keyframes, strict=True):
            if keyframe.descriptor.shape != (self.manifest.dimension,):
                raise MapError(f'a descriptor of shape {keyframe.descriptor.shape} does not fit a '
                               f'map of {self.manifest.dimension} numbers a place')
            if not np.isfinite(keyframe.T_map_cam).all():
                raise MapError(f'the pose of the keyframe at {keyframe.stamp_ns} ns is not finite')
            row[:] = keyframe.descriptor
            if not (np.isfinite(row).all() and row.any()):
                raise MapError(f'the descriptor of the keyframe at {keyframe.stamp_ns} ns has no '
                               f'direction; try the precision fp32')
        records = [self._record(self._count + i, keyframe, row.tobytes())
                   for i, (keyframe, row) in enumerate(zip(keyframes, rows, strict=True))]
        try:
            self._file.seek(self._count * rows.shape[1] * 2)
            self._file.write(rows.tobytes())
            self._file.flush()
            os.fsync(self._file.fileno())
            with self._database:
                self._database.executemany(
                    f'INSERT INTO keyframe VALUES ({",".join("?" * 14)})', records)
        except (OSError, sqlite3.Error) as error:
            raise MapError(f'cannot append to map {self.path}: {error}; the keyframes committed '
                           f'before ({self._count}) are safe') from error
        self._count += len(keyframes)

    def close(self) -> None:
        """Release the map to other writers."""
        with contextlib.suppress(sqlite3.Error):
            self._database.execute('PRAGMA wal_checkpoint(TRUNCATE)')
        self._database.close()
        self._file.close()
        os.close(self._lock)

    def __enter__(self) -> 'MapWriter':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _record(self, number: int, keyframe: Keyframe, row: bytes) -> tuple[Any, ...]:
        T = keyframe.T_map_cam
        covariance = keyframe.covariance
        return (
            number, int(keyframe.stamp_ns), keyframe.camera,
            *(float(v) for v in T[:3, 3]), *(float(v) for v in quat_xyzw(T)),
            None if covariance is None else np.asarray(covariance, dtype='<f8').tobytes(),
            keyframe.source, zlib.crc32(row),
            None if keyframe.thumbnail is None else encode_jpeg(keyframe.thumbnail))
