"""Real sequences as drives (../shared/data), split into a fit part and a reporting part.

Fit part: multi_floor 1 and 2, campus_track d25_lap3, pepper_office keyframes_gray. All others are
reported. Only the order of the images is known. So the column `pos` is taken as the distance along
a line in metres, or along a circle if the lap is closed. Odometry is simulated from these poses
with a scale error of 3 % and a noise of 2 % of each step.
"""

from collections.abc import Sequence
import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.localization_pictures import DATA, pictures, SECOND_NS
from benchmarks.localization_runs import Ride
from benchmarks.town_features import describe_pictures, Described
from examples.town.camera import T_BASE_CAM
from regvpr_core.geometry import inverse
from regvpr_core.models.encoder import Encoder

FLOORS = (1, 2, 4)
FIT_FLOORS = (1, 2)
FIT = ('campus_track d25_lap3', 'pepper_office keyframes_gray')
REPORT = ('corridor_changes run2', 'campus_track d24_lap1', 'pepper_office test_gray')
SCALE_ERROR, STEP_NOISE = 0.03, 0.02
DISTRACTORS_M = 1000.0
"""Distance at which keyframes of pepper_office beside the path are placed from it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MappedDrive:
    """A map and a drive.

    T_map: (N, 4, 4) poses of the base at the map's images. tolerance_m: largest distance of a
    correct keyframe. sure: (F,) whether the true place of an image is certain.
    """

    name: str
    map_name: str
    made_map: Described
    map_numbers: np.ndarray
    T_map: np.ndarray
    ride: Ride
    tolerance_m: float
    sure: np.ndarray


def line(x: np.ndarray, y: np.ndarray | float = 0.0) -> np.ndarray:
    """Poses of the base (N, 4, 4) that look along x."""
    T = np.tile(np.eye(4), (len(x), 1, 1))
    T[:, 0, 3], T[:, 1, 3] = x, y
    return T


def circle(along_m: np.ndarray, length_m: float) -> np.ndarray:
    """Poses of the base (N, 4, 4) on a closed lap."""
    angle, radius = 2.0 * np.pi * along_m / length_m, length_m / (2.0 * np.pi)
    T = np.tile(np.eye(4), (len(along_m), 1, 1))
    c, s = np.cos(angle), np.sin(angle)
    T[:, 0, :2], T[:, 1, :2] = np.stack([-s, -c], 1), np.stack([c, -s], 1)
    T[:, 0, 3], T[:, 1, 3] = radius * c, radius * s
    return T


def drifting(T_map_base: np.ndarray, seed: int = 0) -> np.ndarray:
    """Odometry (F, 4, 4) of a drive, with simulated errors of wheel odometry."""
    rng = np.random.default_rng(seed)
    scale = 1.0 + SCALE_ERROR * rng.standard_normal()
    out = [np.eye(4)]
    for step in inverse(T_map_base[:-1]) @ T_map_base[1:]:
        metres = float(np.linalg.norm(step[:3, 3]))
        step[:3, 3] = scale * step[:3, 3] + STEP_NOISE * metres * rng.standard_normal(3)
        out.append(out[-1] @ step)
    return np.array(out)


def ride_of(name: str, made: Described, numbers: np.ndarray, T: np.ndarray,
            on_map: bool = True) -> Ride:
    """A drive with simulated odometry and one image per second."""
    return Ride(name=name, made=made, numbers=numbers, T_map_base=T, T_base_cam=T_BASE_CAM,
                stamps_ns=(1 + np.arange(len(numbers))) * SECOND_NS, T_odom_base=drifting(T),
                on_map=on_map)


def table_of(folder: str) -> list[dict[str, str]]:
    """Rows of a data set's data.csv."""
    with (DATA / folder / 'data.csv').open(encoding='utf-8') as file:
        return list(csv.DictReader(file))


def described_rows(name: str, rows: Sequence[dict[str, str]], folder: str, encoder: Encoder
                   ) -> Described:
    """Descriptors and local features of the images of rows."""
    return describe_pictures(name, pictures([DATA / folder / row['image'] for row in rows]),
                             encoder)


def sequence(name: str, encoder: Encoder) -> MappedDrive:
    """A sequence of `FIT` or `REPORT`."""
    folder, label = name.split()
    rows = table_of(folder)
    map_label = {'corridor_changes': 'run1', 'campus_track': 'd25_lap1', 'pepper_office': 'map'}[
        folder]
    of_map = [row for row in rows if row['sequence'] == map_label]
    asked = [row for row in rows if row['sequence'] == label]
    place = np.array([float(row['pos']) for row in asked])
    stand = np.array([float(row['pos']) for row in of_map])
    sure = np.ones(len(asked), bool)
    if folder == 'corridor_changes':
        tolerance_m, T_map, T = 8.0, line(stand), line(place)
        sure = np.array([float(row['inliers']) >= 12 for row in asked])
    elif folder == 'campus_track':
        tolerance_m = 10.0 if 'dusk' in label else 5.0
        T_map, T = circle(stand, 334.0), circle(place, 334.0)
    else:
        tolerance_m, sure = 2.0, place >= 0.0
        for n in range(1, len(place)):
            place[n] = place[n] if sure[n] else place[n - 1]
        edges = sorted({row['edge'] for row in of_map})
        beside = np.array([0.0 if float(row['pos']) >= 0.0 else
                           DISTRACTORS_M + 50.0 * edges.index(row['edge']) for row in of_map])
        along = np.where(stand >= 0.0, stand, np.arange(len(of_map), dtype=float))
        T_map, T = line(along, beside), line(np.maximum(place, 0.0))
    made_map = described_rows(f'{folder}-{map_label}', of_map, folder, encoder)
    made = described_rows(f'{folder}-{label}', asked, folder, encoder)
    return MappedDrive(
        name=name, map_name=f'{folder}-{map_label}', made_map=made_map, T_map=T_map,
        map_numbers=np.arange(len(of_map)), tolerance_m=tolerance_m, sure=sure,
        ride=ride_of(name, made, np.arange(len(asked)), T))


def floor(number: int, encoder: Encoder) -> Described:
    """One floor of multi_floor; images about half a metre apart."""
    files: list[Path] = sorted((DATA / 'multi_floor' / f'floor_{number}').glob('*.jpg'))
    return describe_pictures(f'floor-{number}', pictures(files), encoder)


def floors(of_map: int, driven: int, encoder: Encoder) -> MappedDrive:
    """A map of every second image of a floor, and a drive of the other images of a floor."""
    made, made_map = floor(driven, encoder), floor(of_map, encoder)
    numbers = np.arange(1, len(made), 2)
    T = line(0.5 * numbers.astype(float))
    return MappedDrive(
        name=f'multi_floor {driven} on the map of {of_map}', map_name=f'floor-{of_map}',
        made_map=made_map, map_numbers=np.arange(0, len(made_map), 2),
        T_map=line(0.5 * np.arange(0, len(made_map), 2)), tolerance_m=2.5,
        sure=np.ones(len(numbers), bool),
        ride=ride_of(f'floor-{driven}', made, numbers, T, on_map=of_map == driven))
