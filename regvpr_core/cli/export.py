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
        'regvpr export regvpr_vits14_offline -o model.onnx')
    parser.add_argument('model', metavar='MODEL', help='model name or checkpoint file')
    parser.add_argument('--format', choices=('onnx',), default='onnx')
    parser.add_argument('-o', '--out', type=Path, required=True, metavar='FILE.onnx')
    parser.add_argument('--tokens', action='store_true',
                        help='a second output with patch tokens, for verification patch')
    parser.add_argument('--json', action='store_true', help='print the result as JSON')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Export and say how far the file is from torch."""
    from regvpr_core.models.checkpoints import load_model
    from regvpr_core.models.export import export_onnx, OPSET

    console = Console(stderr=True)
    with download_bar(console) as progress:
        loaded = load_model(options.model, download=True, progress=progress,
                            notice=lambda line: say(console, line, 'dim'))
    size = loaded.model.preprocessing
    difference = export_onnx(loaded, options.out, tokens=options.tokens)
    print_facts({'file': str(options.out), 'model': loaded.name, 'opset': OPSET,
                 'input': f'images, batch x 3 x {size.height} x {size.width}, normalised',
                 'output': f'descriptors, batch x {loaded.model.dimension}',
                 'difference': float(f'{difference:.2e}'),
                 'size_mb': round(options.out.stat().st_size / 1e6, 1)}, options.json,
                f'regvpr doctor --model {options.out}   (time an image with it)')
