"""`regvpr map show`: a map as one HTML page."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from regvpr_core.cli.console import bar, print_facts, say
from regvpr_core.cli.parsing import add_command


def add_parser(verbs: Any) -> None:
    """Add `show` to the verbs of `map`."""
    parser = add_command(
        verbs, 'show', 'a map as one HTML page: places, images, what looks alike',
        'regvpr map show site --open')
    parser.add_argument('map', type=Path, metavar='MAP')
    parser.add_argument('-o', '--out', type=Path, metavar='FILE.html',
                        help='page to write (default: MAP.html, by the name of the map, here)')
    parser.add_argument('--open', action='store_true', help='show it in the browser')
    parser.add_argument('--radius', type=float, metavar='M',
                        help='keyframes nearer than this show one place '
                             '(default: as localization takes it)')
    parser.add_argument('--max-mb', type=float, default=20.0, metavar='MB',
                        help='most megabytes of the page, 3 to 500 (default: 20)')
    parser.add_argument('--json', action='store_true', help='print the result as JSON')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write the page of a map."""
    from regvpr_core.errors import ConfigError
    from regvpr_core.localization.belief import BeliefConfig, place_radius
    from regvpr_core.map_report.html import write_page
    from regvpr_core.map_report.page import map_page
    from regvpr_core.maps.place_map import PlaceMap

    belief = BeliefConfig()
    folder = options.map.resolve()
    # `regvpr quickstart` makes SITE/map: the page is named after the site.
    name = folder.parent.name if folder.name == 'map' else folder.name
    out = options.out or Path(f'{name}.html')
    if out.is_dir():
        raise ConfigError(f'{out} is a folder; name the page to write with --out FILE.html')
    console = Console(stderr=True)
    with PlaceMap.open(options.map) as place_map, bar('comparing places') as told:
        radius_m = options.radius if options.radius is not None else \
            place_radius(place_map.T_map_cam, belief, place_map.drives)
        reliability, complaints = _reliability(place_map, radius_m, belief.place_angle_rad)
        text, report = map_page(
            place_map, name=name, radius_m=radius_m, angle_rad=belief.place_angle_rad,
            reliability=reliability, complaints=complaints, max_mb=options.max_mb, progress=told)
    write_page(out, text)
    for line in report.left_out:
        say(console, line)
    print_facts({
        'page': str(out),
        'keyframes': report.keyframes,
        'shown': report.shown,
        'with_picture': report.pictures,
        'compared': report.compared,
        'mistaken': report.mistaken,
        'warnings': report.warnings,
        'size_mb': round(report.size_bytes / 1e6, 2),
    }, options.json, '' if options.open else f'open {out} in a browser')
    if options.open:
        _open(out, console)


def _reliability(
    place_map: Any, radius_m: float, angle_rad: float
) -> tuple[Any, tuple[str, ...]]:
    """Reliability of the map's calibration, and complaints about it."""
    import numpy as np

    from regvpr_core.errors import MapError
    from regvpr_core.localization.calibration import calibration_error, reliability
    from regvpr_core.localization.stored_calibration import NAME, stored_or_learnt
    from regvpr_core.map_report.page import Reliability

    try:
        stored = place_map.attachment(NAME) is not None
        calibration = stored_or_learnt(place_map, radius_m, angle_rad)
    except MapError as error:
        return None, (str(error),)
    bins = reliability(place_map, calibration, radius_m, angle_rad)
    if not calibration.queries or not bins:
        return None, ()
    kept = 'Stored in the map' if stored else 'Learnt now, the map stores none'
    return Reliability(
        predicted=np.array([b.predicted for b in bins]),
        observed=np.array([b.true for b in bins]),
        counts=np.array([b.count for b in bins]),
        text=f'{kept}; from {calibration.queries} images: {calibration.source}. Of these, the '
             f'probabilities are off by {calibration_error(bins):.3f} on average.'), ()


def _open(page: Path, console: Console) -> None:
    import webbrowser

    if not webbrowser.open(page.resolve().as_uri()):
        say(console, f'no browser could be started here; open {page} yourself')
