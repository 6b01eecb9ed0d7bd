"""Patch tokens of the network's own pass as local features."""

import functools

import numpy as np

from regvpr_core.arrays import Float32
from regvpr_core.verification.local_features import LocalFeatures

MAX_CHANNELS = 128
"""Tokens are brought to this many numbers. Measured on the town: no worse than all 384."""


def patch_features(tokens: Float32, width: int, height: int) -> LocalFeatures:
    """One feature at the centre of each patch.

    Args:
        tokens: (h, w, C) of one image, as `Encoder.describe_with_tokens` gives them.
        width, height: of the image, px; it was stretched to the network's input.
    """
    h, w, channels = tokens.shape
    rows = tokens.reshape(-1, channels)
    # What all patches of the image share says nothing about where they are.
    rows = rows - rows.mean(axis=0)
    if channels > MAX_CHANNELS:
        rows = rows @ projection(channels)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    y, x = np.mgrid[0:h, 0:w]
    xy = np.stack([(x.ravel() + 0.5) * width / w, (y.ravel() + 0.5) * height / h], axis=1) - 0.5
    there = length[:, 0] > 1e-6  # an image of one colour has no features
    return LocalFeatures(
        kind='patch', width=width, height=height, xy=xy[there],
        descriptors=np.asarray(rows[there] / length[there], dtype=np.float32))


@functools.cache
def projection(channels: int) -> Float32:
    """Orthonormal columns (channels, MAX_CHANNELS), the same everywhere (Johnson-Lindenstrauss).

    Not learnt, so that maps of one model compare whatever they were made from.
    """
    gaussian = np.random.default_rng(20240).standard_normal((channels, MAX_CHANNELS))
    columns, triangle = np.linalg.qr(gaussian)
    return np.asarray(columns * np.sign(np.diag(triangle)), dtype=np.float32)
