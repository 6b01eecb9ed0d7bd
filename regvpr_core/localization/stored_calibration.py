"""Storage of a map's calibration as JSON in its attachment `calibration`."""

import json
import math
from pathlib import Path
from typing import Any

from regvpr_core.errors import MapError
from regvpr_core.localization.belief import BeliefConfig, place_radius
from regvpr_core.localization.calibration import Bin, BINS, calibrate, Calibration
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter

NAME = 'calibration'
VERSION = 2
"""Version of the format. Version 1 had another definition of the score; such a map is calibrated
again in memory when it is opened."""

MAX_BYTES = 65_536
MAX_COUNT = 10**12

STANDARD = 'nothing: the map is too small, standard values hold'
"""Source of a calibration that could not be learnt."""


def calibrate_and_store(path: Path, traverse: Path | None = None) -> Calibration:
    """Learn a map's calibration and store it in the map; arguments as `calibrated`.

    Raises:
        MapError: a map cannot be read or written, or the two are not of one model.
    """
    calibration = calibrated(path, traverse)
    with MapWriter.append_to(path) as writer:
        writer.attach(NAME, to_json(calibration))
    return calibration


def calibrated(path: Path, traverse: Path | None = None) -> Calibration:
    """Learn a map's calibration.

    Args:
        path: the map's folder.
        traverse: map of a second drive through the same streets, in the same frame; None: pairs
            of the map's own keyframes are used.

    Raises:
        MapError: a map cannot be read, or the two are not of one model, or not of one place.
    """
    config = BeliefConfig()
    with PlaceMap.open(path) as place_map:
        radius_m = place_radius(place_map.T_map_cam, config, place_map.drives)
        if traverse is None:
            return calibrate(place_map, radius_m, config.place_angle_rad)
        with PlaceMap.open(traverse, fingerprint=place_map.manifest.fingerprint) as second:
            calibration = calibrate(place_map, radius_m, config.place_angle_rad, second)
            if not calibration.queries:
                raise MapError(
                    f'traverse {traverse} teaches nothing about map {path}: too few of its '
                    f"{len(second)} keyframes lie within {radius_m:.1f} m of the map's; "
                    f'are both in one frame?')
    return calibration


def stored_or_learnt(place_map: PlaceMap, radius_m: float, angle_rad: float) -> Calibration:
    """The stored calibration of a map; without one, it is learnt from the map's own pairs.

    Raises:
        MapError: the stored calibration is invalid.
    """
    data = place_map.attachment(NAME)
    if data is None or is_old(data):
        return calibrate(place_map, radius_m, angle_rad)
    return from_json(data, f'the calibration of map {place_map.path}')


def is_old(data: bytes) -> bool:
    """Whether a map's calibration was written by an older version."""
    if len(data) > MAX_BYTES:
        return False
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get('version') == 1


def to_json(calibration: Calibration) -> bytes:
    """Serialise for the attachment."""
    return json.dumps({
        'version': VERSION, 'offset': calibration.offset, 'gain': calibration.gain,
        'weight': calibration.weight,
        'match': list(calibration.match), 'source': calibration.source,
        'queries': calibration.queries,
        'bins': [[b.predicted, b.true, b.count] for b in calibration.bins],
    }).encode()


def from_json(data: bytes, name: str) -> Calibration:
    """Parse and check the attachment of an untrusted map.

    Raises:
        MapError: invalid JSON, or a number out of range; the message says what to do.
    """
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f'{len(data)} bytes; expected at most {MAX_BYTES}')
        values = json.loads(data)
        if not isinstance(values, dict) or values.get('version') != VERSION:
            raise ValueError(f'expected a table of version {VERSION}')
        match, bins = values['match'], values['bins']
        if not isinstance(match, list) or len(match) != 3:
            raise ValueError('match: expected three numbers')
        if not isinstance(bins, list) or len(bins) > BINS:
            raise ValueError(f'bins: expected at most {BINS}')
        source = values['source']
        if not isinstance(source, str) or len(source) > 200:
            raise ValueError('source: expected a short text')
        return Calibration(
            offset=_number(values['offset'], 'offset', -1e3, 1e3),
            gain=_number(values['gain'], 'gain', 1e-6, 1e3),
            weight=_number(values['weight'], 'weight', 0.0, 1e3),
            match=(_number(match[0], 'match[0]', -1e4, 1e4),
                   _number(match[1], 'match[1]', -1e4, 1e4),
                   _number(match[2], 'match[2]', -1e4, 1e4)),
            source=source, queries=int(_number(values['queries'], 'queries', 0, MAX_COUNT)),
            bins=tuple(_bin(row) for row in bins))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = f'{error} is missing' if isinstance(error, KeyError) else error
        raise MapError(f'{name} cannot be used: {reason}; write it anew with `regvpr map '
                       f'calibrate`') from error


def _bin(row: Any) -> Bin:
    if not isinstance(row, list) or len(row) != 3:
        raise ValueError('bins: expected [predicted, true, count]')
    return Bin(predicted=_number(row[0], 'predicted', 0.0, 1.0),
               true=_number(row[1], 'true', 0.0, 1.0),
               count=int(_number(row[2], 'count', 0, MAX_COUNT)))


def _number(value: Any, name: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f'{name} is {str(value)[:40]!r}; expected a number')
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f'{name} is {value!r}; expected {low:g} to {high:g}')
    return float(value)
