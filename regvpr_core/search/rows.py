"""Descriptors of a map in the form used for comparison: centred unit rows, read on demand.

Rows stay in the memory-mapped file. Each is checked against its checksum before it is first used.

A search runs in one thread, here and in `rabitq`. On a busy machine, threads that wait for each
other at every step slow a search from 1 ms to 75 ms (seen with a load of 6 on two cores). Hence
`einsum` and small blocks, for which neither BLAS nor torch starts more threads.
"""

from collections.abc import Callable, Iterator
import contextlib
import functools
import importlib
import importlib.util
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Float32, Ids
from regvpr_core.errors import MapError

BLOCK = 1024
"""Rows per block, so that a large map is never read into memory as a whole."""

PIECE = 32_768
"""Largest block that torch converts in the calling thread, in numbers."""

CENTRE_PRIOR = 10.0
"""Weight of the prior mean of zero in a map's mean descriptor, in keyframes."""

Changed = Callable[[Ids, npt.NDArray[np.float16]], None]
"""Checks rows as read against their ids; raises MapError if one is damaged."""


class CentredRows:
    """Rows (N, D) of `descriptors.f16`: normalised, centred, normalised again.

    The mean is common to all images of a map and says nothing about the place.
    """

    def __init__(self, rows: npt.NDArray[np.float16], check: Changed, name: str = '') -> None:
        """Prepare; reads no row. check: refuses damaged rows. name: of the map, for messages."""
        self._rows = rows
        self._name = name
        self._check = check
        self._checked = np.zeros(len(rows), dtype=bool)
        self._scale = np.zeros(len(rows), np.float32)
        self._offset = np.zeros(len(rows), np.float32)
        self._products = Products(rows.shape[1])
        self.set_centre(np.zeros(rows.shape[1], np.float32))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dimension(self) -> int:
        """Length D of a row."""
        return int(self._rows.shape[1])

    def find_centre(self) -> None:
        """Read and check every row, and set the centre to their mean.

        The mean of a few keyframes is unreliable and is shrunk towards zero.

        Raises:
            MapError: a row is damaged or zero.
        """
        total = np.zeros(self.dimension)
        for start in range(0, len(self), BLOCK):
            total += unit(self.read(np.arange(start, min(start + BLOCK, len(self))))).sum(
                axis=0, dtype=np.float64)
        if not np.isfinite(total).all():
            raise MapError(f'map {self._name} is damaged: a descriptor in it has no direction; '
                           f'build the map again')
        self.set_centre((total / (len(self) + CENTRE_PRIOR)).astype(np.float32))

    def set_centre(self, centre: Float32) -> None:
        """Set a centre (D,) that `find_centre` computed for the same rows."""
        self.centre: Float32 = centre
        self._squared = float(centre @ centre)
        self._scale[:] = 0.0

    def read(self, ids: Ids) -> Float32:
        """Rows (len(ids), D) as stored.

        Raises:
            MapError: one has changed since it was written.
        """
        return as_float32(self._block(ids))

    def centred(self, ids: Ids) -> Float32:
        """Centred unit rows (len(ids), D)."""
        return unit(unit(self.read(ids)) - self.centre)

    def blocks(self) -> Iterator[Float32]:
        """All centred unit rows, block by block, in order."""
        for start in range(0, len(self), BLOCK):
            yield self.centred(np.arange(start, min(start + BLOCK, len(self))))

    def similarities(self, query: Float32, ids: Ids) -> Float32:
        """Cosines (len(ids),) of a unit query (D,) with centred rows."""
        block = self._products.read(self._rows, ids)
        self._check_new(ids, block)
        new = self._scale[ids] == 0.0
        if new.any():
            self._measure(as_float32(block[new]), ids[new])
        return np.asarray(self._products(query, len(ids)) * self._scale[ids]
                          - float(query @ self.centre) * self._offset[ids], dtype=np.float32)

    def _block(self, ids: Ids) -> npt.NDArray[np.float16]:
        """A copy of stored rows: a change of the file after the check has no effect."""
        at = _slice(ids)
        block = np.array(self._rows[at]) if isinstance(at, slice) else np.asarray(self._rows[at])
        self._check_new(ids, block)
        return block

    def _check_new(self, ids: Ids, block: npt.NDArray[np.float16]) -> None:
        """Check the checksums of rows that are read for the first time."""
        new = ~self._checked[ids]
        if new.any():
            self._check(ids[new], block[new])
            self._checked[ids] = True

    def _measure(self, rows: Float32, ids: Ids) -> None:
        """Cache 1 / (|row| |unit row - centre|) and 1 / |unit row - centre|."""
        length = np.sqrt(np.einsum('nd,nd->n', rows, rows))
        shared = np.einsum('nd,d->n', rows, self.centre) / length
        # |unit row - centre|^2 > 0: the centre is a shrunk mean of unit rows, shorter than 1.
        apart = np.sqrt(np.maximum(1.0 - 2.0 * shared + self._squared, 1e-12))
        self._scale[ids], self._offset[ids] = 1.0 / (length * apart), 1.0 / apart

    def best(self, query: Float32, candidates: Ids, k: int) -> tuple[Float32, Ids]:
        """Re-rank candidates by their rows: similarities and ids of the best k."""
        ids = np.sort(candidates[candidates >= 0])  # ascending, so that the file is read forwards
        similarities = self.similarities(query, ids)
        order = np.argsort(-similarities, kind='stable')[:k]
        return similarities[order], ids[order]


def nothing(queries: int) -> tuple[Float32, Ids]:
    """Empty result for a number of queries."""
    return np.zeros((queries, 0), np.float32), np.zeros((queries, 0), np.int64)


@functools.cache
def load_faiss() -> Any:
    """Import faiss."""
    # Torch is imported before faiss: in the other order their OpenMP runtimes clash.
    if importlib.util.find_spec('torch'):
        importlib.import_module('torch')
    return importlib.import_module('faiss')


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Limit FAISS to the calling thread."""
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class Products(threading.local):
    """Scalar products of stored rows with a query; each thread has its own memory for rows.

    FAISS converts each row while it multiplies: a third of the time of `as_float32` and `einsum`.
    Rows are read into the memory of its index, which is kept from query to query.
    """

    def __init__(self, dimension: int) -> None:
        """Memory is reserved on the first call of `read`. dimension: length D of a row."""
        self._dimension = dimension
        self._index: Any = None
        self._room = np.zeros((0, dimension), np.float16)

    def read(self, rows: npt.NDArray[np.float16], ids: Ids) -> npt.NDArray[np.float16]:
        """Read rows (len(ids), D) of (N, D); they are valid until the next call."""
        if self._index is None or len(ids) > len(self._room):
            faiss = load_faiss()
            self._index = faiss.IndexScalarQuantizer(
                self._dimension, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
            size = max(len(ids), 1) * self._dimension * 2
            self._index.codes.resize(size)
            self._room = faiss.rev_swig_ptr(self._index.codes.data(), size).view(
                np.float16).reshape(-1, self._dimension)
        block = self._room[:len(ids)]
        np.take(rows, ids, axis=0, out=block, mode='clip')
        return block

    def __call__(self, query: Float32, count: int) -> Float32:
        """Products (count,) of the rows read last with a query (D,), in single precision."""
        self._index.ntotal = count
        found = np.full(count, np.nan, np.float32)  # what FAISS leaves out is no number
        with one_thread():
            values, ids = self._index.search(query[None], max(count, 1))
        found[ids[ids >= 0]] = values[ids >= 0]
        return found


def as_float32(block: npt.NDArray[np.float16]) -> Float32:
    """Convert rows (N, D) from float16 to float32, by torch if installed: it is up to twenty times
    faster than NumPy.
    """
    if block.size < PIECE or importlib.util.find_spec('torch') is None:
        return block.astype(np.float32)
    torch: Any = importlib.import_module('torch')
    single = np.empty(block.shape, np.float32)
    from_, to = torch.from_numpy(block), torch.from_numpy(single)
    step = max(1, PIECE // block.shape[1])
    for start in range(0, len(block), step):
        to[start:start + step].copy_(from_[start:start + step])
    return single


def _slice(ids: Ids) -> Ids | slice:
    """A slice for consecutive ids, which are read as one block."""
    if len(ids) > 1 and ids[-1] - ids[0] == len(ids) - 1 and bool((np.diff(ids) == 1).all()):
        return slice(int(ids[0]), int(ids[-1]) + 1)
    return ids


def unit(rows: npt.NDArray[Any]) -> Float32:
    """Scale vectors (..., D) to length 1; NaN for zero vectors."""
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), dtype=np.float32)
