"""`regvpr map build | info`."""

import argparse
from pathlib import Path
from typing import Any, TYPE_CHECKING

from regvpr_core.cli import map_calibrate, map_fleet, map_show, map_tools, map_update
from regvpr_core.cli.console import print_facts
from regvpr_core.cli.map_build import add_build_arguments, run_build
from regvpr_core.cli.parsing import add_command

if TYPE_CHECKING:
    from regvpr_core.maps.place_map import PlaceMap


def add_parser(commands: Any) -> None:
    """Add `map` to the command line."""
    parser = add_command(
        commands, 'map', 'place maps: build, look at, check, join, share',
        'regvpr map build DRIVE.mcap --out site', 'regvpr map info site', 'regvpr map show site')
    verbs = parser.add_subparsers(metavar='VERB', required=True)
    verb = add_command(
        verbs, 'build', 'bags and folders become a place map',
        'regvpr map build DRIVE.mcap --list',
        'regvpr map build DRIVE.mcap --image-topic /cam/image_raw --pose-topic /odom --out site',
        'regvpr map build PHOTOS/ --table poses.csv --out site',
        description='Describe the images of one or more recordings and store them with their '
                    'poses. --list shows what a recording holds.')
    add_build_arguments(verb)
    verb.set_defaults(run=run_build)
    verb = add_command(verbs, 'info', 'what a map holds', 'regvpr map info site')
    verb.add_argument('map', type=Path, metavar='MAP')
    verb.add_argument('--places', action='store_true',
                      help='also in how many directions, hours and drives places were seen')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_info)
    map_calibrate.add_parser(verbs)
    map_show.add_parser(verbs)
    map_tools.add_parsers(verbs)
    map_fleet.add_parsers(verbs)
    map_update.add_parsers(verbs)


def run_info(options: argparse.Namespace) -> None:
    """Print what a map holds."""
    import numpy as np

    from regvpr_core.maps.files import map_bytes
    from regvpr_core.maps.place_map import PlaceMap

    with PlaceMap.open(options.map, index='none') as place_map:
        manifest = place_map.manifest
        extent = np.ptp(place_map.T_map_cam[:, :3, 3], axis=0) if len(place_map) else np.zeros(3)
        facts = {
            'map': str(options.map),
            'map_id': manifest.map_id,
            'format': manifest.format_version,
            'keyframes': len(place_map),
            'cameras': sorted(set(place_map.cameras)),
            'model': manifest.model,
            'fingerprint': manifest.fingerprint[:16],
            'descriptor': manifest.dimension,
            'frame': manifest.map_frame,
            **({'origin': [manifest.origin[name] for name in ('lat_deg', 'lon_deg', 'alt_m')]}
               if manifest.origin else {}),
            **({'features': manifest.features} if manifest.features else {}),
            **({'compress': manifest.compress} if manifest.compress else {}),
            'path_m': round(_path_m(place_map), 1),
            'extent_m': [round(float(v), 1) for v in extent],
            'sources': manifest.sources,
            **(_seen(place_map) if options.places else {}),
            **_poses(place_map),
            'size_mb': round(map_bytes(options.map) / 1e6, 2),
        }
    print_facts(facts, options.json, f'regvpr map show {options.map}')


def _seen(place_map: 'PlaceMap') -> dict[str, list[str]]:
    """In how many directions, hours and drives the places were seen; imports SciPy."""
    from regvpr_core.localization.belief import BeliefConfig, place_radius
    from regvpr_core.map_report.seen import summary

    belief = BeliefConfig()
    radius_m = place_radius(place_map.T_map_cam, belief, place_map.drives)
    return summary(place_map, radius_m, belief.place_angle_rad)


def _poses(place_map: 'PlaceMap') -> dict[str, list[str]]:
    """Sources of the poses, and warnings about the cameras, if the map has stored them."""
    import contextlib
    import json

    from regvpr_core.geometry import pose_matrix
    from regvpr_core.recordings.camera_axes import axes_notes

    lines: list[str] = []
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        for one in json.loads(place_map.attachment('recordings') or b'[]'):
            frames = ' -> '.join(str(one[key]) for key in ('world', 'body') if one[key])
            lines.append(f'{one["name"]}: {one["poses"]}{f" ({frames})" if frames else ""}')
    notes = [note for camera, values in place_map.manifest.extrinsics.items()
             for note in axes_notes(camera, pose_matrix(values[:3], values[3:]))]
    return {**({'poses': lines} if lines else {}), **({'note': notes} if notes else {})}


def _path_m(place_map: 'PlaceMap') -> float:
    """Distances in metres between successive keyframes of one camera and source."""
    import numpy as np

    positions = place_map.T_map_cam[:, :3, 3]
    drives: dict[tuple[str, str], list[int]] = {}
    for number, drive in enumerate(zip(place_map.sources, place_map.cameras, strict=True)):
        drives.setdefault(drive, []).append(number)
    return sum(float(np.linalg.norm(np.diff(positions[ids], axis=0), axis=1).sum())
               for ids in drives.values())
