"""Export of places to CSV, GeoJSON or NPZ."""

from collections.abc import Iterator
import contextlib
import csv
import json
import os
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from regvpr_core.errors import ConfigError, MapError
from regvpr_core.geometry import Array, quat_xyzw
from regvpr_core.maps.place_map import PlaceMap

FORMATS = ('.csv', '.geojson', '.npz')
MAX_TEXT_BYTES = 1 << 30

COLUMNS = ('id', 'stamp_ns', 'camera', 'x', 'y', 'z', 'qx', 'qy', 'qz', 'qw', 'source', 'image')


def export_map(place_map: PlaceMap, file: Path, *, local: bool = False) -> int:
    """Write the places of a map to a file, which appears only once it is complete.

    CSV and GeoJSON contain latitude and longitude if the map has an origin. NPZ contains the
    stored descriptors and needs no pickle.

    Args:
        place_map: may be open with the index `none`.
        file: ends in .csv, .geojson or .npz.
        local: write GeoJSON of a map without an origin in metres of the map frame, against the
            specification.

    Returns:
        Bytes written.

    Raises:
        ConfigError: unknown suffix, or pyproj is needed and not installed.
        MapError: the file exists or cannot be written, a descriptor is damaged, or GeoJSON is
            requested of a map without an origin.
    """
    suffix = file.suffix.lower()
    if suffix not in FORMATS:
        raise ConfigError(f'{file} ends in {suffix or "nothing"!r}; expected one of '
                          f'{", ".join(FORMATS)}')
    if file.exists() or file.is_symlink():
        raise MapError(f'{file} exists; remove it or choose another name')
    if suffix == '.geojson' and not (place_map.manifest.origin or local):
        raise MapError(f'map {place_map.path} does not know where on the Earth its frame '
                       f'{place_map.manifest.map_frame!r} lies (it was not built from GPS); '
                       f'--local writes metres in that frame instead')
    places = None if suffix == '.npz' or local else _latitudes(place_map)
    # NumPy appends .npz to other names.
    partial = file.with_name(f'.{file.stem}.partial{suffix}')
    try:
        with _finished(partial, file):
            if suffix == '.npz':
                _write_npz(place_map, partial)
            else:
                write = _write_csv if suffix == '.csv' else _write_geojson
                with partial.open('w', encoding='utf-8', newline='') as stream:
                    write(place_map, places, stream)
    except OSError as error:
        raise MapError(f'cannot write {file}: {error}') from error
    return file.stat().st_size


@contextlib.contextmanager
def _finished(partial: Path, file: Path) -> Iterator[None]:
    try:
        yield
        with partial.open('rb') as stream:
            os.fsync(stream.fileno())
        partial.rename(file)
    finally:
        partial.unlink(missing_ok=True)


def _latitudes(place_map: PlaceMap) -> Array | None:
    """Latitude, longitude (deg) and altitude (m) of the keyframes (N, 3), or None."""
    from regvpr_core.recordings.geodesy import Origin

    values = place_map.manifest.origin
    return Origin(**values).places(place_map.T_map_cam[:, :3, 3]) if values else None


def _write_csv(place_map: PlaceMap, places: Array | None, stream: TextIO) -> None:
    writer = csv.writer(stream)
    writer.writerow([*COLUMNS, *(() if places is None else ('lat_deg', 'lon_deg', 'alt_m'))])
    for i, row in enumerate(_rows(place_map)):
        writer.writerow([*row, *(() if places is None else map(repr, places[i].tolist()))])


def _write_geojson(place_map: PlaceMap, places: Array | None, stream: TextIO) -> None:
    """RFC 7946: one point per keyframe, longitude first."""
    stream.write('{"type": "FeatureCollection", "features": [')
    for i, row in enumerate(_rows(place_map)):
        position = place_map.T_map_cam[i, :3, 3] if places is None else places[i, [1, 0, 2]]
        coordinates = [round(float(v), 9) for v in position]
        stream.write(',\n' if i else '\n')
        json.dump({'type': 'Feature', 'id': i,
                   'geometry': {'type': 'Point', 'coordinates': coordinates},
                   'properties': dict(zip(COLUMNS[1:], row[1:], strict=True))}, stream)
    stream.write('\n]}\n')


def _rows(place_map: PlaceMap) -> Iterator[tuple[Any, ...]]:
    """Rows of the CSV file, with values in the order of `COLUMNS`."""
    quats = quat_xyzw(place_map.T_map_cam)
    for i in range(len(place_map)):
        yield (i, int(place_map.stamps_ns[i]), place_map.cameras[i],
               *map(float, place_map.T_map_cam[i, :3, 3]), *map(float, quats[i]),
               place_map.sources[i], place_map.images[i])


def _write_npz(place_map: PlaceMap, partial: Path) -> None:
    place_map.check_descriptors()
    manifest = place_map.manifest
    np.savez(partial, stamps_ns=place_map.stamps_ns, T_map_cam=place_map.T_map_cam,
             descriptors=place_map.stored_descriptors, cameras=_text(place_map.cameras),
             sources=_text(place_map.sources), images=_text(place_map.images),
             model=np.str_(manifest.model), fingerprint=np.str_(manifest.fingerprint),
             map_frame=np.str_(manifest.map_frame), map_id=np.str_(manifest.map_id))


def _text(names: list[str]) -> npt.NDArray[np.str_]:
    """Names as a fixed-width array; the width is that of the longest name."""
    size = 4 * len(names) * max(map(len, names), default=0)
    if size > MAX_TEXT_BYTES:
        raise MapError(f'a name of {max(map(len, names))} characters would make {len(names)} '
                       f'names {size} bytes of text; export to CSV instead')
    return np.array(names, dtype=np.str_)
