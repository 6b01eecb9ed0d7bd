"""Whitening of descriptors: directions of large variance over all places get less weight.

PCA whitening of descriptors after Jegou and Chum, Negative evidences and co-occurrences in image
retrieval: the benefit of PCA and whitening (ECCV 2012), learnt from the map itself. Deviations: a
ridge limits the weight of directions of small variance, and few keyframes have little effect. In
the rendered town (`examples.town`, seed 7), 0.48 instead of 0.24 of the dusk images score higher
at their true place than 90 % of off-map images at their best match.
"""

import numpy as np

from regvpr_core.arrays import Float32
from regvpr_core.search.rows import unit

MAX_ROWS = 1024
POWER = 1.0
"""Exponent of the whitening: 1 is full whitening, 0 none."""

RIDGE = 0.05
"""Variance added in all directions, as a share of the largest variance."""

PRIOR_ROWS = 10.0
"""Weight of the prior in keyframes: for this number of keyframes, the largest variance is added
to all directions."""


class Whitening:
    """A linear map of centred descriptors whose cosines discriminate places better."""

    def __init__(self, rows: Float32) -> None:
        """Learn from centred descriptors (N, D) of keyframes spread over the map; N may be 0.

        They are not scaled to unit length, so that descriptors far from the mean weigh more.
        """
        # Eigenvectors of the covariance from the smaller Gram matrix.
        values, vectors = np.linalg.eigh((rows @ rows.T).astype(np.float64))
        kept = values > 1e-6 * max(float(values.max(initial=0.0)), 1e-12)
        values, vectors = values[kept] / max(len(rows), 1), vectors[:, kept]
        ridge = max(float(values.max(initial=0.0)), 1e-12) * (
            RIDGE + PRIOR_ROWS / max(len(rows), 1))
        self._basis: Float32 = np.asarray(
            (rows.T @ vectors) / np.sqrt(np.maximum(values * len(rows), 1e-12)), np.float32)
        # The prior variance falls with the number of keyframes.
        self._outside = np.float32(PRIOR_ROWS / (PRIOR_ROWS + len(rows)))
        self._inside: Float32 = np.asarray(
            (1.0 + values / ridge) ** (-0.5 * POWER), np.float32)
        self._weights: Float32 = self._inside ** 2

    def __call__(self, rows: Float32) -> Float32:
        """Whitened descriptors (..., D), unit rows."""
        return unit(self.change(rows))

    def change(self, rows: Float32) -> Float32:
        """The linear map itself, which is symmetric: (..., D) to (..., D)."""
        inside = rows @ self._basis
        return np.asarray(self._outside * rows
                          + (inside * (self._inside - self._outside)) @ self._basis.T, np.float32)
