"""Time per image of the belief on a large map, and its growth with the size of the map.

The map has 200,000 keyframes, 1 m apart, along parallel streets. A robot drives through them with
50 candidates per image: 12 at its place, the others at random places. It is kidnapped twice. The
last sixth of the drive has no odometry.
"""

from collections.abc import Iterator
import os
import statistics
import time

import numpy as np

from benchmarks.report import Metric, write
from regvpr_core.localization.belief import Belief, BeliefConfig

COUNT = 200_000
STREET_M = 500
CANDIDATES = 50
THERE = 12
"""Number of candidates at the true place; the others are at random places."""

FRAMES = 400 if os.environ.get('FULL') else 200
WARM_UP = 20


def streets(count: int) -> np.ndarray:
    """Poses (N, 4, 4) of keyframes along parallel streets, driven there and back, 20 m apart."""
    T = np.tile(np.eye(4), (count, 1, 1))
    number = np.arange(count)
    street, along = number // STREET_M, number % STREET_M
    back = street % 2 == 1
    T[:, 0, 3] = np.where(back, STREET_M - 1 - along, along)
    T[:, 1, 3] = 20.0 * street
    T[back, 0, 0] = T[back, 1, 1] = -1.0
    return T


def candidates(true: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Ids and log odds of the candidates of an image taken at the keyframe `true`."""
    near = np.clip(true + np.arange(THERE) - THERE // 2, 0, count - 1)
    far = rng.integers(count, size=CANDIDATES - THERE)
    ids = np.unique(np.concatenate([near, far]))
    here = np.isin(ids, near)
    return ids, np.where(here, rng.normal(2.0, 1.0, len(ids)), rng.normal(-1.0, 1.5, len(ids)))


def drive(count: int, frames: int) -> Iterator[tuple[int, bool]]:
    """True keyframe of each image, and whether odometry is known; with two kidnappings."""
    at = count // 3
    for frame in range(frames):
        if frame in (frames // 3, 2 * frames // 3):
            at = (at + 2 * count // 5) % count
        yield at, frame < frames * 5 // 6
        at = min(at + 1, count - 1)


def update_ms(count: int, frames: int = FRAMES) -> tuple[list[float], float]:
    """Time per image (predict, update, best), ms; share of images with the correct best place."""
    belief = Belief(streets(count), BeliefConfig())
    rng = np.random.default_rng(3)
    step = np.eye(4)
    step[0, 3] = 1.0
    times, right = [], 0
    for frame, (true, known) in enumerate(drive(count, frames)):
        ids, odds = candidates(true, count, rng)
        start = time.perf_counter()
        belief.predict(step if known else None, 0.2)
        belief.update(ids, odds)
        best, _, _ = belief.best()
        if frame >= WARM_UP:
            times.append(1e3 * (time.perf_counter() - start))
        right += abs(best - true) <= 5
    return times, right / frames


def main() -> None:
    """Measure and write the result file."""
    times, right = update_ms(COUNT)
    small, _ = update_ms(COUNT // 100)
    scope = (f'{COUNT} keyframes, {CANDIDATES} candidates an image, {len(times)} images; predict, '
             f'update and best place')
    metrics = [
        Metric(metric='update_ms_200k', value=statistics.median(times), unit='ms', target=5.0,
               higher_is_better=False, scope=f'{scope}; median'),
        Metric(metric='update_p95_ms_200k', value=float(np.percentile(times, 95)), unit='ms',
               target=5.0, higher_is_better=False, scope=f'{scope}; 95 of 100 are quicker'),
        Metric(metric='growth_100_fold', value=statistics.median(times) / statistics.median(small),
               unit='x', higher_is_better=False,
               scope=f'the same on {COUNT // 100} keyframes is 1'),
        Metric(metric='best_place_right', value=right, unit='',
               scope=f'{scope}; share of images whose place came first, two kidnappings included'),
    ]
    for metric in metrics:
        print(f'{metric.metric:20} {metric.value:8.3f} {metric.unit}')
    print(write('belief', metrics))


if __name__ == '__main__':
    main()
