"""`regvpr heatmap`: heatmaps of what one or more networks attend to."""

import argparse
import os
from pathlib import Path
from typing import Any

from rich.console import Console

from regvpr_core.cli.console import download_bar, say
from regvpr_core.cli.parsing import add_command
from regvpr_core.config import DEFAULT_MODEL

LONGEST_SIDE = 640


def add_parser(commands: Any) -> None:
    """Add `heatmap` to the command line."""
    parser = add_command(
        commands, 'heatmap', 'draw heatmaps of what networks and their registers attend to',
        'regvpr heatmap QUERY.jpg -o heatmaps',
        'regvpr heatmap PHOTOS/ --model regvpr_offline --model gem_vits14 -o heatmaps')
    parser.add_argument('images', type=Path, nargs='+', metavar='IMAGE', help='image or folder')
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='FOLDER')
    parser.add_argument('--model', action='append', metavar='MODEL',
                        help='model name or checkpoint; repeat it to compare (default: '
                             f'{DEFAULT_MODEL})')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Write one PNG per image."""
    from regvpr_core.recordings.source_kinds import check_images

    check_images(options.images)
    import cv2

    from regvpr_core.errors import ImageError
    from regvpr_core.images import find_images, read, thumbnail
    from regvpr_core.models.checkpoints import load_model
    from regvpr_core.models.heatmaps import heatmaps, sheet

    console = Console(stderr=True)
    files = find_images(options.images)
    models = {}
    with download_bar(console) as progress:
        for name in options.model or [DEFAULT_MODEL]:
            loaded = load_model(name, download=True, progress=progress,
                                notice=lambda line: say(console, line, 'dim'))
            say(console, loaded.notice)
            # Two checkpoints may have one name; their captions must differ.
            caption = loaded.name if loaded.name not in models else str(name)
            models[caption] = loaded.backboned('heatmap')
    options.out.mkdir(parents=True, exist_ok=True)
    written = 0
    for path in files:
        try:
            rgb = thumbnail(read(path), LONGEST_SIDE)
        except ImageError as error:
            say(console, f'skipped {error}')
            continue
        page = sheet(rgb, {name: heatmaps(model, rgb) for name, model in models.items()})
        target = free_name(options.out, path.stem)
        if not cv2.imwrite(str(target), page[..., ::-1]):
            raise ImageError(f'{target} cannot be written')
        written += 1
        say(Console(), str(target))
    if not written:
        raise ImageError(f'none of {len(files)} files can be read as an image')


def free_name(folder: Path, stem: str) -> Path:
    """`STEM.png`, or `STEM_2.png` and so on where that is taken."""
    stem = os.fsencode(stem).decode(errors='replace')  # OpenCV needs valid text
    target, number = folder / f'{stem}.png', 1
    while target.exists():
        number += 1
        target = folder / f'{stem}_{number}.png'
    return target
