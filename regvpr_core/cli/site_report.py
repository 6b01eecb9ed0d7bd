"""`regvpr site-report`: compare models on the user's own site."""

import argparse
from collections.abc import Iterator
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from regvpr_core.cli.console import cell, say, say_model, say_next
from regvpr_core.cli.parsing import add_command
from regvpr_core.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from regvpr_core.maps.place_map import PlaceMap


def add_parser(commands: Any) -> None:
    """Add `site-report` to the command line."""
    parser = add_command(
        commands, 'site-report', 'compare models on two drives of your own site',
        'regvpr site-report monday tuesday --models regvpr_offline efficientnet.onnx',
        'regvpr site-report day night --estimate --bag day.mcap night.mcap',
        description='Compare models on two maps of one site, from two drives. Each model '
                    'describes the images of both maps; those of the second are the queries. '
                    'Prints recall, precision of the answer yes, time and size on this machine, '
                    'and a recommendation.')
    parser.add_argument('maps', type=Path, nargs=2, metavar='MAP', help='maps of two drives')
    parser.add_argument('--models', nargs='+', default=[DEFAULT_MODEL], metavar='MODEL',
                        help='model names, checkpoints or .onnx files')
    parser.add_argument('--bag', type=Path, nargs='+', default=[], metavar='SOURCE',
                        help='recordings with the original images; else the stored thumbnails, '
                             'with which every model does worse than with its full input')
    parser.add_argument('--estimate', action='store_true',
                        help='estimate the transform between the maps from common places '
                             '(default: one frame)')
    parser.add_argument('--radius-m', type=float, default=0.0, metavar='M',
                        help='a match is correct within this (default: 1.5 times the spacing of '
                             'the first map, at least 1 m)')
    parser.add_argument('--angle-deg', type=float, default=40.0, metavar='DEG',
                        help='and if its direction differs by less than this (default: 40)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure each model and recommend one."""
    import numpy as np

    from regvpr_core.config import check_range
    from regvpr_core.maps.place_map import PlaceMap
    from regvpr_core.recordings.source_kinds import check_exists

    check_range('--radius-m', options.radius_m, 0.0, 1000.0)
    check_range('--angle-deg', options.angle_deg, 1.0, 180.0)
    check_exists([*options.maps, *options.bag])
    console = Console(stderr=True)
    index = 'auto' if options.estimate else 'none'
    with (PlaceMap.open(options.maps[0], index=index) as first,
          PlaceMap.open(options.maps[1], index=index) as second):
        from regvpr_core.cli.map_tools import keyframe_images
        from regvpr_core.evaluation.site_report import measure, recommend, timed
        from regvpr_core.localization.one_image import SURE
        from regvpr_core.map_tools.update_map import drive_spacing
        from regvpr_core.models.encoder import load_encoder

        T, of_map = _transform(first, second, options.estimate), first.manifest.features
        radius_m = options.radius_m or max(1.0, 1.5 * drive_spacing(first))

        def images(place_map: 'PlaceMap') -> Iterator[Any]:
            return keyframe_images(place_map, options.bag, set(), console)

        rows, encoders = [], []
        for model in options.models:
            encoder = load_encoder(model, options.device)
            say_model(console, encoder)
            encoders.append(encoder)
            rows.append(measure(encoder, first, second, T, radius_m,
                                float(np.radians(options.angle_deg)), images))
        rows = timed(rows, encoders, first)
    advice = recommend(rows)
    if options.json:
        print(json.dumps({'radius_m': radius_m, 'models': [row.facts() for row in rows],  # noqa: T201
                          'recommendation': advice}, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column('model', overflow='fold')
    for heading in ('recall@1', '95 %', 'plain', 'yes', 'right', 'ms', 'bytes'):
        table.add_column(heading, justify='right', no_wrap=True)
    for row in rows:
        facts: dict[str, Any] = row.facts()
        low, high = facts['recall_95']
        precision = facts['yes_precision']
        table.add_row(cell(row.model), f'{row.recall:.1%}', f'{100 * low:.0f}–{100 * high:.0f}',
                      f'{facts["recall_at_1"]:.1%}', f'{facts["yes_share"]:.0%}',
                      '–' if precision is None else f'{precision:.1%}', f'{row.ms:.0f}',
                      str(row.bytes))
    Console().print(table)
    say(Console(), 'plain: recall@1 without centring; yes: answered so from the one image alone '
                   f'(probability {SURE:g} or more); right: of these', 'dim')
    if not any(row.yes.any() for row in rows):
        say(Console(), 'no image alone is sure enough for yes; a drive with odometry gives poses '
                       'where recall@1 is high' + (
                           '' if of_map else '. Local features tell more: regvpr map build '
                                             '--features patch'))
    say(Console(), f'{len(rows[0].right)} queries, right within {radius_m:.1f} m: {advice}')
    say_next(console, f'regvpr map convert {options.maps[0]} --model MODEL --out NEW')


def _transform(first: 'PlaceMap', second: 'PlaceMap', estimate: bool) -> Any:
    """`T_first_second` (4, 4)."""
    import numpy as np

    from regvpr_core.errors import MapError
    from regvpr_core.map_tools.alignment import align_maps, AlignmentConfig

    if estimate:
        return align_maps(first, second, AlignmentConfig()).T_a_b
    if first.manifest.origin != second.manifest.origin:
        raise MapError(f'{second.path} is not in the frame of {first.path}: their origins on the '
                       f'Earth differ; give --estimate')
    return np.eye(4)
