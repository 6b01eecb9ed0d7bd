"""PCA whitening, which shortens descriptors.

Jegou and Chum, ECCV 2012: y = W (x - mean), rows of W the leading directions of the descriptors'
spread, each scaled to a variance of one, then length 1 again. Deviation: a variance below a
hundredth of the largest kept one is not scaled up, because in a small map it is noise.
"""

from dataclasses import dataclass
import re
import struct

import numpy as np
import safetensors
import safetensors.numpy

from regvpr_core.arrays import Float32
from regvpr_core.errors import MapError
from regvpr_core.search.rows import unit

LEAST_VARIANCE = 0.01
_NAME = re.compile(r'pca:([1-9][0-9]{0,4})')


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """mean: (D,). matrix: (D, d), float32. Both None: descriptors stay as they are."""

    mean: Float32 | None = None
    matrix: Float32 | None = None

    def apply(self, descriptors: Float32) -> Float32:
        """Project descriptors (..., D) to (..., d), unit rows; unchanged without a matrix.

        Raises:
            MapError: the descriptors have another length.
        """
        if self.matrix is None or self.mean is None:
            return descriptors
        if descriptors.shape[-1] != len(self.matrix):
            raise MapError(f'a descriptor of {descriptors.shape[-1]} numbers cannot be compressed '
                           f'for this map; its model gives {len(self.matrix)}')
        return unit((descriptors - self.mean) @ self.matrix)

    def to_bytes(self) -> bytes:
        """Serialise for the map attachment (safetensors)."""
        tensors = {'mean': self.mean, 'matrix': self.matrix}
        return bytes(safetensors.numpy.save(
            {name: value for name, value in tensors.items() if value is not None}))


def target(compress: str) -> int:
    """Parse the length d of `pca:d`.

    Raises:
        MapError: the text has another form.
    """
    match = _NAME.fullmatch(compress)
    if not match:
        raise MapError(f'{compress!r} is no compression; expected pca:NUMBER, such as pca:1024')
    return int(match[1])


def read_projection(compress: str, value: bytes | None, dimension: int, name: str) -> Projection:
    """The projection of a map, from its manifest and its attachment `pca`.

    Raises:
        MapError: manifest and attachment disagree.
    """
    if not compress:
        return Projection()
    damaged = f'map {name} is damaged: it is compressed ({compress}), but its attachment pca'
    if value is None:
        raise MapError(f'{damaged} is missing')
    try:
        tensors = safetensors.numpy.load(value)
        mean, matrix = tensors['mean'], tensors['matrix']
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError, struct.error) as error:
        raise MapError(f'{damaged} cannot be read: {error}') from error
    if mean.ndim != 1 or mean.dtype != np.float32 or matrix.dtype != np.float32 \
            or matrix.shape != (*mean.shape, dimension) or target(compress) != dimension \
            or not (np.isfinite(mean).all() and np.isfinite(matrix).all()):
        raise MapError(f'{damaged} is of {matrix.shape}, not of (model, {dimension}) finite '
                       f'numbers')
    return Projection(mean, matrix)


def learn(descriptors: Float32, size: int) -> Projection:
    """Learn a projection to `size` numbers from descriptors (N, D), N > size.

    Raises:
        MapError: there are too few descriptors, or D is not larger than `size`.
    """
    count, dimension = descriptors.shape
    if not size < dimension:
        raise MapError(f'descriptors of {dimension} numbers cannot be compressed to {size}')
    if count <= size:
        raise MapError(f'{count} keyframes are too few to learn {size} directions from; at least '
                       f'{size + 1} are needed, and several times as many are better: ask for '
                       f'fewer numbers (pca:{max(1, count // 4)}) or leave the map as it is')
    mean = descriptors.mean(axis=0)
    away = descriptors - mean
    # The smaller of the two Gram matrices has the same spectrum.
    small = away @ away.T if count < dimension else away.T @ away
    values, vectors = np.linalg.eigh(small.astype(np.float64) / count)
    values, vectors = values[::-1][:size], vectors[:, ::-1][:, :size]
    spread = np.sqrt(np.maximum(values, LEAST_VARIANCE * values[0]))
    if count < dimension:
        vectors = away.T.astype(np.float64) @ vectors
        vectors /= np.maximum(np.linalg.norm(vectors, axis=0), 1e-12)
    return Projection(mean.astype(np.float32), (vectors / spread).astype(np.float32))
