"""`regvpr models list | fetch`: published models, where they are, fetching them."""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from regvpr_core.cli.console import cell, download_bar, print_facts, say
from regvpr_core.cli.parsing import add_command

WIDTH = 80
"""Columns that the table fits."""

FIGURES = ('msls_val', 'nordland_2760', 'nordland_27592', 'pitts30k')


def add_parser(commands: Any) -> None:
    """Add `models` to the command line."""
    parser = add_command(
        commands, 'models', 'published models: list, fetch',
        'regvpr models', 'regvpr models list megaloc', 'regvpr models fetch megaloc')
    parser.set_defaults(run=run_list, names=[], json=False)
    verbs = parser.add_subparsers(metavar='VERB')
    verb = add_command(
        verbs, 'list', 'size, figures and licence of each, and which are on this machine',
        'regvpr models list', 'regvpr models list megaloc boq_vitb14')
    verb.add_argument('names', nargs='*', metavar='NAME', help='all that is known of these')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_list)
    verb = add_command(
        verbs, 'fetch', 'get the weights of a model into the cache',
        'regvpr models fetch megaloc', 'regvpr models fetch megaloc --from model.safetensors')
    verb.add_argument('name', metavar='NAME')
    verb.add_argument('--from', dest='source', type=Path, metavar='FILE',
                      help='take this file of the published layout, instead of a download')
    verb.add_argument('--json', action='store_true', help='print the result as JSON')
    verb.set_defaults(run=run_fetch)


def run_list(options: argparse.Namespace) -> None:
    """Print a table of the catalogue, or all facts of some of it."""
    lines = [facts(name) for name in selected(options.names)]
    if options.json:
        print(json.dumps(lines, indent=1))  # noqa: T201
        return
    if options.names:
        for line in lines:
            print_facts({name: value for name, value in line.items()
                         if value not in (None, '')}, False)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), width=WIDTH)
    table.add_column('model', no_wrap=True)
    for heading in ('size', 'M par', 'input', 'MSLS', 'N2760', 'N27k', 'P30k', 'ms'):
        table.add_column(heading, justify='right', no_wrap=True)
    table.add_column('here', no_wrap=True)
    table.add_column('licence', no_wrap=True)
    for line in lines:
        table.add_row(cell(line['model']), str(line['dimension']),
                      f'{line["parameters"] / 1e6:.0f}', line['input'],
                      *(shown(line[name]) for name in FIGURES), shown(line['ms_an_image']),
                      'yes' if line['file'] else 'no', cell(line['licence']))
    console = Console(width=WIDTH)
    console.print(table)
    say(console, 'MSLS: validation, 740 queries. N2760, N27k: Nordland, every tenth image +-1')
    say(console, 'frame, and all 27,592 +-10. P30k: Pitts30k test. Recall@1 as published;')
    say(console, '`regvpr models list NAME` names the source. ms: an image on this machine.')


def run_fetch(options: argparse.Namespace) -> None:
    """Fetch weights and say in one line which they are."""
    from regvpr_core.models.fetching import fetch_model

    console = Console(stderr=True)
    with download_bar(console) as progress:
        fetched = fetch_model(options.name, options.source, progress,
                              lambda line: say(console, line, 'dim'))
    if options.json:
        print_facts({'model': options.name, 'file': str(fetched.path),
                     'sha256': fetched.sha256, 'was_here': fetched.was_here}, True)
        return
    say(Console(), f'{options.name}: {fetched.path}, SHA-256 {fetched.sha256}'
        f'{" (it was here)" if fetched.was_here else ""}')


def selected(names: list[str]) -> list[str]:
    """Names of entries; none given: all.

    Raises:
        CheckpointError: an unknown name; offers a near one.
    """
    from regvpr_core.config import nearest
    from regvpr_core.errors import CheckpointError
    from regvpr_core.models.catalogue import canonical, CATALOGUE

    wanted = [canonical(name) for name in names] or list(CATALOGUE)
    for name in wanted:
        if name not in CATALOGUE:
            raise CheckpointError(f'unknown model {name!r}{nearest(name, CATALOGUE)}')
    return wanted


def facts(name: str) -> dict[str, Any]:
    """All that is known of an entry."""
    from regvpr_core.models.catalogue import CATALOGUE, local_file

    entry = CATALOGUE[name]
    path = local_file(name)
    return {
        'model': name, 'title': entry.title, 'dimension': entry.dimension,
        'parameters': entry.parameters, 'input': f'{entry.width}x{entry.height}',
        'licence': entry.licence,
        **{figure: getattr(entry.published, figure) for figure in FIGURES},
        'source': entry.published.source, 'note': entry.note, 'refused': entry.refused,
        'page': entry.page, 'url': entry.url, 'file': str(path) if path else '',
        'ms_an_image': None,
    }


def shown(value: float | None) -> str:
    """A figure in a table; a dash where none is known."""
    return '-' if value is None else f'{value:g}' if value < 100 else f'{value:.0f}'
