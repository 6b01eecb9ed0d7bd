"""`regvpr export`: a model becomes an ONNX file."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from regvpr_core.cli.console import download_bar, print_facts, say
from regvpr_core.cli.parsing import add_command


def add_parser(commands: Any) -> None:
    """Add `export` to the command line."""
    parser = add_command(
        commands, 'export', 'a model becomes an ONNX file, checked against torch',
        'regvpr export regvpr_offline -o model.onnx',
        'regvpr export megaloc -o small.onnx --precision int8 --images PHOTOS/')
    parser.add_argument('model', metavar='MODEL', help='model name or checkpoint file')
    parser.add_argument('--format', choices=('onnx',), default='onnx')
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='FILE.onnx')
    parser.add_argument('--tokens', action='store_true',
                        help='a second output with patch tokens, for verification patch')
    parser.add_argument('--precision', choices=('fp32', 'fp16', 'int8'), default='fp32',
                        help='of weights and products (default: fp32)')
    parser.add_argument('--images', type=Path, nargs='+', default=[], metavar='PATH',
                        help='images or folders, 16 or more: engines are checked by 16 of them, '
                             'int8 is calibrated on them')
    parser.add_argument('--json', action='store_true', help='print the result as JSON')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Export, and print the largest difference from torch."""
    from regvpr_core.images import read
    from regvpr_core.images.finding import find_images
    from regvpr_core.models.checkpoints import load_model
    from regvpr_core.models.export import export_onnx, OPSET
    from regvpr_core.models.reduced import COMPARED_IMAGES, reduce_onnx, spread

    console = Console(stderr=True)
    with download_bar(console) as progress:
        loaded = load_model(options.model, download=True, progress=progress,
                            notice=lambda line: say(console, line, 'dim'))
    size = loaded.model.preprocessing
    images = [read(file) for file in spread(find_images(options.images), COMPARED_IMAGES)] \
        if options.images else []
    full = options.out if options.precision == 'fp32' else options.out.with_suffix('.fp32.onnx')
    difference = export_onnx(loaded, full, tokens=options.tokens, images=images)
    measured: dict[str, Any] = {'difference': float(f'{difference:.2e}')}
    if full != options.out:
        try:
            reduced = reduce_onnx(full, options.out, options.precision, images)
        finally:
            full.unlink()
        measured |= {'precision': options.precision, 'least cosine': round(reduced.cosine, 4)}
        if reduced.compared:
            measured |= {'images compared': reduced.compared,
                         'same first match': round(reduced.first_match, 4)}
    print_facts({'file': str(options.out), 'model': loaded.name, 'opset': OPSET,
                 'input': f'images, batch x 3 x {size.height} x {size.width}, normalised',
                 'output': f'descriptors, batch x {loaded.model.dimension}',
                 **measured,
                 'size_mb': round(options.out.stat().st_size / 1e6, 1)}, options.json,
                f'regvpr doctor --model {options.out}   (time an image with it)')
