"""The files of a place map and what is in them.

    map.db           manifest and keyframes (SQLite, WAL)
    descriptors.f16  row = keyframe id, float16, little endian
    map.lock         held by the one writer
"""

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass, field
import json
import os
from pathlib import Path
import sqlite3
from typing import Any
import uuid

import numpy as np
import numpy.typing as npt

from regvpr_core.config import check_range, from_mapping
from regvpr_core.errors import ConfigError, MapError
from regvpr_core.geometry import pose_matrix

FORMAT_VERSION = 1
MAX_DIMENSION = 65_536
MAX_KEYFRAMES = 50_000_000
MAX_MANIFEST_BYTES = 1_000_000
MAX_VALUE_BYTES = 64_000_000

SCHEMA = """
CREATE TABLE manifest (value TEXT NOT NULL);
CREATE TABLE keyframe (
    id INTEGER PRIMARY KEY,
    stamp_ns INTEGER NOT NULL,
    camera TEXT NOT NULL,
    x REAL NOT NULL, y REAL NOT NULL, z REAL NOT NULL,
    qx REAL NOT NULL, qy REAL NOT NULL, qz REAL NOT NULL, qw REAL NOT NULL,
    covariance BLOB,
    source TEXT NOT NULL,
    descriptor_crc32 INTEGER NOT NULL,
    thumbnail BLOB
);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a map says of itself.

    model, fingerprint: whose descriptors these are. dimension: numbers a descriptor.
    map_frame: the world frame of the poses. extrinsics: camera name to `T_base_cam` as
    (x, y, z, qx, qy, qz, qw), m. sources: what it was built from. config: of the building.
    """

    map_id: str
    model: str
    fingerprint: str
    dimension: int
    map_frame: str = 'map'
    extrinsics: dict[str, list[float]] = field(default_factory=dict)
    preprocessing: dict[str, Any] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def new_map_id() -> str:
    """A fresh identity for a map."""
    return uuid.uuid4().hex


def map_bytes(path: Path) -> int:
    """Bytes that a map's files take on disk."""
    return sum(file.stat().st_size for file in _files(path))


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.iterdir() if file.is_file())


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Open a map's database with what a stranger's schema could do switched off."""
    file = path / 'map.db'
    if not file.is_file():
        raise MapError(f'{path} is no place map: it has no map.db; build one with '
                       f'`regvpr map build BAG --out {path}`')
    uri = f'{file.absolute().as_uri()}?mode={"rw" if writable else "ro"}'
    if not writable and not os.access(path, os.W_OK):
        uri += '&immutable=1'  # WAL needs a file beside the database
    try:
        database = sqlite3.connect(uri, uri=True, check_same_thread=False)
        database.execute('PRAGMA trusted_schema=OFF')
        database.execute('PRAGMA cell_size_check=ON')
        with contextlib.suppress(AttributeError):  # setlimit came with Python 3.11
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        # Views and triggers would run a stranger's SQL when ours is.
        schema = database.execute(
            'SELECT type, name FROM sqlite_master ORDER BY name LIMIT 10').fetchall()
        if schema != [('table', 'keyframe'), ('table', 'manifest')]:
            raise MapError(f'map {path} is damaged: map.db holds other things than a map does: '
                           f'{schema[:4]}')
        if writable:
            database.execute('PRAGMA synchronous=FULL')
    except (sqlite3.Error, ValueError) as error:
        raise MapError(f'map {path} is damaged: {error}') from error
    except OSError as error:
        raise MapError(f'map {path} cannot be opened: {error}') from error
    return database


def manifest_json(manifest: Manifest) -> str:
    return json.dumps({name: getattr(manifest, name) for name in Manifest.__dataclass_fields__})


def read_manifest(path: Path, database: sqlite3.Connection) -> Manifest:
    try:
        row = database.execute(
            'SELECT value FROM manifest WHERE length(value) <= ?',
            (MAX_MANIFEST_BYTES,)).fetchone()
        values = json.loads(row[0])
        version = values['format_version']
        if version != FORMAT_VERSION:
            advice = 'update regvpr_ros' if version > FORMAT_VERSION else 'build the map again'
            raise MapError(f'map {path} has format {version}; this version reads format '
                           f'{FORMAT_VERSION}: {advice}')
        manifest = from_mapping(Manifest, values)
        check_range('dimension', manifest.dimension, 1, MAX_DIMENSION)
        for camera, numbers in manifest.extrinsics.items():
            if len(numbers) != 7:
                raise ValueError(f'extrinsics of {camera!r} are {len(numbers)} numbers, not 7')
            pose_matrix(numbers[:3], numbers[3:])
    except (sqlite3.Error, ValueError, TypeError, KeyError, RecursionError,
            ConfigError) as error:
        raise MapError(f'map {path} is damaged: its manifest cannot be read: {error}') from error
    return manifest


def memory_map(path: Path, count: int, dimension: int) -> npt.NDArray[np.float16]:
    file = path / 'descriptors.f16'
    size = file.stat().st_size if file.is_file() else 0
    if size < count * dimension * 2:
        raise MapError(f'map {path} is damaged: descriptors.f16 has {size} bytes, {count} '
                       f'keyframes need {count * dimension * 2}; build the map again')
    if not count:
        return np.zeros((0, dimension), dtype=np.float16)
    return np.memmap(file, dtype='<f2', mode='r', shape=(count, dimension))
