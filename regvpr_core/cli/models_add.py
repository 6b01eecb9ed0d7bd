"""`regvpr models add`: register a third-party model under a name."""

import argparse
from pathlib import Path
from typing import Any

from regvpr_core.cli.console import print_facts
from regvpr_core.cli.parsing import add_command


def add_verb(verbs: Any) -> None:
    """Add `models add` to the command line."""
    verb = add_command(
        verbs, 'add', 'register a third-party model under a name',
        'regvpr models add my.onnx --size 322 --name mine',
        'regvpr models add my_module.py:describe', 'regvpr models add dinov3_folder --pool gem',
        description='Gives a model a name that describe, map build, the node, evaluate and train '
        'take: an .onnx file (copied into the cache), a function of a Python file (images, each '
        '(H, W, 3) uint8 RGB, in a list, to rows (B, D)), or a folder of Hugging Face '
        'transformers. A Python file is run on this machine with your rights: add only one that '
        'you trust.')
    verb.add_argument('source', metavar='SOURCE', help='FILE.onnx, FILE.py:FUNCTION or FOLDER')
    verb.add_argument('--name', help="to call it by (default: the file's)")
    verb.add_argument('--size', metavar='N|WxH', help='input size of the network, pixels')
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
            raise ConfigError(f'{options.source} gets the images unchanged; leave out --size, '
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
    """Preprocessing from the options; None if none of them is given.

    Raises:
        ConfigError: --mean or --std without --size, or an invalid size.
    """
    from regvpr_core.errors import ConfigError
    from regvpr_core.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

    if options.size is None:
        if options.mean or options.std:
            raise ConfigError('--mean and --std need --size, the input size of the network')
        return None
    width, _, height = options.size.lower().partition('x')
    if not width.isdigit() or not (height or width).isdigit():
        raise ConfigError(f'--size is {options.size!r}; expected pixels, as 322 or 320x240 '
                          f'(width x height)')
    return Preprocessing(
        height=int(height or width), width=int(width), interpolation=options.interpolation,
        mean=tuple(options.mean or IMAGENET_MEAN), std=tuple(options.std or IMAGENET_STD))
