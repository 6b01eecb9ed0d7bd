"""Whitened cosines of an image with keyframes, without whitening a keyframe.

The whitening W is symmetric, with W = o (I - B B^T) + B diag(i) B^T. With the coordinates
c = B^T r of a row, the product of two whitened rows is

    (W r)^T (W q) = o^2 (r^T q - c_r^T c_q) + sum_k i_k^2 c_rk c_qk

so an image costs one product with B, and each keyframe one of the length of its coordinates, which
are kept for the keyframes found lately.
"""

from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from regvpr_core.localization.appearance import Float32
from regvpr_core.localization.whitening import Whitening
from regvpr_core.maps.place_map import PlaceMap

KEPT_BYTES = 32 << 20
"""Coordinates of so many keyframes are kept: 8,192 of 1,024 numbers."""

Ids = npt.NDArray[np.int64]


class WhitenedRows:
    """Keyframes of a map as they are compared with an image."""

    def __init__(self, whitening: Whitening, place_map: PlaceMap, background: Ids) -> None:
        """background: ids of keyframes all over the map, that `compare` always answers for."""
        self._whitening, self._place_map = whitening, place_map
        self._kept: OrderedDict[int, Float32] = OrderedDict()
        self._most = max(1, KEPT_BYTES // max(1, 4 * whitening.rank))
        found = whitening.coordinates(place_map.centred(background))
        # What of these rows lies outside of B counts by o^2, at most 1e-4 of a map so large that
        # any of it does, and is left out.
        weighted = found * whitening.weights
        lengths = np.sqrt(np.maximum(np.einsum('nk,nk->n', weighted, found), 1e-12))
        self._background: Float32 = np.asarray(weighted / lengths[:, None], np.float32)

    def compare(self, query: Float32, ids: Ids,
                similarities: Float32) -> tuple[Float32, Float32]:
        """Whitened cosines with keyframes (K,) and with the background (B,).

        Args:
            query: (D,) centred descriptor of the image, unit.
            ids: (K,) keyframes.
            similarities: (K,) their cosines with the query before whitening.
        """
        new = [int(k) for k in ids if int(k) not in self._kept]
        rows = self._place_map.centred(np.array(new, dtype=np.int64))
        found = self._whitening.coordinates(np.concatenate([query[None], rows]))
        for k, one in zip(new, found[1:], strict=True):
            self._kept[k] = one
        c_q, weights, outside = found[0], self._whitening.weights, self._whitening.outside
        c = np.stack([self._kept[int(k)] for k in ids]) if len(ids) else \
            np.zeros((0, len(c_q)), np.float32)
        for k in ids:
            self._kept.move_to_end(int(k))
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        # |W r|^2 of unit rows, by the same formula.
        lengths = np.sqrt(np.maximum(
            outside * (1.0 - np.einsum('nk,nk->n', c, c)) + (c * c) @ weights, 1e-12))
        weighted = weights * c_q
        length = np.sqrt(max(
            outside * float(query @ query - c_q @ c_q) + float(weighted @ c_q), 1e-12))
        products = outside * (similarities - c @ c_q) + c @ weighted
        return (np.asarray(products / (lengths * length), np.float32),
                np.asarray((self._background @ c_q) / length, np.float32))
