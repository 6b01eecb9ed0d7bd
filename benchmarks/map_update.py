"""Recall of a map that later sessions update, against the first map and against all drives.

Sites: `../shared/data/campus_track` and `corridor_changes`, with FULL=1 also a rendered town. One
lap of each condition is held out as queries. A query counts as recalled if its best match is
within the tolerance of the data set; the mean descriptor of its session is subtracted first.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
import os
from pathlib import Path
import tempfile

import numpy as np

from benchmarks.localization_pictures import DATA
from benchmarks.real_sequences import circle, described_rows, line, table_of
from benchmarks.report import Metric, write
from examples.town.camera import T_BASE_CAM
from regvpr_core import load_encoder
from regvpr_core.map_tools.coverage import MEAN_PRIOR
from regvpr_core.map_tools.update import UpdateConfig
from regvpr_core.map_tools.update_map import update_map
from regvpr_core.maps.files import Manifest, new_map_id
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.models.encoder import Encoder


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One drive: descriptors (N, D) and camera poses (N, 4, 4) in the frame of the map."""

    name: str
    rows: np.ndarray
    T: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A site: first drive of the map, sessions in order, and query drives, one per condition."""

    name: str
    first: Pass
    sessions: list[Pass]
    asking: list[tuple[Pass, float]]
    """Query drives, each with its tolerance in metres."""


def main() -> None:
    encoder = load_encoder()
    sites = list(real_sites(encoder))
    if os.environ.get('FULL') == '1' or not sites:
        from benchmarks.map_update_towns import town_sites

        sites += town_sites(encoder)
    metrics = [m for site in sites for m in measure(site, encoder)]
    over_union = [m.value for m in metrics if m.metric.endswith('recall_over_union')]
    share = [m.value for m in metrics if m.metric.endswith('keyframes_over_union')]
    first = [m.value for m in metrics if m.metric.endswith('first_condition_over_before')]
    write('map_update', [
        Metric(metric='recall_over_union', value=min(over_union), unit='x', target=1.0,
               scope='recall over all conditions, over that of all drives in one map; worst site'),
        Metric(metric='keyframes_over_union', value=max(share), unit='x', target=0.6,
               higher_is_better=False, scope='keyframes over those of all drives; worst site'),
        Metric(metric='first_condition_over_before', value=min(first), unit='x', target=1.0,
               scope='recall on the first condition, over that of the first map; worst site'),
        *metrics])


def measure(site: Site, encoder: Encoder) -> Iterable[Metric]:
    """Figures of one site."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        path = write_map(root / 'map', [site.first], encoder)
        before = recalls(path, site)
        union = recalls(write_map(root / 'union', [site.first, *site.sessions], encoder), site)
        updates = []
        for session in site.sessions:
            made = write_map(root / session.name, [session], encoder)
            report = update_map(path, [(made, session.name)], UpdateConfig(), same_frame=True)
            updates.append(report)
        after = recalls(path, site)
        with PlaceMap.open(path, index='none') as place_map:
            count = len(place_map)
    total = len(site.first.rows) + sum(len(s.rows) for s in site.sessions)
    for (drive, _), b, u, a in zip(site.asking, before, union, after, strict=True):
        yield Metric(metric=f'{site.name}: {drive.name}: recall', value=a, unit='share',
                     scope=f'first map {b:.3f}, all drives {u:.3f}')
    yield Metric(metric=f'{site.name}: recall_over_union', target=1.0, unit='x',
                 value=float(np.mean(after) / np.mean(union)),
                 scope=f'{np.mean(after):.3f} of {np.mean(union):.3f}; first map '
                       f'{np.mean(before):.3f}')
    yield Metric(metric=f'{site.name}: keyframes_over_union', value=count / total, unit='x',
                 target=0.6, higher_is_better=False, scope=f'{count} of {total}')
    yield Metric(metric=f'{site.name}: first_condition_over_before', unit='x', target=1.0,
                 value=after[0] / before[0], scope=site.asking[0][0].name)


def recalls(path: Path, site: Site) -> list[float]:
    """Share of the images of each query drive whose best match is correct."""
    found = []
    with PlaceMap.open(path, index='exact') as place_map:
        for drive, tolerance_m in site.asking:
            mean = (MEAN_PRIOR * place_map.centre + drive.rows.sum(axis=0)) \
                / (MEAN_PRIOR + len(drive.rows))
            ids = np.array([place_map.search(row, 1, mean)[1][0] for row in drive.rows])
            error = np.linalg.norm(place_map.T_map_cam[ids, :3, 3] - drive.T[:, :3, 3], axis=1)
            found.append(float((error <= tolerance_m).mean()))
    return found


def write_map(path: Path, drives: Sequence[Pass], encoder: Encoder) -> Path:
    """A map of drives in one frame."""
    manifest = Manifest(map_id=new_map_id(), model=encoder.name, fingerprint=encoder.fingerprint,
                        dimension=drives[0].rows.shape[1], sources=[d.name for d in drives])
    with MapWriter.create(path, manifest) as writer:
        for drive in drives:
            writer.append([Keyframe(stamp_ns=i, camera='front', T_map_cam=T, descriptor=row,
                                    source=drive.name)
                           for i, (row, T) in enumerate(zip(drive.rows, drive.T, strict=True))])
    return path


def real_sites(encoder: Encoder) -> Iterable[Site]:
    """Sites whose data is on this machine."""
    if (DATA / 'campus_track').is_dir():
        laps = {name: passes('campus_track', name, encoder, 334.0)
                for name in ('d25_lap1', 'd25_lap2', 'd24_lap1', 'd24_lap2', 'd27_dusk1',
                             'd27_dusk2')}
        yield Site('campus_track', laps['d25_lap1'], [laps['d24_lap1'], laps['d27_dusk1']],
                   [(laps['d25_lap2'], 5.0), (laps['d24_lap2'], 5.0), (laps['d27_dusk2'], 10.0)])
    if (DATA / 'corridor_changes').is_dir():
        # There are only two passes: every second frame of each is a query.
        one, two = (passes('corridor_changes', name, encoder) for name in ('run1', 'run2'))
        yield Site('corridor_changes', half(one, 0), [half(two, 0)],
                   [(half(one, 1), 8.0), (half(two, 1), 8.0)])


def half(drive: Pass, start: int) -> Pass:
    """Every second image of a drive."""
    return Pass(f'{drive.name}.{start}', drive.rows[start::2], drive.T[start::2])


def passes(folder: str, name: str, encoder: Encoder, length_m: float = 0.0) -> Pass:
    """A pass of a data set. Its column `pos` counts frames of the first pass; one counts as 1 m.

    length_m: length of a closed lap; 0 for a line.
    """
    of_pass = [row for row in table_of(folder) if row['sequence'] == name]
    way_m = np.array([float(row['pos']) for row in of_pass])
    # `inliers` is -1 for frames of the first pass, whose place is certain by definition.
    sure = np.array([float(row['inliers']) < 0 or float(row['inliers']) >= 12
                     for row in of_pass])
    rows = described_rows(f'{folder}-{name}', of_pass, folder, encoder).descriptors
    T = (circle(way_m, length_m) if length_m else line(way_m)) @ T_BASE_CAM
    return Pass(name, rows[sure], T[sure])


if __name__ == '__main__':
    main()
