"""Write a lap through the town as a bag, or a contact sheet of the town."""

import argparse
from pathlib import Path
import sys

from examples.town.bag import STORAGES, write_lap
from examples.town.conditions import LOOKS
from examples.town.config import LapConfig, ROUTE_LAPS, TownConfig
from examples.town.errors import TownError
from examples.town.preview import write_preview
from examples.town.town import Town


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.out and not options.preview:
        parser.error('give --out FOLDER or --preview FILE.png')
    try:
        town = Town(TownConfig(seed=options.seed, aliased=options.aliased))
        if options.preview:
            write_preview(town, options.preview, route=options.route)
            sys.stderr.write(f'{options.preview}\n')
        if options.out:
            files = _lap(town, options)
            sys.stdout.write(f'{files[0]}\n{files[1]}\n')
    except (TownError, OSError) as error:
        sys.stderr.write(f'error: {error}\n')
        return 1
    return 0


def _lap(town: Town, options: argparse.Namespace) -> tuple[Path, Path]:
    lap = LapConfig(
        condition=options.condition, seed=options.lap_seed, route=options.route,
        laps=options.laps, frames=options.frames, lateral_m=options.lateral,
        kidnap_at=options.kidnap_at,
    )  # fmt: skip
    name = options.name or options.condition

    def progress(done: int, total: int) -> None:
        if done % 10 == 0 or done == total:
            end = '\n' if done == total else ''
            sys.stderr.write(f'\r{name}: image {done} of {total}{end}')
            sys.stderr.flush()

    files = write_lap(town, lap, options.out, name=name, storage=options.storage,
                      compressed=not options.raw, on_frame=progress)  # fmt: skip
    return files.bag, files.truth


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog='python -m examples.town', description=__doc__)
    out = parser.add_argument_group('what to write, one or both')
    out.add_argument('--out', type=Path, metavar='FOLDER', help='bag and truth of a lap')
    out.add_argument('--preview', type=Path, metavar='FILE.png', help='contact sheet')
    town = parser.add_argument_group('the town')
    town.add_argument('--seed', type=int, default=1, help='seed of the town (default 1)')
    town.add_argument('--aliased', action='store_true', help='two streets are alike')
    lap = parser.add_argument_group('the lap')
    lap.add_argument('--condition', default='day', help=f'one of {", ".join(LOOKS)}')
    lap.add_argument('--route', default='mapped', help=f'one of {", ".join(ROUTE_LAPS)}')
    lap.add_argument('--lap-seed', type=int, default=1, help='seed of cars, noise and odometry')
    lap.add_argument('--laps', type=float, help='times round')
    lap.add_argument('--frames', type=int, metavar='N', help='number of images')
    lap.add_argument('--lateral', type=float, default=0.0, metavar='M', help='offset to the left')
    lap.add_argument('--kidnap-at', type=int, metavar='K', help='image at which it is carried off')
    bag = parser.add_argument_group('the bag')
    bag.add_argument('--name', help='name of the bag (default: the condition)')
    bag.add_argument('--storage', default='mcap', help=f'one of {", ".join(STORAGES)}')
    bag.add_argument('--raw', action='store_true', help='raw images instead of JPEGs')
    return parser


if __name__ == '__main__':
    sys.exit(main())
