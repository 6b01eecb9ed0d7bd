"""Appends keyframes to a place map; committed keyframes survive a crash.

A keyframe is committed by its row in SQLite; its descriptor is written and synced before.
Rows of `descriptors.f16` beyond the committed keyframes, left by a crash, are never read.
"""

from collections.abc import Sequence
import contextlib
from dataclasses import dataclass
import os
from pathlib import Path
import re
import sqlite3
from typing import Any, TYPE_CHECKING
import zlib

import numpy as np
import numpy.typing as npt

from regvpr_core.errors import MapError
from regvpr_core.geometry import Array, MAX_POSITION_M, quat_xyzw
from regvpr_core.maps.files import (
    attachment_names,
    check_attachment_name,
    connect,
    create_database,
    lock_folder,
    Manifest,
    MAX_ATTACHMENT_BYTES,
    MAX_ATTACHMENTS,
    memory_map,
    note_committed,
    read_attachment,
    read_manifest,
    sync_folder,
)
from regvpr_core.maps.records import (
    COLUMNS,
    MAX_LOCAL_FEATURES_BYTES,
    MAX_NAME_CHARACTERS,
    MAX_THUMBNAIL_BYTES,
    record_crc32,
    RecordError,
)

if TYPE_CHECKING:
    from regvpr_core.images import RGB

_NO_TEXT = re.compile('[\0\ud800-\udfff]')  # undecodable bytes of a file name


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Keyframe:
    """One place.

    T_map_cam: (4, 4). covariance: (3, 3) m^2 of the position, if known. source: name of the
    recording. image: name of the image within the source. thumbnail: pixels, or an encoded
    JPEG. local_features: encoded by `verification.local_features`.
    """

    stamp_ns: int
    camera: str
    T_map_cam: Array
    descriptor: npt.NDArray[np.float32]
    source: str = ''
    image: str = ''
    covariance: Array | None = None
    thumbnail: 'RGB | bytes | None' = None
    local_features: bytes | None = None


class MapWriter:
    """Appends keyframes to a map. A map has one writer; a second one is refused."""

    def __init__(self, path: Path, manifest: Manifest, database: sqlite3.Connection,
                 lock: int) -> None:
        """Use `create` or `append_to`."""
        self.path = path
        self.manifest = manifest
        self._database = database
        self._lock = lock
        self._count = int(database.execute('SELECT COUNT(*) FROM keyframe').fetchone()[0])
        memory_map(path, self._count, manifest.dimension)  # refuses a file that is too short
        # Unbuffered: closing the file does not retry a write that a full disk refused.
        self._file = (path / 'descriptors.f16').open('r+b', buffering=0)
        self._file.truncate(self._count * manifest.dimension * 2)

    @classmethod
    def create(cls, path: Path, manifest: Manifest) -> 'MapWriter':
        """Create a new, empty map.

        Raises:
            MapError: the folder exists and is not empty, or cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            if any(path.iterdir()):
                raise MapError(f'{path} is not empty; choose a new folder for the map')
            (path / 'descriptors.f16').touch()
            create_database(path / 'map.db', manifest)
            sync_folder(path)
        except (OSError, sqlite3.Error) as error:
            raise MapError(f'cannot write map {path}: {error}') from error
        return cls.append_to(path)

    @classmethod
    def append_to(cls, path: Path) -> 'MapWriter':
        """Open a map to append to it.

        Raises:
            MapError: no map, a damaged one, or another writer has it.
        """
        with contextlib.ExitStack() as on_error:
            lock = lock_folder(path)
            on_error.callback(os.close, lock)
            database = connect(path, writable=True)
            on_error.callback(database.close)
            try:
                writer = cls(path, read_manifest(path, database), database, lock)
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
            _check(keyframe)
            row[:] = keyframe.descriptor
            if not (np.isfinite(row).all() and row.any()):
                raise MapError(f'the descriptor of the keyframe at {keyframe.stamp_ns} ns has no '
                               f'direction; try the precision fp32')
        records = [_record(self._count + i, keyframe, row.tobytes())
                   for i, (keyframe, row) in enumerate(zip(keyframes, rows, strict=True))]
        try:
            self._write(memoryview(rows.tobytes()), self._count * rows.shape[1] * 2)
            with self._database:
                self._database.executemany(
                    f'INSERT INTO keyframe ({", ".join(COLUMNS)}) '
                    f'VALUES ({", ".join("?" * len(COLUMNS))})', records)
        except (OSError, sqlite3.Error) as error:
            raise MapError(f'cannot append to map {self.path}: {error}; the keyframes committed '
                           f'before ({self._count}) are safe') from error
        self._count += len(keyframes)
        with contextlib.suppress(OSError):  # optional; helps `map verify`
            note_committed(self._lock, self._count)

    def attach(self, name: str, value: bytes) -> None:
        """Store an attachment, replacing one of the same name; as crash-safe as keyframes.

        Raises:
            MapError: the name is invalid, the value is larger than 256 MiB, the map has 64 others,
                or the disk is full.
        """
        check_attachment_name(name)
        if len(value) > MAX_ATTACHMENT_BYTES:
            raise MapError(f'attachment {name!r} has {len(value)} bytes; a map takes at most '
                           f'{MAX_ATTACHMENT_BYTES}')
        try:
            if len({*attachment_names(self._database), name}) > MAX_ATTACHMENTS:
                raise MapError(f'map {self.path} has {MAX_ATTACHMENTS} attachments, the most it '
                               f'takes')
            with self._database:
                self._database.execute('INSERT OR REPLACE INTO attachment VALUES (?, ?, ?)',
                                       (name, value, zlib.crc32(value)))
            self._checkpoint()
        except sqlite3.Error as error:
            raise MapError(f'cannot attach {name!r} to map {self.path}: {error}; what was there '
                           f'before is safe') from error

    def attachment(self, name: str) -> bytes | None:
        """The attachment of a name, or None.

        Raises:
            MapError: it has changed since it was written.
        """
        return read_attachment(self.path, self._database, name)

    def close(self) -> None:
        """Release the map to other writers."""
        with contextlib.suppress(sqlite3.Error):
            self._checkpoint()
        self._database.close()
        self._file.close()
        os.close(self._lock)

    def __enter__(self) -> 'MapWriter':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checkpoint(self) -> None:
        """Move committed data from the write-ahead log into the database."""
        self._database.execute('PRAGMA wal_checkpoint(TRUNCATE)')

    def _write(self, data: memoryview, offset: int) -> None:
        """Write rows and wait until they are on the disk."""
        while data:
            written = os.pwrite(self._file.fileno(), data, offset)
            data, offset = data[written:], offset + written
        os.fsync(self._file.fileno())


def _check(keyframe: Keyframe) -> None:
    """Refuse a keyframe that could not be read back."""
    at = f'the keyframe at {keyframe.stamp_ns} ns'
    if not np.isfinite(keyframe.T_map_cam).all():
        raise MapError(f'the pose of {at} is not finite')
    if np.abs(keyframe.T_map_cam[:3, 3]).max() > MAX_POSITION_M:
        raise MapError(f'the pose of {at} is more than {MAX_POSITION_M:.0e} m away')
    covariance = keyframe.covariance
    if covariance is not None and (np.shape(covariance) != (3, 3)
                                   or not np.isfinite(covariance).all()):
        raise MapError(f'the covariance of {at} is not (3, 3) finite numbers')
    for text in (keyframe.camera, keyframe.source, keyframe.image):
        if len(text) > MAX_NAME_CHARACTERS or _NO_TEXT.search(text):
            raise MapError(f'{at} has a name that cannot be kept, {text[:40]!r}; expected UTF-8 '
                           f'text of at most {MAX_NAME_CHARACTERS} characters')
    if keyframe.local_features is not None \
            and len(keyframe.local_features) > MAX_LOCAL_FEATURES_BYTES:
        raise MapError(f'the local features of {at} have {len(keyframe.local_features)} bytes; '
                       f'at most {MAX_LOCAL_FEATURES_BYTES} can be kept')


def _record(number: int, keyframe: Keyframe, row: bytes) -> tuple[Any, ...]:
    """Values of a keyframe's database row, in the order of `COLUMNS`."""
    T, covariance, jpeg = keyframe.T_map_cam, keyframe.covariance, keyframe.thumbnail
    if jpeg is not None and not isinstance(jpeg, bytes):
        from regvpr_core.images import encode_jpeg  # here: OpenCV is slow to load

        jpeg = encode_jpeg(jpeg)
    if jpeg is not None and len(jpeg) > MAX_THUMBNAIL_BYTES:
        raise MapError(f'the thumbnail of the keyframe at {keyframe.stamp_ns} ns has {len(jpeg)} '
                       f'bytes; at most {MAX_THUMBNAIL_BYTES} can be kept')
    features = keyframe.local_features
    small = (
        number, int(keyframe.stamp_ns), keyframe.camera,
        # SQLite returns 0.0 for -0.0, which would change the checksum.
        *(float(v) + 0.0 for v in (*T[:3, 3], *quat_xyzw(T))),
        None if covariance is None else np.asarray(covariance, dtype='<f8').tobytes(),
        keyframe.source, keyframe.image, zlib.crc32(row),
        None if jpeg is None else zlib.crc32(jpeg),
        None if features is None else zlib.crc32(features))
    try:
        return (*small, record_crc32(small), jpeg, features)
    except RecordError as error:
        raise MapError(f'the keyframe at {keyframe.stamp_ns} ns cannot be kept: '
                       f'{error}') from error
