"""`regvpr localize`: localize image files in a map."""

import argparse
from collections import Counter
from collections.abc import Iterator
import csv
import json
import math
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from regvpr_core.cli.console import bar, cell, say, say_next
from regvpr_core.cli.describe import open_encoder
from regvpr_core.cli.parsing import add_command

if TYPE_CHECKING:
    from regvpr_core.localization.localizer import Localization
    from regvpr_core.localization.one_image import ImageLocalization
    from regvpr_core.maps.place_map import PlaceMap
    from regvpr_core.models.encoder import Encoder

STEP_NS = 1_000_000_000
"""Assumed time between the images of a drive, s."""

MATCHES = 5
"""Keys of each image in the output of --json."""

STYLES = {'yes': 'green', 'unsure': 'yellow', 'no': 'dim'}

COLUMNS = ('image', 'answer', 'probability', 'keyframe', 'keyframe_image', 'of', 'x_m', 'y_m',
           'z_m', 'deviation_m', 'similarity', 'reason')
"""Columns of --csv."""


def add_parser(commands: Any) -> None:
    """Add `localize` to the command line."""
    parser = add_command(
        commands, 'localize', 'find where images were taken, by a map',
        'regvpr localize site/map QUERY.jpg',
        'regvpr localize site/map PHOTOS/ --csv places.csv',
        'regvpr localize site/map DRIVE/ --drive',
        description='Say for each image whether the map holds its place (yes, unsure or no), '
                    'which keyframe it resembles most, and where its camera was.')
    parser.add_argument('map', type=Path, metavar='MAP')
    parser.add_argument('images', type=Path, nargs='+', metavar='IMAGE', help='image or folder')
    parser.add_argument('--drive', action='store_true',
                        help='the images, in the order of their names, are one drive: each adds '
                             'to the belief (default: each is judged alone)')
    parser.add_argument('--model', help="model name or checkpoint (default: the map's)")
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps')
    parser.add_argument('--precision', default='auto', help='auto, fp32, bf16, fp16, int8')
    parser.add_argument('--engine', default='auto', help='auto, torch, onnxruntime')
    parser.add_argument('--threads', type=int, help='threads of the network on the CPU')
    parser.add_argument('--csv', type=Path, metavar='FILE', help='also write a table')
    parser.add_argument('--json', action='store_true', help='print JSON with the next matches too')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Localize each image, print a line about it and the totals."""
    from regvpr_core.errors import ConfigError
    from regvpr_core.recordings.source_kinds import check_images

    if not (options.map / 'map.db').is_file():
        for path in options.images:
            if (path / 'map.db').is_file():
                raise ConfigError(f'{path} is a place map, and MAP comes first: '
                                  f'regvpr localize {path} {options.map}')
    check_images(options.images)
    from regvpr_core.maps.place_map import PlaceMap

    with PlaceMap.open(options.map, index='none') as place_map:
        built_with = place_map.manifest.model
    from regvpr_core.errors import ImageError
    from regvpr_core.images import find_images

    console = Console(stderr=True)
    files = find_images(options.images)
    encoder = _encoder(options, built_with, console)
    lines: list[dict[str, Any]] = []
    skipped: list[str] = []
    start = time.perf_counter()
    with (PlaceMap.open(options.map, fingerprint=encoder.fingerprint) as place_map,
          bar('images') as told):
        for line in _lines(files, encoder, place_map, options.drive):
            if isinstance(line, ImageError):
                skipped.append(str(line))
            else:
                lines.append(line)
            told(len(lines) + len(skipped), len(files))
    for reason in skipped:
        say(console, f'skipped {reason}')
    if not lines:
        raise ImageError(f'none of {len(files)} files can be read as an image')
    if options.csv is not None:
        _write_csv(options.csv, lines)
    if options.json:
        print(json.dumps(lines, indent=1))  # noqa: T201
        return
    _print(lines, options)
    counts = Counter(line['answer'] for line in lines)
    say(Console(), f'{len(lines)} images: {counts["yes"]} yes, {counts["unsure"]} unsure, '
                   f'{counts["no"]} no; {len(skipped)} skipped; '
                   f'{1e3 * (time.perf_counter() - start) / len(files):.0f} ms an image')
    say_next(console, f'regvpr map show {options.map}' if options.csv else
             f'regvpr localize {options.map} {options.images[0]} --csv places.csv')


def _encoder(options: argparse.Namespace, built_with: str, console: Console) -> 'Encoder':
    """The model that the user names, else the one that the map was built with."""
    from regvpr_core.errors import CheckpointError

    asked, options.model = options.model, options.model or built_with
    try:
        encoder: Encoder = open_encoder(options, console)
    except CheckpointError as error:
        if asked:
            raise
        raise CheckpointError(
            f'map {options.map} was built with {built_with}, which cannot be loaded: {error}; '
            f'give the file of that model by --model') from error
    return encoder


def _lines(files: list[Path], encoder: 'Encoder', place_map: 'PlaceMap', drive: bool
           ) -> Iterator[Any]:
    """The result of each image, or the error if it cannot be read."""
    from regvpr_core.errors import ImageError
    from regvpr_core.images import read
    from regvpr_core.localization.frames import Frame
    from regvpr_core.localization.localizer import image_config, Localizer

    localizer = Localizer(encoder, place_map, None if drive else image_config(place_map))
    for number, path in enumerate(files):
        try:
            # The base frame is the camera frame: photos have no extrinsics.
            frame = Frame(stamp_ns=number * STEP_NS, rgb=read(path))
            found: Any = localizer.localize(frame) if drive else localizer.localize_image(frame)
        except ImageError as error:
            yield error
            continue
        yield facts(path, found, place_map)


def facts(path: Path, found: 'Localization | ImageLocalization', place_map: 'PlaceMap'
          ) -> dict[str, Any]:
    """The result of one image; the pose is that of the camera in the map's frame."""
    from regvpr_core.geometry import quat_xyzw
    from regvpr_core.localization.one_image import ImageLocalization

    alone = isinstance(found, ImageLocalization)
    best = found.matches[0] if found.matches else None
    if best and not alone and not best.accepted:
        # No place is accepted: report the most probable place instead of the most similar one.
        best = max(found.matches, key=lambda match: match.probability)
    line: dict[str, Any] = {'image': str(path)}
    if isinstance(found, ImageLocalization):
        line |= {'answer': found.answer.value, 'probability': round(found.probability, 4)}
    else:
        probability = best.probability if best else 0.0
        line |= {'answer': _answer(found.state.name, probability),
                 'state': found.state.name.lower(), 'probability': round(probability, 4)}
    line |= {
        'reason': found.reason,
        'keyframe': best and best.keyframe_id,
        'keyframe_image': best and place_map.images[best.keyframe_id],
        'of': best and place_map.sources[best.keyframe_id],
        'keyframe_position_m': best and _position(place_map, best.keyframe_id),
        'similarity': best and round(best.similarity, 4),
        'image_probability': best and round(best.image_probability, 4),
        'position_m': None, 'quat_xyzw': None, 'deviation_m': None,
        'frame': place_map.manifest.map_frame,
        'matches': [{
            'keyframe': match.keyframe_id, 'keyframe_image': place_map.images[match.keyframe_id],
            'position_m': _position(place_map, match.keyframe_id),
            'similarity': round(match.similarity, 4),
            'probability': round(match.image_probability if alone else match.probability, 4)}
            for match in found.matches[:MATCHES]]}
    if found.pose_prior is not None:
        prior = found.pose_prior
        line['position_m'] = [round(float(v), 3) for v in prior.T_map_base[:3, 3]]
        line['quat_xyzw'] = [round(float(v), 5) for v in quat_xyzw(prior.T_map_base)]
        line['deviation_m'] = round(math.sqrt(prior.variances[:3].sum()), 3)
    return line


def _answer(state: str, probability: float) -> str:
    """The answer (yes, unsure or no) for an image of a drive.

    Args:
        probability: of the most probable place. Until a place is accepted, the answer is unsure
            if this is at least `POSSIBLE`, else no.
    """
    from regvpr_core.localization.one_image import POSSIBLE

    if state == 'LOCALIZED':
        return 'yes'
    return 'unsure' if state != 'OFF_MAP' and probability >= POSSIBLE else 'no'


def _position(place_map: 'PlaceMap', keyframe_id: int) -> list[float]:
    return [round(float(v), 3) for v in place_map.T_map_cam[keyframe_id, :3, 3]]


def _print(lines: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """One line per image, at most 80 columns."""
    folder = options.images[0] if len(options.images) == 1 and options.images[0].is_dir() else None
    table = Table(box=None, pad_edge=False)
    for name, width in (('image', 20), ('answer', None), ('keyframe', 20), ('x m', None),
                        ('y m', None), ('± m', None), ('prob', None)):
        table.add_column(name, no_wrap=True, overflow='ellipsis', max_width=width,
                         justify='left' if name in ('image', 'answer', 'keyframe') else 'right')
    for line in lines:
        path, answer = Path(line['image']), line['answer']
        name = str(path.relative_to(folder)) if folder else path.name
        shown = line['keyframe_image'] or f'number {line["keyframe"]}'
        at = line['position_m'] or line['keyframe_position_m']
        known = answer != 'no' and at is not None
        if answer == 'no':  # the best match, which is not accepted
            shown = '' if line['keyframe'] is None else f'({shown})'
        deviation = line['deviation_m']
        table.add_row(
            cell(name), cell(answer), cell(shown),
            *(f'{at[i]:.1f}' if known else '' for i in (0, 1)),
            '' if deviation is None else f'{deviation:.1f}', f'{line["probability"]:.2f}',
            style=STYLES[answer])
    Console().print(table)


def _write_csv(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write one row per image; unknown values are empty."""
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction='ignore')
        writer.writeheader()
        for line in lines:
            x, y, z = line['position_m'] or ('', '', '')
            writer.writerow(line | {'x_m': x, 'y_m': y, 'z_m': z})
