"""Directions and times of day in which a map has seen its places."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from regvpr_core.arrays import Int64
from regvpr_core.geometry import Array
from regvpr_core.maps.place_map import PlaceMap

EIGHTHS = 8
HOUR_NS, DAY_HOURS = 3_600_000_000_000, 24

EPOCH_NS = 315_532_800_000_000_000
"""Start of 1980, at midnight UTC. Stamps before it are seconds since a start."""

DEG_PER_HOUR = 15.0
FARTHEST_M = 1e12
MOST = 4
"""In a summary, places with this number of directions, hours or drives or more are one class."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """How the places of keyframes were seen.

    ids: (N,) of the keyframes. directions: (N,) bits, one for each eighth of a circle, bit 0
    around x. hours: (N,) bits, one for each hour of the day; 0 if no stamp has a date. drives:
    (N,) number of recordings. clock: of the hours.
    """

    ids: Int64
    directions: npt.NDArray[np.uint8]
    hours: npt.NDArray[np.uint32]
    drives: Int64
    clock: str


def seen(place_map: PlaceMap, ids: Int64, radius_m: float, angle_rad: float) -> Seen:
    """How the places of some keyframes were seen.

    Args:
        place_map: the map.
        ids: of the keyframes, each the centre of a place.
        radius_m: keyframes within it show one place.
        angle_rad: directions that differ by less count as one.
    """
    angles = headings(place_map.T_map_cam)
    hours, clock = _hours(place_map)
    _, sources = np.unique(np.array(place_map.sources, dtype=object), return_inverse=True)
    near = _tree(place_map)
    directions = np.zeros(len(ids), np.uint8)
    of_day = np.zeros(len(ids), np.uint32)
    drives = np.zeros(len(ids), np.int64)
    for row, number in enumerate(map(int, ids)):
        here = np.array(near.query_ball_point(near.data[number], radius_m), dtype=np.int64)
        apart = _apart(angles[here] - angles[number], angle_rad) + angles[number]
        eighths = np.round(apart / (2.0 * np.pi / EIGHTHS)).astype(np.int64) % EIGHTHS
        directions[row] = np.bitwise_or.reduce(1 << eighths)
        dated = hours[here][hours[here] >= 0]
        of_day[row] = np.bitwise_or.reduce(1 << dated, initial=0)
        drives[row] = len(set(sources[here].tolist()))
    return Seen(ids=ids, directions=directions, hours=of_day, drives=drives, clock=clock)


def places(place_map: PlaceMap, radius_m: float) -> Int64:
    """Ids of keyframes further than `radius_m` apart; every other one is near one of them."""
    near = _tree(place_map)
    left = np.ones(len(place_map), dtype=bool)
    centres = []
    for number in range(len(place_map)):
        if left[number]:
            centres.append(number)
            left[near.query_ball_point(near.data[number], radius_m)] = False
    return np.array(centres, dtype=np.int64)


def summary(place_map: PlaceMap, radius_m: float, angle_rad: float) -> dict[str, list[str]]:
    """Shares of a map's places by directions, times of day and drives, as lines; none if empty."""
    found = seen(place_map, places(place_map, radius_m), radius_m, angle_rad)
    if not len(found.ids):
        return {}
    of_day = np.array([(found.hours >> hour & 1).mean() for hour in range(DAY_HOURS)])
    dated = bool(found.hours.any())
    return {
        'directions_per_place': _shares(bits(found.directions), 'direction'),
        'hours_per_place': _shares(bits(found.hours), 'hour') if dated else ['not known'],
        **({f'places_by_hour_{found.clock}': [
            f'{hour:02d} h: {of_day[hour]:.0%}' for hour in np.flatnonzero(of_day)]}
           if dated else {}),
        'drives_per_place': _shares(found.drives, 'drive'),
    }


def headings(T: Array) -> npt.NDArray[np.float64]:
    """Viewing directions of cameras (N, 4, 4) in the plane of the map, rad from x.

    The direction of the optical axis, z; if it is nearly vertical (a camera that looks down, or
    poses of a vehicle with z up), the direction of x.
    """
    upright = np.abs(T[:, 2, 2]) > 0.8
    ahead = np.where(upright[:, None], T[:, :2, 0], T[:, :2, 2])
    return np.arctan2(ahead[:, 1], ahead[:, 0])


def bits(masks: npt.NDArray[np.unsignedinteger]) -> Int64:
    """Number of bits set in each mask."""
    return np.array([int(mask).bit_count() for mask in masks], dtype=np.int64)


def _apart(angles: Array, least_rad: float) -> Array:
    """Angles at least `least_rad` from each other, of angles relative to a first one, from it on.

    Each further one is the next that is far enough from the last one and from the first.
    """
    around = np.sort(angles % (2.0 * np.pi))
    chosen = [0.0]
    while True:
        at = int(np.searchsorted(around, chosen[-1] + least_rad))
        if at == len(around) or around[at] > 2.0 * np.pi - least_rad:
            return np.array(chosen)
        chosen.append(float(around[at]))


def _hours(place_map: PlaceMap) -> tuple[Int64, str]:
    """Hour of the day of each keyframe, -1 if its stamp has no date, and the clock.

    The clock is that of the sun where the map has an origin on the Earth, else UTC.
    """
    origin = place_map.manifest.origin
    shift_ns = round(origin.get('lon_deg', 0.0) / DEG_PER_HOUR * HOUR_NS)
    stamps = place_map.stamps_ns
    hours = np.where(stamps >= EPOCH_NS, (stamps - EPOCH_NS + shift_ns) // HOUR_NS % DAY_HOURS, -1)
    return hours.astype(np.int64), 'solar' if origin else 'utc'


def _tree(place_map: PlaceMap) -> cKDTree:
    positions = place_map.T_map_cam[:, :3, 3]
    return cKDTree(np.clip(np.nan_to_num(positions), -FARTHEST_M, FARTHEST_M))


def _shares(counts: Sequence[int] | Int64, noun: str) -> list[str]:
    """Shares of places by number, e.g. `1 direction: 83%`."""
    found = np.minimum(np.asarray(counts), MOST)
    return [f'{number}{" or more" if number == MOST else ""} {noun}{"s" * int(number != 1)}: '
            f'{(found == number).mean():.0%}' for number in np.unique(found)]
