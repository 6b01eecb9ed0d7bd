"""The files of a place map. Format 2; see docs/map_format.md.

    map.db           manifest, keyframes, attachments (SQLite, WAL)
    descriptors.f16  row = keyframe id, float16, little endian
    map.lock         held by the one writer
"""

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass, field
import fcntl
import hashlib
import json
import os
from pathlib import Path
import re
import shutil
import sqlite3
import stat
from typing import Any
import uuid
import zlib

import numpy as np
import numpy.typing as npt

from regvpr_core.config import check_range, from_mapping, nearest
from regvpr_core.errors import ConfigError, MapError
from regvpr_core.geometry import pose_matrix
from regvpr_core.images.finding import SUFFIXES

FORMAT_VERSION = 2
MAX_DIMENSION = 65_536
MAX_KEYFRAMES = 50_000_000
MAX_MANIFEST_BYTES = 1_000_000
MAX_ATTACHMENT_BYTES = 256 << 20
MAX_ATTACHMENTS = 64
MAX_VALUE_BYTES = MAX_ATTACHMENT_BYTES + 4096

DATABASE_FILES = ('map.db', 'map.db-wal', 'map.db-shm', 'map.db-journal')

TABLES = {
    'attachment': 'CREATE TABLE attachment (name TEXT PRIMARY KEY NOT NULL, '
                  'value BLOB NOT NULL, crc32 INTEGER NOT NULL) WITHOUT ROWID',
    # Large columns come last: SQLite reads a row only up to the last requested column.
    'keyframe': 'CREATE TABLE keyframe (id INTEGER PRIMARY KEY, stamp_ns INTEGER NOT NULL, '
                'camera TEXT NOT NULL, x REAL NOT NULL, y REAL NOT NULL, z REAL NOT NULL, '
                'qx REAL NOT NULL, qy REAL NOT NULL, qz REAL NOT NULL, qw REAL NOT NULL, '
                'covariance BLOB, source TEXT NOT NULL, image TEXT NOT NULL, '
                'descriptor_crc32 INTEGER NOT NULL, thumbnail_crc32 INTEGER, '
                'local_features_crc32 INTEGER, record_crc32 INTEGER NOT NULL, '
                'thumbnail BLOB, local_features BLOB)',
    'manifest': 'CREATE TABLE manifest (value TEXT NOT NULL, crc32 INTEGER NOT NULL)',
}
"""The exact schema; `connect` refuses any other."""

_FORMAT_1 = {('table', 'keyframe'), ('table', 'manifest')}
_ATTACHMENT_NAME = re.compile(r'[a-z0-9][a-z0-9_.-]{0,63}')
_ORIGIN = {'lat_deg': 90.0, 'lon_deg': 180.0, 'alt_m': 100_000.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Description of a map.

    model, fingerprint: network that made the descriptors. dimension: length D of a descriptor.
    map_frame: the world frame of the poses. extrinsics: camera name to `T_base_cam` as
    (x, y, z, qx, qy, qz, qw), m. sources: recordings it was built from. config: build settings.
    origin: lat_deg, lon_deg, alt_m of the map frame's origin (x east, y north), where it is
    known. intrinsics: camera name to width, height (pixels), K (9 numbers, row by row), model and
    D of its distortion. features: local features kept for verification ('', 'patch', 'xfeat').
    compress: compression of the descriptors for search ('', 'pca:1024').
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
    origin: dict[str, float] = field(default_factory=dict)
    intrinsics: dict[str, dict[str, Any]] = field(default_factory=dict)
    features: str = ''
    compress: str = ''
    format_version: int = FORMAT_VERSION


def new_map_id() -> str:
    """Create an identifier for a map."""
    return uuid.uuid4().hex


def map_bytes(path: Path) -> int:
    """Size of a map's files on disk in bytes, without SQLite's shared memory file."""
    return sum(file.stat().st_size for file in path.iterdir()
               if file.is_file() and not file.name.endswith('-shm'))


def check_file(file: Path) -> None:
    """Refuse a map file that is a link or not a regular file: a map stays inside its folder.

    Raises:
        MapError: it is a link or not a regular file.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISREG(file.lstat().st_mode):
            raise MapError(f'map {file.parent} is refused: its {file.name} is no plain file; a '
                           f'map holds no links')


BAG_SUFFIXES = frozenset({'.bag', '.mcap', '.db3'})


def no_map(path: Path) -> str:
    """Error message for a path that is no map, with a nearby map or how to build one."""
    if path.name == 'map.db' and path.is_file():
        return f'{path} is a file of a place map; give its folder {path.parent}'
    inside = [entry for entry in sorted(path.iterdir()) if (entry / 'map.db').is_file()] \
        if path.is_dir() else []
    if inside:
        return f'{path} is no place map, but {inside[0]} in it is one; give that'
    if _is_recording(path):
        return (f'{path} is no place map but a recording: where a command takes both, MAP comes '
                f'first; `regvpr map build {path} --out MAP` makes a map of it')
    if path.is_file():
        return (f'{path} is no place map: a map is a folder; build one with '
                f'`regvpr map build {path} --out MAP` where that is a recording')
    if path.is_dir():
        return (f'{path} is no place map: it has no map.db; build one with '
                f'`regvpr map build BAG --out MAP`')
    folder = path.absolute().parent
    beside = folder.iterdir() if folder.is_dir() else ()
    maps = [entry.name for entry in beside if (entry / 'map.db').is_file()]
    hint = nearest(path.name, maps).partition('; known')[0] if maps else ''
    return (f'{path} is no place map: it has no map.db'
            f'{hint or f"; build one with `regvpr map build BAG --out {path}`"}')


def _is_recording(path: Path) -> bool:
    """Whether a path looks like a bag or a folder of images."""
    if path.is_file():
        return path.suffix.lower() in BAG_SUFFIXES
    return path.is_dir() and any(
        entry.name == 'metadata.yaml' or entry.suffix.lower() in BAG_SUFFIXES | SUFFIXES
        for entry in path.iterdir())


DISK_ERRORS = (10, 13)
"""Error codes SQLITE_IOERR and SQLITE_FULL: the disk fails, but the map may be intact."""


def connect(path: Path, *, writable: bool) -> sqlite3.Connection:
    """Open a map's database with the SQLite features disabled that an untrusted file could abuse.

    Raises:
        MapError: no map, one of another format, a damaged one, or one that holds anything but the
            three tables.
    """
    file = path / 'map.db'
    try:
        for name in DATABASE_FILES:
            check_file(path / name)
        _refuse_journal(path / 'map.db-journal')
        if not file.is_file():
            raise MapError(no_map(path))
        database = sqlite3.connect(_uri(file, writable), uri=True, check_same_thread=False)
    except (sqlite3.Error, ValueError) as error:
        raise MapError(f'map {path} is damaged: {error}') from error
    except OSError as error:
        raise MapError(f'map {path} cannot be opened: {error}') from error
    try:
        database.execute('PRAGMA trusted_schema=OFF')
        database.execute('PRAGMA cell_size_check=ON')
        with contextlib.suppress(AttributeError):  # setlimit came with Python 3.11
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE_BYTES)
        _check_schema(path, database)
        if writable:
            database.execute('PRAGMA synchronous=FULL')
    except (sqlite3.Error, UnicodeError) as error:  # SQLite quotes the invalid bytes
        database.close()
        # Reading too needs a little room on the disk, for the index of the write-ahead log.
        if getattr(error, 'sqlite_errorcode', 0) & 0xFF in DISK_ERRORS:
            raise MapError(f'map {path} cannot be read: {error}; is its disk full, or gone?'
                           ) from error
        raise MapError(f'map {path} is damaged: {error}') from error
    except BaseException:
        database.close()
        raise
    return database


def _refuse_journal(file: Path) -> None:
    """Refuse a map with a rollback journal, which can make SQLite change or delete any file.

    Maps use a write-ahead log (WAL); a journal exists only while a map is created.

    Raises:
        MapError: there is a rollback journal.
    """
    if file.exists() and file.stat().st_size:
        raise MapError(f'map {file.parent} is refused: it has a {file.name}, which no finished '
                       f'map has and which could make SQLite change other files; remove it, and '
                       f'check the map with `regvpr map verify {file.parent}`')


def _uri(file: Path, writable: bool) -> str:
    uri = f'{file.absolute().as_uri()}?mode={"rw" if writable else "ro"}'
    if not writable and not os.access(file.parent, os.W_OK):
        # WAL needs a file beside the database. In a read-only folder there is no writer, but
        # the content of a log left by a crash would be ignored.
        log = file.with_name('map.db-wal')
        if log.exists() and log.stat().st_size and not file.with_name('map.db-shm').exists():
            raise MapError(f'map {file.parent} was not closed when it was written, and its folder '
                           f'cannot be written now; copy the map to a folder that can')
        if not log.exists() or not log.stat().st_size:
            uri += '&immutable=1'
    return uri


def _check_schema(path: Path, database: sqlite3.Connection) -> None:
    """Refuse views, triggers and table expressions: they would run SQL of an untrusted file."""
    version = database.execute('PRAGMA user_version').fetchone()[0]
    schema = database.execute(
        'SELECT type, name, substr(sql, 1, 2000) FROM sqlite_master ORDER BY name LIMIT 10'
    ).fetchall()
    if version == 0 and {row[:2] for row in schema} == _FORMAT_1:
        version = 1
    elif version == 0 or (version == FORMAT_VERSION and schema != [
            ('table', name, sql) for name, sql in TABLES.items()]):
        raise MapError(f'map {path} is damaged: map.db holds other things than a map does: '
                       f'{[row[:2] for row in schema[:4]]}')
    _check_version(path, version)


def _check_version(path: Path, version: int) -> None:
    if version != FORMAT_VERSION:
        advice = 'update regvpr_ros' if version > FORMAT_VERSION else 'build the map again'
        raise MapError(f'map {path} has format {version}; this version reads format '
                       f'{FORMAT_VERSION}: {advice}')


def create_database(file: Path, manifest: Manifest) -> None:
    """Create `map.db` with its tables and the manifest."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute('PRAGMA journal_mode=WAL')
        with database:
            database.execute('BEGIN')
            for sql in TABLES.values():
                database.execute(sql)
            database.execute(f'PRAGMA user_version = {FORMAT_VERSION}')
            write_manifest(database, manifest)


def write_manifest(database: sqlite3.Connection, manifest: Manifest) -> None:
    """Replace the manifest within the caller's transaction."""
    text = manifest_json(manifest)
    if len(text) > MAX_MANIFEST_BYTES:
        raise MapError(f'the manifest has {len(text)} bytes; at most {MAX_MANIFEST_BYTES} are '
                       f'kept: name fewer sources')
    database.execute('DELETE FROM manifest')
    database.execute('INSERT INTO manifest VALUES (?, ?)', (text, zlib.crc32(text.encode())))


def manifest_json(manifest: Manifest) -> str:
    """The manifest as it is stored (ASCII)."""
    return json.dumps({name: getattr(manifest, name) for name in Manifest.__dataclass_fields__})


def read_manifest(path: Path, database: sqlite3.Connection) -> Manifest:
    """The manifest of a map.

    Raises:
        MapError: it is missing, has changed, or is of another format.
    """
    try:
        row = database.execute(
            'SELECT value, crc32 FROM manifest WHERE length(value) <= ?',
            (MAX_MANIFEST_BYTES,)).fetchone()
        if zlib.crc32(row[0].encode()) != row[1]:
            raise ValueError('it has changed since it was written')
        values = json.loads(row[0])
        _check_version(path, values['format_version'])
        manifest = from_mapping(Manifest, values)
        check_range('dimension', manifest.dimension, 1, MAX_DIMENSION)
        _check_cameras(manifest)
    except (sqlite3.Error, ValueError, TypeError, KeyError, AttributeError, OverflowError,
            RecursionError, ConfigError) as error:
        raise MapError(f'map {path} is damaged: its manifest cannot be read: {error}') from error
    return manifest


def _check_cameras(manifest: Manifest) -> None:
    """Refuse extrinsics, intrinsics or an origin with invalid values."""
    if not all(isinstance(name, str) for name in manifest.sources):
        raise ValueError('sources are not all names')
    for camera, numbers in manifest.extrinsics.items():
        if len(numbers) != 7:
            raise ValueError(f'extrinsics of {camera!r} are {len(numbers)} numbers, not 7')
        pose_matrix(numbers[:3], numbers[3:])
    for camera, values in manifest.intrinsics.items():
        K = np.asarray(values['K'], dtype=np.float64)
        D = np.asarray(values.get('D', []), dtype=np.float64)
        if K.shape != (9,) or D.ndim != 1 or len(D) > 14 \
                or not (np.isfinite(K).all() and np.isfinite(D).all()):
            raise ValueError(f'intrinsics of {camera!r} are not K of 9 and D of at most 14 '
                             f'finite numbers')
        if min(K[0], K[4]) <= 0.0 or not isinstance(values.get('model', ''), str):
            raise ValueError(f'intrinsics of {camera!r} have no focal lengths, or a model that is '
                             f'no name')
        for side in ('width', 'height'):
            check_range(f'{side} of {camera!r}', values[side], 1, 1_000_000)
    if manifest.origin and manifest.origin.keys() != _ORIGIN.keys():
        raise ValueError(f'origin has {sorted(manifest.origin)}; expected {sorted(_ORIGIN)}')
    for name, value in manifest.origin.items():
        check_range(f'origin {name}', value, -_ORIGIN[name], _ORIGIN[name])


def check_attachment_name(name: str) -> None:
    """Refuse an invalid attachment name.

    Raises:
        MapError: it has a character other than a-z, 0-9, `_`, `.`, `-`, or more than 64.
    """
    if not _ATTACHMENT_NAME.fullmatch(name):
        raise MapError(f'{name!r} cannot name an attachment; expected up to 64 of a-z 0-9 _ . -')


def read_attachment(path: Path, database: sqlite3.Connection, name: str) -> bytes | None:
    """An attachment, checked; None if there is none of that name.

    Raises:
        MapError: it is too large or has changed.
    """
    try:
        row = database.execute('SELECT typeof(value), length(value), crc32 FROM attachment '
                               'WHERE name = ?', (name,)).fetchone()
        if row is None:
            return None
        if row[0] != 'blob' or row[1] > MAX_ATTACHMENT_BYTES:
            raise ValueError(f'it is {row[0]} of {row[1]} bytes')
        value: bytes = database.execute(
            'SELECT value FROM attachment WHERE name = ?', (name,)).fetchone()[0]
        if zlib.crc32(value) != row[2]:
            raise ValueError('it has changed since it was written')
    except (sqlite3.Error, ValueError) as error:
        raise MapError(f'map {path} is damaged: its attachment {name!r} cannot be read: '
                       f'{error}') from error
    return value


def attachment_names(database: sqlite3.Connection) -> list[str]:
    """Names of the attachments of a map."""
    return [row[0] for row in database.execute(
        'SELECT substr(name, 1, 65) FROM attachment ORDER BY name LIMIT ?', (MAX_ATTACHMENTS,))]


def memory_map(path: Path, count: int, dimension: int) -> npt.NDArray[np.float16]:
    """The descriptors (count, dimension) of a map, memory-mapped.

    Raises:
        MapError: the file is missing or too short, or a link.
    """
    file = path / 'descriptors.f16'
    check_file(file)
    size = file.stat().st_size if file.is_file() else 0
    if size < count * dimension * 2:
        raise MapError(f'map {path} is damaged: descriptors.f16 has {size} bytes, {count} '
                       f'keyframes need {count * dimension * 2}; build the map again')
    if not count:
        return np.zeros((0, dimension), dtype=np.float16)
    return np.memmap(file, dtype='<f2', mode='r', shape=(count, dimension))


def file_digest(file: Path, start: int = 0) -> str:
    """SHA-256 (hex) of a file from byte `start` on; derived files store it in their header."""
    digest = hashlib.sha256()
    with file.open('rb') as stream:
        stream.seek(start)
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def lock_folder(path: Path) -> int:
    """Take the writer lock of a map's folder; closing the descriptor releases it.

    Raises:
        MapError: another process has it, or the folder cannot be written.
    """
    check_file(path / 'map.lock')
    lock = -1
    try:
        lock = os.open(path / 'map.lock',
                       os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if lock >= 0:
            os.close(lock)
        if isinstance(error, BlockingIOError):
            raise MapError(f'map {path} is being written by another process') from error
        raise MapError(f'cannot write map {path}: {error.strerror}') from error
    return lock


def note_committed(lock: int, count: int) -> None:
    """Write the number of committed keyframes to `map.lock`, to detect lost keyframes."""
    text = f'{count:012d}'
    os.pwrite(lock, f'{text} {zlib.crc32(text.encode()):08x}\n'.encode(), 0)


def committed(path: Path) -> int:
    """Number of committed keyframes according to `map.lock`; 0 if it is empty.

    Read it before the database, because a writer may be active.
    """
    check_file(path / 'map.lock')
    try:
        with (path / 'map.lock').open('rb') as file:
            text = file.read(22)
        return int(text[:12]) if zlib.crc32(text[:12]) == int(text[13:21], 16) else 0
    except (OSError, ValueError):
        return 0


def sync_folder(path: Path) -> None:
    """Sync a folder, so that its file names survive a power cut."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def publish(partial: Path, path: Path) -> None:
    """Rename a finished folder and sync, so that it survives a power cut."""
    (partial / 'map.lock').unlink(missing_ok=True)
    for file in partial.iterdir():
        with file.open('rb') as stream:
            os.fsync(stream.fileno())
    sync_folder(partial)
    partial.rename(path)
    sync_folder(path.parent)


def refuse_existing(path: Path) -> None:
    """Refuse a path that exists.

    Raises:
        MapError: it exists.
    """
    if path.exists() or path.is_symlink():
        raise MapError(f'{path} exists; choose a new folder for the map or remove it')


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to fill; renamed to `path` if the block succeeds, else deleted.

    Raises:
        MapError: `path` exists, cannot be written, or is being written by another process.
    """
    refuse_existing(path)
    staging = path.with_name(f'.{path.name}.new')
    lock = -1
    try:
        staging.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(staging)
        # Remove what a killed run left there.
        shutil.rmtree(staging / 'map', ignore_errors=True)
        (staging / 'map').mkdir()
        yield staging / 'map'
        publish(staging / 'map', path)
    except OSError as error:
        raise MapError(f'cannot write map {path}: {error}') from error
    finally:
        if lock >= 0:
            shutil.rmtree(staging, ignore_errors=True)
            os.close(lock)
