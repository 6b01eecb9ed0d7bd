"""Figures, an HTML page and the drawings of a demo run."""

import base64
import html
import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from regvpr_ros.msg import PlaceMatches

from examples.demo_gif import drawn_stamps, write_gif
from examples.demo_watch import PLACE_M, PLACE_RAD, Result, STATES, Watch
from regvpr_core.images import encode_jpeg, thumbnail
from regvpr_core.map_report.html import page
from regvpr_core.recordings.bags import Bag, IMAGE_TYPES
from regvpr_core.recordings.messages import image_rgb, stamp_ns

matplotlib.use('Agg')
from matplotlib import pyplot

ASSETS = Path(__file__).parent / 'demo_page'

PICTURES = 160
"""Number of queries on the page, with their images; all wrong ones are added."""

PICTURE_PX = 240


def localized(watch: Watch) -> list[Result]:
    """Results with the state LOCALIZED."""
    return [r for r in watch.results.values() if r.state == PlaceMatches.LOCALIZED]


def summarise(watch: Watch) -> dict[str, Any]:
    """Figures of a run; recall counts all images of the lap, including dropped ones."""
    done = localized(watch)
    right = [r for r in done if r.right]
    errors = [float(np.linalg.norm(r.T_prior[:3, 3] - r.T_truth[:3, 3]))
              for r in done if r.T_prior is not None]
    latencies = [r.latency_s for r in watch.results.values()] or [float('nan')]
    return {
        'frames': len(watch.truth),
        'matched': len(done),
        'precision': round(len(right) / len(done), 4) if done else 0.0,
        'recall': round(len(right) / len(watch.truth), 4),
        'median_position_error_m': round(float(np.median(errors)), 3) if errors else None,
        'latency_p50_s': round(float(np.percentile(latencies, 50)), 4),
        'latency_p95_s': round(float(np.percentile(latencies, 95)), 4),
        'dropped': len(watch.truth) - len(watch.results),
        'place_tolerance_m': PLACE_M,
        'model': watch.map.manifest.model,
        'map_keyframes': len(watch.map),
    }


def write_report(path: Path, watch: Watch, summary: dict[str, Any], query_bag: Path) -> None:
    """Write a self-contained page: four figures, and a plan with each query beside its match.

    Also writes a plot of the matches, matches.png, and an animation, demo.gif, beside the page.
    """
    chosen = _chosen(watch)
    moving = drawn_stamps(watch)
    images = _images(query_bag, {*moving, *(r.stamp_ns for r in chosen)})
    path.with_name('matches.png').write_bytes(_plot(watch))
    write_gif(path.with_name('demo.gif'), watch, {s: images[s] for s in moving if s in images})
    queries = [_query(watch, result, images[result.stamp_ns]) for result in chosen
               if result.stamp_ns in images]
    wrong = [i for i, query in enumerate(queries) if query['right'] is False]
    data = {'places': watch.map.T_map_cam[:, :2, 3].round(2).tolist(), 'queries': queries,
            'first': (wrong or [len(queries) // 2])[0]}
    path.write_text(page(
        title='regvpr_ros demo', body=_body(summary), data=data,
        style=(ASSETS / 'demo.css').read_text(), script=(ASSETS / 'demo.js').read_text()),
        encoding='utf-8')


def _body(summary: dict[str, Any]) -> str:
    """Markup of the page; it contains no untrusted text."""
    error = summary['median_position_error_m']
    figures = (
        (f'{100 * summary["precision"]:.1f} %', 'of the given places are right'),
        (f'{100 * summary["recall"]:.1f} %', 'of all images were given the right place'),
        ('–' if error is None else f'{error:.2f} m', 'median error of the pose'),
        (f'{1e3 * summary["latency_p95_s"]:.0f} ms', 'from capture to answer, 95 % of images'))
    cards = ''.join(f'<div class="card"><b>{value}</b><span class="quiet">{text}</span></div>'
                    for value, text in figures)
    rows = ''.join(f'<tr><td>{html.escape(k.replace("_", " "))}</td><td>{html.escape(str(v))}'
                   f'</td></tr>' for k, v in summary.items())
    return f"""<header><h1>A second lap, localized on a map of the first</h1>
<p class="quiet">The town is synthetic; bags, map, node and DDS are the real ones. The map has the
true poses of the first lap. A match is right within {PLACE_M:g} m and
{np.degrees(PLACE_RAD):.0f}° of the truth.</p></header>
<div class="figures">{cards}</div>
<main><div class="card"><svg id="plan" role="img" aria-label="plan of the drive"></svg>
<p class="quiet legend"><span><i class="dot path"></i>keyframe of the map</span>
<span><i class="dot right"></i>query, right</span>
<span><i class="dot wrong"></i>query, wrong</span>
<span>○ query without an answer</span></p></div>
<div class="card pair">
<div><span class="quiet">camera, second lap</span><img id="query" alt="">
<div id="query-blank" class="blank" hidden></div></div>
<div><span class="quiet">matched keyframe</span><img id="reference" alt="">
<div id="reference-blank" class="blank" hidden></div></div>
<p id="told" class="text"></p>
<div class="steps"><button id="before">← before</button><button id="after">after →</button></div>
</div></main>
<details class="card"><summary>All figures</summary><table>{rows}</table></details>"""


def _chosen(watch: Watch) -> list[Result]:
    """At most `PICTURES` results, evenly spaced, and every wrong one; sorted by stamp."""
    results = sorted(watch.results.values(), key=lambda r: r.stamp_ns)
    if not results:
        return []
    spread = {int(i) for i in np.linspace(0, len(results) - 1, min(PICTURES, len(results)))}
    return [r for i, r in enumerate(results)
            if i in spread or (r.state == PlaceMatches.LOCALIZED and not r.right)]


def _images(query_bag: Path, wanted: set[int]) -> dict[int, np.ndarray]:
    """The images of these stamps."""
    found = {}
    with Bag(query_bag) as bag:
        topic = bag.choose('image', IMAGE_TYPES, None, '')
        for _, _, _, message in bag.messages(topic.name):
            stamp = stamp_ns(message.header.stamp)
            if stamp in wanted:
                found[stamp] = image_rgb(message)
    return found


def _query(watch: Watch, result: Result, rgb: np.ndarray) -> dict[str, Any]:
    """Data of a query for the page."""
    sure = result.state == PlaceMatches.LOCALIZED
    reference = watch.map.thumbnail(result.reference) if result.reference >= 0 else None
    text = f'{STATES[result.state]}: no place is believed'
    if sure:
        text = (f'{"right" if result.right else "wrong"}: keyframe {result.reference}, '
                f'probability {result.probability:.2f}, similarity {result.similarity:.2f}')
    first = int(watch.truth.stamps_ns[0])
    xy = watch.map.T_map_cam[result.reference, :2, 3] if result.reference >= 0 else None
    return {
        'xy': result.T_truth[:2, 3].round(2).tolist(), 'right': result.right if sure else None,
        'match': xy.round(2).tolist() if sure and xy is not None else None,
        'text': f'{(result.stamp_ns - first) / 1e9:.1f} s: {text}',
        'query': _uri(encode_jpeg(thumbnail(rgb, PICTURE_PX), 70), 'jpeg'),
        'reference': None if reference is None or not sure else
        _uri(encode_jpeg(reference, 80), 'jpeg')}


def _plot(watch: Watch) -> bytes:
    figure, axes = pyplot.subplots(figsize=(9, 6), dpi=110, layout='constrained')
    places = watch.map.T_map_cam[:, :3, 3]
    axes.plot(*places[:, :2].T, '.', ms=3, color='0.7', label='map keyframes')
    truth = watch.truth.poses[:, :3, 3]
    axes.plot(*truth[:, :2].T, lw=1, color='tab:blue', alpha=0.6, label='true path, second lap')
    for label, colour, wanted in (('right match', 'tab:green', True),
                                  ('wrong match', 'tab:red', False)):
        chosen = [r for r in localized(watch) if r.right is wanted]
        for result in chosen:
            ends = np.stack([result.T_truth[:3, 3], places[result.reference]])
            axes.plot(*ends[:, :2].T, color=colour, lw=0.8)
        spots = np.array([r.T_truth[:2, 3] for r in chosen]).reshape(-1, 2)
        axes.plot(*spots.T, 'o', ms=3, color=colour, label=f'{label} ({len(chosen)})')
    priors = np.array([r.T_prior[:2, 3] for r in localized(watch) if r.T_prior is not None])
    axes.plot(*priors.reshape(-1, 2).T, 'x', ms=3, color='black', alpha=0.5, label='pose prior')
    axes.set(xlabel='x (m)', ylabel='y (m)', aspect='equal')
    figure.legend(loc='outside right upper')
    buffer = io.BytesIO()
    figure.savefig(buffer)
    pyplot.close(figure)
    return buffer.getvalue()


def _uri(data: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
