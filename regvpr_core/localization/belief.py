"""Where the robot may be: a discrete Bayes filter over keyframes and the world off the map.

After Xu, Sunderhauf and Milford, Probabilistic VPR for hierarchical localization (RA-L 2020), with
an off-map state. Deviations:
1. The belief is sparse. Most keyframes of a large map are equally unlikely and share one
   probability, the floor; only keyframes above it are stored individually. So the time per image
   does not depend on the size of the map.
2. Without odometry the speed along the drives of the map is a hidden state, one of
   `motion.SPEEDS`. So a sequence of matches that advances evenly is evidence for a place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np
from scipy.spatial import cKDTree

from regvpr_core.arrays import Float64, Ids, Mask
from regvpr_core.config import check_settings, setting
from regvpr_core.geometry import Array
from regvpr_core.localization.motion import Motion, SPEED_ERROR, SPEEDS

LEAST_MASS = 1e-12
MAX_ACTIVE = 512
"""Largest number of states (keyframe, or keyframe and speed) that are moved individually; the
probability of others goes to the floor."""

MAX_PLACES = 1024
"""Neighbourhoods of keyframes that are kept in memory."""

PLACE_SPACINGS = 2.5
"""Radius of a place in spacings of the map: two keyframes before and two after."""

LEAST_RADIUS_M = 0.5
"""Radius of a place in a map of one keyframe, or of keyframes at one spot, m."""

MOTION_SPACINGS = 0.5
"""Least standard deviation of the motion between two images without odometry, in spacings of the
map: speeds from 0 to 1.5 spacings an image are half of this apart."""

ODOMETRY_SPACINGS = 0.4
"""The same with odometry. Set on nordland_64 and pepper_office keyframes_gray: at 0.75 the belief
may follow a wrong sequence of keyframes that is half as long as the way of the robot, or twice."""

LEAST_SIGMA_M = 0.05

KEEPS_SPEED = 0.9
"""Probability that a robot keeps its speed between two images; otherwise all of `SPEEDS` are
equally likely. Set by hand; 0.97 changes no result on the drives used for fitting."""

GAP_S = 30.0
"""Time without an image and without odometry after which a robot may be anywhere, s."""

ANY_SPEED: Float64 = np.full((len(SPEEDS), 1), 1.0 / len(SPEEDS))
"""Probability of each speed if the speed is unknown, (S, 1)."""


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
        'Least standard deviation of the motion between two images; at least 0.4 spacings of the '
        'map with odometry, and 0.5 without.', 0.0, 100.0, unit='m')
    drift_mps: float = setting(
        3.0, 'Largest speed of the robot, used without odometry.', 0.1, 100.0, unit='m/s')
    kidnap: float = setting(
        0.01, 'Share of the belief that moves anywhere at each image.', 1e-06, 0.5)
    enter: float = setting(
        0.001, 'Share of the belief off the map that enters it anywhere at each image.',
        1e-06, 0.5)
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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Moved:
    """States that were moved, the most likely first.

    speeds: (K,) index into `SPEEDS`. mass: (K,) probability. predicted: (K, 4, 4) camera poses.
    sigma_m: (K,) standard deviation of each position.
    """

    speeds: Ids
    mass: Float64
    predicted: Array
    sigma_m: Float64

    @classmethod
    def nothing(cls) -> '_Moved':
        """No state."""
        return cls(speeds=np.zeros(0, np.int64), mass=np.zeros(0),
                   predicted=np.zeros((0, 4, 4)), sigma_m=np.zeros(0))


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
        self.spacing_m = spacing(T_map_cam, drives)
        self._motion = Motion(T_map_cam, self.spacing_m, self._least_trace, drives) \
            if len(T_map_cam) else None
        self.radius_m = radius(self.spacing_m, config)
        self._places: dict[int, tuple[Ids, Ids, Ids]] = {}
        self.reset()

    def reset(self) -> None:
        """Return to the prior."""
        count = len(self._T)
        self.off_map = self._config.off_map_prior if count else 1.0
        self.floor = (1.0 - self.off_map) / max(count, 1)
        # Sorted ids (K,) of the keyframes above the floor, and their probability above it by speed
        # (S, K).
        self._ids: Ids = np.zeros(0, dtype=np.int64)
        self._at_speed: Float64 = np.zeros((len(SPEEDS), 0))
        self._above: Float64 = np.zeros(0)  # (K,) the sum over all speeds

    def masses(self, ids: Ids) -> Float64:
        """Probability of each of these keyframes (K,)."""
        return self.floor + self._looked_up(self._above, ids)

    def _looked_up(self, values: Float64, ids: Ids) -> Float64:
        """Look up values (..., K), one per keyframe above the floor, for other ids (M,): (..., M).

        The value is 0 for ids that are not above the floor.
        """
        if not len(self._ids):
            return np.zeros((*values.shape[:-1], len(ids)))
        spots = np.minimum(self._ids.searchsorted(ids), len(self._ids) - 1)
        return np.where(self._ids[spots] == ids, values[..., spots], 0.0)

    @property
    def places(self) -> Float64:
        """Probability of every keyframe (N,), for inspection; the filter does not use it."""
        return self.masses(np.arange(len(self._T)))

    def predict(self, T_previous_current: Array | None, elapsed_s: float) -> None:
        """Move the belief with the camera.

        Args:
            T_previous_current: (4, 4) motion of the camera between the two images. If it is None,
                the belief moves along the drives of the map at each possible speed.
            elapsed_s: time between the images, s.
        """
        if self._motion is None:
            return
        count, kidnap = len(self._T), self._config.kidnap
        # 1. Move the individual keyframes, the most likely first, within the budget.
        if T_previous_current is None and elapsed_s > GAP_S:
            moved = _Moved.nothing()
        elif T_previous_current is None:
            moved = self._at_its_speed(self._motion, elapsed_s)
        else:
            moved = self._carried(self._motion, T_previous_current)
        steps = self._motion.steps(moved.predicted, moved.sigma_m)
        speeds, mass = moved.speeds[:steps.followed], moved.mass[:steps.followed]
        spread = float(self._at_speed.sum() - mass.sum())
        # 2. Each passes its probability to keyframes within reach, or to off-map if there is none.
        sums = np.bincount(steps.starts, steps.weights, minlength=len(mass))
        self.off_map += float(mass[sums == 0.0].sum())
        shares = mass[steps.starts] * steps.weights / np.maximum(sums[steps.starts], 1e-300)
        self._ids = np.unique(steps.keyframes)
        size, into = len(self._ids), self._ids.searchsorted(steps.keyframes)
        if T_previous_current is None:
            into += speeds[steps.starts] * size
            self._at_speed = np.bincount(into, shares, minlength=len(SPEEDS) * size).reshape(
                len(SPEEDS), size).astype(np.float64)
        else:
            self._at_speed = ANY_SPEED * np.bincount(into, shares, minlength=size)
        # 3. The rest, and a share for a kidnapped robot, is spread over all keyframes.
        onto = self._config.enter * self.off_map
        away = kidnap * float(self._at_speed.sum())
        self._at_speed *= 1.0 - kidnap
        self.off_map -= onto
        self.floor += (spread + away + onto) / count
        self._normalise()

    def update(self, ids: Ids, log_odds: Float64, others: float | None = None,
               against_off_map: Float64 | None = None, others_against: float | None = None
               ) -> None:
        """Update the belief with one image, or with all images of one stamp.

        Two ratios are used. `log_odds` compares the places of the map with each other. The limited
        ratios compare the map with being off it. A limit on the former would make all places equal
        that an image shows well, so that the belief lags behind the images.

        Args:
            ids: (K,) keyframes found in the map, each once.
            log_odds: (K,) log likelihood ratio of each being a true match.
            others: log likelihood ratio of all other keyframes, at most the least of `log_odds`.
                None: the least of `log_odds`, at most 0.
            against_off_map, others_against: the limited ratios of the same keyframes, (K,), and
                of all others. None: `log_odds` and `others`.
        """
        if self._motion is None or not len(ids):
            return
        order = np.argsort(ids, kind='stable')
        ids, odds = ids[order], np.asarray(log_odds, dtype=np.float64)[order]
        others = min(float(odds.min()), 0.0) if others is None else others
        # 1. The likelihood of being on the map: that of each place, by its probability.
        here = self._looked_up(self._at_speed, ids) + ANY_SPEED * self.floor
        on_map = self.floor * len(self._T) + float(self._at_speed.sum())
        limited = odds if against_off_map is None else against_off_map[order]
        rest = others if others_against is None else others_against
        shown = here.sum(axis=0)
        on_map = float(shown @ np.exp(limited)) \
            + max(on_map - float(shown.sum()), 0.0) * math.exp(rest)
        # 2. The places of the map against each other.
        most = max(float(odds.max()), others)
        least = math.exp(others - most)
        unfound = ~are_among(self._ids, ids)
        found = here * np.exp(odds - most)
        self.floor *= least
        merged = np.concatenate([self._ids[unfound], ids])
        at_speed = np.concatenate([self._at_speed[:, unfound] * least,
                                   np.maximum(found - ANY_SPEED * self.floor, 0.0)], axis=1)
        order = np.argsort(merged, kind='stable')
        self._ids, self._at_speed = merged[order], at_speed[:, order]
        # 3. Both together.
        scale = on_map / max(self.floor * len(self._T) + float(self._at_speed.sum()), 1e-300)
        self.floor *= scale
        self._at_speed *= scale
        self._normalise()

    def around(self, keyframe: int) -> Ids:
        """Keyframes of the same place as this one, including it; sorted."""
        return self._surroundings(keyframe)[0]

    def place(self, keyframe: int, any_angle: bool = False) -> Ids:
        """Keyframes within twice the radius of this one's place; sorted."""
        return self._surroundings(keyframe)[2 if any_angle else 1]

    def _surroundings(self, keyframe: int) -> tuple[Ids, Ids, Ids]:
        """Keyframes of this one's place, within twice its radius, and these in any direction.

        They are kept from image to image.
        """
        kept = self._places.get(keyframe)
        if kept is None:
            if len(self._places) >= MAX_PLACES:
                self._places.clear()
            T = self._T[keyframe]
            ids = self._within(T, 2.0 * self.radius_m)
            off = self._T[ids, :3, 3] - T[:3, 3]
            off *= off
            alike = self._turns[ids] @ self._turns[keyframe] >= self._least_trace
            near = off[:, 0] + off[:, 1] + off[:, 2] <= self.radius_m * self.radius_m
            kept = self._places[keyframe] = ids[near & alike], ids[alike], ids
        return kept

    def near_pose(self, T_map_cam: Array) -> Ids:
        """Keyframes of the place that is visible from this camera pose (4, 4); sorted."""
        ids = self._within(T_map_cam, self.radius_m)
        return ids[self._turns[ids] @ T_map_cam[:3, :3].reshape(9) >= self._least_trace]

    def probability(self, keyframe: int) -> float:
        """Probability that the robot is within twice a place's radius of this keyframe."""
        return float(self.masses(self.place(keyframe)).sum())

    def spread_m(self, keyframe: int) -> float:
        """Standard deviation of the position within twice a place's radius of this keyframe, m."""
        ids = self.place(keyframe)
        share = self.masses(ids)
        share = share / max(float(share.sum()), 1e-300)
        position = self._T[ids, :3, 3]
        off = position - share @ position
        return math.sqrt(float(share @ np.einsum('ij,ij->i', off, off)))

    def probabilities(self, keyframes: Sequence[int]) -> list[float]:
        """`probability` of each keyframe; 0 for the keyframe -1, which is none."""
        places = [self.place(k) for k in keyframes if k >= 0]
        if not places:
            return [0.0] * len(keyframes)
        starts = np.cumsum([0, *(len(place) for place in places[:-1])])
        sums = iter(np.add.reduceat(self.masses(np.concatenate(places)), starts).tolist())
        return [next(sums) if k >= 0 else 0.0 for k in keyframes]

    def best(self) -> tuple[int, float, float]:
        """Keyframe and probability of the most likely place, and probability of the second.

        The second place is more than twice a place's radius away.
        """
        first = int(self._ids[self._above.argmax()]) if len(self._ids) else 0
        here = self.place(first, any_angle=True)
        elsewhere = ~are_among(self._ids, here)
        if elsewhere.any():
            second = int(self._ids[np.where(elsewhere, self._above, -1.0).argmax()])
        else:  # all others have the floor: take the least id that is not at the first place
            second = int(np.searchsorted(here - np.arange(len(here)), 1))
            if second >= len(self._T):
                return first, self.probability(first), 0.0
        there = self.place(second)
        apart = there[~are_among(there, here)]
        at_first = self.place(first)
        masses = self.masses(np.concatenate([at_first, apart]))
        return first, float(masses[:len(at_first)].sum()), float(masses[len(at_first):].sum())

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
            here = self.place(keyframe, any_angle=True)
            left &= ~are_among(self._ids, here)
        return sorted(found, key=lambda one: -one[1])

    def _carried(self, motion: Motion, T_previous_current: Array) -> _Moved:
        """Keyframes above the floor, moved by odometry."""
        above = self._above
        ids = (-above).argsort(kind='stable')[:MAX_ACTIVE]
        ids = ids[above[ids] > LEAST_MASS]
        sigma_m = self._sigma_m(ODOMETRY_SPACINGS) + self._config.motion_noise * math.hypot(
            *T_previous_current[:3, 3])
        return _Moved(speeds=np.zeros(len(ids), np.int64), mass=above[ids],
                      predicted=motion.carried(self._ids[ids], T_previous_current),
                      sigma_m=np.full(len(ids), sigma_m))

    def _at_its_speed(self, motion: Motion, elapsed_s: float) -> _Moved:
        """Keyframes above the floor, moved along the drives of the map at each speed."""
        spacing_m = self.spacing_m or 1.0
        metres = np.array(SPEEDS) * spacing_m
        # A speed is possible up to `drift_mps`; a step to the next keyframe always is.
        rows = np.flatnonzero(np.abs(metres) <= max(self._config.drift_mps * elapsed_s, spacing_m))
        kept = KEEPS_SPEED * self._at_speed[rows]
        mass = (kept + (self._above - kept.sum(axis=0)) / len(rows)).ravel()
        states = (-mass).argsort(kind='stable')[:MAX_ACTIVE]
        states = states[mass[states] > LEAST_MASS]
        speeds, ids = np.divmod(states, max(len(self._ids), 1))
        speeds = rows[speeds]
        return _Moved(speeds=speeds, mass=mass[states],
                      predicted=motion.along(self._ids[ids], metres[speeds]),
                      sigma_m=np.hypot(self._sigma_m(MOTION_SPACINGS),
                                       SPEED_ERROR * metres[speeds]))

    def _sigma_m(self, spacings: float) -> float:
        """Least standard deviation of a motion; the spacing of the keyframes limits it."""
        return max(self._config.motion_floor_m, spacings * self.spacing_m, LEAST_SIGMA_M)

    def _within(self, T: Array, radius_m: float) -> Ids:
        """Keyframes within a distance of a pose; sorted."""
        found = [] if self._motion is None else \
            self._motion.tree.query_ball_point(T[:3, 3], radius_m, return_sorted=True)
        return np.array(found, dtype=np.int64)

    def _normalise(self) -> None:
        total = self.floor * len(self._T) + float(self._at_speed.sum()) + self.off_map
        self.floor /= total
        self._at_speed /= total
        self.off_map /= total
        self._above = self._at_speed.sum(axis=0)


def are_among(ids: Ids, others: Ids) -> Mask:
    """Which ids (K,) are among others (M,), which are sorted."""
    if not len(others):
        return np.zeros(len(ids), dtype=bool)
    return np.asarray(others[np.minimum(others.searchsorted(ids), len(others) - 1)] == ids)


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
