"""Write training images with places as a folder with a manifest (see docs/training.md).

    python -m examples.place_data towns build/towns --seeds 21 22 --conditions day dusk
    python -m examples.place_data numbered build/scenes FOLDER --each 3
    python -m examples.place_data drives build/drives ../shared/data
"""

import argparse
from collections.abc import Sequence
import csv
import itertools
import math
from pathlib import Path
import shutil
import sys

from examples.town import LapConfig, Town, TownConfig
from examples.town.conditions import LOOKS
from examples.town.errors import TownError
from regvpr_core.datasets.manifest import write_manifest
from regvpr_core.errors import RegvprError
from regvpr_core.images import encode_jpeg, find_images

CELL_M = 4.0
HEADINGS = 8
QUALITY = 92
SPEED_MPS = 5.0

LAP = 334
"""Number of frames of the closed lap d25_lap1 of campus_track."""

THINNED = {'lap': 2, 'dusk': 6, 'map': 4}
"""Every n-th image of a pass is used."""

Row = dict[str, object]


def towns(out: Path, seeds: Sequence[int], conditions: Sequence[str], step_m: float,
          validation: bool = False) -> int:
    """Render laps through towns. A place is a square of 4 m and one of eight directions.

    Each condition is a separate drive, with other cars and in another part of the lane. A town is
    a group. For validation the first condition is the gallery, and the others are queries.

    Returns:
        number of images.
    """
    rows: list[Row] = []
    laps = list(enumerate(conditions))
    for town, (number, condition) in itertools.product(
            [Town(TownConfig(seed=seed)) for seed in seeds], laps):
        seed = town.config.seed
        split = ('query' if number else 'gallery') if validation else 'train'
        lap = LapConfig(condition=condition, seed=1 + number,
                        lateral_m=(-0.4, 0.4, 0.0)[number % 3],
                        start_m=number * step_m / len(conditions), speed_mps=SPEED_MPS,
                        rate_hz=SPEED_MPS / step_m)
        folder = out / f'town{seed}'
        folder.mkdir(parents=True, exist_ok=True)
        for image, frame in enumerate(town.drive(lap)):
            path = folder / f'{number}-{condition}-{image:04d}.jpg'
            path.write_bytes(encode_jpeg(frame.image, QUALITY))
            x, y = (float(v) for v in frame.T_map_base[:2, 3])
            heading = math.atan2(frame.T_map_base[1, 0], frame.T_map_base[0, 0])
            way = round(heading / (2 * math.pi / HEADINGS)) % HEADINGS
            place = f'{math.floor(x / CELL_M)},{math.floor(y / CELL_M)},{way}'
            rows.append({'image': f'{folder.name}/{path.name}', 'place': place, 'split': split,
                         'group': folder.name, 'x': round(x, 3), 'y': round(y, 3)})
        sys.stderr.write(f'town {seed}, {condition}: {len(rows)} pictures so far\n')
    write_manifest(out / 'manifest.csv', rows)
    return len(rows)


def numbered(out: Path, folder: Path, each: int, held_out: int = 0) -> int:
    """Copy images of which each `each` successive ones, in order of name, show one place.

    Every `held_out`-th place is in the split `held_out`; 0: none.
    """
    files = find_images([folder])
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for number, path in enumerate(files):
        shutil.copyfile(path, out / path.name)
        place = number // each
        held = held_out and place % held_out == held_out - 1
        rows.append({'image': path.name, 'place': place,
                     'split': 'held_out' if held else 'train', 'group': folder.name})
    write_manifest(out / 'manifest.csv', rows)
    return len(rows)


def drives(out: Path, data: Path) -> int:
    """Validation sets of real drives: campus_track at dusk, pepper_office in grey on another day.

    x and y are numbers of frames along the path; the closed lap of campus_track is a circle.
    Frames of pepper_office beside the path are put far from all others.

    Returns:
        number of images.
    """
    campus, pepper = (read_rows(data / name) for name in ('campus_track', 'pepper_office'))
    lap = [r for r in campus if r['sequence'] == 'd25_lap1'][::THINNED['lap']]
    dusk = [r for r in campus if r['condition'] == 'dusk'][::THINNED['dusk']]
    on_map = [r for r in pepper if r['sequence'] == 'map'][::THINNED['map']]
    grey = [r for r in pepper if r['sequence'] == 'keyframes_gray' and int(r['pos']) >= 0]

    def around(row: Row) -> tuple[float, float]:
        angle = 2 * math.pi * int(str(row['pos'])) / LAP
        return LAP / (2 * math.pi) * math.cos(angle), LAP / (2 * math.pi) * math.sin(angle)

    def along(row: Row) -> tuple[float, float]:
        pos = int(str(row['pos']))
        return (pos, 0.0) if pos >= 0 else (0.0, 1e6)

    count = 0
    for name, folder, sides, where in (
            ('campus_dusk', 'campus_track', (lap, dusk), around),
            ('pepper', 'pepper_office', (on_map, grey), along)):
        rows: list[Row] = []
        for split, side in zip(('gallery', 'query'), sides, strict=True):
            for row in side:
                path = out / name / f'{len(rows):04d}.jpg'
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(data / folder / str(row['image']), path)
                x, y = where(row)
                rows.append({'image': path.name, 'place': row['pos'], 'split': split,
                             'x': round(x, 3), 'y': round(y, 3)})
        write_manifest(out / name / f'{name}.csv', rows)
        count += len(rows)
    return count


def read_rows(folder: Path) -> list[Row]:
    """Rows of a data set's table."""
    with (folder / 'data.csv').open(encoding='utf-8') as file:
        return list(csv.DictReader(file))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog='python -m examples.place_data', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest='kind', required=True)
    of_towns = kinds.add_parser('towns', help='rendered laps')
    of_towns.add_argument('out', type=Path)
    of_towns.add_argument('--seeds', type=int, nargs='+', required=True)
    of_towns.add_argument('--conditions', nargs='+', default=list(LOOKS))
    of_towns.add_argument('--step-m', type=float, default=2.5, help='metres between pictures')
    of_towns.add_argument('--validation', action='store_true',
                          help='the first condition is the gallery, the others are queries')
    of_numbers = kinds.add_parser('numbered', help='every N files show one place')
    of_numbers.add_argument('out', type=Path)
    of_numbers.add_argument('folder', type=Path)
    of_numbers.add_argument('--each', type=int, required=True)
    of_numbers.add_argument('--held-out', type=int, default=0, metavar='N',
                            help='every N-th place is of split held_out')
    of_drives = kinds.add_parser('drives', help='real drives to validate on')
    of_drives.add_argument('out', type=Path)
    of_drives.add_argument('data', type=Path, help='folder with campus_track and pepper_office')
    options = parser.parse_args(arguments)
    try:
        if options.kind == 'towns':
            count = towns(options.out, options.seeds, options.conditions, options.step_m,
                          options.validation)
        elif options.kind == 'drives':
            count = drives(options.out, options.data)
        else:
            count = numbered(options.out, options.folder, options.each, options.held_out)
    except (TownError, RegvprError, OSError) as error:
        sys.stderr.write(f'error: {error}\n')
        return 1
    sys.stdout.write(f'{options.out}: {count} pictures\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
