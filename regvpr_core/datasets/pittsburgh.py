"""Data sets with NetVLAD's `dbStruct` files: Pitts30k, Pitts250k, Tokyo 24/7.

A `dbStruct` (github.com/Relja/netvlad) is a MATLAB 5 file of names and UTM positions. SciPy reads
it without pickle; the unpacked size is checked first.
"""

from pathlib import Path
import struct
from typing import Any
import zlib

import numpy as np

from regvpr_core.arrays import Float64
from regvpr_core.datasets.dataset import Dataset, PictureFile
from regvpr_core.datasets.folders import below, require_files
from regvpr_core.datasets.ground_truth import within_radius
from regvpr_core.datasets.utm_folders import find_folders, load_utm
from regvpr_core.errors import EvaluationError

MAX_FILE_BYTES = 200_000_000
MAX_UNPACKED_BYTES = 1_000_000_000
MAX_NAMES = 1_000_000
RADIUS_M = 25.0

_COMPRESSED = 15


def load_struct(
    root: Path, name: str, protocol: str, *, struct_file: str, split: str,
    query_folders: tuple[str, ...], help_text: str, suffix: str | None = None,
) -> Dataset:
    """Read the .mat file if it exists, else folders with UTM positions in the file names.

    Args:
        root: folder with `datasets/FILE.mat` and the images, or with `images/SPLIT/database`.
        name, protocol: of the data set.
        struct_file: name of the .mat file.
        split: test or val, of the folders.
        query_folders: folders that may hold the queries of the .mat file.
        help_text: where to get what is missing.
        suffix: suffix of the reference files on disk, if it differs from the .mat file.

    Raises:
        EvaluationError: neither layout is found, or files are missing.
    """
    splits = (f'images/{split}', split)
    path = next((p for p in (root / 'datasets' / struct_file, root / struct_file) if p.is_file()),
                None)
    if path is None:
        if find_folders(root, splits) is None:
            raise EvaluationError(f'{root / "datasets" / struct_file} is missing, and so are '
                                  f'{root / splits[0] / "database"} and queries; {help_text}')
        return load_utm(root, name, protocol, splits=splits, radius_m=RADIUS_M)
    names, reference_xy, asked, query_xy = read_db_struct(path)
    folder = next((root / f for f in query_folders if (root / f).is_dir()), None)
    if folder is None:
        raise EvaluationError(f'{root / query_folders[0]} is missing; {help_text}')
    references = [_picture(root, root, item if suffix is None else
                           str(Path(item).with_suffix(suffix)), path) for item in names]
    queries = [_picture(root, folder, item, path) for item in asked]
    require_files([*references, *queries], help_text)
    return Dataset(
        name=name, protocol=protocol, rule=f'within {RADIUS_M:g} m',
        references=references, queries=queries,
        positives=within_radius(query_xy, reference_xy, RADIUS_M),
        radius_m=RADIUS_M, reference_xy=reference_xy, query_xy=query_xy)


def read_db_struct(path: Path) -> tuple[list[str], Float64, list[str], Float64]:
    """Names and positions (N, 2) of the references, then of the queries.

    Raises:
        EvaluationError: not a `dbStruct`, too large, or its counts disagree.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    check_unpacked_size(path)
    try:
        record = loadmat(str(path), variable_names=['dbStruct'])['dbStruct'].item()
        names, asked = ([str(cell[0].item()) for cell in record[i]] for i in (1, 3))
        positions = [np.asarray(record[i], dtype=np.float64).T for i in (2, 4)]
        counts = [int(record[i].item()) for i in (5, 6)]
    except (MatReadError, NotImplementedError, OSError, ValueError, TypeError, KeyError,
            IndexError, AttributeError, MemoryError, OverflowError, zlib.error) as error:
        raise EvaluationError(f'{path} is damaged or holds no dbStruct: '
                              f'{" ".join(str(error).split())[:200]}') from error
    for label, found, xy, count in (('references', names, positions[0], counts[0]),
                                    ('queries', asked, positions[1], counts[1])):
        if len(found) > MAX_NAMES or xy.shape != (len(found), 2) or count != len(found) \
                or not np.isfinite(xy).all():
            raise EvaluationError(f'{path} is damaged: {len(found)} names of {label}, positions '
                                  f'of shape {xy.shape}, a count of {count}')
    return names, positions[0], asked, positions[1]


def check_unpacked_size(path: Path) -> None:
    """Check the unpacked size of the compressed parts of a MATLAB 5 file.

    Raises:
        EvaluationError: the file cannot be read, has another format, or unpacks to more than
            the limit.
    """
    total = 0
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise EvaluationError(f'{path} has {size} bytes; expected at most {MAX_FILE_BYTES}')
        with path.open('rb') as file:
            order = _byte_order(file.read(128), path)
            while len(head := file.read(8)) == 8:
                kind, length = struct.unpack(f'{order}II', head)
                if kind != _COMPRESSED:
                    total += length
                    file.seek(length, 1)
                else:
                    total += _unpacked(file, length, MAX_UNPACKED_BYTES - total)
                if total > MAX_UNPACKED_BYTES:
                    raise EvaluationError(f'{path} unpacks to more than {MAX_UNPACKED_BYTES} '
                                          f'bytes; that is no list of images')
    except (OSError, zlib.error) as error:
        raise EvaluationError(f'{path} is damaged or cannot be read: {error}') from error


def _byte_order(header: bytes, path: Path) -> str:
    mark = header[126:128]
    if len(header) < 128 or mark not in (b'IM', b'MI'):
        raise EvaluationError(f'{path} is no MATLAB 5 file')
    return '<' if mark == b'IM' else '>'


def _unpacked(file: Any, length: int, limit: int) -> int:
    """Unpacked size of the next `length` bytes; counting stops shortly after `limit`."""
    unpack, total, left = zlib.decompressobj(), 0, length
    while left > 0 and total <= limit:
        chunk = file.read(min(left, 1 << 16))
        if not chunk:
            break
        left -= len(chunk)
        while chunk and total <= limit:
            total += len(unpack.decompress(chunk, 1 << 20))
            chunk = unpack.unconsumed_tail
    return total


def _picture(root: Path, folder: Path, name: str, source: Path) -> PictureFile:
    path = below(folder, name, source)
    return PictureFile(str(path.relative_to(root)), path)
