"""Plots of results as SVG, for light and dark pages, in colour-blind safe colours."""

from collections.abc import Callable, Sequence
import importlib
import io
from typing import Any

import numpy as np

from regvpr_core.errors import EvaluationError
from regvpr_core.evaluation.evaluator import Result
from regvpr_core.evaluation.robustness import Curve

# Okabe and Ito (2008), without yellow; a model also has a marker and a dash of its own.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00')
DARK_COLOURS = ('#56B4E9', '#E69F00', '#2ec4a0', '#CC79A7', '#9ccfef', '#f0c46a')
MARKERS = 'osD^vP'
DASHES = ('-', '--', '-.', ':', (0, (5, 1)), (0, (3, 1, 1, 1)))
THEMES = {'light': ('#1f2328', '#d0d7de', COLOURS), 'dark': ('#e6edf3', '#3d444d', DARK_COLOURS)}

NEAREST_M = 0.1
"""Least distance of the logarithmic axis, m; nearer matches are drawn there."""

Drawn = dict[str, bytes]
"""SVG text by theme."""


def check_matplotlib() -> None:
    """Check that matplotlib is installed.

    Raises:
        EvaluationError: matplotlib is missing.
    """
    try:
        importlib.import_module('matplotlib.figure')
    except ImportError as error:
        raise EvaluationError("the report needs matplotlib: pip install 'regvpr_ros[evaluation]', "
                              'or leave -o away') from error


def recall_plot(results: Sequence[Result]) -> Drawn:
    """Recall@k over k, one line per model."""
    def draw(axes: Any, style: Callable[[int], dict[str, Any]]) -> None:
        most = max(max(r.recalls) for r in results)
        ks = np.arange(1, most + 1)
        for i, result in enumerate(results):
            ranks = result.ranks[result.ranks > 0]
            values = [100.0 * (ranks <= k).sum() / len(result.ranks) for k in ks]
            axes.plot(ks, values, label=result.model, markevery=_marked(ks, result), **style(i))
        low = 10.0 * np.floor(0.1 * min(100.0 * min(r.recalls.values()) for r in results) - 0.1)
        axes.set(xlabel='k', ylabel='recall@k (%)', xlim=(0.5, most + 0.5),
                 ylim=(max(-2.0, low), 101.0))
        axes.set_xticks([k for k in (1, 5, 10, 15, 20, 50, 100) if k <= most])
        axes.legend(loc='lower right')
    return _drawn(draw, 'Recall among the first k')


def precision_recall_plot(results: Sequence[Result]) -> Drawn:
    """Precision over recall as the acceptance threshold on best matches varies."""
    def draw(axes: Any, style: Callable[[int], dict[str, Any]]) -> None:
        for i, result in enumerate(results):
            if result.curve is not None:
                thin = result.curve.thinned(300)
                axes.plot(100 * thin.recall, 100 * thin.precision, markevery=[-1],
                          label=f'{result.model}, AP {result.curve.average_precision:.3f}',
                          **style(i))
        axes.set(xlabel='recall (%)', ylabel='precision (%)', xlim=(-2, 102), ylim=(-2, 104))
        axes.legend(loc='lower left')
    return _drawn(draw, 'Precision and recall of the best match')


def error_plot(results: Sequence[Result]) -> Drawn | None:
    """Share of queries over the distance of their best match; None without positions."""
    known = [(i, r) for i, r in enumerate(results) if np.isfinite(r.errors_m).any()]
    if not known:
        return None

    def draw(axes: Any, style: Callable[[int], dict[str, Any]]) -> None:
        for i, result in known:
            errors = np.sort(result.errors_m[np.isfinite(result.errors_m)])
            share = 100.0 * np.arange(1, len(errors) + 1) / len(errors)
            axes.step(np.maximum(errors, NEAREST_M), share, where='post', label=result.model,
                      **style(i) | {'marker': ''})
        radius_m = results[0].dataset.radius_m
        if radius_m:
            axes.axvline(radius_m, lw=1, ls=':', color=axes.xaxis.label.get_color())
            axes.text(radius_m, 50, f'right: {radius_m:g} m', fontsize=9, rotation=90, ha='right',
                      va='center')
        axes.set(xlabel='distance from the query to its best match (m)', ylabel='queries (%)',
                 ylim=(0, 102))
        axes.set_xscale('log')
        low, high = axes.get_xlim()
        low, high = min(low, 1.0), max(high, 30.0)
        axes.set_xlim(low, high)
        ticks = [t for t in (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 1e4, 1e5, 1e6)
                 if low <= t <= high]
        axes.set_xticks(ticks, [f'{t:g}' for t in ticks])
        axes.set_xticks([], minor=True)
        axes.legend(loc='lower right')
    return _drawn(draw, 'Errors in metres, cumulative')


def plan_plot(result: Result) -> Drawn | None:
    """Map of references, and of queries with correct and wrong matches; None without positions."""
    data = result.dataset
    if data.reference_xy is None or data.query_xy is None:
        return None
    references, queries = data.reference_xy, data.query_xy
    best = references[result.ranking.references[:, 0]]

    def draw(axes: Any, style: Callable[[int], dict[str, Any]]) -> None:
        axes.plot(*references.T, '.', ms=2, color='#8b949e', label='references')
        # A line from each query with a wrong match to the matched reference.
        wrong = ~result.right
        lines = np.stack([queries[wrong], best[wrong], np.full((wrong.sum(), 2), np.nan)], axis=1)
        axes.plot(*lines.reshape(-1, 2).T, lw=0.6, alpha=0.5, color=style(1)['color'])
        axes.plot(*queries[result.right].T, 'o', ms=4, color=style(2)['color'],
                  label=f'right: {int(result.right.sum())}')
        axes.plot(*queries[wrong].T, 'x', ms=6, mew=1.6, color=style(1)['color'],
                  label=f'wrong: {int(wrong.sum())}')
        axes.set_aspect('equal', adjustable='datalim')
        axes.set(xlabel='x (m)', ylabel='y (m)')
        axes.legend(loc='best')
    return _drawn(draw, f'{result.model}: where queries are right')


def robustness_plot(curves: Sequence[Curve]) -> Drawn:
    """Recall@1 over the strength of one degradation, one line per model."""
    def draw(axes: Any, style: Callable[[int], dict[str, Any]]) -> None:
        for i, curve in enumerate(curves):
            places = np.arange(len(curve.strengths))
            axes.plot(places, [100.0 * v for v in curve.recall_at_1], label=curve.model,
                      **style(i))
        axes.set_xticks(places, ['as it is', *(f'{s:g}' for s in curves[0].strengths[1:])])
        axes.set(xlabel=curves[0].unit, ylabel='recall@1 (%)', ylim=(-2, 102))
        axes.legend(loc='lower left')
    return _drawn(draw, curves[0].kind, size=(4.4, 3.2))


def _marked(ks: Any, result: Result) -> list[int]:
    return [int(k) - 1 for k in result.recalls if k <= ks[-1]]


def _drawn(draw: Callable[[Any, Callable[[int], dict[str, Any]]], None], title: str,
           size: tuple[float, float] = (5.6, 4.0)) -> Drawn:
    """Draw the same plot in every theme."""
    check_matplotlib()
    matplotlib: Any = importlib.import_module('matplotlib')
    figures: Any = importlib.import_module('matplotlib.figure')
    drawn = {}
    for theme, (ink, faint, colours) in THEMES.items():
        def style(i: int, colours: tuple[str, ...] = colours) -> dict[str, Any]:
            return {'color': colours[i % len(colours)], 'ls': DASHES[i % len(DASHES)],
                    'marker': MARKERS[i % len(MARKERS)], 'ms': 5, 'lw': 1.8}

        settings = {
            'font.size': 11, 'font.family': 'sans-serif', 'text.color': ink,
            'axes.labelcolor': ink, 'axes.edgecolor': faint, 'xtick.color': ink,
            'ytick.color': ink, 'grid.color': faint, 'axes.facecolor': 'none',
            'legend.facecolor': 'none', 'legend.edgecolor': 'none', 'legend.fontsize': 9,
            'axes.spines.top': False, 'axes.spines.right': False, 'axes.titlesize': 12,
            'svg.hashsalt': 'regvpr', 'svg.fonttype': 'path', 'text.usetex': False,
            'text.parse_math': False, 'axes.titlelocation': 'left'}
        with matplotlib.rc_context(settings):
            figure = figures.Figure(figsize=size, layout='constrained', facecolor='none')
            axes = figure.subplots()
            axes.grid(True, lw=0.6)
            draw(axes, style)
            axes.set_title(title)
            data = io.BytesIO()
            figure.savefig(data, format='svg', metadata={'Date': None})
        drawn[theme] = data.getvalue()
    return drawn
