"""One self-contained HTML page of an evaluation: table, curves, example images."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path

from regvpr_core import __version__
from regvpr_core.datasets.dataset import REMOVED
from regvpr_core.errors import EvaluationError
from regvpr_core.evaluation.evaluator import Result
from regvpr_core.evaluation.examples import best_queries, Found, row, worst_queries
from regvpr_core.evaluation.plots import (
    Drawn,
    error_plot,
    plan_plot,
    precision_recall_plot,
    recall_plot,
    robustness_plot,
)
from regvpr_core.evaluation.report_tables import comparison_table, text_of
from regvpr_core.evaluation.robustness import Curve
from regvpr_core.map_report.html import page

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --faint: #59636e; --line: #d0d7de;
  --paper: #ffffff; --card: #f6f8fa; --right: #0b6e4f; --wrong: #b3261e }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --faint: #9198a1; --line: #3d444d;
  --paper: #0d1117; --card: #161b22; --right: #4cc38a; --wrong: #ff9592 } }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1.5rem;
  color: var(--ink); background: var(--paper) }
h1 { font-size: 1.7rem; margin: 0 } h2 { margin: 2.5rem 0 .3rem; font-size: 1.3rem;
  border-top: 1px solid var(--line); padding-top: 1.5rem; overflow-wrap: anywhere }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .5rem }
p, li { max-width: 60rem } .faint { color: var(--faint) } .name { overflow-wrap: anywhere }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line) }
th.model, td:first-child { text-align: left; max-width: 22rem; overflow-wrap: anywhere;
  position: sticky; left: 0; background: var(--paper) }
thead th { font-weight: 600 } th.set { text-align: center; border-left: 1px solid var(--line) }
td.set, th.first { border-left: 1px solid var(--line) }
tr.quoted td { color: var(--faint) } tr.quoted td:first-child { font-style: italic }
.best { font-weight: 700 } .span { font-size: .75rem; font-weight: 400 }
td.fact { text-align: left; overflow-wrap: anywhere } th.text, td.text { text-align: left }
.wide td { white-space: nowrap } .wide th.model, .wide td:first-child { min-width: 9rem }
td.key { white-space: nowrap }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: 1rem }
.plots figure { margin: 0; flex: 1 1 22rem;
  max-width: 36rem; background: var(--card); border-radius: 8px; padding: .6rem }
.plots.small figure { flex: 1 1 16rem; max-width: 24rem }
.plots img { width: 100%; height: auto; display: block }
.row { display: flex; gap: .7rem; flex-wrap: wrap; margin: .7rem 0; padding: .7rem;
  background: var(--card); border-radius: 8px }
.row figure { margin: 0; width: 15rem } .row img, .row .none { width: 100%; height: 10rem;
  object-fit: contain; border: 3px solid var(--line); border-radius: 4px; box-sizing: border-box;
  background: var(--paper) }
.row .right img { border-color: var(--right) } .row .wrong img { border-color: var(--wrong);
  border-style: dashed }
.row .none { display: grid; place-items: center; color: var(--faint) }
figcaption { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere }
figcaption b { display: block } .right figcaption b { color: var(--right) }
.wrong figcaption b { color: var(--wrong) }
@media (max-width: 40rem) { body { padding: 1rem } th, td { padding: .3rem .45rem }
  .wide th.model, .wide td:first-child { white-space: normal; max-width: 9.5rem }
  .row figure { width: calc(50% - .35rem) } .row img, .row .none { height: 7rem } }
@media print { body { max-width: none } .row, figure { break-inside: avoid } }
"""


def write_report(path: Path, results: Sequence[Result], curves: Sequence[Curve] = (),
                 about: dict[str, str] | None = None) -> None:
    """Write the page; it needs no other file and no network.

    Args:
        path: of the .html file.
        results: of all models and data sets.
        curves: of robustness, if they were measured.
        about: what else the reader should know, such as date, command and machine.

    Raises:
        EvaluationError: it cannot be written, or matplotlib is missing.
    """
    body = [
        '<h1>Visual place recognition, evaluated</h1>',
        f'<p class="faint">regvpr_ros {escape(__version__)}. Recall@k: a right reference is among '
        'the first k. Search is exact, by cosine. Each section names the protocol: figures of '
        'other protocols do not compare.</p>']
    counted = [r for r in results if r.curve is not None]
    if counted:
        body.append(comparison_table(results))
    for title in dict.fromkeys(r.dataset.title for r in results):
        body.append(_section([r for r in results if r.dataset.title == title],
                             [c for c in curves if c.data == title]))
    body.append(_weights(results))
    if about:
        body.append(_about(about))
    text = page(title='Visual place recognition, evaluated', body='\n'.join(body), style=STYLE,
                script='', data={})
    part = path.with_name(f'{path.name}.part')
    try:
        part.write_text(text, encoding='utf-8')
        part.replace(path)
    except OSError as error:
        raise EvaluationError(f'{path} cannot be written: {error.strerror}') from error


def _section(results: list[Result], curves: list[Curve]) -> str:
    dataset = results[0].dataset
    lone = results[0].without_positives
    facts = [f'Protocol {text_of(dataset.protocol)}: right is {text_of(dataset.rule)}',
             f'{len(dataset.queries):,} queries, {len(dataset.references):,} references']
    if dataset.without_positives == REMOVED:
        facts.append(f'{dataset.removed:,} queries without a right reference were removed, as the '
                     f'protocol asks')
    elif lone:
        facts.append(f'{lone:,} queries have no right reference and count as misses')
    if dataset.partial:
        facts.append(f'<b>not the whole data set</b>: {text_of(dataset.partial)}')
    if dataset.warning:
        facts.append(f'<b>Careful</b>: {text_of(dataset.warning)}')
    parts = [f'<h2>{text_of(dataset.title)}</h2><p>{". ".join(facts)}.</p>']
    counted = [r for r in results if r.curve is not None]
    if not counted:
        return parts[0] + '<p>The ground truth is hidden; predictions were written to a file.</p>'
    parts.append(_figures_table(counted))
    drawings = [recall_plot(counted), precision_recall_plot(counted), error_plot(counted)]
    parts.append(_plots(['recall at k', 'precision over recall', 'errors in metres'], drawings))
    plans = [plan_plot(r) for r in counted]
    if any(plan is not None for plan in plans):
        parts.append('<h3>Where queries are right and wrong</h3><p class="faint">A line leads '
                     'from a wrong query to the place that it was taken for.</p>'
                     + _plots([f'plan of {r.model}' for r in counted], plans))
    if curves:
        kinds = list(dict.fromkeys(c.kind for c in curves))
        parts.append('<h3>Robustness: recall@1 with worse queries</h3>' + _plots(
            kinds, [robustness_plot([c for c in curves if c.kind == k]) for k in kinds],
            ' small'))
    for heading, queries in (('Best queries', best_queries(counted)),
                             ('Worst queries', worst_queries(counted))):
        if queries:
            why = _why(heading, counted)
            rows = ''.join(_row(row(counted, query)) for query in queries)
            parts.append(f'<h3>{heading}</h3><p class="faint">{why}</p>{rows}')
    return '\n'.join(parts)


def _why(heading: str, results: list[Result]) -> str:
    first = text_of(results[0].model)
    if heading == 'Worst queries':
        return f'Wrong matches of {first}, those with the highest similarity first.'
    more = ', those that the other models miss first' if len(results) > 1 else ''
    return f'Right matches of {first}{more}, then by similarity.'


def _figures_table(results: list[Result]) -> str:
    lines, shown = [], any(r.approximate is not None for r in results)
    for r in results:
        figures = r.figures()
        error = figures['error_m'].get('median')
        index = ''
        if r.approximate is not None:
            first = min(r.recalls)
            index = (f'{text_of(r.approximate.kind)}: R@{first} '
                     f'{100 * r.approximate.recalls[first]:.1f}, agrees '
                     f'{100 * r.approximate.agreement:.1f} %, '
                     f'{r.approximate.resident_bytes / 1e6:.1f} MB')
        lines.append(
            f'<tr><td>{text_of(r.model)}</td><td>{figures["average_precision"]:.3f}</td>'
            f'<td>{100 * figures["recall_at_100_precision"]:.1f} %</td>'
            f'<td>{_centred(r)}</td>'
            f'<td>{"–" if error is None else f"{error:.1f} m"}</td>'
            f'<td>{r.dimension:,} numbers, {figures["bytes_a_place"]:,} bytes</td>'
            f'<td>{_time(figures["ms_an_image"])}</td>'
            f'<td>{1e3 * r.ranking.seconds / max(figures["queries"], 1):.2f} ms</td>'
            f'{f"<td>{index}</td>" if shown else ""}</tr>')
    return ('<div class="scroll wide"><table><thead><tr><th class="model">model</th>'
            '<th>average precision</th><th>recall at 100 % precision</th>'
            '<th>R@1, means off</th><th>median error</th>'
            '<th>a place</th><th>an image</th>'
            f'<th>search a query</th>{"<th>approximate index</th>" if shown else ""}</tr></thead>'
            f'<tbody>{"".join(lines)}</tbody></table></div>')


def _centred(result: Result) -> str:
    """Recall@1 after centring: queries by their mean, references by theirs."""
    return f'{100 * result.centred[1]:.1f} %' if 1 in result.centred else '–'


def _time(ms: float | None) -> str:
    return 'from the cache' if ms is None else f'{ms:.1f} ms'


def _plots(names: list[str], drawings: Sequence[Drawn | None], size: str = '') -> str:
    shown = ''.join(
        f'<figure><picture><source media="(prefers-color-scheme: dark)" '
        f'srcset="{_uri(drawn["dark"], "svg+xml")}"><img alt="{escape(name)}" '
        f'src="{_uri(drawn["light"], "svg+xml")}"></picture></figure>'
        for name, drawn in zip(names, drawings, strict=True) if drawn is not None)
    return f'<div class="plots{size}">{shown}</div>'


def _row(found: list[Found]) -> str:
    cells = []
    for picture in found:
        mark = {True: '✓ ', False: '✗ ', None: ''}[picture.right]
        kind = {True: ' class="right"', False: ' class="wrong"', None: ''}[picture.right]
        image = ('<div class="none">cannot be read</div>' if picture.data is None else
                 f'<img alt="{text_of(picture.name)}" src="{_uri(picture.data, "jpeg")}">')
        cells.append(f'<figure{kind}>{image}<figcaption><b>{mark}{text_of(picture.title)}</b>'
                     f'{escape(picture.detail)} <span class="faint">{text_of(picture.name)}</span>'
                     '</figcaption></figure>')
    return f'<div class="row">{"".join(cells)}</div>'


def _weights(results: Sequence[Result]) -> str:
    notices = ''.join(f'<li class="name">{text_of(notice, 600)}</li>'
                      for notice in dict.fromkeys(r.notice for r in results))
    return f'<h2>Weights</h2><ul>{notices}</ul>'


def _about(about: dict[str, str]) -> str:
    rows = ''.join(f'<tr><td class="key">{text_of(name)}</td>'
                   f'<td class="fact">{text_of(value, 2000)}</td></tr>'
                   for name, value in about.items())
    return f'<h2>How this was measured</h2><div class="scroll"><table>{rows}</table></div>'


def _uri(data: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
