"""`regvpr map calibrate`: learn how often a match of a map is true, and store it in the map."""

import argparse
from pathlib import Path
from typing import Any

from regvpr_core.cli.console import print_facts
from regvpr_core.cli.parsing import add_command


def add_parser(verbs: Any) -> None:
    """Add `calibrate` to the verbs of `map`."""
    parser = add_command(
        verbs, 'calibrate', 'learn and store the probability that a match is true',
        'regvpr map calibrate site', 'regvpr map calibrate site --traverse second_drive')
    parser.add_argument('map', type=Path, metavar='MAP')
    parser.add_argument('--traverse', type=Path, metavar='MAP2',
                        help='map of a second drive through the same streets, in the same frame '
                             "(default: the pairs of the map's own keyframes)")
    parser.add_argument('--dry-run', action='store_true', help='print the result, write nothing')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Learn and store a map's calibration, and print its calibration error."""
    from regvpr_core.localization.calibration import calibration_error
    from regvpr_core.localization.stored_calibration import (
        calibrate_and_store,
        calibrated,
        STANDARD,
    )

    learn = calibrated if options.dry_run else calibrate_and_store
    calibration = learn(options.map, options.traverse)
    print_facts({
        'map': str(options.map),
        'learnt_from': calibration.source if calibration.queries else STANDARD,
        'images': calibration.queries,
        'place_score_offset': round(calibration.offset, 3),
        'place_score_gain': round(calibration.gain, 3),
        'calibration_error': (round(calibration_error(calibration.bins), 4)
                              if calibration.bins else None),
        'stored': not options.dry_run,
    }, options.json, '' if options.dry_run else f'regvpr map show {options.map}')
