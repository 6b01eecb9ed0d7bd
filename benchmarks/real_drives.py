"""Table of real drives: raw top-1, belief without and with odometry, false fixes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np

from benchmarks.localization_pictures import rtabmap, small_map, wrong_closures
from benchmarks.localization_runs import follow, Ride
from benchmarks.real_sequences import (
    floor,
    FLOORS,
    floors,
    line,
    MappedDrive,
    REPORT,
    ride_of,
    sequence,
)
from benchmarks.report import Metric
from examples.town.camera import T_BASE_CAM
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Driven:
    """Result of one drive. raw: recall of top-1. without, with_odometry: (precision, recall)."""

    name: str
    images: int
    raw: float
    without: tuple[float, float]
    with_odometry: tuple[float, float]


def open_map(one: MappedDrive, encoder: Encoder, cache: Path) -> PlaceMap:
    """The map of a sequence, built once."""
    return small_map(cache / f'{one.map_name}-{encoder.fingerprint[:12]}.map', encoder,
                     one.made_map, one.map_numbers, one.T_map @ T_BASE_CAM)


def judged(one: MappedDrive, place_map: PlaceMap, keyframes: np.ndarray) -> np.ndarray:
    """Whether each keyframe (F,) is correct for its image; False for -1 (none)."""
    steps = place_map.T_map_cam[keyframes, :3, 3] - (one.ride.T_map_base @ T_BASE_CAM)[:, :3, 3]
    near = np.linalg.norm(steps, axis=1) <= one.tolerance_m + 1e-6
    return np.asarray(near & (keyframes >= 0) & one.ride.on_map)


def drive(one: MappedDrive, place_map: PlaceMap, encoder: Encoder, kind: str = 'none') -> Driven:
    """Precision and recall of one drive, over the images whose true place is certain."""
    rows = place_map.descriptors(0, len(place_map))
    best = (one.ride.made.descriptors[one.ride.numbers] @ rows.T).argmax(axis=1)
    figures = []
    for odometry in (None, one.ride.T_odom_base):
        track = follow(encoder, place_map, replace(one.ride, T_odom_base=odometry), kind)
        fixed = (track.keyframes >= 0) & one.sure
        right = judged(one, place_map, track.keyframes) & one.sure
        precision = float(right.sum() / fixed.sum()) if fixed.any() else 1.0
        figures.append((precision, float(right.sum() / one.sure.sum())))
    return Driven(name=one.name, images=int(one.sure.sum()),
                  raw=float(judged(one, place_map, best)[one.sure].mean()),
                  without=figures[0], with_odometry=figures[1])


def false_fixes(pairs: Sequence[tuple[PlaceMap, Ride]], encoder: Encoder, kind: str = 'none'
                ) -> tuple[int, int]:
    """Number of fixes on drives off the map, with and without odometry, and number of images."""
    count = 0
    for place_map, ride in pairs:
        for odometry in (None, ride.T_odom_base):
            track = follow(encoder, place_map, replace(ride, T_odom_base=odometry), kind)
            count += int(track.fixed.sum())
    return count, 2 * sum(len(ride) for _, ride in pairs)


def real_metrics(encoder: Encoder, cache: Path) -> tuple[list[Metric], str]:
    """Figures and the table of real drives."""
    named = [sequence(name, encoder) for name in REPORT]
    own = [floors(number, number, encoder) for number in FLOORS]
    maps = {one.map_name: open_map(one, encoder, cache) for one in (*named, *own)}
    driven = [drive(one, maps[one.map_name], encoder) for one in (*named, *own)]
    crossed = [(maps[f'floor-{a}'], floors(a, b, encoder).ride)
               for a in FLOORS for b in FLOORS if a != b]
    looked, of = false_fixes(crossed, encoder)
    checked, _ = false_fixes(crossed, encoder, 'patch')
    made, _ = rtabmap(encoder)
    others = [ride_of('rtabmap', made, np.arange(len(made)), line(np.arange(len(made)) * 1.0),
                      on_map=False)]
    others += [replace(one.ride, on_map=False) for one in named]
    away = [(place_map, ride) for name, place_map in maps.items() for ride in others
            if ride.name.split()[0] not in name]
    off, of_off = false_fixes(away, encoder)
    text = ('| real drive | images | raw top-1 | without odometry | with odometry |\n'
            '|---|---:|---:|---:|---:|\n')
    for one in driven:
        pair = [f'{p:.3f} / {r:.3f}' for p, r in (one.without, one.with_odometry)]
        text += f'| {one.name} | {one.images} | {one.raw:.3f} | {pair[0]} | {pair[1]} |\n'
    text += (f'| multi_floor, one floor on the map of another (false fixes) | {of} | | {looked} | '
             f'{checked} verified |\n| other buildings (false fixes) | {of_off} | | {off} | |\n')
    figures = [f for one in driven for f in (one.without, one.with_odometry)]
    shares = [f[1] / max(one.raw, 1e-9) for one in driven
              for f in (one.without, one.with_odometry)]
    metrics = [
        Metric(metric='real_precision_min', value=min(f[0] for f in figures), unit='',
               target=0.99, scope='least of all real drives, without and with odometry'),
        Metric(metric='real_recall_over_top1_min', value=min(shares), unit='x', target=0.9,
               scope='recall over the accuracy of raw top-1, least of all real drives'),
        Metric(metric='floors_false_fixes', value=looked, unit='', target=0.02 * of,
               higher_is_better=False,
               scope=f'{of} images of floors whose map is of another floor'),
        Metric(metric='floors_false_fixes_verified', value=checked, unit='', target=0,
               higher_is_better=False, scope=f'{of} images; verified by patches'),
        Metric(metric='real_offmap_false_fixes', value=off, unit='', target=of_off / 2000.0,
               higher_is_better=False, scope=f'{of_off} images of other buildings')]
    for kind, suffix in (('none', ''), ('patch', '_verified')):
        passes = [floor(n, encoder) for n in FLOORS]
        found = [wrong_closures(encoder, order, kind) for order in permutations(passes)]
        wrong, images = (sum(counts) for counts in zip(*found, strict=True))
        metrics.append(Metric(
            metric=f'floors_wrong_closures{suffix}', value=wrong, unit='', target=0,
            higher_is_better=False,
            scope=f'{images} images of three look-alike floors as one session, in six orders'))
    for one in driven:
        slug = one.name.replace(' ', '_')
        for way, (precision, recall) in (('', one.without), ('_odometry', one.with_odometry)):
            metrics += [
                Metric(metric=f'real_{slug}{way}_precision', value=precision, unit='',
                       scope=f'{one.images} images'),
                Metric(metric=f'real_{slug}{way}_recall_over_top1', unit='x',
                       value=recall / max(one.raw, 1e-9), scope=f'{one.images} images')]
    return metrics, text
