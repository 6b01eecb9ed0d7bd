"""`regvpr localize`: where in a map were pictures taken?"""

import argparse
import json
import math
from pathlib import Path
from typing import Any, TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from regvpr_core.cli.console import cell, say
from regvpr_core.cli.describe import open_encoder
from regvpr_core.cli.parsing import add_command

if TYPE_CHECKING:
    from regvpr_core.localization.localizer import Localization
    from regvpr_core.maps.place_map import PlaceMap

STEP_NS = 1_000_000_000


def add_parser(commands: Any) -> None:
    """Add `localize` to the command line."""
    parser = add_command(
        commands, 'localize', 'where in a map images were taken',
        'regvpr localize site QUERY.jpg', 'regvpr localize site PHOTOS/ --csv places.csv',
        'regvpr localize site DRIVE/ --drive',
        description='Say for each image which place of the map it shows and where its camera was.')
    parser.add_argument('map', type=Path, metavar='MAP')
    parser.add_argument('images', type=Path, nargs='+', metavar='IMAGE', help='image or folder')
    parser.add_argument('--drive', action='store_true',
                        help='the pictures, by name, are one drive: each one adds to the belief '
                             '(default: each is judged alone)')
    parser.add_argument('--model', help="model name or checkpoint (default: the map's)")
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps')
    parser.add_argument('--precision', default='auto', help='auto, fp32, bf16, fp16')
    parser.add_argument('--engine', default='auto', help='auto, torch, onnxruntime')
    parser.add_argument('--threads', type=int, help='threads of the network on the CPU')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Localize each picture, and print a line about it."""
    from regvpr_core.maps.place_map import PlaceMap
    from regvpr_core.recordings.source_kinds import check_exists

    check_exists(options.images)
    with PlaceMap.open(options.map, index='none') as place_map:
        built_with = place_map.manifest.model
    import numpy as np

    from regvpr_core.errors import CheckpointError, ImageError
    from regvpr_core.images import find_images, read
    from regvpr_core.localization.localizer import Frame, Localizer, LocalizerConfig

    console = Console(stderr=True)
    files = find_images(options.images)
    asked, options.model = options.model, options.model or built_with
    try:
        encoder = open_encoder(options, console)
    except CheckpointError as error:
        if asked:
            raise
        raise CheckpointError(
            f'map {options.map} was built with {built_with}, which cannot be loaded: {error}; '
            f'give the file of that model by --model') from error
    lines = []
    with PlaceMap.open(options.map, fingerprint=encoder.fingerprint) as place_map:
        localizer = Localizer(encoder, place_map, LocalizerConfig())
        for number, path in enumerate(files):
            if not options.drive:
                localizer.reset()
            try:
                # The base is the camera: a picture says nothing of what carried it.
                frame = Frame(stamp_ns=number * STEP_NS, rgb=read(path), T_base_cam=np.eye(4))
                lines.append(facts(path, localizer.localize(frame), place_map))
            except ImageError as error:
                say(console, f'skipped {error}')
    if not lines:
        raise ImageError(f'none of {len(files)} files can be read as an image')
    if options.json:
        print(json.dumps(lines, indent=1))  # noqa: T201
        return
    table = Table(*(name.replace('_', ' ') for name in lines[0]))
    for line in lines:
        table.add_row(*(cell(shown(value)) for value in line.values()))
    Console().print(table)


def facts(path: Path, found: 'Localization', place_map: 'PlaceMap') -> dict[str, Any]:
    """What is known of one picture; the pose is that of the camera in the map's frame."""
    best = found.matches[0] if found.matches else None
    line: dict[str, Any] = {
        'image': str(path), 'state': found.state.name.lower(), 'reason': found.reason,
        'keyframe': best and best.keyframe_id,
        'of': best and place_map.sources[best.keyframe_id],
        'similarity': best and round(best.similarity, 4),
        'image_probability': best and round(best.image_probability, 4),
        'probability': best and round(best.probability, 4),
        'position_m': None, 'deviation_m': None}
    if found.pose_prior is not None:
        line['position_m'] = [round(float(v), 3) for v in found.pose_prior.T_map_base[:3, 3]]
        line['deviation_m'] = round(math.sqrt(found.pose_prior.variances[:3].sum()), 3)
    return line


def shown(value: Any) -> str:
    """A value as a cell of the table."""
    if value is None:
        return ''
    return ', '.join(map(str, value)) if isinstance(value, list) else str(value)
