"""`regvpr map build`: bags and folders become a place map."""

import argparse
from collections.abc import Callable, Iterator
import contextlib
from importlib.util import find_spec
import os
from pathlib import Path
from typing import Any, TYPE_CHECKING

from rich.console import Console

from regvpr_core.cli.console import download_bar, print_facts, say, say_model
from regvpr_core.cli.map_fleet import cost
from regvpr_core.cli.map_sources import add_source_arguments, print_list, source_options
from regvpr_core.config import AUTO
from regvpr_core.errors import ConfigError

if TYPE_CHECKING:
    from regvpr_core.mapping.options import BuildOptions, BuildReport

MODEL_HELP = ('model name, checkpoint or .onnx file; auto takes the best that is on this machine, '
              'and says which (default: auto)')


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `map build`, also those of the ROS executable `build_map`."""
    add_source_arguments(parser)
    parser.add_argument('--out', type=Path, metavar='MAP', help='folder to create')
    parser.add_argument('--resume', action='store_true',
                        help='continue an interrupted build of MAP')
    parser.add_argument('--compress', default='', metavar='pca:NUMBER',
                        help='shorten the descriptors by PCA whitening learnt from them')
    parser.add_argument('--features', default='none', choices=('none', 'patch', 'xfeat'),
                        help='local features to keep, so that matches can be verified and give '
                             'poses (docs/localization.md; default: none)')
    parser.add_argument('--list', action='store_true',
                        help='show what the sources hold and what would be used, and stop')
    parser.add_argument('--map-frame', metavar='FRAME',
                        help='name of the world frame of the poses (default: map)')
    parser.add_argument('--model', default=AUTO, help=MODEL_HELP)
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps')
    parser.add_argument('--precision', default='auto', help='auto, fp32, bf16, fp16, int8')
    parser.add_argument('--config', type=Path, metavar='FILE', help='YAML of the build settings')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='one setting, e.g. keyframes.distance_m=2')
    parser.add_argument('--json', action='store_true', help='print the result as JSON')


def run_build(options: argparse.Namespace) -> None:
    """Build a map from bags and folders."""
    from regvpr_core.recordings.source_kinds import check_source

    for path in options.sources:
        check_source(path)
    from regvpr_core.mapping.builder import build_map
    from regvpr_core.mapping.partial_map import refuse_taken
    from regvpr_core.recordings.sources import open_sources, summary

    console = Console(stderr=True)
    build = _build_options(options)
    if options.list:
        print_list(options.sources, build.sources, build.config)
        return
    if options.out is None:
        raise ConfigError('--out MAP is missing: the folder for the map')
    refuse_taken(build.out)
    _check_model(options, console)
    with open_sources(options.sources, build.sources, build.config.gps,
                      build.config.max_pose_gap_s) as sources:
        for source in sources:
            say(console, f'{source.name}: {summary(source)}' if len(sources) > 1
                else summary(source))
            for note in source.notes:
                say(console, note, 'yellow')
        encoder = _encoder(options, console)
        with (_kept(console, build.out),
              _progress(console, sum(source.total for source in sources)) as bar):
            reports: list[BuildReport] = []

            def progress(report: 'BuildReport') -> None:
                reports[:] = [report]
                bar(report)

            build_map(sources, build, encoder, progress).close()
    report = reports[0]
    if report.other_bits:
        say(console, "this machine's descriptors differ from those of the machine that started "
                     'the build, by at most 0.001')
    _print_report(options, report)


def _build_options(options: argparse.Namespace) -> 'BuildOptions':
    """Options of the build from the command line.

    Raises:
        ConfigError: a setting is unknown or out of range, or options contradict each other.
    """
    from regvpr_core.config import from_mapping, read_yaml, with_overrides
    from regvpr_core.mapping.options import BuildConfig, BuildOptions

    values = read_yaml(options.config) if options.config else {}
    return BuildOptions(
        out=options.out or Path(), sources=source_options(options),
        config=with_overrides(from_mapping(BuildConfig, values), options.set),
        features=options.features, compress=options.compress, resume=options.resume)


def _check_model(options: argparse.Namespace, console: Console) -> None:
    """Refuse an unknown model, and fetch a published one, before the sources are read.

    Raises:
        CheckpointError: the model is unknown, or its weights can neither be found nor fetched.
    """
    from regvpr_core.models.added import find_added, find_exported
    from regvpr_core.models.catalogue import canonical, CATALOGUE, local_file

    model = options.model
    if model == AUTO or model.endswith('.onnx') or find_added(model) or find_exported(model):
        return
    if find_spec('torch') is None:  # loading the model reports this
        return
    if canonical(model) not in CATALOGUE:
        from regvpr_core.models.checkpoints import checkpoint_files

        checkpoint_files(model)
    elif local_file(canonical(model)) is None:
        from regvpr_core.models.fetching import fetch_model

        with download_bar(console) as progress:
            fetch_model(model, progress=progress,
                        notice=lambda line: say(console, line, 'dim'))


def _encoder(options: argparse.Namespace, console: Console) -> Any:
    """Load the network; a resumed build keeps its model and precision."""
    from regvpr_core.mapping.partial_map import begun_with
    from regvpr_core.models.encoder import load_encoder

    begun = begun_with(options.out) if options.resume else None
    precision, model = options.precision, options.model
    if begun and precision == 'auto':
        precision = str(begun.get('precision', 'auto'))
    if begun and model == AUTO:
        model = str(begun.get('model', AUTO)).partition(' (')[0]
    if options.resume and not begun:
        say(console, f'no unfinished build of {options.out} to resume: it starts anew')
    with download_bar(console) as progress:
        encoder = load_encoder(model, options.device, precision, download=True,
                               progress=progress, notice=lambda line: say(console, line, 'dim'))
    say_model(console, encoder)
    return encoder


@contextlib.contextmanager
def _kept(console: Console, out: Path) -> Iterator[None]:
    """Print how to resume if a build is interrupted and its keyframes are kept."""
    from regvpr_core.mapping.partial_map import kept_keyframes

    try:
        yield
    except BaseException:
        if not os.path.lexists(out) and (count := kept_keyframes(out)):
            say(console, f'{count} keyframes are kept; the same command with --resume goes on '
                         f'from there')
        raise


@contextlib.contextmanager
def _progress(console: Console, total: int) -> 'Iterator[Callable[[BuildReport], None]]':
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress('images', BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                  '{task.fields[rate]}', console=console, transient=True,
                  disable=not console.is_terminal) as progress:
        task = progress.add_task('build', total=total, rate='')

        def told(report: 'BuildReport') -> None:
            progress.update(task, completed=report.seen,
                            rate=f'{report.kept} places, {report.places_per_s:.1f} places/s')

        yield told


def _print_report(options: argparse.Namespace, report: 'BuildReport') -> None:
    facts: dict[str, Any] = {
        'map': str(options.out),
        'frames_seen': report.seen,
        'keyframes': report.kept,
        **({'of them made before': report.resumed} if report.resumed else {}),
        **{f'dropped: {reason}': count for reason, count in sorted(report.dropped.items())},
        'path_m': round(report.length_m, 1),
        'seconds': round(report.seconds, 1),
        'places_per_s': round(report.places_per_s, 1),
        'size_mb': round(report.size_bytes / 1e6, 2),
    }
    if report.compression:
        facts |= {'compressed_to': report.compression.dimension_after, **cost(report.compression)}
    if report.first_image_error:
        facts['first image error'] = report.first_image_error
    print_facts(facts, options.json, f'regvpr map show {options.out}   (look at the map)')
