"""The images of a map's page: thumbnails decoded, scaled down and encoded again."""

from typing import Any

import numpy as np

from regvpr_core.errors import ImageError, MapError
from regvpr_core.images import encode_jpeg, thumbnail
from regvpr_core.map_report.html import packed
from regvpr_core.map_report.study import MapStudy
from regvpr_core.maps.place_map import PlaceMap

SIDES_PX = (160, 128, 96)
QUALITY = 72
SAMPLE = 32


def no_pictures() -> dict[str, Any]:
    return {'places': packed(np.zeros(0), '<u4'), 'jpeg': [], 'side': 0}


def pictures_that_fit(
    place_map: PlaceMap, found: MapStudy, budget: int
) -> tuple[dict[str, Any], int]:
    """Images of the places within `budget` characters, and the number of broken ones.

    Images have 160 pixels or, if they do not fit, fewer. If even the smallest do not fit, an
    evenly spaced selection is kept.
    """
    count = len(found.ids)
    sample = np.unique(np.linspace(0, max(count - 1, 0), min(count, SAMPLE)).astype(np.int64))
    side, each = SIDES_PX[-1], 0.0
    for side in SIDES_PX:
        sizes = [len(jpeg) for position in sample
                 if (jpeg := _jpeg(place_map, int(found.ids[position]), side))]
        if not sizes:
            continue
        each = 1.1 * float(np.mean(sizes)) + 12.0
        if each * count <= budget:
            break
    if not each and count > SAMPLE:
        each = 4000.0  # assumed size: no image in the sample
    fitting = int(max(budget, 0) / each) if each else count
    places, jpegs, broken = [], [], 0
    for position in np.unique(np.linspace(0, max(count - 1, 0), min(count, fitting)
                                          ).astype(np.int64)):
        jpeg = _jpeg(place_map, int(found.ids[position]), side)
        if jpeg is None:
            broken += 1
        elif jpeg:
            budget -= len(jpeg) + 12
            if budget < 0:
                break
            places.append(position)
            jpegs.append(jpeg)
    return {'places': packed(np.array(places), '<u4'), 'jpeg': jpegs, 'side': side}, broken


def _jpeg(place_map: PlaceMap, keyframe_id: int, side: int) -> str | None:
    """Base64 of a keyframe's re-encoded image; '' without an image, None if it is broken."""
    try:
        rgb = place_map.thumbnail(keyframe_id)
        if rgb is None:
            return ''
        return packed(np.frombuffer(encode_jpeg(thumbnail(rgb, side), QUALITY), np.uint8), 'u1')
    except (ImageError, MapError):
        return None
