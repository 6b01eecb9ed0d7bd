"""`regvpr evaluate`: recall of models on data sets, by published protocols."""

import argparse
from collections.abc import Iterator, Sequence
import contextlib
import json
from pathlib import Path
from typing import Any, TYPE_CHECKING

from rich.console import Console

from regvpr_core.cli.console import plain, say, say_next
from regvpr_core.cli.evaluate_print import how_measured, print_protocols, print_results
from regvpr_core.cli.parsing import add_command
from regvpr_core.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from regvpr_core.datasets.dataset import Dataset
    from regvpr_core.evaluation.describers import Describer
    from regvpr_core.evaluation.evaluator import EvaluateConfig, Result, Told
    from regvpr_core.evaluation.robustness import Curve

ALL = 'all'


def add_parser(commands: Any) -> None:
    """Add `evaluate` to the command line."""
    parser = add_command(
        commands, 'evaluate', "compare models by the field's protocols, with a report",
        'regvpr evaluate --data utm=FOLDER -o out',
        'regvpr evaluate --references MAP --queries DRIVE.mcap --radius-m 10 -o out',
        'regvpr evaluate --model regvpr_offline --model gem_vits14 --data DATA -o out',
        description='Measure recall, precision and time of one or more models on data sets or on '
                    'your own pair of drives.')
    parser.add_argument('--model', action='append', metavar='MODEL',
                        help='model name, checkpoint, preset, baseline, hub:REPO:ENTRY or '
                             f'module:function; repeat it to compare (default: {DEFAULT_MODEL})')
    parser.add_argument('--data', action='append', default=[], metavar='PROTOCOL[@NAME]=FOLDER',
                        help='a data set; a FOLDER alone has positions in its file names; '
                             'repeat it for more')
    parser.add_argument('--references', type=Path, metavar='MAP|BAG|FOLDER',
                        help='your own pair instead of --data')
    parser.add_argument('--queries', type=Path, metavar='MAP|BAG|FOLDER')
    parser.add_argument('--same-frame', action='store_true',
                        help='the positions of your own pair are in one frame, whatever it is '
                             'called')
    parser.add_argument('--protocols', action='store_true', help='list the protocols and stop')
    parser.add_argument('-o', '--out', type=Path, metavar='FOLDER',
                        help='write report.html, results.json, results.csv and queries.csv')
    parser.add_argument('--json', action='store_true', help='print the results as JSON')
    parser.add_argument('--partial', action='store_true',
                        help='accept an incomplete data set; the result is marked as partial')
    parser.add_argument('--recalls', metavar='K,K,…', help='default: 1,5,10,20')
    parser.add_argument('--robustness', nargs='?', const=ALL, metavar='KIND,KIND,…',
                        help='also recall@1 with blurred, dark, turned, … queries')
    parser.add_argument('--index', default='', metavar='KIND',
                        help='also search by an approximate index, such as rabitq')
    parser.add_argument('--cache', type=Path, metavar='FOLDER', help='where descriptors are kept')
    parser.add_argument('--no-cache', action='store_true', help='keep no descriptors')
    parser.add_argument('--cache-limit-gb', type=float, default=200.0, metavar='GB',
                        help='above it, the least recently used models are removed (default: 200)')
    parser.add_argument('--radius-m', type=float, default=25.0,
                        help='of protocol utm and of your own pair (default: 25)')
    parser.add_argument('--tolerance-frames', type=int, default=2,
                        help='of protocol frames (default: 2)')
    parser.add_argument('--allow-code', action='store_true',
                        help="let torch.hub run a baseline's own code on this machine")
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps')
    parser.add_argument('--precision', help='fp32, bf16, fp16, int8 (on a CPU), or auto: on '
                        'a CPU the fastest as measured now, so that runs may differ (default: '
                        'fp32 on a CPU, fp16 on CUDA)')
    parser.add_argument('--batch', type=int, default=16, help='images a pass (default: 16)')
    bags = parser.add_argument_group('options for bags as references or queries')
    bags.add_argument('--image-topic', metavar='TOPIC')
    bags.add_argument('--pose-topic', metavar='TOPIC', help='nav_msgs/Odometry')
    bags.add_argument('--references-tum', type=Path, metavar='FILE', help='their poses, TUM')
    bags.add_argument('--queries-tum', type=Path, metavar='FILE', help='their poses, TUM')
    bags.add_argument('--spacing-m', type=float, default=1.0,
                      help='metres between images that are taken (default: 1)')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Evaluate every model on every data set, print a table, write the report."""
    if options.protocols:
        print_protocols()
        return
    check_paths(options)
    from regvpr_core.evaluation.evaluator import evaluate
    from regvpr_core.evaluation.model_specs import check_spec
    from regvpr_core.evaluation.robustness import DEGRADATIONS, robustness

    console = Console(stderr=True)
    config = _config(options)
    kinds = _kinds(options.robustness, tuple(DEGRADATIONS))
    for spec in options.model or ():
        check_spec(spec, options.allow_code)
    _check_output(options)
    cache = _cache(options, console)
    with _datasets(options, cache, console) as datasets, _progress(console) as told:
        results: list[Result] = []
        curves: list[Curve] = []
        for describer in _describers(options, datasets, console):
            for dataset in datasets:
                result = evaluate(dataset, describer, config, cache, told)
                results.append(result)
                if kinds and describer is not None and result.curve is not None:
                    curves += robustness(result.dataset, describer, config, cache,
                                         float(result.right.mean()), kinds, told)
        _write(options, results, curves, console)
        if options.json:
            record = [r.figures() for r in results]
            robust = [_curve_record(c) for c in curves]
            print(json.dumps({'results': record, 'robustness': robust}, indent=1))  # noqa: T201
        else:
            print_results(results, curves)


def check_paths(options: argparse.Namespace) -> None:
    """Refuse missing paths and options that do not fit, before torch is loaded."""
    from regvpr_core.errors import ConfigError
    from regvpr_core.recordings.source_kinds import check_exists

    pair = options.references, options.queries
    if (pair[0] is None) != (pair[1] is None):
        raise ConfigError('--references and --queries belong together')
    if bool(options.data) == (pair[0] is not None):
        raise ConfigError('give --data PROTOCOL=FOLDER, or --references and --queries; '
                          '--protocols lists the protocols')
    given = (*pair, options.references_tum, options.queries_tum)
    check_exists((path for path in given if path is not None), 'a map, a bag or a folder')


def _config(options: argparse.Namespace) -> 'EvaluateConfig':
    from regvpr_core.config import nearest
    from regvpr_core.errors import ConfigError
    from regvpr_core.evaluation.evaluator import EvaluateConfig
    from regvpr_core.evaluation.searching import INDEXES

    recalls = None
    if options.recalls is not None:
        try:
            recalls = tuple(int(k) for k in options.recalls.split(','))
        except ValueError as error:
            raise ConfigError(f'--recalls is {options.recalls!r}; expected numbers such as '
                              f'1,5,10') from error
    if options.index and options.index not in INDEXES:
        raise ConfigError(f'unknown index {options.index!r}{nearest(options.index, INDEXES)}')
    return EvaluateConfig(recalls=recalls, batch=options.batch, index=options.index,
                          partial=options.partial)


def _kinds(text: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    from regvpr_core.config import nearest
    from regvpr_core.errors import ConfigError

    if text is None:
        return ()
    if text == ALL:
        return known
    for kind in text.split(','):
        if kind not in known:
            raise ConfigError(f'unknown degradation {kind!r}{nearest(kind, known)}')
    return tuple(text.split(','))


def _check_output(options: argparse.Namespace) -> None:
    """Check that the output files can be written, before the evaluation starts."""
    from regvpr_core.evaluation.plots import check_matplotlib

    if options.out is not None:
        check_matplotlib()
        options.out.mkdir(parents=True, exist_ok=True)


def _cache(options: argparse.Namespace, console: Console) -> Path | None:
    from regvpr_core.config import check_range
    from regvpr_core.evaluation.descriptor_cache import trim
    from regvpr_core.models.downloads import cache_folder

    check_range('--cache-limit-gb', options.cache_limit_gb, 0.0, 1e6)
    if options.no_cache:
        return None
    folder: Path = options.cache or cache_folder() / 'descriptors'
    removed = trim(folder, int(options.cache_limit_gb * 1e9))
    if removed:
        say(console, f'{len(removed)} least recently used models were removed from the cache '
                     f'{folder}', 'dim')
    return folder


@contextlib.contextmanager
def _datasets(options: argparse.Namespace, cache: Path | None,
              console: Console) -> Iterator[list['Dataset']]:
    """The data sets of the command line: published protocols, or the user's own pair."""
    from regvpr_core.datasets.protocols import load_datasets, LoadConfig
    if options.data:
        yield load_datasets(options.data, LoadConfig(
            radius_m=options.radius_m, tolerance_frames=options.tolerance_frames,
            partial=options.partial))
        return
    from regvpr_core.cli.evaluate_recordings import open_pair

    with open_pair(options, cache, console) as dataset:
        yield [dataset]


def _describers(options: argparse.Namespace, datasets: Sequence['Dataset'],
                console: Console) -> 'Iterator[Describer | None]':
    """Load the models one after the other; None if maps supply the descriptors."""
    from regvpr_core.evaluation.model_specs import open_describer, steady_precision

    if not options.model and all(d.given_references and d.given_queries for d in datasets):
        yield None
        return
    specs = options.model or [_default_model(datasets)]
    seen: set[str] = set()
    for spec in specs:
        describer = open_describer(
            spec, device=options.device,
            precision=options.precision or steady_precision(spec, options.device),
            allow_code=options.allow_code, notice=lambda line: say(console, line, 'dim'))
        if describer.name in seen:  # two checkpoints may have one name
            describer.name = spec
        seen.add(describer.name)
        say(console, describer.notice, 'dim')
        yield describer


def _default_model(datasets: Sequence['Dataset']) -> str:
    """The model of the reference map; the default model if the references are no map."""
    for dataset in datasets:
        for given in (dataset.given_references, dataset.given_queries):
            if given is not None:
                return given.model
    return DEFAULT_MODEL


@contextlib.contextmanager
def _progress(console: Console) -> Iterator['Told']:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress('{task.description}', BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                  console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task('', total=None)
        said = ''

        def told(what: str, done: int, total: int) -> None:
            nonlocal said
            if not console.is_terminal and what != said:
                say(console, f'{what}: {total} images', 'dim')
                said = what
            bar.update(task, description=plain(what).replace('[', r'\['), completed=done,
                       total=total)

        yield told


def _write(options: argparse.Namespace, results: 'list[Result]', curves: 'list[Curve]',
           console: Console) -> None:
    """Write the files of `--out`, and the submission files of challenges."""
    from regvpr_core.datasets import msls
    from regvpr_core.evaluation import tables
    from regvpr_core.evaluation.report import write_report

    out: Path | None = options.out
    for result in results:
        if result.dataset.positives is None:
            name = ''.join(c if c.isalnum() or c in '-_.' else '_'
                           for c in f'{result.dataset.name}_{result.model}')
            path = (out or Path()) / f'{name}.txt'
            lines = msls.submission_lines(result.dataset, result.ranking.references)
            path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
            say(console, f'submission: {path}')
    if out is None:
        return
    about = how_measured()
    tables.write_json(out / 'results.json', results,
                      {'robustness': [_curve_record(c) for c in curves], 'about': about})
    tables.write_csv(out / 'results.csv', results)
    tables.write_queries_csv(out / 'queries.csv', results)
    if curves:
        tables.write_curves_csv(out / 'robustness.csv', curves)
    write_report(out / 'report.html', results, curves, about)
    say_next(console, f'open {out / "report.html"} in a browser')


def _curve_record(curve: 'Curve') -> dict[str, Any]:
    return {'model': curve.model, 'data': curve.data, 'kind': curve.kind, 'unit': curve.unit,
            'strengths': list(curve.strengths),
            'recall_at_1': [round(v, 5) for v in curve.recall_at_1]}
