"""Database record of a keyframe and its checksums.

    record_crc32          all other fields, and the three checksums below
    descriptor_crc32      the row of descriptors.f16
    thumbnail_crc32       the JPEG
    local_features_crc32  the local features

Opening a map checks poses, names and stamps without reading the large columns.
"""

from collections.abc import Iterator
import hashlib
import sqlite3
import struct
from typing import Any
import zlib

import numpy as np
import numpy.typing as npt

MAX_NAME_CHARACTERS = 4096
MAX_THUMBNAIL_BYTES = 16 << 20
MAX_LOCAL_FEATURES_BYTES = 1 << 20
COVARIANCE_BYTES = 9 * 8

SMALL = ('id', 'stamp_ns', 'camera', 'x', 'y', 'z', 'qx', 'qy', 'qz', 'qw', 'covariance',
         'source', 'image', 'descriptor_crc32', 'thumbnail_crc32', 'local_features_crc32')
"""Columns covered by `record_crc32`, in this order."""

COLUMNS = (*SMALL, 'record_crc32', 'thumbnail', 'local_features')

_BOUNDED = {
    # One character over the limit is fetched, so that a name too long is detected cheaply.
    **{name: f'substr({name}, 1, {MAX_NAME_CHARACTERS + 1})'
       for name in ('camera', 'source', 'image')},
    'covariance': f'substr(covariance, 1, {COVARIANCE_BYTES + 1})',
}
SELECT_SMALL = ', '.join(_BOUNDED.get(name, name) for name in (*SMALL, 'record_crc32'))
"""SELECT list: the small columns, truncated to their bounds, and `record_crc32`."""


class RecordError(ValueError):
    """A keyframe's record is damaged."""


def record_crc32(small: tuple[Any, ...]) -> int:
    """Checksum of the values of `SMALL`.

    Raises:
        RecordError: a value has an invalid type or size.
    """
    (number, stamp_ns, camera, *pose, covariance, source, image,
     descriptor, thumbnail, features) = small
    names = []
    for text in (camera, source, image):
        if not isinstance(text, str) or len(text) > MAX_NAME_CHARACTERS:
            raise RecordError(f'the record of keyframe {number} holds a name that is no text of '
                              f'at most {MAX_NAME_CHARACTERS} characters')
        names.append(text.encode('utf-8', 'surrogatepass'))
    if covariance is not None and (not isinstance(covariance, bytes)
                                   or len(covariance) != COVARIANCE_BYTES):
        raise RecordError(f'the record of keyframe {number} holds a covariance that is not '
                          f'{COVARIANCE_BYTES} bytes')
    try:
        numbers = struct.pack(
            '<qq7dqqq', number, stamp_ns, *pose, descriptor,
            *(-1 if crc is None else crc for crc in (thumbnail, features)))
    except struct.error as error:
        raise RecordError(f'the record of keyframe {number} holds no number where one belongs: '
                          f'{error}') from error
    lengths = struct.pack('<4q', *map(len, names), -1 if covariance is None else len(covariance))
    return zlib.crc32(b''.join((numbers, lengths, *names, covariance or b'')))


def checked(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Check one row of `SELECT_SMALL`.

    Raises:
        RecordError: the checksum is wrong or a value is invalid.
    """
    if record_crc32(row[:-1]) != row[-1]:
        raise RecordError(f'the record of keyframe {row[0]} has changed')
    return row


def small_records(database: sqlite3.Connection, limit: int) -> Iterator[tuple[Any, ...]]:
    """Rows of `SELECT_SMALL` in order of id, each checked; ids must count from 0.

    Raises:
        RecordError: a record is missing or has changed.
    """
    cursor = database.execute(
        f'SELECT {SELECT_SMALL} FROM keyframe ORDER BY id LIMIT ?', (limit,))
    for expected, row in enumerate(cursor):
        if row[0] != expected:
            raise RecordError(f'keyframe {expected} is missing')
        yield checked(row)


def blob(database: sqlite3.Connection, column: str, limit: int, keyframe_id: int) -> bytes | None:
    """A large column of a keyframe, checked; None if it is empty.

    Raises:
        RecordError: it is too large or has changed.
    """
    row = database.execute(
        f'SELECT typeof({column}), length({column}), {column}_crc32 FROM keyframe WHERE id = ?',
        (keyframe_id,)).fetchone()
    if row is None or (row[0] == 'null' and row[2] is None):
        return None
    what = f'the {column.replace("_", " ")} of keyframe {keyframe_id}'
    if row[0] == 'null':
        raise RecordError(f'{what} is missing')
    if row[0] != 'blob' or row[1] > limit:
        raise RecordError(f'{what} is {row[0]} of {row[1]} bytes; expected a blob of at most '
                          f'{limit}')
    value: bytes = database.execute(
        f'SELECT {column} FROM keyframe WHERE id = ?', (keyframe_id,)).fetchone()[0]
    if zlib.crc32(value) != row[2]:
        raise RecordError(f'{what} has changed')
    return value


def changed_descriptors(rows: npt.NDArray[np.float16], crcs: npt.NDArray[np.uint32]) -> list[int]:
    """Indices of rows (N, D) that differ from their checksums (N,)."""
    return [i for i, (row, crc) in enumerate(zip(rows, crcs, strict=True))
            if zlib.crc32(row.tobytes()) != crc]


def descriptors_digest(crcs: npt.NDArray[np.uint32]) -> str:
    """One checksum for all descriptors of a map; derived files are stored under it."""
    return hashlib.sha256(np.ascontiguousarray(crcs, dtype='<u4').tobytes()).hexdigest()
