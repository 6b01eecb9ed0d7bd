"""Motion of a camera between two images: the keyframes within reach, with weights.

Odometry gives the motion. Without odometry the camera moves along the drives of the map at one of
`SPEEDS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy.spatial import cKDTree

from regvpr_core.arrays import Float64, Ids
from regvpr_core.geometry import Array

MAX_PAIRS = 16_384
"""Largest number of pairs of a state and a keyframe that its motion may reach. The most likely
states come first; the probability of the remaining ones is spread over all keyframes."""

REACH = 3.0
"""Reach of a motion in standard deviations."""

GAP_SPACINGS = 4.0
"""Distance of two consecutive keyframes, in spacings, that splits a drive. Set by hand."""

SPEEDS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.5, 8.0)
"""Speeds without odometry, in spacings of the map per image; negative is backwards. With
nine speeds, recall in pepper_office is 0.63 instead of 0.74. Speeds above
`BeliefConfig.drift_mps` are not used."""

SPEED_ERROR = 0.2
"""Standard deviation of a speed as a share of it; covers the speeds between two of `SPEEDS`."""


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Pairs (P,) of a prediction's index and a keyframe within reach, with weights.

    followed: number of predictions, from the first, within the budget of pairs.
    """

    followed: int
    starts: Ids
    keyframes: Ids
    weights: Float64


class Motion:
    """The drives of a map, and the keyframes within reach of a motion."""

    def __init__(self, T_map_cam: Array, spacing_m: float, least_trace: float,
                 drives: Sequence[str] = ()) -> None:
        """Order the keyframes by drive.

        Args:
            T_map_cam: (N, 4, 4) keyframe poses, N >= 1; keyframes of a drive in the order of time.
            spacing_m: of the map.
            least_trace: least trace of the rotation between two keyframes of one place.
            drives: (N,) drive and camera of each; empty: all one.
        """
        self._T = T_map_cam
        self._turns = T_map_cam[:, :3, :3].reshape(-1, 9)
        self._least_trace = least_trace
        self.tree = cKDTree(T_map_cam[:, :3, 3])
        # Keyframes ordered by drive, the distance along the drives, and the ends of each piece
        # without a gap.
        taken_by = np.unique(np.array(drives), return_inverse=True)[1] if len(drives) else \
            np.zeros(len(T_map_cam), np.int64)
        self._order: Ids = np.argsort(taken_by, kind='stable')
        self._place_of: Ids = np.argsort(self._order)
        self._line = T_map_cam[self._order, :3, 3]
        steps = np.linalg.norm(np.diff(self._line, axis=0), axis=1)
        broken = (np.diff(taken_by[self._order]) != 0) | (steps > GAP_SPACINGS * spacing_m)
        steps = np.where(broken, 0.0, steps)
        self._way = np.concatenate([[0.0], np.cumsum(steps)])
        piece = np.concatenate([[0], np.cumsum(broken)])
        self._first: Ids = np.searchsorted(piece, piece)
        self._last: Ids = np.searchsorted(piece, piece, side='right') - 1

    def carried(self, ids: Ids, T_previous_current: Array) -> Array:
        """Poses (K, 4, 4) of a camera that moved from keyframes (K,) by a motion (4, 4)."""
        return np.asarray(self._T[ids] @ T_previous_current)

    def along(self, ids: Ids, metres: Float64) -> Array:
        """Poses (K, 4, 4) at distances (K,) ahead of keyframes (K,) on their drives.

        Beyond an end of a drive its last segment is extended.
        """
        at = self._place_of[ids]
        first, last = self._first[at], self._last[at]
        wanted = self._way[at] + metres
        # The segment that contains the position; the first or the last segment beyond the ends.
        after = np.clip(np.searchsorted(self._way, wanted), first + 1, last)
        before = np.maximum(after - 1, first)
        length = self._way[after] - self._way[before]
        share = (wanted - self._way[before]) / np.where(length > 0.0, length, 1.0)
        step = self._line[after] - self._line[before]
        alone = length <= 0.0
        step[alone] = self._T[ids[alone], :3, 2]  # the viewing direction of a camera is its z axis
        share[alone] = metres[alone]
        predicted = self._T[np.where(share > 0.5, self._order[after], self._order[before])]
        predicted[:, :3, 3] = self._line[before] + share[:, None] * step
        return np.asarray(predicted)

    def steps(self, predicted: Array, sigma_m: Float64) -> Steps:
        """Keyframes within reach of predictions (K, 4, 4) of standard deviation sigma_m (K,).

        The predictions are ordered by probability, the most likely first.
        """
        lists = self._in_reach(predicted[:, :3, 3], REACH * sigma_m)
        sizes = np.array([len(ids) for ids in lists], dtype=np.int64)
        starts = np.repeat(np.arange(len(lists)), sizes)
        keyframes = np.fromiter(chain.from_iterable(lists), np.int64, int(sizes.sum()))
        turns = predicted[:, :3, :3].reshape(-1, 9)
        fits = np.einsum('ij,ij->i', self._turns[keyframes], turns[starts]) >= self._least_trace
        starts, keyframes = starts[fits], keyframes[fits]
        off = self._T[keyframes, :3, 3] - predicted[starts, :3, 3]
        squares = np.einsum('ij,ij->i', off, off) / sigma_m[starts]**2
        return Steps(len(lists), starts, keyframes, np.exp(-0.5 * squares))

    def _in_reach(self, positions: Array, radius_m: Float64) -> list[list[int]]:
        """Keyframes near each position, for the first positions, up to `MAX_PAIRS` pairs."""
        lists: list[list[int]] = []
        if not len(positions):
            return lists
        pairs, most = 0, int(self.tree.query_ball_point(
            positions[0], radius_m[0], return_length=True))
        # In portions, sized for the densest neighbourhood found so far.
        while len(lists) < len(positions) and pairs + most <= MAX_PAIRS:
            portion = max(1, (MAX_PAIRS - pairs) // (2 * max(most, 1)))
            here = slice(len(lists), len(lists) + portion)
            found = self.tree.query_ball_point(
                positions[here], radius_m[here], return_sorted=False)
            lists.extend(found)
            sizes = [len(ids) for ids in found]
            pairs, most = pairs + sum(sizes), max(most, *sizes)
        return lists
