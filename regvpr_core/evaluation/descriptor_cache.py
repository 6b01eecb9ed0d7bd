"""Descriptor cache on disk, keyed by model and by the digest of the image.

Each model has a folder with `about.json`, `rows.f32` (rows of float32) and `journal` (36 bytes per
row: SHA-256 of the image, CRC-32 of the row). The journal is written after the rows, so a run
killed at any moment keeps what it has described. On opening, the cache is truncated at the first
row that is incomplete or disagrees with its checksum. No pickle.
"""

from collections.abc import Sequence
import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import Any, BinaryIO
import zlib

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Float32
from regvpr_core.errors import EvaluationError

FORMAT_VERSION = 1
RECORD_BYTES = 36
DIGEST_BYTES = 32
MAX_ROWS = 20_000_000
MAX_DIMENSION = 1_000_000
CHECK_ROWS = 4096
FILES = ('about.json', 'about.json.part', 'journal', 'rows.f32', 'lock')


def picture_digest(data: bytes) -> bytes:
    """Digest of an image: SHA-256 of the bytes of its file."""
    return hashlib.sha256(data).digest()


class DescriptorCache:
    """Descriptors of one model, appended to by one process at a time."""

    def __init__(self, folder: Path, fingerprint: str, model: str) -> None:
        """Open or create the cache of a model below `folder`.

        Raises:
            EvaluationError: another process writes to it, or it cannot be written.
        """
        self.path = folder / _folder_name(fingerprint)
        self._about = {'format_version': FORMAT_VERSION, 'fingerprint': fingerprint,
                       'model': model}
        self.dimension = 0
        self._rows_of: dict[bytes, int] = {}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / 'lock').open('w')
        except OSError as error:
            raise EvaluationError(f'cache {self.path} cannot be written: {error.strerror}; choose '
                                  f'another folder with --cache') from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise EvaluationError(f'cache {self.path} is being filled by another run; wait for '
                                  f'it, or choose another folder with --cache') from error
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise

    def __len__(self) -> int:
        return len(self._rows_of)

    def __enter__(self) -> 'DescriptorCache':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the files and the lock."""
        for file in self._files:
            file.close()
        self._lock.close()

    def row_of(self, digest: bytes) -> int | None:
        """Index of the row of an image, or None if it is not described yet."""
        return self._rows_of.get(digest)

    def append(self, digests: Sequence[bytes], rows: Float32) -> None:
        """Add descriptors (B, D) of the images with these digests.

        Raises:
            EvaluationError: the rows differ in length from the cached ones.
        """
        if not self.dimension:
            self._begin(rows.shape[1])
        if rows.shape[1] != self.dimension:
            raise EvaluationError(f'model {self._about["model"]} gave {self.dimension} numbers an '
                                  f'image before and {rows.shape[1]} now; remove {self.path} '
                                  f'if the model has changed')
        data = [np.ascontiguousarray(row, dtype=np.float32).tobytes() for row in rows]
        rows_file, journal = self._files
        rows_file.write(b''.join(data))
        rows_file.flush()
        journal.write(b''.join(
            digest + zlib.crc32(row).to_bytes(4, 'little')
            for digest, row in zip(digests, data, strict=True)))
        journal.flush()
        for digest in digests:
            self._rows_of[digest] = self._count
            self._count += 1

    def matrix(self) -> npt.NDArray[np.float32]:
        """All rows (N, D), memory-mapped; indexed by `row_of`."""
        if not self._count:
            return np.zeros((0, max(self.dimension, 1)), dtype=np.float32)
        return np.memmap(self.path / 'rows.f32', dtype=np.float32, mode='r',
                         shape=(self._count, self.dimension))

    def _open(self) -> None:
        """Load the rows of earlier runs up to the first damaged one."""
        self._files: list[BinaryIO] = []
        self._count = 0
        about = self._read_about()
        if about is None:
            self._clear()
            return
        self.dimension = about['dimension']
        row_bytes = 4 * self.dimension
        journal, rows = self.path / 'journal', self.path / 'rows.f32'
        there = min(_size(journal) // RECORD_BYTES, _size(rows) // row_bytes, MAX_ROWS)
        records = np.fromfile(journal, np.uint8, there * RECORD_BYTES) if there else np.zeros(
            0, np.uint8)
        records = records.reshape(-1, RECORD_BYTES)
        self._count = there
        self._count = self._sound(records)
        records = records[:self._count]
        for path, size in ((journal, RECORD_BYTES), (rows, row_bytes)):
            with path.open('ab') as file:
                file.truncate(self._count * size)
        self._rows_of = {record[:DIGEST_BYTES].tobytes(): i for i, record in enumerate(records)}
        self._append_files()
        os.utime(self.path / 'about.json')

    def _sound(self, records: npt.NDArray[np.uint8]) -> int:
        """Number of rows before the first that disagrees with its checksum."""
        sums = records[:, DIGEST_BYTES:].copy().view('<u4').reshape(-1)
        matrix = self.matrix()
        for start in range(0, self._count, CHECK_ROWS):
            for i, row in enumerate(matrix[start:start + CHECK_ROWS], start=start):
                if zlib.crc32(row.tobytes()) != sums[i]:
                    return i
        return self._count

    def _begin(self, dimension: int) -> None:
        self.dimension = dimension
        part = self.path / 'about.json.part'
        part.write_text(json.dumps(self._about | {'dimension': dimension}) + '\n',
                        encoding='utf-8')
        part.replace(self.path / 'about.json')
        self._append_files()

    def _append_files(self) -> None:
        self._files = [(self.path / name).open('ab') for name in ('rows.f32', 'journal')]

    def _read_about(self) -> dict[str, Any] | None:
        """The record of an earlier run, or None if there is no usable one."""
        path = self.path / 'about.json'
        try:
            about = json.loads(path.read_text(encoding='utf-8')[:10_000])
            usable = bool(about['format_version'] == FORMAT_VERSION
                      and about['fingerprint'] == self._about['fingerprint']
                      and isinstance(about['dimension'], int)
                      and 1 <= about['dimension'] <= MAX_DIMENSION)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return about if usable else None

    def _clear(self) -> None:
        for name in ('about.json', 'journal', 'rows.f32'):
            (self.path / name).unlink(missing_ok=True)


def trim(folder: Path, limit_bytes: int) -> list[str]:
    """Remove the least recently used models until the cache is below a limit; returns their names.

    Models in use by another process and folders that are not caches are kept.
    """
    models = []
    for about in folder.glob('*/about.json'):
        if _is_cache(about):
            size = sum(_size(about.parent / name) for name in ('rows.f32', 'journal'))
            models.append((about.stat().st_mtime, size, about.parent))
    total, removed = sum(size for _, size, _ in models), []
    for _, size, path in sorted(models):
        if total <= limit_bytes:
            break
        with (path / 'lock').open('w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            for name in FILES:
                (path / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # the folder contains another file
            path.rmdir()
        total -= size
        removed.append(path.name)
    return removed


def _is_cache(about: Path) -> bool:
    """True if a folder has the name that `DescriptorCache` gives to its model."""
    try:
        record = json.loads(about.read_text(encoding='utf-8')[:10_000])
        return about.parent.name == _folder_name(record['fingerprint']) \
            and not about.parent.is_symlink()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _folder_name(fingerprint: str) -> str:
    return hashlib.sha256(fingerprint.encode()).hexdigest()[:32]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
