"""Tables that `regvpr evaluate` prints: recalls with intervals, and comparisons of models."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from regvpr_core.cli.console import cell, plain, say

if TYPE_CHECKING:
    from regvpr_core.evaluation.evaluator import Result
    from regvpr_core.evaluation.robustness import Curve


def print_results(results: 'list[Result]', curves: 'list[Curve]') -> None:
    """Print the recall table, the other metrics, and recall under degradation."""
    from regvpr_core.evaluation.tables import comparison

    console = Console()
    data, ks, rows = comparison(results)
    if rows:
        table = Table(title='recall@k (%)', title_justify='left')
        table.add_column('model', overflow='fold')
        for name in data:
            for k in ks:
                table.add_column(Text(f'{plain(name)}\nR@{k}' if k == ks[0] else f'\nR@{k}'),
                                 justify='right')
        for row in rows:
            cells = ['–' if value is None else f'{value:.1f}'
                     for name in data for k in ks for value in [row.figures.get((name, k))]]
            table.add_row(cell(f'{row.method} (quoted)' if row.source else row.method), *cells,
                          style='dim' if row.source else '')
        console.print(table)
        for source in dict.fromkeys(row.source for row in rows if row.source):
            say(console, f'quoted: {source}', 'dim')
    for result in results:
        say(console, _summary(result))
    _print_pairs(console, results)
    for curve in curves:
        points = ', '.join(f'{s:g}: {100 * v:.1f}' for s, v in
                           zip(curve.strengths, curve.recall_at_1, strict=True))
        say(console, f'{curve.model}, {curve.data}, {curve.kind} ({curve.unit}): R@1 {points}')


def _print_pairs(console: Console, results: 'list[Result]') -> None:
    """Print whether models differ significantly on the same queries."""
    from regvpr_core.evaluation.tables import duels

    for duel in duels(results):
        p = duel.paired
        verdict = 'they differ' if p.differ else 'no difference shown'
        say(console, f'{duel.first} against {duel.second} on {duel.data}: R@1 '
                     f'{100 * p.difference:+.1f} points, 95 % {100 * p.low:+.1f} to '
                     f'{100 * p.high:+.1f}, p = {p.p:.3f}: {verdict}')


def _summary(result: 'Result') -> str:
    f = result.figures()
    line = (f'{f["model"]} on {result.dataset.title}: {f["queries"]} queries, {f["references"]} '
            f'references, right is {f["rule"]}')
    if result.curve is None:
        return f'{line}; ground truth hidden'
    k = min(result.recalls)
    low, high = result.interval(k)
    line += (f'; R@{k} {100 * result.recalls[k]:.1f} %, 95 % {100 * low:.1f} to {100 * high:.1f}'
             f'; AP {f["average_precision"]:.3f}, recall at 100 % precision '
             f'{100 * f["recall_at_100_precision"]:.1f} %')
    if f['error_m']:
        line += f', median error {f["error_m"]["median"]:.1f} m'
    if f['queries_without_positives']:
        line += f'; {f["queries_without_positives"]} queries without a right reference are misses'
    if f['queries_removed']:
        line += f'; {f["queries_removed"]} queries without a right reference were removed'
    if f['partial']:
        line += f'; partial: {f["partial"]}'
    if f['warning']:
        line += f'; careful: {f["warning"]}'
    if result.approximate is not None:
        a = result.approximate
        recalls = ', '.join(f'R@{k} {100 * v:.1f}' for k, v in a.recalls.items())
        alone_ms, together_ms = (1000.0 * s / f['queries']
                                 for s in (a.seconds, result.ranking.seconds))
        line += (f'; index {a.kind}: {recalls}, {100 * a.agreement:.1f} % of the exact '
                 f'neighbours, {alone_ms:.1f} ms per single query (exact, all queries at once: '
                 f'{together_ms:.1f} ms), built in {a.build_s:.1f} s, '
                 f'{a.resident_bytes / 1e6:.1f} MB in memory')
    return line


def print_protocols() -> None:
    from regvpr_core.datasets.protocols import PROTOCOLS

    table = Table('protocol', 'queries', 'references', 'what it is')
    for name, protocol in PROTOCOLS.items():
        table.add_row(name, *('any' if n is None else f'{n:,}'
                              for n in (protocol.queries, protocol.references)), protocol.about)
    Console().print(table)


def how_measured() -> dict[str, str]:
    """Date, command and machine, for the report."""
    from datetime import datetime, timezone
    import os
    import platform
    import shlex
    import sys

    import torch

    from regvpr_core import __version__

    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
        processor = next((line.partition(':')[2].strip() for line in lines
                          if line.startswith('model name')), processor)
    return {'date': datetime.now(timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
            'command': shlex.join(['regvpr', *sys.argv[1:]]),
            'machine': f'{processor}, {os.cpu_count()} processors',
            'devices': ', '.join(['cpu', *(torch.cuda.get_device_name(i)
                                           for i in range(torch.cuda.device_count()))]),
            'versions': f'regvpr {__version__}, Python {platform.python_version()}, '
                        f'torch {torch.__version__}'}
