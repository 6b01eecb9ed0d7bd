"""File of RaBitQ codes, so that a large map opens without reading its descriptors.

    line of ASCII: 'regvpr index 1 KEY SHA256', padded with spaces to 256 bytes
    centre   D x float32
    codes    N x B x uint8

It is `index.rabitq` in the map's folder or, if that is read-only, in the user's cache. A file with
another key, length or digest is rebuilt, so it may be deleted at any time. Security: the file is a
block of numbers of known length and is never given to a parser such as `faiss.read_index`. Wrong
codes can only yield wrong candidates, which are then ranked by the rows themselves.
"""

import contextlib
import hashlib
import os
from pathlib import Path
import stat
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Float32

MAGIC = 'regvpr index 1'
HEADER_BYTES = 256
FILE_NAME = 'index.rabitq'

Codes = npt.NDArray[np.uint8]


def index_key(parts: list[object]) -> str:
    """Key over everything that the codes depend on."""
    return hashlib.sha256('\n'.join(map(str, parts)).encode()).hexdigest()


def index_files(folder: Path, key: str) -> list[Path]:
    """Possible paths of the index file, preferred first."""
    cache = Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache')
    return [folder / FILE_NAME, cache / 'regvpr' / 'index' / f'{key[:32]}.rabitq']


def read_index(file: Path, key: str, count: int, dimension: int,
               code_bytes: int) -> tuple[Float32, Codes] | None:
    """Centre (D,) and codes (N, B), or None if the file is absent, stale or damaged."""
    size = HEADER_BYTES + 4 * dimension + count * code_bytes
    try:
        # Refuse links, and pipes, which would block.
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, 'rb') as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                return None
            words = stream.read(HEADER_BYTES).decode('ascii').split()
            body = np.fromfile(stream, np.uint8)
    except (OSError, ValueError):
        return None
    if words != [*MAGIC.split(), key, _digest(key, body.data).hexdigest()] \
            or len(body) != size - HEADER_BYTES:
        return None
    centre = body[:4 * dimension].view('<f4').astype(np.float32)
    if not np.isfinite(centre).all():
        return None
    return centre, body[4 * dimension:].reshape(count, code_bytes)


def write_index(files: list[Path], key: str, centre: Float32, codes: Codes) -> Path | None:
    """Write to the first writable path and return it, or None; the map works without the file."""
    parts = [np.ascontiguousarray(centre, dtype='<f4').view(np.uint8), codes.reshape(-1)]
    digest = _digest(key)
    for part in parts:
        digest.update(part.data)
    header = f'{MAGIC} {key} {digest.hexdigest()}'.encode('ascii')
    for number, file in enumerate(files):
        with contextlib.suppress(OSError):
            if number:  # only the cache folder is created
                file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, name = tempfile.mkstemp(prefix=f'{FILE_NAME}.', dir=file.parent)
            try:
                with open(handle, 'wb') as stream:
                    stream.write(header.ljust(HEADER_BYTES))
                    for part in parts:
                        part.tofile(stream)
                os.chmod(name, 0o644)
                os.replace(name, file)
            except BaseException:
                os.unlink(name)
                raise
            return file
    return None


def _digest(key: str, body: bytes | memoryview = b'') -> Any:
    """Digest over the key and the data."""
    digest = hashlib.sha256(key.encode())
    digest.update(body)
    return digest


def index_note(folder: Path) -> str:
    """Describe damage of the index file in a map's folder; empty if there is none."""
    file = folder / FILE_NAME
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, 'rb') as stream:
            words = stream.read(HEADER_BYTES).decode('ascii', 'replace').split()
            digest = _digest(words[3] if len(words) == 5 else '')
            while block := stream.read(1 << 20):
                digest.update(block)
    except FileNotFoundError:
        return ''
    except OSError as error:
        return f'{FILE_NAME} cannot be read ({error.strerror}); it is not used'
    if words[:3] != MAGIC.split() or words[-1:] != [digest.hexdigest()]:
        return f'{FILE_NAME} has changed since it was written; it is built again when needed'
    return ''
