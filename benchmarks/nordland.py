"""The logic of sequences without a network: nordland_64, winter on a map of summer.

    python -m benchmarks.nordland

Descriptors are 16x16 pixels, normalised by patches of 8x8, as in SeqSLAM. The model is unknown to
the localizer, so the evidence is the pooled one and that of the map. Beside it stands the aligned
sum: similarities of `SEQUENCE` images along a line of the known speed, and the best keyframe.
"""

from dataclasses import dataclass, replace
import hashlib

import cv2
import numpy as np

from benchmarks.localization_pictures import DATA, small_map
from benchmarks.localization_runs import follow
from benchmarks.real_sequences import line, ride_of
from benchmarks.report import Metric, write
from benchmarks.town_drives import CACHE
from benchmarks.town_features import Described
from examples.town.camera import T_BASE_CAM
from regvpr_core.search.rows import unit

COUNT, COLUMNS, WIDTH, HEIGHT = 3576, 48, 64, 32
SIZE, PATCH = 16, 8
SEQUENCE = 10
WITHIN = 1
"""Frames from the true one within which a place is right."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """What a map notes of the model that made its descriptors."""

    name: str = 'pixels'
    dimension: int = SIZE * SIZE
    precision: str = 'fp32'
    fingerprint: str = hashlib.sha256(f'pixels {SIZE} {PATCH}'.encode()).hexdigest()


def descriptors(season: str) -> np.ndarray:
    """Unit rows (COUNT, 256) of a season's frames, which lie on one sheet, row after row."""
    sheet = cv2.imread(str(DATA / 'nordland_64' / f'{season}.jpg'), cv2.IMREAD_GRAYSCALE)
    rows = []
    for number in range(COUNT):
        y, x = HEIGHT * (number // COLUMNS), WIDTH * (number % COLUMNS)
        small = cv2.resize(sheet[y:y + HEIGHT, x:x + WIDTH], (SIZE, SIZE),
                           interpolation=cv2.INTER_AREA).astype(np.float32)
        side = SIZE // PATCH
        patches = small.reshape(side, PATCH, side, PATCH).swapaxes(1, 2).reshape(-1, PATCH**2)
        middle, spread = patches.mean(axis=1, keepdims=True), patches.std(axis=1, keepdims=True)
        rows.append(((patches - middle) / (spread + 1e-3)).ravel())
    return unit(np.array(rows, np.float32))


def aligned_sum(summer: np.ndarray, winter: np.ndarray) -> float:
    """Share of images whose place the sum of similarities over a sequence finds."""
    found = (winter - winter.mean(axis=0)) @ (summer - summer.mean(axis=0)).T
    first = SEQUENCE - 1
    total = sum(found[first - k:COUNT - k, first - k:COUNT - k] for k in range(SEQUENCE))
    best = np.asarray(total).argmax(axis=1)
    return float((np.abs(best - np.arange(len(best))) <= WITHIN).mean())


def described(rows: np.ndarray) -> Described:
    """Rows without local features."""
    return Described('none', rows, np.zeros(0, np.uint8), np.zeros(len(rows), np.int64))


def main() -> None:
    """Drive, and write the result file."""
    model, summer, winter = Pixels(), descriptors('summer'), descriptors('winter')
    T = line(np.arange(COUNT, dtype=float))
    place_map = small_map(CACHE / f'nordland-{model.fingerprint[:12]}.map', model,
                          described(summer), np.arange(COUNT), T @ T_BASE_CAM)
    ride = ride_of('nordland', described(winter), np.arange(COUNT), T)
    aligned = aligned_sum(summer, winter)
    scope = f'{COUNT} images, right within {WITHIN} frame'
    metrics = [Metric(metric='aligned_sum', value=aligned, unit='',
                      scope=f'{scope}; {SEQUENCE} images at the known speed')]
    for way, odometry in (('', None), ('_odometry', ride.T_odom_base)):
        fixed = follow(model, place_map, replace(ride, T_odom_base=odometry)).keyframes
        right = (np.abs(fixed - np.arange(COUNT)) <= WITHIN) & (fixed >= 0)
        metrics += [
            Metric(metric=f'precision{way}', unit='', target=0.99, scope=scope,
                   value=float(right.sum() / max((fixed >= 0).sum(), 1))),
            Metric(metric=f'recall_over_aligned_sum{way}', unit='x', target=0.6, scope=scope,
                   value=float(right.mean()) / aligned)]
    for metric in metrics:
        print(f'{metric.metric:32} {metric.value:6.3f} {metric.unit}')
    print(write('nordland', metrics))


if __name__ == '__main__':
    main()
