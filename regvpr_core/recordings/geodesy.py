"""Conversion of positions on the Earth to metres in a local plane, and headings from motion."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from regvpr_core.config import check_settings, setting
from regvpr_core.errors import BagError, ConfigError
from regvpr_core.geometry import Array

MAX_REACH_M = 1_000_000.0
"""Largest distance from the origin, m; further away the plane is distorted by over 0.4 %."""

MIN_SEGMENT = 5

HIGHEST_M = 20_000.0
"""Largest valid altitude, m; some receivers write 99999 for an unknown altitude."""

ZERO_IS_FAR_M = 20.0
"""If the median height differs from 0 by more than this, m, a height of exactly 0 is unknown."""

NEAR_S = 60.0
"""A missing height is interpolated if a known height is at most this time away, s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpsConfig:
    """Settings for the conversion of GPS fixes to poses."""

    max_speed_mps: float = setting(
        70.0,
        'A faster step between fixes is a jump; the few fixes between two jumps are dropped.',
        1.0, 1000.0, unit='m/s')
    heading_step_m: float = setting(
        1.0, 'The heading is the direction of a motion of at least this length.',
        0.1, 100.0, unit='m')

    def __post_init__(self) -> None:
        check_settings(self, 'gps')


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Position on WGS84 of the origin of a map: x east, y north, z up."""

    lat_deg: float
    lon_deg: float
    alt_m: float = 0.0

    def metres(
        self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike, alt_m: npt.ArrayLike
    ) -> Array:
        """Positions (N, 3) of places, azimuthal equidistant; a NaN altitude gives z = 0.

        Raises:
            ConfigError: pyproj is not installed.
            BagError: a place is too far away for one plane.
        """
        positions = self._plane(lat_deg, lon_deg, alt_m)
        reach = float(_reach_m(positions).max(initial=0.0))
        if not reach <= MAX_REACH_M:
            raise BagError(f'positions {reach / 1e3:.0f} km from the origin (latitude '
                           f'{self.lat_deg:.4f}, longitude {self.lon_deg:.4f}) do not fit one '
                           f'map; build one for each area')
        return positions

    def _plane(
        self, lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike, alt_m: npt.ArrayLike
    ) -> Array:
        projection = _pyproj().Proj(proj='aeqd', lat_0=self.lat_deg, lon_0=self.lon_deg,
                                    ellps='WGS84')
        x, y = projection(np.asarray(lon_deg, dtype=float), np.asarray(lat_deg, dtype=float))
        up = np.nan_to_num(np.asarray(alt_m, dtype=float) - self.alt_m, nan=0.0)
        return np.stack([np.asarray(x), np.asarray(y), up], axis=-1)

    def places(self, positions: Array) -> Array:
        """Latitude, longitude (deg) and altitude (m) (N, 3) of positions; inverse of `metres`.

        Raises:
            ConfigError: pyproj is not installed.
        """
        projection = _pyproj().Proj(proj='aeqd', lat_0=self.lat_deg, lon_0=self.lon_deg,
                                    ellps='WGS84')
        lon, lat = projection(positions[:, 0], positions[:, 1], inverse=True)
        return np.stack([lat, lon, positions[:, 2] + self.alt_m], axis=-1)


def from_utm(
    easting: npt.ArrayLike, northing: npt.ArrayLike, zone: int, north: bool
) -> tuple[Array, Array]:
    """Latitudes and longitudes (deg) of UTM coordinates in one zone.

    Raises:
        ConfigError: pyproj is not installed.
    """
    hemisphere = {} if north else {'south': True}
    projection = _pyproj().Proj(proj='utm', zone=zone, ellps='WGS84', **hemisphere)
    lon, lat = projection(np.asarray(easting, dtype=float), np.asarray(northing, dtype=float),
                          inverse=True)
    return np.asarray(lat), np.asarray(lon)


def valid_fix(lat_deg: npt.ArrayLike, lon_deg: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Mask of valid places: within range, and not the 0, 0 of a receiver without a fix."""
    lat, lon = np.asarray(lat_deg, dtype=float), np.asarray(lon_deg, dtype=float)
    with np.errstate(invalid='ignore'):
        return np.asarray((np.abs(lat) <= 90.0) & (np.abs(lon) <= 360.0)
                          & ((lat != 0.0) | (lon != 0.0)))


def fill_heights(heights_m: Array, stamps_ns: npt.ArrayLike
                 ) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Heights (N,) with missing ones filled in, and the mask of missing ones.

    A height is missing if it is NaN, impossible, or 0 among heights far from 0. It is interpolated
    from known heights within `NEAR_S`, else it is the median. All heights are 0 if none is known.
    """
    heights = np.asarray(heights_m, dtype=float).copy()
    times = np.asarray(stamps_ns, dtype=float) / 1e9
    with np.errstate(invalid='ignore'):
        known = np.isfinite(heights) & (np.abs(heights) < HIGHEST_M)
    nonzero = known & (heights != 0.0)
    if nonzero.any() and abs(float(np.median(heights[nonzero]))) > ZERO_IS_FAR_M:
        known = nonzero
    missing = ~known
    if not missing.any():
        return heights, missing
    if not known.any():
        return np.zeros_like(heights), np.zeros(len(heights), dtype=bool)
    order = np.argsort(times[known], kind='stable')
    at, of = times[known][order], heights[known][order]
    near = np.abs(times[missing][:, None] - at[_nearest(at, times[missing])][:, None])[:, 0]
    heights[missing] = np.where(near <= NEAR_S, np.interp(times[missing], at, of),
                                float(np.median(of)))
    return heights, missing


def _nearest(sorted_times: Array, times: Array) -> npt.NDArray[np.int64]:
    """Indices of the nearest of some sorted times."""
    after = np.clip(np.searchsorted(sorted_times, times), 1, max(len(sorted_times) - 1, 1))
    after = np.minimum(after, len(sorted_times) - 1)
    before = np.maximum(after - 1, 0)
    closer = np.abs(sorted_times[before] - times) <= np.abs(sorted_times[after] - times)
    return np.asarray(np.where(closer, before, after), dtype=np.int64)


def on_one_plane(
    places: Array,
    origin: Origin | None,
    max_speed_mps: float,
    stamps_ns: npt.NDArray[np.int64] | None = None,
    resolution_s: float = 0.02,
) -> tuple[Origin, Array, npt.NDArray[np.bool_]]:
    """Convert fixes (N, 3) of latitude, longitude (deg) and altitude (m) to metres, without jumps.

    Jumps are fixes more than `MAX_REACH_M` from the median and, with stamps, those rejected by
    `without_jumps`.

    Args:
        places: one or more valid fixes, in the order of their stamps.
        origin: of the map, if known; else the first fix that is no jump.
        max_speed_mps, stamps_ns, resolution_s: as in `without_jumps`.

    Returns:
        The origin, positions (K, 3) of the fixes that are no jumps, and their mask (N,).

    Raises:
        ConfigError: pyproj is not installed.
        BagError: most fixes are too far from each other or from the origin for one plane.
    """
    median = _median(places)
    positions = median._plane(*places.T)
    keep = _reach_m(positions) <= MAX_REACH_M
    if 2 * int(keep.sum()) <= len(places):
        raise BagError(f'{int((~keep).sum())} of {len(places)} positions are more than '
                       f'{MAX_REACH_M / 1e3:.0f} km from the median one (latitude '
                       f'{median.lat_deg:.4f}, longitude {median.lon_deg:.4f}) and do not fit '
                       f'one map; build one for each area')
    if stamps_ns is not None:
        keep[keep] = without_jumps(stamps_ns[keep], positions[keep], max_speed_mps, resolution_s)
    if origin is None:
        lat, lon, alt = places[keep][0].tolist()
        origin = Origin(lat_deg=lat, lon_deg=lon, alt_m=alt if np.isfinite(alt) else 0.0)
    return origin, origin.metres(*places[keep].T), keep


def without_jumps(
    stamps_ns: npt.NDArray[np.int64],
    positions: Array,
    max_speed_mps: float,
    resolution_s: float = 0.02,
) -> npt.NDArray[np.bool_]:
    """Mask of the fixes (N, 3) to keep.

    Steps that are too fast split the drive into pieces. Pieces of fewer than five fixes are
    dropped, or all but the longest if no piece has five. `resolution_s` is the resolution of the
    stamps and the least time of a step.
    """
    if len(positions) < 2:
        return np.ones(len(positions), dtype=bool)
    seconds = np.maximum(np.diff(stamps_ns) / 1e9, resolution_s)
    speed = np.linalg.norm(np.diff(positions[:, :2], axis=0), axis=1) / seconds
    piece = np.concatenate([[0], np.cumsum(speed > max_speed_mps)])
    lengths = np.bincount(piece)
    return np.asarray(lengths[piece] >= min(MIN_SEGMENT, int(lengths.max())))


def headings(positions: Array, step_m: float) -> Array:
    """Yaw (N,) rad, counter-clockwise from x, of a motion through positions (N, 2 or 3).

    Way-points are at least `step_m` apart. The yaw at a way-point is the direction from the
    previous to the next one. Before the first motion it is that of the first motion; NaN without
    any motion. A vehicle that drives backwards gets the opposite yaw.
    """
    xy = np.asarray(positions, dtype=float)[:, :2]
    # Way-points at least a step apart, so that directions between them are accurate.
    marks = [0] if len(xy) else []
    for i in range(1, len(xy)):
        if np.hypot(*(xy[i] - xy[marks[-1]])) >= step_m:
            marks.append(i)
    yaw = np.full(len(xy), np.nan)
    if len(marks) < 2:
        return yaw
    before = np.clip(np.searchsorted(marks, np.arange(len(xy)), side='left') - 1, 0, None)
    after = np.clip(np.searchsorted(marks, np.arange(len(xy)), side='right'), None, len(marks) - 1)
    points = xy[marks]
    motion = points[after] - points[np.minimum(before, after - 1)]
    yaw[:] = np.arctan2(motion[:, 1], motion[:, 0])
    return yaw


def yaw_poses(positions: Array, yaw_rad: Array) -> Array:
    """`T_world_body` (N, 4, 4) of bodies with x ahead and z up; a yaw of NaN counts as 0."""
    yaw = np.nan_to_num(np.asarray(yaw_rad, dtype=float), nan=0.0)
    T = np.tile(np.eye(4), (len(yaw), 1, 1))
    T[:, 0, 0], T[:, 0, 1] = np.cos(yaw), -np.sin(yaw)
    T[:, 1, 0], T[:, 1, 1] = np.sin(yaw), np.cos(yaw)
    T[:, :3, 3] = positions
    return T


def yaw_of_heading(heading_deg: npt.ArrayLike) -> Array:
    """Yaw in rad, counter-clockwise from east, of a compass heading, clockwise from north."""
    return np.asarray(np.radians(90.0 - np.asarray(heading_deg, dtype=float)))


def _median(places: Array) -> Origin:
    """The fix nearest to the median of all fixes, as unit vectors from the Earth's centre.

    A median of longitudes is not defined across 180 degrees.
    """
    lat, lon = np.radians(places[:, 0]), np.radians(places[:, 1])
    unit = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
    nearest = int(np.argmin(np.linalg.norm(unit - np.median(unit, axis=0), axis=1)))
    return Origin(lat_deg=float(places[nearest, 0]), lon_deg=float(places[nearest, 1]))


def _reach_m(positions: Array) -> Array:
    return np.asarray(np.linalg.norm(positions[..., :2], axis=-1))


def _pyproj() -> Any:
    try:
        import pyproj
    except ImportError as error:
        raise ConfigError("positions by GPS need pyproj: pip install 'regvpr_ros[gps]'") from error
    return pyproj
