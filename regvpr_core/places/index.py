"""Nearest keyframes by cosine. The only module that imports faiss."""

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from regvpr_core.errors import MapError

Float32 = npt.NDArray[np.float32]


class ExactIndex:
    """Brute-force search: the reference for every other index, and right for small maps."""

    def __init__(self, dimension: int) -> None:
        # Torch goes first where both are used: their OpenMP runtimes clash in the other order.
        faiss = importlib.import_module('faiss')
        self._index: Any = faiss.IndexFlatIP(dimension)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, descriptors: Float32) -> None:
        """Append descriptors (N, D), unit rows; the ids go on counting from `len(self)`."""
        self._index.add(np.ascontiguousarray(descriptors, dtype=np.float32))

    def search(self, descriptors: Float32, k: int) -> tuple[Float32, npt.NDArray[np.int64]]:
        """The k most similar rows for each of (Q, D): similarities and ids (Q, min(k, N)).

        Raises:
            MapError: the descriptors have another length than the map's.
        """
        if descriptors.ndim != 2 or descriptors.shape[1] != self._index.d:
            raise MapError(f'descriptors of shape {descriptors.shape} cannot be searched in a map '
                           f'of {self._index.d} numbers a place')
        k = min(k, len(self))
        if k == 0:
            empty = (len(descriptors), 0)
            return np.zeros(empty, np.float32), np.zeros(empty, np.int64)
        similarities, ids = self._index.search(
            np.ascontiguousarray(descriptors, dtype=np.float32), k)
        return similarities, ids
