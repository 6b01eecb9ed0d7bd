"""Warnings about a map, and notes on what its page leaves out."""

from typing import Any

import numpy as np
import numpy.typing as npt

from regvpr_core.map_report.study import MapStudy
from regvpr_core.maps.place_map import PlaceMap

FARTHEST_M = 1e7
LISTED = 12
FEW_KEYFRAMES = 10
ALMOST_THE_SAME = 0.995


def warnings_of(
    place_map: PlaceMap, found: MapStudy, pictures: dict[str, Any], broken: int
) -> list[dict[str, Any]]:
    """A warning about the map: a sentence, and positions of places to inspect."""
    warnings: list[dict[str, Any]] = []

    def warn(text: str, places: list[list[int]] | None = None) -> None:
        warnings.append({'text': text, 'places': places or []})

    if not len(place_map):
        warn('The map holds no keyframe. Build it from a bag or a folder with poses.')
        return warnings
    mistaken = np.flatnonzero(found.mistaken)
    if len(mistaken):
        worst = mistaken[np.argsort(found.best_true[mistaken] - found.best['far'][mistaken])]
        warn(f'{len(mistaken)} of {len(found.queried)} places look more like a place elsewhere '
             f'than like any of their own neighbours: nobody can tell these apart by one image.',
             _pairs(found, worst))
    rows, copies = np.nonzero(np.triu(found.matrix > ALMOST_THE_SAME, 1))
    if len(rows):
        pairs = found.matrix_pairs[rows, copies]
        warn(f'{len(rows)} pairs of keyframes have the same descriptor but for rounding: the same '
             f'image twice, or images that show nothing.', pairs[:LISTED].tolist())
    alone = found.queried[~np.isfinite(found.best_true)]
    if len(alone):
        warn(f'{len(alone)} places have no neighbour within {found.radius_m:g} m and '
             f'{np.degrees(found.angle_rad):.0f}°: a robot that passes beside them may not be '
             f'recognised. Map more densely, or give a larger radius.',
             [[int(position)] for position in alone[:LISTED]])
    if len(place_map) < FEW_KEYFRAMES:
        warn(f'Only {len(place_map)} keyframes: too few to learn from what a match is worth.')
    spread = np.abs(place_map.T_map_cam[:, :3, 3] - np.median(
        place_map.T_map_cam[:, :3, 3], axis=0)).max(axis=1)
    if (outside := int((spread > FARTHEST_M).sum())):
        warn(f'{outside} places are more than {FARTHEST_M / 1000:.0f} km from the middle of the '
             f'map; they are drawn at that distance.')
    if not place_map.manifest.extrinsics:
        warn('The map knows no extrinsics of its cameras: it answers with poses of what it was '
             'built from, the camera or the body.')
    if not pictures['jpeg'] and not broken:
        warn('The map stores no images, so places are shown without.')
    if broken:
        warn(f'{broken} stored images cannot be decoded.')
    return warnings


def _pairs(found: MapStudy, rows: npt.NDArray[np.int64]) -> list[list[int]]:
    """Pairs of places that are confused, each pair once, at most `LISTED`."""
    pairs: dict[tuple[int, ...], list[int]] = {}
    for row in rows:
        pair = [int(found.queried[row]), int(found.neighbours['far'][row, 0])]
        pairs.setdefault(tuple(sorted(pair)), pair)
        if len(pairs) == LISTED:
            break
    return list(pairs.values())


def left_out_of(
    place_map: PlaceMap, found: MapStudy, pictures: dict[str, Any], max_mb: float
) -> list[str]:
    """Sentences on what the page of a large map leaves out."""
    count, shown, queried = len(place_map), len(found.ids), len(found.queried)
    out = []
    if shown < count:
        out.append(f'{shown} of {count} keyframes are shown, evenly spread (--max-mb {max_mb:g}).')
    if queried < shown:
        out.append(f'{queried} of the {shown} places shown were compared with all others; the '
                   f'figures and similar places are of these.')
    if 0 < len(pictures['jpeg']) < shown:
        out.append(f'{len(pictures["jpeg"])} of {shown} places have an image here, of '
                   f'{pictures["side"]} pixels; the others show the nearest one '
                   f'(--max-mb {max_mb:g}).')
    return out
