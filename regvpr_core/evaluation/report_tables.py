"""Tables of the evaluation's page that compare models: recalls with intervals, and pairs."""

from collections.abc import Sequence
from html import escape

from regvpr_core.evaluation.evaluator import Result
from regvpr_core.evaluation.tables import comparison, ComparisonRow, duels
from regvpr_core.map_report.html import label


def comparison_table(results: Sequence[Result]) -> str:
    """A table like the paper's Table 1: the best measured value is bold, the second underlined.
    """
    data, ks, rows = comparison(results)
    head = ''.join(f'<th class="set" colspan="{len(ks)}">{text_of(name)}</th>' for name in data)
    under = ''.join(f'<th{_first(k, ks)}>R@{k}</th>' for _ in data for k in ks)
    sources = list(dict.fromkeys(row.source for row in rows if row.source))
    lines = []
    for row_ in rows:
        mark = f' <sup>{sources.index(row_.source) + 1}</sup> quoted' if row_.source else ''
        cells = ''.join(f'<td{_classes(rows, row_, name, k, ks)}>'
                        f'{_percent(row_.figures.get((name, k)))}{_span(row_, name, k)}</td>'
                        for name in data for k in ks)
        kind = ' class="quoted"' if row_.source else ''
        lines.append(f'<tr{kind}><td>{text_of(row_.method)}{mark}</td>{cells}</tr>')
    best = (' Bold: best measured here, where its interval lies above all others.'
            if sum(not row_.source for row_ in rows) > 1 else '')
    notes = ''.join(f'<li>{text_of(source)}</li>' for source in sources)
    return ('<h2>Comparison</h2><div class="scroll wide"><table><thead><tr>'
            f'<th class="model" rowspan="2">model</th>{head}</tr>'
            f'<tr>{under}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
            f'<p class="faint">Percent; below it the 95 % bootstrap interval over the queries, '
            f'taken as independent.{best}'
            f'{" Rows marked quoted were not measured here; they are from:" if notes else ""}</p>'
            f'{f"<ol class=faint>{notes}</ol>" if notes else ""}{_duels(results)}')


def _span(row: ComparisonRow, name: str, k: int) -> str:
    if (name, k) not in row.intervals:
        return ''
    low, high = row.intervals[name, k]
    return f'<br><span class="faint span">{low:.1f}–{high:.1f}</span>'


def _duels(results: Sequence[Result]) -> str:
    """Table of the models that differ significantly on the same queries."""
    lines = []
    for duel in duels(results):
        p = duel.paired
        verdict = 'differ' if p.differ else 'no difference shown'
        lines.append(
            f'<tr><td>{text_of(duel.first)}</td>'
            f'<td class="text">{text_of(duel.second)}</td><td class="text">{verdict}</td>'
            f'<td>{100 * p.difference:+.1f} '
            f'({100 * p.low:+.1f} to {100 * p.high:+.1f})</td><td>{p.only_first} : '
            f'{p.only_second}</td><td>{p.p:.3f}</td>'
            f'<td class="text">{text_of(duel.data)}</td></tr>')
    if not lines:
        return ''
    return ('<h3>Pairs of models on the same queries, recall@1</h3>'
            '<div class="scroll wide"><table><thead><tr><th class="model">model</th>'
            '<th class="text">against</th><th class="text">verdict</th><th>points (95 %)</th>'
            '<th>only one right</th><th>p</th><th class="text">data</th></tr>'
            f'</thead><tbody>{"".join(lines)}</tbody></table></div><p class="faint">p: McNemar\'s '
            'exact test, that neither is better; under 0.05 the models differ.</p>')


def _first(k: int, ks: list[int]) -> str:
    return ' class="first"' if k == ks[0] else ''


def _classes(rows: list[ComparisonRow], here: ComparisonRow, name: str, k: int,
             ks: list[int]) -> str:
    classes = ['set'] if k == ks[0] else []
    mine = here.intervals.get((name, k))
    others = [r.intervals[name, k] for r in rows if r is not here and (name, k) in r.intervals]
    if mine is not None and others and mine[0] > max(high for _, high in others):
        classes.append('best')
    return f' class="{" ".join(classes)}"' if classes else ''


def text_of(text: str, longest: int = 200) -> str:
    """Escape an untrusted name for HTML."""
    return escape(label(text, longest))


def _percent(value: float | None) -> str:
    return '–' if value is None else f'{value:.1f}'
