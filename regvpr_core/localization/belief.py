"""Where the robot may be: a discrete Bayes filter over keyframes and the world off the map.

After Xu, Sunderhauf and Milford, Probabilistic VPR for hierarchical localization (RA-L 2020), with
an off-map state. Deviation: the belief is sparse. Most keyframes of a large map are equally
unlikely and share one probability, the floor; only keyframes above it are stored individually.
So the time per image does not depend on the size of the map.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
import math

import numpy as np
from scipy.spatial import cKDTree

from regvpr_core.arrays import Float64, Ids
from regvpr_core.config import check_settings, setting
from regvpr_core.geometry import Array

LEAST_MASS = 1e-12
MAX_ACTIVE = 256
"""Largest number of keyframes stored individually; the probability of others goes to the floor."""

MAX_PAIRS = 16_384
"""Largest number of pairs of a keyframe and a keyframe within reach of its motion; further
keyframes, the less likely ones, are not moved individually."""

MAX_PLACES = 1024
"""Places whose keyframes are kept in memory."""

PLACE_SPACINGS = 2.5
"""Radius of a place in spacings of the map: two keyframes before and two after."""

LEAST_RADIUS_M = 0.5
"""Radius of a place in a map of one keyframe, or of keyframes at one spot, m."""

MOTION_SPACINGS = 0.75
"""Least standard deviation of the motion between two images, in spacings of the map."""

LEAST_SIGMA_M = 0.05

REACH = 3.0
"""Reach of a motion in standard deviations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeliefConfig:
    """Settings of the filter."""

    place_radius_m: float = setting(
        0.0,
        'Keyframes within this distance show one place; at least 1.5 times the spacing of the '
        'map. 0 takes 2.5 times the spacing.', 0.0, 1000.0, unit='m')
    place_angle_rad: float = setting(
        0.9, 'Keyframes of one place differ in direction by less than this.',
        0.01, 3.2, unit='rad')
    motion_noise: float = setting(
        0.1, 'Standard deviation of odometry as a share of the distance.', 0.0, 1.0)
    motion_floor_m: float = setting(
        0.0,
        'Least standard deviation of odometry between two images; at least three quarters of '
        'the spacing of the map.', 0.0, 100.0, unit='m')
    drift_mps: float = setting(
        3.0, 'Largest speed of the robot, used without odometry.', 0.1, 100.0, unit='m/s')
    kidnap: float = setting(
        0.01, 'Share of the belief that moves anywhere at each image.', 1e-06, 0.5)
    off_map_prior: float = setting(
        0.5, 'Probability at the start that the robot is off the map.', 0.01, 0.99)
    evidence_limit: float = setting(
        4.0, 'Largest log odds that one image may give a place.', 0.5, 20.0)
    evidence_m: float = setting(
        0.0,
        'Images within this distance see much the same and share their errors; each counts for '
        'its share of the distance. 0 takes the spacing of the map.', 0.0, 100.0, unit='m')

    def __post_init__(self) -> None:
        check_settings(self, 'belief')


class Belief:
    """Probability of each keyframe's place, and of being off the map.

    off_map: probability. floor: probability that every keyframe has at least.
    """

    def __init__(self, T_map_cam: Array, config: BeliefConfig,
                 drives: Sequence[str] = ()) -> None:
        """Start with the prior.

        Args:
            T_map_cam: (N, 4, 4) keyframe poses; N may be 0.
            config: settings.
            drives: (N,) name of the drive and camera of each keyframe; empty: a single drive.
        """
        self._T = T_map_cam
        self._turns = T_map_cam[:, :3, :3].reshape(-1, 9)
        self._least_trace = 1.0 + 2.0 * math.cos(min(config.place_angle_rad, math.pi))
        self._config = config
        self._tree = cKDTree(T_map_cam[:, :3, 3]) if len(T_map_cam) else None
        self.spacing_m = spacing(T_map_cam, drives)
        self.radius_m = radius(self.spacing_m, config)
        self._places: dict[tuple[int, bool], Ids] = {}
        self.reset()

    def reset(self) -> None:
        """Return to the prior."""
        count = len(self._T)
        self.off_map = self._config.off_map_prior if count else 1.0
        self.floor = (1.0 - self.off_map) / max(count, 1)
        # Sorted ids of the keyframes above the floor, and how much they are above it.
        self._ids: Ids = np.zeros(0, dtype=np.int64)
        self._above: Float64 = np.zeros(0)

    def masses(self, ids: Ids) -> Float64:
        """Probability of each of these keyframes (K,)."""
        if not len(self._ids):
            return np.full(len(ids), self.floor)
        spots = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        return self.floor + np.where(self._ids[spots] == ids, self._above[spots], 0.0)

    @property
    def places(self) -> Float64:
        """Probability of every keyframe (N,), for inspection; the filter does not use it."""
        return self.masses(np.arange(len(self._T)))

    def predict(self, T_previous_current: Array | None, elapsed_s: float) -> None:
        """Move the belief with the camera.

        Args:
            T_previous_current: (4, 4) motion of the camera between the two images. If it is None,
                the belief spreads over the distance that a robot may have driven.
            elapsed_s: time between the images, s.
        """
        if self._tree is None:
            return
        count, kidnap = len(self._T), self._config.kidnap
        # 1. Move the individual keyframes, the most likely first, within the budget.
        senders = np.flatnonzero(self._above > LEAST_MASS)
        senders = senders[np.argsort(-self._above[senders], kind='stable')][:MAX_ACTIVE]
        predicted, sigma = self._moved(self._ids[senders], T_previous_current, elapsed_s)
        lists = self._in_reach(predicted, sigma)
        senders, predicted = senders[:len(lists)], predicted[:len(lists)]
        mass = self._above[senders]
        spread = float(self._above.sum() - mass.sum())
        # 2. Each passes its probability to keyframes within reach; without any, to off-map.
        pairs, receivers, weights = self._reachable(predicted, lists, sigma)
        sums = np.bincount(pairs, weights, minlength=len(senders))
        self.off_map += float(mass[sums == 0.0].sum())
        shares = mass[pairs] * weights / np.maximum(sums[pairs], 1e-300)
        self._ids, into = np.unique(receivers, return_inverse=True)
        self._above = np.bincount(into, shares, minlength=len(self._ids)).astype(np.float64)
        # 3. The rest, and a share for a kidnapped robot, is spread over all keyframes.
        moved = float(self._above.sum())
        back = kidnap * self.off_map
        self._above *= 1.0 - kidnap
        self.off_map -= back
        self.floor += (spread + kidnap * moved + back) / count
        self._normalise()

    def update(self, ids: Ids, log_odds: Float64, others: float | None = None) -> None:
        """Weigh the belief with one image, or with all of one stamp.

        Args:
            ids: (K,) keyframes found in the map, each once.
            log_odds: (K,) log likelihood ratio of each being a true match.
            others: log likelihood ratio of all other keyframes, at most the least of `log_odds`.
                None: the least of `log_odds`, at most 0.
        """
        if self._tree is None or not len(ids):
            return
        order = np.argsort(ids, kind='stable')
        ids, odds = ids[order], np.asarray(log_odds, dtype=np.float64)[order]
        least = math.exp(min(float(odds.min()), 0.0) if others is None else others)
        found = self.masses(ids) * np.exp(odds)
        unfound = ~np.isin(self._ids, ids, assume_unique=True)
        self.floor *= least
        merged = np.concatenate([self._ids[unfound], ids])
        above = np.concatenate([self._above[unfound] * least,
                                np.maximum(found - self.floor, 0.0)])
        order = np.argsort(merged, kind='stable')
        self._ids, self._above = merged[order], above[order]
        self._normalise()

    def around(self, keyframe: int) -> Ids:
        """Keyframes of the same place as this one, including it; sorted."""
        return self._near(self._T[keyframe], self.radius_m)

    def _place(self, keyframe: int, any_angle: bool = False) -> Ids:
        """Keyframes within twice the radius of this one's place, kept from image to image."""
        key = keyframe, any_angle
        if key not in self._places:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            self._places[key] = self._near(self._T[keyframe], 2.0 * self.radius_m, any_angle)
        return self._places[key]

    def near_pose(self, T_map_cam: Array) -> Ids:
        """Keyframes of the place that a camera at this pose (4, 4) sees; sorted."""
        return self._near(T_map_cam, self.radius_m)

    def probability(self, keyframe: int) -> float:
        """Probability that the robot is within twice a place's radius of this keyframe."""
        return float(self.masses(self._place(keyframe)).sum())

    def best(self) -> tuple[int, float, float]:
        """Keyframe and probability of the most likely place, and probability of the second.

        The second place is more than twice a place's radius away.
        """
        first = int(self._ids[np.argmax(self._above)]) if len(self._ids) else 0
        here = self._place(first, any_angle=True)
        elsewhere = ~np.isin(self._ids, here, assume_unique=True)
        if elsewhere.any():
            second = int(self._ids[elsewhere][np.argmax(self._above[elsewhere])])
        else:  # all others have the floor: take the least id that is not at the first place
            second = int(np.searchsorted(here - np.arange(len(here)), 1))
            if second >= len(self._T):
                return first, self.probability(first), 0.0
        there = self._place(second)
        return (first, self.probability(first),
                float(self.masses(np.setdiff1d(there, here, assume_unique=True)).sum()))

    def top(self, count: int, least: float) -> list[tuple[int, float]]:
        """The most likely places: keyframe and probability of each, most likely first.

        Args:
            count: largest number of places; they are more than twice a place's radius apart.
            least: least probability of a place.
        """
        found: list[tuple[int, float]] = []
        left = np.ones(len(self._ids), dtype=bool)
        while left.any() and len(found) < count:
            keyframe = int(self._ids[left][np.argmax(self._above[left])])
            probability = self.probability(keyframe)
            if probability < least:
                break
            found.append((keyframe, probability))
            here = self._place(keyframe, any_angle=True)
            left &= ~np.isin(self._ids, here, assume_unique=True)
        return sorted(found, key=lambda one: -one[1])

    def _moved(
        self, ids: Ids, motion: Array | None, elapsed_s: float
    ) -> tuple[Array, float]:
        """Predicted poses (K, 4, 4) from keyframes, and their standard deviation, m."""
        config = self._config
        # The belief is discrete: its accuracy is limited by the spacing of the keyframes.
        sigma = max(config.motion_floor_m, MOTION_SPACINGS * self.spacing_m, LEAST_SIGMA_M)
        predicted = self._T[ids]
        if motion is None:
            return predicted, math.hypot(sigma, config.drift_mps * max(elapsed_s, 0.0))
        sigma += config.motion_noise * float(np.linalg.norm(motion[:3, 3]))
        return predicted @ motion, sigma

    def _in_reach(self, predicted: Array, sigma: float) -> list[list[int]]:
        """Keyframes near each prediction, for the first predictions, up to `MAX_PAIRS` pairs."""
        if self._tree is None or not len(predicted):
            return []
        positions, radius = predicted[:, :3, 3], REACH * sigma
        lists: list[list[int]] = []
        pairs, most = 0, int(self._tree.query_ball_point(positions[0], radius, return_length=True))
        # In portions, sized for the densest neighbourhood found so far.
        while len(lists) < len(positions) and pairs + most <= MAX_PAIRS:
            portion = max(1, (MAX_PAIRS - pairs) // (2 * max(most, 1)))
            found = self._tree.query_ball_point(
                positions[len(lists):len(lists) + portion], radius, return_sorted=False)
            lists.extend(found)
            sizes = [len(ids) for ids in found]
            pairs, most = pairs + sum(sizes), max(most, *sizes)
        return lists

    def _reachable(
        self, predicted: Array, lists: list[list[int]], sigma: float
    ) -> tuple[Ids, Ids, Float64]:
        """Pairs of a prediction's index and a keyframe within reach, with weights."""
        sizes = np.array([len(ids) for ids in lists], dtype=np.int64)
        senders = np.repeat(np.arange(len(lists)), sizes)
        receivers = np.fromiter(chain.from_iterable(lists), np.int64, int(sizes.sum()))
        turns = predicted[:, :3, :3].reshape(-1, 9)
        fits = np.einsum('ij,ij->i', self._turns[receivers], turns[senders]) >= self._least_trace
        senders, receivers = senders[fits], receivers[fits]
        steps = self._T[receivers, :3, 3] - predicted[senders, :3, 3]
        squares = np.einsum('ij,ij->i', steps, steps)
        return senders, receivers, np.exp(-0.5 * squares / sigma**2)

    def _near(self, T: Array, radius_m: float, any_angle: bool = False) -> Ids:
        if self._tree is None:
            return np.zeros(0, dtype=np.int64)
        ids = np.sort(np.array(self._tree.query_ball_point(T[:3, 3], radius_m), dtype=np.int64))
        if any_angle or not len(ids):
            return ids
        return ids[self._turns[ids] @ T[:3, :3].reshape(9) >= self._least_trace]

    def _normalise(self) -> None:
        total = self.floor * len(self._T) + float(self._above.sum()) + self.off_map
        self.floor /= total
        self._above /= total
        self.off_map /= total


def spacing(T_map_cam: Array, drives: Sequence[str] = ()) -> float:
    """Median distance from a keyframe (N, 4, 4) to the nearest other one of its drive, m.

    drives: (N,) name of the drive and camera of each keyframe; empty: a single drive. Keyframes of
    other drives and cameras at the same place are not counted.
    """
    metres = [np.zeros(0)]
    taken_by = np.array(drives) if len(drives) else np.zeros(len(T_map_cam))
    for drive in np.unique(taken_by):
        positions = T_map_cam[taken_by == drive, :3, 3]
        if len(positions) > 1:
            metres.append(cKDTree(positions).query(positions, k=2)[0][:, 1])
    found = np.concatenate(metres)
    return float(np.median(found)) if len(found) else 0.0


def place_radius(T_map_cam: Array, config: BeliefConfig, drives: Sequence[str] = ()) -> float:
    """Radius of a place in a map of these keyframes (N, 4, 4), m."""
    return radius(spacing(T_map_cam, drives), config)


def radius(spacing_m: float, config: BeliefConfig) -> float:
    """Radius of a place, m, in a map of this spacing."""
    wanted_m = config.place_radius_m or max(PLACE_SPACINGS * spacing_m, LEAST_RADIUS_M)
    return max(wanted_m, 1.5 * spacing_m)
