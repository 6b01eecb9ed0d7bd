"""Figures and an HTML page of a demo run."""

import base64
import html
import io
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from regvpr_ros.msg import PlaceMatches

from examples.demo_watch import PLACE_M, PLACE_RAD, Result, STATES, Watch
from regvpr_core.images import encode_jpeg, thumbnail
from regvpr_core.recordings.bags import Bag, IMAGE_TYPES
from regvpr_core.recordings.messages import image_rgb, stamp_ns

matplotlib.use('Agg')
from matplotlib import pyplot

PICTURES = 8


def localized(watch: Watch) -> list[Result]:
    """The images that the node was sure of."""
    return [r for r in watch.results.values() if r.state == PlaceMatches.LOCALIZED]


def summarise(watch: Watch) -> dict[str, Any]:
    """The figures of a run; recall counts all images of the lap, also those never looked at."""
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
    """One self-contained page: figures, the map with match lines, pictures side by side.

    The drawing of the map is also written beside it, as matches.png.
    """
    rows = ''.join(f'<tr><td>{html.escape(k.replace("_", " "))}</td><td>{v}</td></tr>'
                   for k, v in summary.items())
    pairs = ''.join(_pair(watch, result, rgb) for result, rgb in _pictures(watch, query_bag))
    plot = _plot(watch)
    path.with_name('matches.png').write_bytes(plot)
    path.write_text(f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>regvpr_ros demo</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; color: #222 }}
table {{ border-collapse: collapse }} td {{ border-bottom: 1px solid #ddd; padding: .2rem .8rem }}
figure {{ display: inline-block; margin: .5rem }} img {{ max-width: 100% }}
figcaption {{ font-size: 13px; color: #555 }} .wrong figcaption {{ color: #b00 }}
</style>
<h1>A second lap, localized on a map made by day</h1>
<p>The town is synthetic, the software is not: bags, map, node and DDS are the real ones.
The map has the first lap's true poses. A match counts as right within {PLACE_M:g} m and
{np.degrees(PLACE_RAD):.0f} degrees of the truth.</p>
<table>{rows}</table>
<h2>Map, trajectory and matches</h2><img alt="map" src="{_uri(plot, 'png')}">
<h2>Images of the second lap, beside the keyframes they were matched with</h2>{pairs}
""", encoding='utf-8')


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


def _pictures(watch: Watch, query_bag: Path) -> list[tuple[Result, np.ndarray]]:
    """A few localized images all along the lap, and every wrong one up to a few, with pixels."""
    done = localized(watch)
    if not done:
        return []
    spread = [done[int(i)] for i in np.linspace(0, len(done) - 1, min(PICTURES, len(done)))]
    wrong = [r for r in done if not r.right][:PICTURES]
    wanted = {r.stamp_ns: r for r in (*spread, *wrong)}
    found = []
    with Bag(query_bag) as bag:
        topic = bag.choose('image', IMAGE_TYPES, None, '')
        for _, _, _, message in bag.messages(topic.name):
            result = wanted.get(stamp_ns(message.header.stamp))
            if result:
                found.append((result, image_rgb(message)))
    return found


def _pair(watch: Watch, result: Result, rgb: np.ndarray) -> str:
    reference = watch.map.thumbnail(result.reference)
    images = [thumbnail(rgb, 240), *([] if reference is None else [reference])]
    shown = ''.join(f'<img height="160" alt="" src="{_uri(encode_jpeg(i), "jpeg")}"> '
                    for i in images)
    text = (f'{STATES[result.state]}: keyframe {result.reference}, similarity '
            f'{result.similarity:.2f}, probability {result.probability:.2f}')
    kind = 'right' if result.right else 'wrong'
    return f'<figure class="{kind}">{shown}<figcaption>{text}, {kind}</figcaption></figure>'


def _uri(data: bytes, kind: str) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
