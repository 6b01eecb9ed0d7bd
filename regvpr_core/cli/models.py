"""`regvpr models list | fetch | add`: published models, where they are, fetching them."""

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
    verb = add_command(
        verbs, 'add', 'give a model of your own, or of anybody, a name',
        'regvpr models add my.onnx --size 322 --name mine',
        'regvpr models add my_module.py:describe', 'regvpr models add dinov3_folder --pool gem',
        description='Gives a model a name that describe, map build, the node, evaluate and train '
        'take: an .onnx file (copied into the cache), a function of a Python file (images, each '
        '(H, W, 3) uint8 RGB, in a list, to rows (B, D)), or a folder of Hugging Face '
        'transformers. A Python file is run on this machine with your rights: add only one that '
        'you trust.')
    verb.add_argument('source', metavar='SOURCE', help='FILE.onnx, FILE.py:FUNCTION or FOLDER')
    verb.add_argument('--name', help="to call it by (default: the file's)")
    verb.add_argument('--size', metavar='N|WxH', help='pixels that the network is shown')
    verb.add_argument('--mean', type=float, nargs=3, metavar=('R', 'G', 'B'),
                      help='of pixels in 0..1 (default: of ImageNet)')
    verb.add_argument('--std', type=float, nargs=3, metavar=('R', 'G', 'B'))
    verb.add_argument('--interpolation', default='bilinear', choices=('bilinear', 'bicubic'))
    verb.add_argument('--output', metavar='NAME',
                      help='output of the .onnx file with the descriptors')
    verb.add_argument('--pool', default='cls', choices=('cls', 'gem'),
                      help='of a folder: class token (default) or mean over patches')
    verb.add_argument('--json', action='store_true', help='print the result as JSON')
    verb.set_defaults(run=run_add)


def run_list(options: argparse.Namespace) -> None:
    """Print a table of the catalogue, or all facts of some of it."""
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
    if added := added_names():
        say(console, f'added here: {", ".join(added)}')
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


def run_add(options: argparse.Namespace) -> None:
    """Check a model and give it a name."""
    from regvpr_core.errors import ConfigError
    from regvpr_core.models.adding import add_function, add_onnx, check_name, known_names

    source = Path(options.source)
    code = source.name.rpartition(':')[0].endswith('.py')
    stem = source.name.rpartition(':')[2] if code else source.stem
    name = options.name or stem
    check_name(name, known_names())
    shown_as = preprocessing(options)
    if code:
        if shown_as is not None:
            raise ConfigError(f'{options.source} is shown images as they are; leave out --size, '
                              f'--mean and --std')
        path, dimension = add_function(options.source, name)
    elif source.suffix == '.onnx':
        path, dimension = add_onnx(source, name, shown_as, options.output)
    elif source.is_dir():
        from regvpr_core.models.hugging_face import add_transformers, shown_by

        path, dimension = add_transformers(source, name, options.pool,
                                           shown_as or shown_by(source))
    else:
        raise ConfigError(f'{source} is no .onnx file, FILE.py:FUNCTION or folder that exists')
    print_facts({'model': name, 'dimension': dimension, 'kept': str(path)}, options.json,
                f'regvpr map build SOURCE --out MAP --model {name}')


def preprocessing(options: argparse.Namespace) -> Any:
    """How a model is shown images; None where none of the options is given.

    Raises:
        ConfigError: --mean or --std without --size, or a size that is none.
    """
    from regvpr_core.errors import ConfigError
    from regvpr_core.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

    if options.size is None:
        if options.mean or options.std:
            raise ConfigError('--mean and --std need --size: the pixels that the network is shown')
        return None
    width, _, height = options.size.lower().partition('x')
    if not width.isdigit() or not (height or width).isdigit():
        raise ConfigError(f'--size is {options.size!r}; expected pixels, as 322 or 320x240 '
                          f'(width x height)')
    return Preprocessing(
        height=int(height or width), width=int(width), interpolation=options.interpolation,
        mean=tuple(options.mean or IMAGENET_MEAN), std=tuple(options.std or IMAGENET_STD))


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
