"""`regvpr describe`: image files and folders become descriptors.npz."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from regvpr_core.cli.console import print_facts, say, say_model
from regvpr_core.cli.parsing import add_command
from regvpr_core.config import DEFAULT_MODEL

SHOWN_SKIPPED = 20


def add_parser(commands: Any) -> None:
    """Add `describe` to the command line."""
    parser = add_command(
        commands, 'describe', 'image files and folders become descriptors.npz',
        'regvpr describe PHOTOS/ -o descriptors.npz',
        description='Describe each image by one unit vector. A run that was interrupted resumes.')
    parser.add_argument('paths', type=Path, nargs='+', metavar='PATH', help='image or folder')
    parser.add_argument('-o', '--out', type=Path, default=Path('descriptors.npz'), metavar='FILE')
    parser.add_argument('--batch', type=int, default=16, help='images a pass (default: 16)')
    parser.add_argument('--json', action='store_true', help='print the result as JSON')
    add_encoder_arguments(parser)
    parser.set_defaults(run=run)


def add_encoder_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that select a model, its device and its precision."""
    parser.add_argument('--model', default=DEFAULT_MODEL,
                        help='model name, checkpoint or .onnx file (default: '
                             f'{DEFAULT_MODEL})')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps')
    parser.add_argument('--precision', default='auto', help='auto, fp32, bf16, fp16, int8')
    parser.add_argument('--engine', default='auto', help='auto, torch, onnxruntime')
    parser.add_argument('--threads', type=int, help='threads of the network on the CPU')


def run(options: argparse.Namespace) -> None:
    """Describe the images and print the names of unreadable files."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from regvpr_core.config import check_range
    from regvpr_core.recordings.source_kinds import check_images

    check_range('--batch', options.batch, 1, 4096)
    check_images(options.paths)
    from regvpr_core.recordings.describing import (
        describe_files,
        DescribeReport,
        files_to_describe,
    )

    files_to_describe(options.paths, options.out)
    console = Console(stderr=True)
    encoder = open_encoder(options, console)

    with Progress('images', BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                  console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task('describe', total=None)

        def told(report: DescribeReport) -> None:
            bar.update(task, total=report.total, completed=report.done)

        report = describe_files(options.paths, encoder, options.out, options.batch, told)
    for reason in list(report.skipped.values())[:SHOWN_SKIPPED]:
        say(console, f'skipped {reason}')
    if len(report.skipped) > SHOWN_SKIPPED:
        say(console, f'and {len(report.skipped) - SHOWN_SKIPPED} more; all are in {options.out}')
    print_facts({'file': str(options.out), 'images': report.total, 'described': report.described,
                 'resumed': report.resumed, 'skipped': len(report.skipped),
                 'model': encoder.name, 'numbers': encoder.dimension}, options.json)


def open_encoder(options: argparse.Namespace, console: Console) -> Any:
    """Load the encoder selected by the options and print one line about it."""
    from regvpr_core.cli.console import download_bar
    from regvpr_core.models.encoder import load_encoder

    with download_bar(console) as progress:
        encoder = load_encoder(
            options.model, options.device, options.precision, engine=options.engine,
            threads=options.threads, download=True, progress=progress,
            notice=lambda line: say(console, line, 'dim'))
    say_model(console, encoder)
    return encoder
