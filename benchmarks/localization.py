"""Localization of drives by raw top-1, by the belief, and by the belief with verification.

Maps are built by day. The same streets are then driven at dusk, in rain and in winter, by another
vehicle in another part of the lane. Other drives: kidnapped (a lap in ten pieces out of order),
off the map (streets of another district, and other towns), streets with copied facades, and real
images. Writes build/bench/localization.json and the table in docs/localization.md.

    MODEL=gem_vits14            another model or checkpoint file
    SEEDS=7                     towns for development: prints, writes nothing
    FULL=1                      rain and winter too, more laps off the map, a second floor

No constant of localization was fitted on the towns that are reported (seeds 11 to 13). Seed 7 is
for fitting.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import os
from pathlib import Path

import numpy as np

from benchmarks.localization_pictures import campus, closures, DATA, rtabmap, tower
from benchmarks.localization_runs import (
    along,
    follow,
    kidnapped,
    pooled_nees,
    Raw,
    Ride,
    top_one,
    Track,
)
from benchmarks.real_drives import real_metrics
from benchmarks.report import Metric, ROOT, write
from benchmarks.town_drives import CACHE, DAY, drive, second_lap, TownDrive
from benchmarks.town_features import described, town_map
from examples.town import TownConfig
from regvpr_core.config import DEFAULT_MODEL
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder, load_encoder

FULL = bool(os.environ.get('FULL'))
MODEL = os.environ.get('MODEL', DEFAULT_MODEL)
PAGE = ROOT / 'docs' / 'localization.md'
BEGIN, END = '<!-- localization: written by benchmarks/localization.py -->', '<!-- end -->'

KINDS = {'none': 'belief', 'patch': 'verified'}
CONDITIONS = ('dusk', 'rain', 'winter')
OFF = 'off the map'
WITHIN = 10
"""A kidnapped robot should be localized again within this many images, about 2 m apart."""

ALL = (*CONDITIONS, OFF)
LAPS: dict[int, tuple[str, ...]] = (
    {11: ALL, 12: ('dusk', OFF)} if FULL else {11: ('dusk', OFF), 12: ('dusk',)})
ALIASED: tuple[int, ...] = (13,)
OFF_KINDS = ('none',)
FLOORS = ('floor22', 'floor16') if FULL else ('floor22',)
OTHER_FLOORS = ('floor4', 'floor9', 'basement2')
"""Floors that were used neither to train nor to choose the shipped checkpoint."""
if 'SEEDS' in os.environ:
    LAPS = dict.fromkeys([int(seed) for seed in os.environ['SEEDS'].split(',')], ALL)
    ALIASED = ()
REPORTED = 'SEEDS' not in os.environ


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: a drive and the result of each method."""

    name: str
    frames: int
    raw: str
    belief: str
    verified: str


def lap_of(config: TownConfig, condition: str) -> TownDrive:
    """A lap of a town; the map is built from the lap of condition `day`."""
    if condition == 'day':
        return drive(config, DAY)
    if condition == OFF:
        return drive(config, second_lap('dusk', route='unmapped'))
    return drive(config, second_lap(condition))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Runs:
    """Results of drives of one kind, each on its map, by raw top-1 and by kind of verification.

    Every fix of a drive off the map is false.
    """

    rides: tuple[Ride, ...]
    raw_right: np.ndarray
    raw_at_99: float
    tracks: dict[str, list[Track]]

    @property
    def frames(self) -> int:
        """Number of images."""
        return sum(len(ride) for ride in self.rides)

    def precision(self, kind: str) -> float:
        """Share of fixes that are correct; 1 if there is none."""
        fixes = sum(int(track.fixed.sum()) for track in self.tracks[kind])
        return self.right(kind) / fixes if fixes else 1.0

    def right(self, kind: str) -> int:
        """Number of correct fixes."""
        return sum(int(track.right.sum()) for track in self.tracks[kind])

    def false(self, kind: str) -> int:
        """Number of fixes at a wrong place."""
        return sum(track.false for track in self.tracks[kind])

    def recall(self, kind: str) -> float:
        """Share of all images with a correct fix."""
        return self.right(kind) / max(self.frames, 1)

    def false_row(self, name: str) -> Row:
        """Line for drives off the map: number of false fixes by each method."""
        count = {kind: f'{self.false(kind)} false' if kind in self.tracks else 'not driven'
                 for kind in KINDS}
        return Row(name=name, frames=self.frames, raw=f'{self.frames} false',
                   belief=count['none'], verified=count['patch'])

    def row(self, name: str) -> Row:
        """Line with precision / recall of each method."""
        raw = float(self.raw_right.mean()) if len(self.raw_right) else 0.0
        both = {kind: f'{self.precision(kind):.3f} / {self.recall(kind):.3f}' for kind in KINDS}
        return Row(name=name, frames=self.frames, belief=both['none'], verified=both['patch'],
                   raw=f'{raw:.3f} / {raw:.3f} (0.99 / {self.raw_at_99:.3f})')


def run(
    encoder: Encoder, pairs: Sequence[tuple[PlaceMap, Ride]], kinds: Sequence[str] = tuple(KINDS)
) -> Runs:
    """Localize each drive on its map by every method."""
    raws = [top_one(place_map, ride) for place_map, ride in pairs]
    right = np.concatenate([raw.right for raw in raws])
    pooled = Raw(similarity=np.concatenate([raw.similarity for raw in raws]), right=right)
    return Runs(rides=tuple(ride for _, ride in pairs), raw_right=right,
                raw_at_99=pooled.recall_at(0.99),
                tracks={kind: [follow(encoder, place_map, ride, kind) for place_map, ride in pairs]
                        for kind in kinds})


class Towns:
    """Maps and laps of the towns, opened once."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._maps: dict[TownConfig, PlaceMap] = {}

    def open(self, config: TownConfig) -> PlaceMap:
        """The map built by day."""
        if config not in self._maps:
            self._maps[config] = town_map(lap_of(config, 'day'), self._encoder)
        return self._maps[config]

    def ride(self, config: TownConfig, condition: str, on_map: bool = True) -> Ride:
        """A lap as it was driven."""
        lap = lap_of(config, condition)
        return along(lap, described(lap, self._encoder), on_map)

    def kidnapped(self, config: TownConfig, condition: str) -> Ride:
        """A lap in pieces out of order."""
        lap = lap_of(config, condition)
        return kidnapped(lap, described(lap, self._encoder))

    def elsewhere(self) -> Iterator[tuple[PlaceMap, Ride]]:
        """Every map, with each lap through streets that are not in it."""
        aliased = [TownConfig(seed=seed, aliased=True) for seed in ALIASED]
        laps = [(TownConfig(seed=seed), condition) for seed, conditions in LAPS.items()
                for condition in ('day', *conditions)]
        laps += [(config, condition) for config in aliased for condition in ('day', 'dusk')]
        for own in [*(TownConfig(seed=seed) for seed in LAPS), *aliased]:
            for config, condition in laps:
                if config.seed != own.seed or condition == OFF:
                    yield self.open(own), self.ride(config, condition, on_map=False)


def town_metrics(towns: Towns, encoder: Encoder) -> tuple[list[Metric], list[Row]]:
    """Metrics and lines of the towns: conditions, kidnappings, copied facades, off the map."""
    metrics, rows, tracks = [], [], {kind: [] for kind in KINDS}
    for condition in CONDITIONS:
        seeds = [seed for seed, conditions in LAPS.items() if condition in conditions]
        if not seeds:
            continue
        configs = [TownConfig(seed=seed) for seed in seeds]
        runs = run(encoder, [(towns.open(c), towns.ride(c, condition)) for c in configs])
        rows.append(runs.row(f'town, day → {condition}'))
        for kind, name in KINDS.items():
            tracks[kind] += runs.tracks[kind]
            metrics += fixes(f'town_{condition}', name, runs, kind,
                             f'towns {", ".join(map(str, seeds))}, {runs.frames} images',
                             target=condition == 'dusk')
    for kind, name in KINDS.items():
        metrics += honesty(name, tracks[kind])
    more, row = kidnap_metrics(towns, encoder)
    metrics, rows = metrics + more, [*rows, row]
    if ALIASED:
        configs = [TownConfig(seed=seed, aliased=True) for seed in ALIASED]
        runs = run(encoder, [(towns.open(c), towns.ride(c, 'dusk')) for c in configs])
        rows.append(runs.row('town with copied facades, day → dusk'))
        for kind, name in KINDS.items():
            metrics += fixes('aliased_dusk', name, runs, kind,
                             f'towns {", ".join(map(str, ALIASED))}, {runs.frames} images')
    runs = run(encoder, list(towns.elsewhere()), OFF_KINDS)
    rows.append(runs.false_row('town, off the map (false fixes)'))
    for kind in OFF_KINDS:
        metrics.append(Metric(
            metric='offmap_false_fixes' + suffix(KINDS[kind]), value=runs.false(kind), unit='',
            target=0, higher_is_better=False,
            scope=f'{runs.frames} images of streets that the map does not hold; '
                  f'{words(KINDS[kind])}'))
    return metrics, rows


def fixes(prefix: str, name: str, runs: Runs, kind: str, scope: str, target: bool = False
          ) -> list[Metric]:
    """Precision, recall, time to the first fix and false fixes per kilometre of one method."""
    figures = [track.figures() for track in runs.tracks[kind]]
    scope = f'{scope}; {words(name)}'
    return [
        Metric(metric=f'{prefix}_precision{suffix(name)}', value=runs.precision(kind), unit='',
               target=0.99 if target else None, scope=scope),
        Metric(metric=f'{prefix}_recall{suffix(name)}', value=runs.recall(kind), unit='',
               target=0.8 if target else None, scope=scope),
        Metric(metric=f'{prefix}_first_fix_s{suffix(name)}', unit='s', higher_is_better=False,
               value=float(np.median([one.time_to_first_fix_s for one in figures])), scope=scope),
        Metric(metric=f'{prefix}_false_per_km{suffix(name)}', unit='1/km', higher_is_better=False,
               value=float(np.mean([one.false_fixes_per_km for one in figures])), scope=scope)]


def honesty(name: str, tracks: Sequence[Track]) -> list[Metric]:
    """Errors of correct fixes, and consistency of their covariances."""
    errors = np.concatenate([track.errors for track in tracks])
    if not len(errors):
        return []
    metres = np.linalg.norm(errors[:, :3], axis=1)
    scope = f'{len(errors)} right fixes by {", ".join(CONDITIONS)}; {words(name)}'
    out = [Metric(metric=f'position_median_m{suffix(name)}', value=float(np.median(metres)),
                  unit='m', higher_is_better=False, scope=scope),
           Metric(metric=f'position_p95_m{suffix(name)}', higher_is_better=False, unit='m',
                  value=float(np.percentile(metres, 95)), scope=scope),
           Metric(metric=f'heading_median_deg{suffix(name)}', unit='deg', higher_is_better=False,
                  value=float(np.degrees(np.median(np.abs(errors[:, 5])))), scope=scope)]
    for label, axes in (('position', slice(0, 3)), ('horizontal', slice(0, 2)),
                        ('rotation', slice(3, 6))):
        nees = pooled_nees(tracks, axes)
        out += [Metric(metric=f'nees_{label}{suffix(name)}', value=nees.mean, unit='of dof',
                       target=1.5 if label == 'position' else None, higher_is_better=False,
                       scope=f'{scope}; honest: 0.5 to 1.5'),
                Metric(metric=f'within_95_{label}{suffix(name)}', value=nees.within_95, unit='',
                       target=0.9 if label == 'position' else None,
                       scope=f'{scope}; honest: 0.90 to 0.99')]
    return out


def kidnap_metrics(towns: Towns, encoder: Encoder) -> tuple[list[Metric], Row]:
    """Metrics and line of laps at dusk in pieces out of order."""
    configs = [TownConfig(seed=seed) for seed in LAPS]
    runs = run(encoder, [(towns.open(c), towns.kidnapped(c, 'dusk')) for c in configs])
    row, metrics = runs.row('town, kidnapped, day → dusk'), []
    for kind, name in KINDS.items():
        frames = [n for track in runs.tracks[kind] for n in track.recoveries()]
        share = float(np.mean([n is not None and n <= WITHIN for n in frames]))
        found = [n for n in frames if n is not None]
        scope = f'{len(frames)} kidnappings; {words(name)}'
        metrics += [
            Metric(metric=f'kidnap_within_10{suffix(name)}', value=share, unit='', target=0.9,
                   scope=f'{scope}; share localized again within {WITHIN} images, 1.9 m apart'),
            Metric(metric=f'kidnap_frames{suffix(name)}', unit='', higher_is_better=False,
                   value=float(np.median(found)) if found else np.inf,
                   scope=f'{scope}; median images to a right fix'),
            Metric(metric=f'kidnap_precision{suffix(name)}', value=runs.precision(kind), unit='',
                   scope=f'{scope}; of all fixes')]
    return metrics, row


def picture_metrics(encoder: Encoder) -> tuple[list[Metric], list[Row]]:
    """Metrics and lines of real images, if they are on this machine."""
    if not DATA.is_dir():
        print(f'real pictures are not at hand (looked in {DATA}); only towns were driven')
        return [], []
    made, loops = rtabmap(encoder)
    curves = {kind: closures(encoder, made, loops, kind) for kind in ('raw', *KINDS)}
    at = {kind: curve.recall_at_full_precision for kind, curve in curves.items()}
    rows = [Row(name='rtabmap_samples, loop closures', frames=len(made),
                **{name: f'1.000 / {at[kind]:.3f}' for kind, name in
                   (('raw', 'raw'), *KINDS.items())})]
    names = {'raw': 'raw', **KINDS}
    metrics = [Metric(metric='rtabmap_recall_at_100_precision' + suffix(name),
                      value=at[kind], unit='', target=None if kind == 'raw' else 0.8,
                      scope=f'{int(loops.any(axis=1).sum())} pictures that close a loop, without '
                            f'odometry; {words(name)}') for kind, name in names.items()]
    place_map, ride = campus(encoder, CACHE)
    runs = run(encoder, [(place_map, ride)])
    rows.append(runs.row('rwrc_campus, every other picture'))
    metrics += [m for kind, name in KINDS.items()
                for m in fixes('campus', name, runs, kind, f'{runs.frames} pictures')[:2]]
    place_map, rides = tower(encoder, FLOORS, OTHER_FLOORS, CACHE)
    runs = run(encoder, [(place_map, one) for one in rides if one.on_map])
    rows.append(runs.row(f'ie_tower, {len(runs.rides)} clips of {len(FLOORS)} floor(s)'))
    metrics += [m for kind, name in KINDS.items()
                for m in fixes('tower', name, runs, kind, f'{runs.frames} pictures')[:2]]
    off = run(encoder, [(place_map, one) for one in rides if not one.on_map])
    rows.append(off.false_row('ie_tower, clips of other floors (false fixes)'))
    return metrics, rows


def suffix(name: str) -> str:
    """Suffix of metric names; empty for the belief alone, which is the default of the node."""
    return '' if name == 'belief' else f'_{name}'


def words(name: str) -> str:
    """Name of a method in the scopes."""
    return {'raw': 'raw top-1', 'belief': 'belief alone',
            'verified': 'belief and verification by patches'}[name]


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    head = ('| drive | images | raw top-1 | belief | belief + verification |\n'
            '|---|---:|---:|---:|---:|\n')
    return head + ''.join(f'| {r.name} | {r.frames} | {r.raw} | {r.belief} | {r.verified} |\n'
                          for r in rows)


def write_table(text: str, page: Path = PAGE) -> None:
    """Write the table between its marks in the page."""
    before, rest = page.read_text(encoding='utf-8').split(BEGIN)
    after = rest.split(END, 1)[1]
    page.write_text(f'{before}{BEGIN}\n\n{text}\n{END}{after}', encoding='utf-8')


def main() -> None:
    """Run all drives; write the result file and the table."""
    encoder = load_encoder(MODEL, 'cpu')
    real_figures, real_table = real_metrics(encoder, CACHE) \
        if REPORTED and DATA.is_dir() else ([], '')
    print(real_table)
    metrics, rows = town_metrics(Towns(encoder), encoder)
    metrics = real_figures + metrics
    if REPORTED:
        more, real = picture_metrics(encoder)
        metrics, rows = metrics + more, rows + real
    for metric in metrics:
        print(f'{metric.metric:42} {metric.value:9.3f} {metric.unit}')
    print(table(rows))
    if REPORTED:
        print(write('localization', metrics))
        write_table(f'{real_table}\n{table(rows)}')


if __name__ == '__main__':
    main()
