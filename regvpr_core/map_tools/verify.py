"""Verification of a map: reads all its data and reports what is lost and what still works."""

from collections.abc import Callable, Iterator
import contextlib
from dataclasses import replace
from pathlib import Path
import sqlite3
from typing import Any

import numpy as np
import numpy.typing as npt

from regvpr_core.errors import MapError, RegvprError
from regvpr_core.geometry import pose_matrix
from regvpr_core.map_tools.verify_report import (
    DESCRIPTOR,
    FEATURES,
    MISSING,
    PICTURE,
    POSE,
    runs,
    VerifyReport,
)
from regvpr_core.maps.files import (
    attachment_names,
    check_attachment_name,
    check_file,
    committed,
    connect,
    DATABASE_FILES,
    Manifest,
    MAX_KEYFRAMES,
    memory_map,
    new_folder,
    new_map_id,
    no_map,
    read_attachment,
    read_manifest,
)
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.records import (
    blob,
    changed_descriptors,
    checked,
    MAX_LOCAL_FEATURES_BYTES,
    MAX_THUMBNAIL_BYTES,
    RecordError,
    SELECT_SMALL,
    SMALL,
)
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.search.index_file import FILE_NAME, index_note
from regvpr_core.search.projection import read_projection

__all__ = ['VerifyReport', 'runs', 'salvage', 'verify']

BLOCK = 1024
MAX_GAPS = 1_000_000

_BLOBS = ((PICTURE, 'thumbnail', MAX_THUMBNAIL_BYTES),
          (FEATURES, 'local_features', MAX_LOCAL_FEATURES_BYTES))
_FILES = {*DATABASE_FILES, 'descriptors.f16', 'map.lock', FILE_NAME}

Progress = Callable[[int, int], None]


def verify(path: Path, progress: Progress = lambda done, total: None) -> VerifyReport:
    """Check a whole map without changing it; a writer may be active.

    Args:
        path: the map's folder.
        progress: called with keyframes done and in total.

    Raises:
        MapError: the folder is not a map.
    """
    report = VerifyReport()
    if not path.is_dir():
        raise MapError(no_map(path))
    report.notes += [f'{name} is no part of a map' for name in _strangers(path)]
    with contextlib.ExitStack() as stack:
        try:
            at_least = committed(path)
            check_file(path / 'descriptors.f16')
            database = connect(path, writable=False)
            stack.callback(database.close)
            database.execute('BEGIN')  # a consistent snapshot beside a writer
            manifest = read_manifest(path, database)
        except (MapError, sqlite3.Error) as error:
            report.problems.append(str(error))
            report.refusal = str(error)
            return report
        _check_pages(database, report)
        _check_keyframes(path, database, manifest, at_least, report, progress)
        _check_attachments(path, database, manifest, report)
    # A damaged index is rebuilt from the descriptors: nothing is lost.
    note = index_note(path)
    if note:
        report.notes.append(note)
    _try_to_open(path, report)
    return report


def salvage(path: Path, out: Path, report: VerifyReport) -> int:
    """Write the sound keyframes of a damaged map to a new one.

    Args:
        path: the damaged map.
        out: the new folder.
        report: result of `verify`.

    Returns:
        Number of keyframes in the new map.

    Raises:
        MapError: no keyframe is intact, or `out` exists or cannot be written.
    """
    lost = set(report.lost)
    keep = [i for i in range(report.keyframes) if i not in lost]
    if not keep:
        raise MapError(f'nothing of map {path} can be saved: '
                       f'{report.refusal or "it holds no keyframe"}')
    with contextlib.closing(connect(path, writable=False)) as database:
        manifest = read_manifest(path, database)
        rows = memory_map(path, min(keep[-1] + 1, _rows_there(path, manifest)),
                          manifest.dimension)
        with new_folder(out) as folder, MapWriter.create(
                folder, replace(manifest, map_id=new_map_id())) as writer:
            for start in range(0, len(keep), BLOCK):
                writer.append([_keyframe(database, rows, i, report)
                               for i in keep[start:start + BLOCK]])
            for name in _attachments(database):
                with contextlib.suppress(MapError):
                    value = read_attachment(path, database, name)
                    if value is not None:
                        writer.attach(name, value)
            return len(writer)


def _strangers(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir() if file.name not in _FILES)[:20]


def _check_pages(database: sqlite3.Connection, report: VerifyReport) -> None:
    try:
        for (line,) in database.execute('PRAGMA integrity_check(20)'):
            if line != 'ok':
                report.problems.append(f'map.db: {" ".join(str(line).split())}'[:300])
    except sqlite3.Error as error:
        report.problems.append(f'map.db: {error}')


def _check_keyframes(
    path: Path, database: sqlite3.Connection, manifest: Manifest, at_least: int,
    report: VerifyReport, progress: Progress,
) -> None:
    """Check records, descriptors, thumbnails and local features."""
    there = _rows_there(path, manifest)
    report.keyframes = _expected(database, there, at_least, report)
    if not (path / 'descriptors.f16').is_file() or there < report.keyframes:
        report.problems.append(f'descriptors.f16 holds {there} whole rows, {report.keyframes} '
                               f'keyframes need as many')
    rows = memory_map(path, min(there, report.keyframes), manifest.dimension)
    for start in range(0, report.keyframes, BLOCK):
        stop = min(start + BLOCK, report.keyframes)
        for i, row in _records(database, start, stop):
            if row is None:
                report.damaged[MISSING].append(i)
                continue
            try:
                _check_record(checked(row))
            except (RecordError, ValueError):
                report.damaged[POSE].append(i)
                continue
            report.stamps_ns[i] = row[1]
            crc = np.array([row[_CRC]], dtype=np.uint32)
            if i >= len(rows) or changed_descriptors(rows[i:i + 1], crc) \
                    or not np.isfinite(rows[i]).all() or not rows[i].any():
                report.damaged[DESCRIPTOR].append(i)
            for what, column, limit in _BLOBS:
                try:
                    blob(database, column, limit, i)
                except (RecordError, sqlite3.Error):
                    report.damaged[what].append(i)
        progress(stop, report.keyframes)
    if there > report.keyframes:
        report.notes.append(f'descriptors.f16 has {there - report.keyframes} rows after the '
                            f'last keyframe, left by an interrupted write; they are never '
                            f'read')


_CRC = SMALL.index('descriptor_crc32')
_COVARIANCE = SMALL.index('covariance')
_POSE = slice(SMALL.index('x'), SMALL.index('qw') + 1)


def _check_record(row: tuple[Any, ...]) -> None:
    """Refuse invalid values with a correct checksum: the map is untrusted."""
    pose = row[_POSE]
    pose_matrix(pose[:3], pose[3:])
    covariance = row[_COVARIANCE]
    if covariance is not None and not np.isfinite(np.frombuffer(covariance, '<f8')).all():
        raise RecordError(f'the covariance of keyframe {row[0]} is not finite')
    if row[1] is None or not 0 <= row[_CRC] < 2**32:
        raise RecordError(f'the record of keyframe {row[0]} holds no checksum')


def _expected(database: sqlite3.Connection, there: int, at_least: int,
              report: VerifyReport) -> int:
    """Expected number of keyframes, from the descriptors if the database is unreadable."""
    try:
        low, high, count = database.execute(
            'SELECT min(id), max(id), count(*) FROM keyframe').fetchone()
    except sqlite3.Error:
        return there
    expected = 0 if low is None else int(high) + 1
    if low is not None and (low < 0 or expected > count + MAX_GAPS):
        report.problems.append(f'map.db: {count} keyframes have ids from {low} to {high}; a map '
                               f'counts them from 0')
        expected = count
    if at_least > expected:
        report.problems.append(f'map.lock: {at_least} keyframes were committed, {expected} are '
                               f'there')
        expected = min(at_least, max(expected, there))
    return expected


def _rows_there(path: Path, manifest: Manifest) -> int:
    file = path / 'descriptors.f16'
    size = file.stat().st_size if file.is_file() else 0
    return min(size // (2 * manifest.dimension), MAX_KEYFRAMES)


def _records(
    database: sqlite3.Connection, start: int, stop: int
) -> Iterator[tuple[int, tuple[Any, ...] | None]]:
    """Rows of ids `start` to `stop`; None for a missing or unreadable row."""
    try:
        found = {row[0]: row for row in database.execute(
            f'SELECT {SELECT_SMALL} FROM keyframe WHERE id >= ? AND id < ?', (start, stop))}
    except sqlite3.Error:
        # One page of the database is unreadable: read the other rows one by one.
        found = {}
        for i in range(start, stop):
            with contextlib.suppress(sqlite3.Error):
                row = database.execute(
                    f'SELECT {SELECT_SMALL} FROM keyframe WHERE id = ?', (i,)).fetchone()
                if row is not None and row[0] == i:
                    found[i] = row
    for i in range(start, stop):
        yield i, found.get(i)


def _attachments(database: sqlite3.Connection) -> list[str]:
    try:
        return attachment_names(database)
    except sqlite3.Error:
        return []


def _check_attachments(path: Path, database: sqlite3.Connection, manifest: Manifest,
                       report: VerifyReport) -> None:
    """Check attachments, and that a compressed map has its projection."""
    try:
        for name in attachment_names(database):
            check_attachment_name(name)
            read_attachment(path, database, name)
        read_projection(manifest.compress, read_attachment(path, database, 'pca'),
                        manifest.dimension, str(path))
    except (MapError, sqlite3.Error) as error:
        report.problems.append(str(error))


def _try_to_open(path: Path, report: VerifyReport) -> None:
    """Check that the map opens."""
    if report.lost:
        report.refusal = f'{len(report.lost)} keyframes are lost'
    try:
        PlaceMap.open(path, index='none').close()
    except RegvprError as error:
        report.refusal = str(error)


def _keyframe(database: sqlite3.Connection, rows: npt.NDArray[np.float16], i: int,
              report: VerifyReport) -> Keyframe:
    """A keyframe, without its thumbnail or features if these are damaged."""
    row = dict(zip(SMALL, database.execute(
        f'SELECT {SELECT_SMALL} FROM keyframe WHERE id = ?', (i,)).fetchone(), strict=False))
    pose = [row[name] for name in SMALL[_POSE]]
    whole = {column: blob(database, column, limit, i)
             for what, column, limit in _BLOBS if i not in report.damaged.get(what, ())}
    covariance = row['covariance']
    return Keyframe(
        stamp_ns=row['stamp_ns'], camera=row['camera'], T_map_cam=pose_matrix(pose[:3], pose[3:]),
        descriptor=np.asarray(rows[i], dtype=np.float32), source=row['source'],
        image=row['image'], thumbnail=whole.get('thumbnail'),
        local_features=whole.get('local_features'),
        covariance=None if covariance is None
        else np.frombuffer(covariance, '<f8').reshape(3, 3))
