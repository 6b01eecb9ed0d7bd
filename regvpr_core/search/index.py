"""Search indices for the nearest keyframes by cosine. See docs/search.md.

Only this package imports faiss.
"""

import importlib
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from regvpr_core.arrays import Float32, Ids
from regvpr_core.config import nearest
from regvpr_core.errors import MapError
from regvpr_core.search.gpu import device_holds, GpuIndex
from regvpr_core.search.index_file import index_files, index_key, read_index, write_index
from regvpr_core.search.milvus import MilvusIndex, Model
from regvpr_core.search.rabitq import code_bytes, encode, RabitqConfig, RabitqIndex
from regvpr_core.search.rows import CentredRows, load_faiss, nothing

KINDS = ('auto', 'exact', 'rabitq', 'gpu', 'milvus:URI')

EXACT_BYTES = 16_000_000
"""Largest size of all rows for which `auto` selects the exact index: 470 places of 8448 numbers,
or 10,000 of 384. Beyond, codes are several times faster."""


class Index(Protocol):
    """A search index. kind: one of `KINDS`. resident_bytes: its memory."""

    @property
    def kind(self) -> str: ...

    @property
    def resident_bytes(self) -> int: ...

    def __len__(self) -> int:
        """Number of rows."""

    def search(self, queries: Float32, k: int) -> tuple[Float32, Ids]:
        """The k most similar rows for each of (Q, D), unit: similarities, ids (Q, min(k, N))."""


class ExactIndex:
    """Exhaustive search: the reference for every other index, and fastest for small maps."""

    kind = 'exact'

    def __init__(self, dimension: int) -> None:
        # Torch is imported before faiss: in the other order their OpenMP runtimes clash.
        faiss = importlib.import_module('faiss')
        self._index: Any = faiss.IndexFlatIP(dimension)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def resident_bytes(self) -> int:
        """Memory of the rows in bytes."""
        return 4 * len(self) * int(self._index.d)

    def add(self, descriptors: Float32) -> None:
        """Append descriptors (N, D), unit rows; ids continue from `len(self)`."""
        self._index.add(np.ascontiguousarray(descriptors, dtype=np.float32))

    def search(self, queries: Float32, k: int) -> tuple[Float32, Ids]:
        """The k most similar rows for each of (Q, D): similarities and ids (Q, min(k, N)).

        Raises:
            MapError: the queries differ in length from the map's descriptors.
        """
        if queries.ndim != 2 or queries.shape[1] != self._index.d:
            raise MapError(f'descriptors of shape {queries.shape} cannot be searched in a map '
                           f'of {self._index.d} numbers a place')
        k = min(k, len(self))
        if k == 0:
            return nothing(len(queries))
        similarities, ids = self._index.search(
            np.ascontiguousarray(queries, dtype=np.float32), k)
        return similarities, ids


def open_index(kind: str, rows: CentredRows, folder: Path, map_id: str, digest: str, model: Model,
               rabitq: RabitqConfig | None = None) -> Index:
    """Create the index of a map and compute the centre of its rows.

    Args:
        kind: one of `KINDS`.
        rows: rows of the map; their centre is set.
        folder: folder of the map, in which a RaBitQ index is stored if it is writable.
        map_id, digest: of the map and its descriptors; a stored index of others is stale.
        model: model of the descriptors.
        rabitq: settings of the index `rabitq`; None takes the defaults.

    Raises:
        MapError: unknown kind, a damaged row, too little memory, or Milvus is not reachable.
    """
    if kind == 'auto':
        kind = choose(len(rows), rows.dimension)
    if kind == 'rabitq':
        return _rabitq(rows, folder, map_id, digest, rabitq or RabitqConfig())
    if kind not in ('exact', 'gpu') and not kind.startswith('milvus:'):
        raise MapError(f'no index is called {kind!r}{nearest(kind, KINDS)}')
    rows.find_centre()
    if kind == 'gpu':
        return GpuIndex(rows)
    if kind.startswith('milvus:'):
        return MilvusIndex(rows, kind.partition(':')[2], map_id, model, digest)
    index = ExactIndex(rows.dimension)
    for block in rows.blocks():
        index.add(block)
    return index


def choose(count: int, dimension: int) -> str:
    """The index kind that `auto` selects for a number of places."""
    if 4 * count * dimension <= EXACT_BYTES:
        return 'exact'
    return 'gpu' if device_holds(count, dimension) else 'rabitq'


def _rabitq(rows: CentredRows, folder: Path, map_id: str, digest: str,
            config: RabitqConfig) -> RabitqIndex:
    """Load the index file if it fits these rows, else build and store it."""
    # Settings of the query and the search do not affect the codes.
    key = index_key([map_id, len(rows), rows.dimension, digest, config.code_bits,
                     load_faiss().__version__])
    files = index_files(folder, key)
    length = code_bytes(rows.dimension, config)
    for file in files:
        kept = read_index(file, key, len(rows), rows.dimension, length)
        if kept is not None:
            rows.set_centre(kept[0])
            return RabitqIndex(rows, kept[1], config)
    rows.find_centre()
    codes = encode(rows, config)
    write_index(files, key, rows.centre, codes)
    return RabitqIndex(rows, codes, config)
