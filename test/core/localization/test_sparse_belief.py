"""The sparse filter against a dense one that is written down plainly, and its properties."""

import time

import numpy as np
import pytest

from regvpr_core.geometry import inverse, rotation_angle
from regvpr_core.localization.belief import Belief, BeliefConfig, KEEPS_SPEED
from regvpr_core.localization.motion import SPEEDS

OPTICAL = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])


class DenseBelief:
    """The same filter with all speeds and all of N x N written out, for keyframes round a ring."""

    def __init__(self, T: np.ndarray, config: BeliefConfig, spacing_m: float) -> None:
        self.T, self.config, self.spacing_m = T, config, spacing_m
        self.off_map = config.off_map_prior
        self.floor = (1.0 - self.off_map) / len(T)
        self.above = np.zeros((len(SPEEDS), len(T)))

    @property
    def places(self) -> np.ndarray:
        return self.floor + self.above.sum(axis=0)

    def moved(self, above: np.ndarray, predicted: np.ndarray, sigma: float) -> np.ndarray:
        """What of a mass (N,) arrives at each keyframe; where to none, it is off the map."""
        moved = np.zeros(len(self.T))
        for k in range(len(self.T)):
            metres = np.linalg.norm(self.T[:, :3, 3] - predicted[k, :3, 3], axis=1)
            radians = rotation_angle((inverse(self.T) @ predicted[k])[:, :3, :3])
            near = (metres <= 3.0 * sigma) & (radians <= self.config.place_angle_rad)
            weights = np.where(near, np.exp(-0.5 * (metres / sigma) ** 2), 0.0)
            if weights.sum() > 0.0:
                moved += above[k] * weights / weights.sum()
            else:
                self.off_map += above[k]
        return moved

    def predict(self, motion: np.ndarray | None, elapsed_s: float) -> None:
        config, count, speeds = self.config, len(self.T), np.array(SPEEDS)
        spacings = 0.5 if motion is None else 0.4
        sigma = max(config.motion_floor_m, spacings * self.spacing_m, 0.05)
        if motion is None:
            metres = speeds * self.spacing_m
            possible = np.abs(metres) <= max(config.drift_mps * elapsed_s, self.spacing_m)
            kept = KEEPS_SPEED * self.above * possible[:, None]
            mixed = (self.above.sum(axis=0) - kept.sum(axis=0)) / possible.sum()
            moved = np.zeros_like(self.above)
            for s in np.flatnonzero(possible):
                moved[s] = self.moved(kept[s] + mixed, self.ahead(metres[s]),
                                      np.hypot(sigma, 0.2 * metres[s]))
        else:
            sigma += config.motion_noise * np.linalg.norm(motion[:3, 3])
            moved = np.tile(self.moved(self.above.sum(axis=0), self.T @ motion, sigma)
                            / len(SPEEDS), (len(SPEEDS), 1))
        back = config.enter * self.off_map
        self.off_map -= back
        self.floor += (config.kidnap * moved.sum() + back) / count
        self.above = (1.0 - config.kidnap) * moved
        self.normalise()

    def ahead(self, metres: float) -> np.ndarray:
        """Poses so far along the polygon of keyframes; straight on beyond its two ends."""
        line = self.T[:, :3, 3]
        side_m = np.linalg.norm(line[1] - line[0])
        out = self.T.copy()
        for k in range(len(line)):
            at = k + metres / side_m
            before = int(np.clip(np.ceil(at) - 1, 0, len(line) - 2))
            out[k, :3, 3] = line[before] + (at - before) * (line[before + 1] - line[before])
            out[k, :3, :3] = self.T[before + (at - before > 0.5), :3, :3]
        return out

    def update(self, ids: np.ndarray, log_odds: np.ndarray) -> None:
        least = np.exp(min(log_odds.min(), 0.0))
        likelihood = np.full(len(self.T), least)
        likelihood[ids] = np.exp(log_odds)
        self.floor_before = self.floor
        self.floor *= least
        self.above = (self.above + self.floor_before / len(SPEEDS)) * likelihood \
            - self.floor / len(SPEEDS)
        self.normalise()

    def normalise(self) -> None:
        total = self.places.sum() + self.off_map
        self.floor, self.above = self.floor / total, self.above / total
        self.off_map /= total


def ring(count: int, spacing_m: float = 2.0) -> np.ndarray:
    """Camera poses round a circle."""
    angle = 2.0 * np.pi * np.arange(count) / count
    radius = spacing_m * count / (2.0 * np.pi)
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, 0, 0], T[:, 0, 1] = -np.sin(angle), -np.cos(angle)
    T[:, 1, 0], T[:, 1, 1] = np.cos(angle), -np.sin(angle)
    T[:, 0, 3], T[:, 1, 3] = radius * np.cos(angle), radius * np.sin(angle)
    return T @ OPTICAL


def forward(metres: float) -> np.ndarray:
    T = np.eye(4)
    T[2, 3] = metres
    return T


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_the_sparse_filter_agrees_with_the_dense_one(seed):
    rng = np.random.default_rng(seed)
    T = ring(60)
    sparse = Belief(T, BeliefConfig())
    dense = DenseBelief(T, BeliefConfig(), sparse.spacing_m)
    for i in range(40):
        motion = None if rng.random() < 0.3 else forward(rng.uniform(-1.0, 5.0))
        elapsed_s = rng.uniform(0.0, 3.0)
        ids = np.unique([i % 60, *rng.choice(60, 6)])
        odds = np.where(ids == i % 60, 2.0, rng.normal(-0.5, 1.0, len(ids)))
        for belief in (sparse, dense):
            belief.predict(motion, elapsed_s)
            belief.update(ids, odds)
        np.testing.assert_allclose(sparse.places, dense.places, atol=1e-6)
        assert sparse.off_map == pytest.approx(dense.off_map, abs=1e-6)
    assert sparse.places.max() > 0.05  # something was believed at all


def test_masses_are_those_of_the_dense_view():
    belief = Belief(ring(30), BeliefConfig())
    belief.update(np.array([3, 7, 29]), np.array([2.0, 0.5, 1.0]), others=-0.5)
    ids = np.array([29, 3, 3, 0])
    np.testing.assert_allclose(belief.masses(ids), belief.places[ids], atol=1e-15)
    # Odds of the image against the prior: 29 to 0 is e^1.5, 3 to 29 is e.
    ratios = belief.masses(np.array([29, 3])) / belief.masses(np.array([0, 29]))
    np.testing.assert_allclose(ratios, np.exp([1.5, 1.0]))
    assert belief.places.sum() + belief.off_map == pytest.approx(1.0)


def test_an_update_in_a_map_of_200_thousand_keyframes_touches_few_of_them():
    """Not a wall clock: what is kept one by one stays small, and so does what is allocated."""
    count = 200_000
    T = np.tile(OPTICAL, (count, 1, 1))
    T[:, 0, 3], T[:, 1, 3] = np.arange(count) % 2000, 10.0 * (np.arange(count) // 2000)
    belief = Belief(T, BeliefConfig())
    rng = np.random.default_rng(0)
    for i in range(30):
        belief.predict(forward(1.0), 0.2)
        ids = np.unique([50_000 + i, 50_001 + i, *rng.choice(count, 48, replace=False)])
        belief.update(ids, np.where(np.isin(ids, (50_000 + i, 50_001 + i)), 2.0, 0.0))
        assert len(belief._ids) < 5000
    first, here, elsewhere = belief.best()
    assert abs(first - 50_029) <= 2
    assert here > 0.9
    assert elsewhere < 0.05


def test_an_image_costs_about_the_same_in_a_map_a_hundred_times_as_large():
    quickest = []
    for count in (2_000, 200_000):
        T = np.tile(OPTICAL, (count, 1, 1))
        T[:, 0, 3], T[:, 1, 3] = np.arange(count) % 2000, 10.0 * (np.arange(count) // 2000)
        belief = Belief(T, BeliefConfig())
        rng = np.random.default_rng(0)
        seconds = []
        for i in range(40):
            ids = np.unique([1_000 + i, 1_001 + i, *rng.choice(count, 48, replace=False)])
            start = time.thread_time()
            belief.predict(forward(1.0), 0.2)
            belief.update(ids, np.where(np.isin(ids, (1_000 + i, 1_001 + i)), 2.0, 0.0))
            belief.best()
            seconds.append(time.thread_time() - start)
        quickest.append(sorted(seconds)[10])
    assert quickest[1] < 3.0 * quickest[0]


def test_a_very_long_gap_makes_the_belief_nearly_flat_and_stays_cheap():
    belief = Belief(ring(3000), BeliefConfig())
    belief.update(np.array([5]), np.array([6.0]))
    belief.predict(None, 86_400.0)
    assert belief.places.max() < 2.0 * belief.places.min()
    start = time.process_time()
    belief.predict(None, 86_400.0)
    assert time.process_time() - start < 1.0


def test_turning_on_the_spot_keeps_to_the_keyframes_that_look_that_way():
    T = np.tile(OPTICAL, (8, 1, 1))
    for k in range(8):  # one spot, eight directions
        angle = k * np.pi / 4.0
        T[k, :3, :3] = np.array([[np.cos(angle), -np.sin(angle), 0],
                                 [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]) @ OPTICAL[:3, :3]
    belief = Belief(T, BeliefConfig(place_angle_rad=0.4))
    belief.update(np.array([2]), np.array([8.0]))
    belief.predict(inverse(T[2]) @ T[4], 1.0)
    first, here, _ = belief.best()
    assert first == 4
    assert here > 0.9


@pytest.mark.parametrize('radius_m', [2.0, 2.5, 4.0])
def test_the_places_of_a_keyframe_are_all_within_reach_that_look_its_way(radius_m):
    T = np.tile(OPTICAL, (60, 1, 1))
    T[:, 0, 3] = np.arange(60) % 30  # there and back a metre beside; distances equal the radius
    T[30:, 1, 3] = 1.0
    T[30:, :2, :3] *= -1.0
    belief = Belief(T, BeliefConfig(place_radius_m=radius_m))
    belief.update(np.array([7, 8, 40]), np.array([3.0, 2.0, 2.5]))
    for k in (0, 7, 29, 37):
        metres = np.linalg.norm(T[:, :3, 3] - T[k, :3, 3], axis=1)
        same_way = (np.arange(60) < 30) == (k < 30)
        assert belief.around(k).tolist() == np.flatnonzero(
            (metres <= radius_m) & same_way).tolist()
        assert belief.place(k).tolist() == np.flatnonzero(
            (metres <= 2.0 * radius_m) & same_way).tolist()
        assert belief.place(k, any_angle=True).tolist() == np.flatnonzero(
            metres <= 2.0 * radius_m).tolist()
    asked = [7, -1, 37, 8, 7]
    assert belief.probabilities(asked) == pytest.approx(
        [belief.probability(k) if k >= 0 else 0.0 for k in asked], abs=1e-15)
    assert belief.probabilities([-1]) == [0.0]


def test_others_are_weighed_as_told():
    belief = Belief(ring(10), BeliefConfig(off_map_prior=0.5))
    belief.update(np.array([4]), np.array([np.log(3.0)]), others=np.log(0.5))
    want = np.full(10, 0.05 * 0.5)
    want[4] = 0.05 * 3.0
    np.testing.assert_allclose(belief.places, want / (want.sum() + 0.5), atol=1e-12)
