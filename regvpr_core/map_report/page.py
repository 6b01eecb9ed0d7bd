"""`regvpr map show`: a place map as one self-contained HTML page.

Markup, style and script are in `assets/`; this module collects their data. All texts of a map are
shown as plain text, and its images are decoded and encoded again.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from regvpr_core.config import check_range
from regvpr_core.map_report.html import finite, label, packed, page
from regvpr_core.map_report.images import no_pictures, pictures_that_fit
from regvpr_core.map_report.seen import headings, Seen, seen, summary
from regvpr_core.map_report.study import BINS, KINDS, MapStudy, PASS_S, study
from regvpr_core.map_report.warnings import FARTHEST_M, left_out_of, warnings_of
from regvpr_core.maps.files import map_bytes
from regvpr_core.maps.place_map import PlaceMap

ASSETS = ('map.html', 'map.css', 'dom.js', 'map_data.js', 'map_view.js', 'map_charts.js', 'map.js')

LEAST_MB = 3.0
MOST_MB = 500.0

PLACE_BYTES = 64
"""Characters of the page per place shown, and per place compared with all others."""
QUERY_BYTES = 120

NAMED_IMAGES = 5000
"""Largest number of keyframes for which the page lists the file names of images."""

NAMES = 500
"""Largest number of camera or source names; further ones share one name."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Reliability:
    """Reliability diagram of a map's calibration: predicted and observed share of true matches.

    predicted, observed: (B,) mean probability and share of true matches of each bin, 0 to 1.
    counts: (B,) matches per bin. text: source of the figures, one sentence.
    """

    predicted: npt.NDArray[np.float64]
    observed: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    text: str = ''


@dataclass(frozen=True, slots=True, kw_only=True)
class PageReport:
    """Numbers of places and images on the page, and what was left out."""

    keyframes: int
    shown: int
    pictures: int
    compared: int
    mistaken: int
    warnings: int
    size_bytes: int
    left_out: tuple[str, ...]


def map_page(
    place_map: PlaceMap,
    *,
    name: str,
    radius_m: float,
    angle_rad: float,
    reliability: Reliability | None = None,
    complaints: Sequence[str] = (),
    max_mb: float = 20.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[str, PageReport]:
    """The page of a map.

    Args:
        place_map: the map.
        name: title of the map.
        radius_m, angle_rad: keyframes within both show one place.
        reliability: of the map's calibration, if known.
        complaints: further warnings, sentences.
        max_mb: size limit of the page in MB, 3 to 500; images and places that do not fit are
            left out evenly, and the page says so.
        progress: called with places compared and in total.

    Raises:
        ConfigError: a value is out of range.
    """
    check_range('max_mb', max_mb, LEAST_MB, MOST_MB)
    budget = int(max_mb * 1e6)
    # 1. distinctiveness of places  2. images that fit  3. warnings
    found = study(place_map, radius_m, angle_rad, progress=progress,
                  most_places=max(100, int(0.3 * budget / PLACE_BYTES)),
                  most_queries=max(100, int(0.1 * budget / QUERY_BYTES)))
    data = _data(place_map, found, name, reliability)
    text = _assemble(name, data | {'pictures': no_pictures(), 'warnings': [], 'leftOut': []})
    pictures, broken = pictures_that_fit(place_map, found, budget - len(text) - 40_000)
    warnings = warnings_of(place_map, found, pictures, broken)
    warnings += [{'text': label(text, 500), 'places': []} for text in complaints]
    left_out = left_out_of(place_map, found, pictures, max_mb)
    text = _assemble(name, data | {'pictures': pictures, 'warnings': warnings,
                                   'leftOut': left_out})
    return text, PageReport(
        keyframes=len(place_map), shown=len(found.ids), pictures=len(pictures['jpeg']),
        compared=len(found.queried), mistaken=int(found.mistaken.sum()), warnings=len(warnings),
        size_bytes=len(text.encode()), left_out=tuple(left_out))


def _assemble(name: str, data: dict[str, Any]) -> str:
    folder = resources.files('regvpr_core.map_report') / 'assets'
    body, style, *scripts = ((folder / file).read_text(encoding='utf-8') for file in ASSETS)
    script = '\n'.join(('(() => {', "'use strict';", *scripts, '})();'))
    return page(title=f'Place map {name}', body=body, style=style, script=script, data=data)


def _data(
    place_map: PlaceMap, found: MapStudy, name: str, reliability: Reliability | None
) -> dict[str, Any]:
    """All data of the page except images."""
    ids = found.ids
    T = place_map.T_map_cam[ids]
    centre = np.median(T[:, :3, 3], axis=0) if len(ids) else np.zeros(3)
    centre = np.nan_to_num(np.clip(centre, -1e15, 1e15))
    offsets = np.clip(T[:, :3, 3] - centre, -FARTHEST_M, FARTHEST_M)
    cameras, camera_of = _names([place_map.cameras[i] for i in ids])
    sources, source_of = _names([place_map.sources[i] for i in ids])
    origin = getattr(place_map.manifest, 'origin', {})
    return {
        'name': label(name),
        'path': label(place_map.path),
        'frame': label(place_map.manifest.map_frame),
        'keyframes': len(place_map),
        'ids': packed(ids, '<u4'),
        'stamps': packed(place_map.stamps_ns[ids], '<i8'),
        'centre': [float(v) for v in centre],
        'offsets': packed(offsets, '<f4'),
        'headings': packed(headings(T), '<f4'),
        'cameras': cameras, 'cameraOf': packed(camera_of, '<u2'),
        'sources': sources, 'sourceOf': packed(source_of, '<u2'),
        'images': _image_names(place_map, ids),
        'origin': _origin(origin),
        'facts': _facts(place_map, found, offsets, camera_of, source_of),
        'seen': _seen(seen(place_map, ids, found.radius_m, found.angle_rad)),
        'sourceTable': _source_table(place_map),
        'radius': found.radius_m, 'angleDeg': float(np.degrees(found.angle_rad)),
        'passSeconds': PASS_S,
        'queried': packed(found.queried, '<u4'),
        'neighbours': {kind: packed(found.neighbours[kind], '<i4') for kind in KINDS},
        'similarities': {kind: packed(_rounded(found.similarities[kind]), '<i2')
                         for kind in KINDS},
        'shares': {kind: found.share_right(kind) for kind in ('near', 'again')},
        'matrix': {
            'binSize': found.bin_size, 'values': packed(_rounded(found.matrix), '<i2'),
            'pairs': packed(_within_bins(found), '<u2') if found.bin_size > 1 else '',
        },
        'histograms': {
            'bins': BINS,
            'all': {kind: found.all_pairs[kind].tolist() for kind in KINDS},
            'best': {kind: found.best_pairs[kind].tolist() for kind in KINDS},
            'returning': {'near': [0] * BINS, 'again': found.best_pairs['again'].tolist(),
                          'far': found.best_pairs['rival'].tolist()},
        },
        'reliability': _reliability(reliability),
    }


def _names(each: list[str]) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Distinct names, most frequent first, and the index into them for each item."""
    counted = [name for name, _ in Counter(each).most_common()]
    numbers = {name: min(i, NAMES) for i, name in enumerate(counted)}
    shown = [label(name) or '(no name)' for name in counted[:NAMES]]
    if len(counted) > NAMES:
        shown.append(f'({len(counted) - NAMES} others)')
    return shown, np.array([numbers[name] for name in each], dtype=np.int64)


def _image_names(place_map: PlaceMap, ids: npt.NDArray[np.int64]) -> list[str]:
    """File names of the images by place; empty if the map has none or too many."""
    if len(ids) > NAMED_IMAGES or not any(place_map.images):
        return []
    return [label(place_map.images[i], 120) for i in ids]


def _origin(origin: dict[str, float]) -> dict[str, float] | None:
    """GPS origin of the map frame, if it has a valid one."""
    lat, lon = origin.get('lat_deg'), origin.get('lon_deg')
    if lat is None or lon is None or not (abs(lat) < 89.9 and abs(lon) <= 360.0):
        return None
    return {'lat': float(lat), 'lon': float(lon), 'alt': finite(origin.get('alt_m', 0.0))}


def _seen(found: Seen) -> dict[str, str]:
    return {'clock': found.clock, 'directions': packed(found.directions, '<u1'),
            'hours': packed(found.hours, '<u4'), 'drives': packed(found.drives, '<u4')}


def _facts(
    place_map: PlaceMap, found: MapStudy, offsets: npt.NDArray[np.float64],
    camera_of: npt.NDArray[np.int64], source_of: npt.NDArray[np.int64],
) -> list[list[str]]:
    """Table of facts from the manifest and the files: names and values."""
    manifest = place_map.manifest
    extent = np.ptp(offsets, axis=0) if len(offsets) else np.zeros(3)
    facts = {
        'keyframes': f'{len(place_map):,}'.replace(',', ' '),
        'path': f'{_path_m(offsets, camera_of, source_of):.1f} m',
        'extent x, y, z': ', '.join(f'{v:.1f}' for v in extent) + ' m',
        **{name.replace('_', ' '): ', '.join(lines) for name, lines in
           summary(place_map, found.radius_m, found.angle_rad).items()},
        'size on disk': f'{map_bytes(place_map.path) / 1e6:.2f} MB',
        'model': manifest.model,
        'fingerprint': manifest.fingerprint[:16],
        'descriptor': f'{manifest.dimension} numbers',
        'compressed by': getattr(manifest, 'compress', '') or 'nothing',
        'verification features': getattr(manifest, 'features', '') or 'none',
        'world frame': manifest.map_frame,
        'map id': manifest.map_id,
        'format': str(manifest.format_version),
    }
    origin = _origin(getattr(manifest, 'origin', {}))
    if origin:
        facts['GPS origin'] = (f'{origin["lat"]:.7f}°, {origin["lon"]:.7f}°, '
                               f'{origin["alt"]:.1f} m')
    for camera, numbers in list(manifest.extrinsics.items())[:8]:
        values = ', '.join(f'{v:.4g}' for v in numbers)
        facts[f'base to {label(camera)[:40]}'] = f'{values} (x y z, qx qy qz qw)'
    for camera, one in list(getattr(manifest, 'intrinsics', {}).items())[:8]:
        facts[f'intrinsics {label(camera)[:40]}'] = json.dumps(one)
    facts['preprocessing'] = _settings(manifest.preprocessing)
    facts['built with'] = _settings(manifest.config)
    return [[key, label(value, 2000)] for key, value in facts.items()]


def _path_m(
    offsets: npt.NDArray[np.float64], camera_of: npt.NDArray[np.int64],
    source_of: npt.NDArray[np.int64],
) -> float:
    """Metres driven: the longest of the cameras' paths of each source, summed."""
    total = 0.0
    for source in np.unique(source_of):
        lengths = []
        for camera in np.unique(camera_of[source_of == source]):
            path = offsets[(source_of == source) & (camera_of == camera)]
            lengths.append(float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum()))
        total += max(lengths)
    return total


def _source_table(place_map: PlaceMap) -> list[list[str]]:
    """Source, keyframes, cameras, first stamp and last stamp (ns, as text)."""
    rows = []
    sources = np.array(place_map.sources, dtype=object)
    for source, count in Counter(place_map.sources).most_common(50):
        own = np.flatnonzero(sources == source)
        cameras = sorted({place_map.cameras[i] for i in own})
        stamps = place_map.stamps_ns[own]
        rows.append([label(source) or '(no name)', str(count), label(', '.join(cameras)),
                     str(stamps.min()), str(stamps.max())])
    return rows


def _rounded(similarities: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Similarities as int16 in units of 0.0001; the least int16 for a missing one."""
    known = np.isfinite(similarities)
    return np.where(known, np.round(np.where(known, similarities, 0.0) * 10_000),
                    -32_768).astype(np.int64)


def _within_bins(found: MapStudy) -> npt.NDArray[np.int64]:
    """(S, S, 2) offset of each place of a pair within its bin."""
    side = np.arange(len(found.matrix)) * found.bin_size
    first = found.matrix_pairs[..., 0] - side[:, None]
    second = found.matrix_pairs[..., 1] - side
    return np.maximum(np.stack([first, second], axis=-1), 0)


def _reliability(reliability: Reliability | None) -> dict[str, Any] | None:
    if reliability is None:
        return None
    return {'predicted': [finite(float(v)) for v in reliability.predicted],
            'observed': [finite(float(v)) for v in reliability.observed],
            'counts': [int(v) for v in reliability.counts], 'text': label(reliability.text)}


def _settings(values: dict[str, Any]) -> str:
    """Nested settings as a line for people: `keyframes.distance_m 1.0, batch 8`."""
    def flat(prefix: str, value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for key, inner in value.items()
                    for text in flat(f'{prefix}.{key}', inner)]
        return [f'{prefix.lstrip(".")} {json.dumps(value)}']

    return ', '.join(flat('', values)).replace('"', '')
