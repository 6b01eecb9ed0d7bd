"""Local features from the patch tokens of the network."""

import functools

import numpy as np

from regvpr_core.arrays import Float32
from regvpr_core.verification.local_features import LocalFeatures

MAX_CHANNELS = 128
"""Length of a feature after projection. In the rendered town (`examples.town`) it is
as good as all 384 numbers."""


def patch_features(tokens: Float32, width: int, height: int) -> LocalFeatures:
    """Make one feature at the centre of each patch.

    Args:
        tokens: (h, w, C) of one image, from `Encoder.describe_with_tokens`.
        width, height: of the image, px; it was stretched to the network's input.
    """
    h, w, channels = tokens.shape
    rows = tokens.reshape(-1, channels)
    # The mean of all patches of the image does not discriminate positions.
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
    """Random projection (channels, MAX_CHANNELS) with orthonormal columns (Johnson-Lindenstrauss).

    It is the same on every machine and is not learnt, so that all maps of a model are comparable.
    """
    gaussian = np.random.default_rng(20240).standard_normal((channels, MAX_CHANNELS))
    columns, triangle = np.linalg.qr(gaussian)
    return np.asarray(columns * np.sign(np.diag(triangle)), dtype=np.float32)
