"""Where the robot may be: a discrete Bayes filter over keyframes and the world off the map.

After Xu, Sunderhauf and Milford, Probabilistic VPR for hierarchical localization (RA-L 2020), with
an off-map state.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from regvpr_core.config import check_range
from regvpr_core.geometry import Array

Ids = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

ACTIVE_MASS = 1e-5
MAX_ACTIVE = 512
MAX_PAIRS = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BeliefConfig:
    """Settings of the filter.

    place_radius_m: keyframes this near to each other show one place, 0.1 to 1000; at least one and
        a half times their spacing, where a map is sparse.
    place_angle_rad: and look this much the same way, 0.01 to 3.2.
    motion_noise: standard deviation of odometry as a share of the distance, 0 to 1.
    motion_floor_m: and at least this, 0.01 to 100.
    drift_mps: without odometry, how fast the robot may move, 0.1 to 100.
    kidnap: share of the belief that may be anywhere at each image, 1e-6 to 0.5.
    off_map_prior: belief at the start that the robot is off the map, 0.01 to 0.99.
    evidence_limit: most log odds that one image may give a place, 0.5 to 20.
    evidence_m: images nearer than this to each other see much the same, and are mistaken alike;
        each counts for its share of this distance, 0 (all count in full) to 100.
    """

    place_radius_m: float = 5.0
    place_angle_rad: float = 0.9
    motion_noise: float = 0.1
    motion_floor_m: float = 1.0
    drift_mps: float = 3.0
    kidnap: float = 0.01
    off_map_prior: float = 0.5
    evidence_limit: float = 3.0
    evidence_m: float = 2.0

    def __post_init__(self) -> None:
        for name, low, high in (
            ('place_radius_m', 0.1, 1000.0), ('place_angle_rad', 0.01, 3.2),
            ('motion_noise', 0.0, 1.0), ('motion_floor_m', 0.01, 100.0), ('drift_mps', 0.1, 100.0),
            ('kidnap', 1e-6, 0.5), ('off_map_prior', 0.01, 0.99), ('evidence_limit', 0.5, 20.0),
            ('evidence_m', 0.0, 100.0),
        ):
            check_range(f'belief.{name}', getattr(self, name), low, high)


class Belief:
    """Probability of each keyframe's place, and of being off the map."""

    def __init__(self, T_map_cam: Array, config: BeliefConfig) -> None:
        """Start knowing nothing.

        Args:
            T_map_cam: (N, 4, 4) keyframe poses; N may be 0.
            config: see there.
        """
        self._T = T_map_cam
        self._config = config
        self._tree = cKDTree(T_map_cam[:, :3, 3]) if len(T_map_cam) else None
        self.spacing_m = spacing(T_map_cam)
        self.radius_m = place_radius(T_map_cam, config)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        count = len(self._T)
        self.off_map = self._config.off_map_prior if count else 1.0
        self.places: Float = np.full(count, (1.0 - self.off_map) / max(count, 1))

    def predict(self, T_previous_current: Array | None, elapsed_s: float) -> None:
        """Move the belief with the camera.

        Args:
            T_previous_current: (4, 4) motion of the camera between the two images; None where it
                is not known, and the belief spreads as far as a robot may have gone.
            elapsed_s: time between the images, s.
        """
        if self._tree is None:
            return
        # Follow what carries mass; each keyframe sends its share to those it may have reached.
        active = np.flatnonzero(self.places > max(ACTIVE_MASS, 0.1 / len(self.places)))
        active = active[np.argsort(-self.places[active])][:MAX_ACTIVE]
        lost = float(self.places.sum() - self.places[active].sum())
        predicted, sigma = self._moved(active, T_previous_current, elapsed_s)
        if self._pairs(predicted, sigma) > MAX_PAIRS:
            # It may be nearly anywhere: following each keyframe would say no more.
            self.places = np.full_like(self.places, self.places.mean())
            return
        senders, receivers, weights = self._reachable(predicted, sigma)
        sums = np.bincount(senders, weights, minlength=len(active))
        self.off_map += float(self.places[active[sums == 0.0]].sum())
        shares = self.places[active[senders]] * weights / np.maximum(sums[senders], 1e-300)
        moved = np.bincount(receivers, shares, minlength=len(self.places)).astype(np.float64)
        # What is too small to follow, and what may have been carried away, goes everywhere.
        everywhere = lost + self._config.kidnap * float(moved.sum())
        moved = moved * (1.0 - self._config.kidnap)
        self.places = moved + everywhere / len(moved)
        back = self._config.kidnap * self.off_map
        self.off_map -= back
        self.places += back / len(self.places)
        self._normalise()

    def update(self, ids: Ids, log_odds: Float, travelled_m: float = np.inf) -> None:
        """Weigh the belief with one image.

        Args:
            ids: (K,) keyframes found in the map, most similar first.
            log_odds: (K,) log likelihood ratio of each being a true match.
            travelled_m: since the image before; infinite for the first.
        """
        if self._tree is None or not len(ids):
            return
        limit = self._config.evidence_limit
        odds = np.clip(np.asarray(log_odds, dtype=np.float64), -limit, limit)
        odds *= min(1.0, travelled_m / max(self._config.evidence_m, 1e-9))
        # Keyframes that were not found are at most as similar as the last that was.
        likelihood = np.full(len(self.places), np.exp(min(float(odds.min()), 0.0)))
        likelihood[ids] = np.exp(odds)
        self.places = self.places * likelihood
        self._normalise()

    def around(self, keyframe: int) -> Ids:
        """Keyframes that show the same place as this one, itself among them."""
        return self._near(self._T[keyframe], self.radius_m)

    def probability(self, keyframe: int) -> float:
        """Belief that the robot is at this keyframe's place."""
        return float(self.places[self.around(keyframe)].sum())

    def best(self) -> tuple[int, float, float]:
        """The most likely place: its keyframe and probability, and that of the next best place."""
        first = int(np.argmax(self.places))
        here = self.around(first)
        rest = self.places.copy()
        rest[self._near(self._T[first], 2.0 * self.radius_m, any_angle=True)] = 0.0
        second = int(np.argmax(rest))
        return first, float(self.places[here].sum()), float(rest[self.around(second)].sum())

    def _moved(
        self, active: Ids, motion: Array | None, elapsed_s: float
    ) -> tuple[Array, float]:
        """Where keyframes' share of the belief is now (N, 4, 4), and how exactly, m."""
        config = self._config
        # The belief lives on keyframes, so it is never known better than their spacing.
        sigma = max(config.motion_floor_m, self.spacing_m)
        predicted = self._T[active]
        if motion is None:
            return predicted, sigma + config.drift_mps * max(elapsed_s, 0.0)
        sigma += config.motion_noise * float(np.linalg.norm(motion[:3, 3]))
        return predicted @ motion, sigma

    def _pairs(self, predicted: Array, sigma: float) -> int:
        """How many keyframes may have been reached, over all predictions."""
        if self._tree is None or not len(predicted):
            return 0
        return int(np.sum(self._tree.query_ball_point(
            predicted[:, :3, 3], 3.0 * sigma, return_length=True)))

    def _reachable(self, predicted: Array, sigma: float) -> tuple[Ids, Ids, Float]:
        """Pairs of a prediction's index and a keyframe it may have led to, with weights."""
        if self._tree is None or not len(predicted):
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        found = self._tree.query_ball_point(predicted[:, :3, 3], 3.0 * sigma)
        senders = np.repeat(np.arange(len(predicted)), [len(ids) for ids in found])
        receivers = np.array([k for ids in found for k in ids], dtype=np.int64)
        turns = np.swapaxes(self._T[receivers, :3, :3], -1, -2) @ predicted[senders, :3, :3]
        fits = _angles(turns) <= self._config.place_angle_rad
        senders, receivers = senders[fits], receivers[fits]
        metres = np.linalg.norm(self._T[receivers, :3, 3] - predicted[senders, :3, 3], axis=1)
        return senders, receivers, np.exp(-0.5 * (metres / sigma) ** 2)

    def _near(self, T: Array, radius_m: float, any_angle: bool = False) -> Ids:
        if self._tree is None:
            return np.zeros(0, dtype=np.int64)
        ids = np.array(sorted(self._tree.query_ball_point(T[:3, 3], radius_m)), dtype=np.int64)
        if any_angle or not len(ids):
            return ids
        angles = _angles(np.swapaxes(self._T[ids, :3, :3], 1, 2) @ T[:3, :3])
        return ids[angles <= self._config.place_angle_rad]

    def _normalise(self) -> None:
        total = float(self.places.sum()) + self.off_map
        self.places /= total
        self.off_map /= total


def spacing(T_map_cam: Array) -> float:
    """Median distance from a keyframe (N, 4, 4) to the nearest other one, m."""
    if len(T_map_cam) < 2:
        return 0.0
    positions = T_map_cam[:, :3, 3]
    metres, _ = cKDTree(positions).query(positions, k=2)
    return float(np.median(metres[:, 1]))


def place_radius(T_map_cam: Array, config: BeliefConfig) -> float:
    """How near keyframes (N, 4, 4) show one place, m: a place holds its neighbours."""
    return max(config.place_radius_m, 1.5 * spacing(T_map_cam))


def _angles(R: Array) -> Array:
    """Angles in rad of rotations (N, 3, 3); to about 1e-8, and quick."""
    return np.asarray(np.arccos(np.clip((np.trace(R, axis1=-2, axis2=-1) - 1.0) / 2.0, -1.0, 1.0)))
