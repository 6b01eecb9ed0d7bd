"""Results as tables: figures by model and data set, beside quoted ones; CSV and JSON files."""

from collections.abc import Iterable, Sequence
import csv
from dataclasses import asdict, dataclass, field
import json
from pathlib import Path
from typing import Any

import numpy as np

from regvpr_core.errors import EvaluationError
from regvpr_core.evaluation.evaluator import Result
from regvpr_core.evaluation.quoted_figures import quoted_for
from regvpr_core.evaluation.robustness import Curve
from regvpr_core.evaluation.significance import Paired, paired

QUOTED_KS = (1, 5, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonRow:
    """One method; figures and 95 % intervals by data set and k, in percent.

    source: of quoted figures, '' for what was measured here.
    """

    method: str
    source: str
    figures: dict[tuple[str, int], float]
    intervals: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)


def comparison(results: Sequence[Result]) -> tuple[list[str], list[int], list[ComparisonRow]]:
    """A table like the paper's Table 1: data sets, ks, and a row per method, quoted rows last.

    Quoted figures appear only for complete data sets of their protocol.
    """
    counted = [r for r in results if r.curve is not None]
    data = list(dict.fromkeys(r.dataset.title for r in counted))
    ks = sorted({k for r in counted for k in r.recalls})
    rows = [ComparisonRow(
        method=model, source='', figures={
            (r.dataset.title, k): 100 * v for r in counted if r.model == model
            for k, v in r.recalls.items()},
        intervals={(r.dataset.title, k): (100 * low, 100 * high) for r in counted
                   if r.model == model for k in r.recalls for low, high in [r.interval(k)]})
        for model in dict.fromkeys(r.model for r in counted)]
    whole = {r.dataset.protocol: r.dataset.title for r in counted if not r.dataset.partial}
    for quoted in quoted_for(set(whole)):
        rows.append(ComparisonRow(
            method=quoted.method, source=quoted.source, figures={
                (whole[protocol], k): value
                for protocol, recalls in quoted.figures.items() if protocol in whole
                for k, value in zip(QUOTED_KS, recalls, strict=True) if k in ks}))
    return data, ks, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """Two models on the same queries of a data set, by recall@1."""

    data: str
    first: str
    second: str
    paired: Paired


def duels(results: Sequence[Result]) -> list[Duel]:
    """Each pair of models on each data set; the better of a pair first."""
    found = []
    for title in dict.fromkeys(r.dataset.title for r in results if r.curve is not None):
        of_set = sorted((r for r in results if r.dataset.title == title and r.curve is not None),
                        key=lambda r: -float(r.right.mean()))
        for i, first in enumerate(of_set):
            found += [Duel(data=title, first=first.model, second=second.model,
                           paired=paired(first.right, second.right))
                      for second in of_set[i + 1:] if len(first.right) == len(second.right)]
    return found


def write_json(path: Path, results: Sequence[Result], extra: dict[str, Any]) -> None:
    """Write all figures, curves and quoted rows with their source as JSON."""
    _, _, rows = comparison(results)
    record = {
        'results': [r.figures() | {'precision_recall': r.curve_points()} for r in results],
        'paired': [{'data': d.data, 'first': d.first, 'second': d.second,
                    **asdict(d.paired)} for d in duels(results)],
        'quoted': [{'method': row.method, 'source': row.source, 'figures': [
            {'data': data, 'k': k, 'recall_percent': value}
            for (data, k), value in row.figures.items()]} for row in rows if row.source],
    } | extra
    _write(path, json.dumps(record, indent=1, allow_nan=False) + '\n')


def write_csv(path: Path, results: Sequence[Result]) -> None:
    """Write one line per model and data set, then the quoted ones."""
    _, ks, rows = comparison(results)
    header = ['model', 'data', 'protocol', 'partial', 'source', 'queries', 'references',
              *(f'recall@{k}' for k in ks), 'average_precision', 'recall_at_100_precision',
              'median_error_m', 'dimension', 'ms_an_image',
              *(f'recall@{k} {end}' for k in ks for end in ('low', 'high')),
              *(f'recall@{k} centred' for k in ks)]
    lines: list[list[Any]] = []
    for r in results:
        f = r.figures()
        lines.append([r.model, r.dataset.name, r.dataset.protocol, r.dataset.partial, 'measured',
                      f['queries'], f['references'],
                      *(round(r.recalls[k], 5) if k in r.recalls else '' for k in ks),
                      f.get('average_precision', ''), f.get('recall_at_100_precision', ''),
                      f.get('error_m', {}).get('median', ''), r.dimension,
                      f['ms_an_image'] or '',
                      *(v for k in ks for v in _bounds(r, k)),
                      *(round(r.centred[k], 5) if k in r.centred else '' for k in ks)])
    for row in rows:
        if row.source:
            for data in dict.fromkeys(name for name, _ in row.figures):
                lines.append([row.method, data, data, '', f'quoted: {row.source}', '', '',
                              *(round(row.figures[data, k] / 100, 5)
                                if (data, k) in row.figures else '' for k in ks),
                              *[''] * (5 + 3 * len(ks))])
    _write_rows(path, header, lines)


def _bounds(result: Result, k: int) -> tuple[float | str, float | str]:
    if k not in result.recalls:
        return '', ''
    low, high = result.interval(k)
    return round(low, 5), round(high, 5)


def write_queries_csv(path: Path, results: Sequence[Result]) -> None:
    """Write one line per model and query: best match, its correctness, first correct rank."""
    header = ['model', 'data', 'query', 'best_reference', 'similarity', 'right',
              'rank_of_first_right', 'error_m']

    def lines() -> Iterable[list[Any]]:
        for r in results:
            for i, query in enumerate(r.dataset.queries):
                best = int(r.ranking.references[i, 0])
                error = r.errors_m[i] if len(r.errors_m) else np.nan
                yield [r.model, r.dataset.name, query.name,
                       r.dataset.references[best].name if best >= 0 else '',
                       f'{r.ranking.similarities[i, 0]:.6f}',
                       int(r.right[i]) if len(r.right) else '',
                       (int(r.ranks[i]) or '') if len(r.ranks) else '',
                       f'{error:.3f}' if np.isfinite(error) else '']

    _write_rows(path, header, lines())


def _write_rows(path: Path, header: list[str], lines: Iterable[list[Any]]) -> None:
    part = path.with_name(f'{path.name}.part')
    try:
        with part.open('w', encoding='utf-8', errors='backslashreplace', newline='') as file:
            writer = csv.writer(file)
            writer.writerow(header)
            writer.writerows(lines)
        part.replace(path)
    except OSError as error:
        raise EvaluationError(f'{path} cannot be written: {error.strerror}') from error


def _write(path: Path, text: str) -> None:
    part = path.with_name(f'{path.name}.part')
    try:
        part.write_text(text, encoding='utf-8', errors='backslashreplace')
        part.replace(path)
    except OSError as error:
        raise EvaluationError(f'{path} cannot be written: {error.strerror}') from error


def write_curves_csv(path: Path, curves: Sequence[Curve]) -> None:
    """Write one line per model, data set, degradation and strength."""
    _write_rows(path, ['model', 'data', 'degradation', 'unit', 'strength', 'recall@1'], (
        [c.model, c.data, c.kind, c.unit, strength, round(value, 5)] for c in curves
        for strength, value in zip(c.strengths, c.recall_at_1, strict=True)))
