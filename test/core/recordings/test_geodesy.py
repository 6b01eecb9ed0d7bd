import numpy as np
from pyproj import Geod, Proj
import pytest

from regvpr_core.errors import BagError, ConfigError
from regvpr_core.recordings.geodesy import (
    from_utm,
    GpsConfig,
    headings,
    on_one_plane,
    Origin,
    valid_fix,
    without_jumps,
    yaw_of_heading,
    yaw_poses,
)

SECOND = 10**9


def test_metres_east_and_north_are_those_along_the_ellipsoid():
    origin = Origin(lat_deg=48.2, lon_deg=11.5, alt_m=500.0)
    geod = Geod(ellps='WGS84')
    for azimuth, metres in ((0, 1000.0), (90, 250.0), (225, 30_000.0)):
        lon, lat, _ = geod.fwd(11.5, 48.2, azimuth, metres)
        x, y, z = origin.metres([lat], [lon], [510.0])[0]
        assert np.hypot(x, y) == pytest.approx(metres, abs=1e-3)
        assert (x, y) == pytest.approx((metres * np.sin(np.radians(azimuth)),
                                        metres * np.cos(np.radians(azimuth))), abs=1e-3)
        assert z == 10.0
    assert origin.metres([48.2], [11.5], [np.nan]).tolist() == [[0.0, 0.0, 0.0]]


def test_places_on_other_continents_do_not_fit_one_map():
    with pytest.raises(BagError, match=r'positions \d+ km from the origin .* do not fit one map'):
        Origin(lat_deg=55.7, lon_deg=12.5).metres([37.8], [-122.4], [0.0])


@pytest.mark.parametrize(('lat', 'lon', 'zone', 'north'), [
    (48.2, 11.5, 32, True), (-33.9, 151.2, 56, False)])
def test_utm_goes_back_to_the_earth(lat, lon, zone, north):
    proj = Proj(proj='utm', zone=zone, ellps='WGS84', south=not north)
    x, y = proj(lon, lat)
    got = from_utm([x], [y], zone, north)
    assert (got[0][0], got[1][0]) == pytest.approx((lat, lon), abs=1e-8)


def test_fixes_that_are_none_are_told():
    assert valid_fix([48, 0, 91, np.nan, 0, -90], [11, 0, 0, 11, 5, 180]).tolist() == [
        True, False, False, False, True, True]


def test_a_few_fixes_far_away_are_a_jump_and_the_drive_is_not():
    stamps = SECOND * np.arange(30)
    line = np.stack([2.0 * np.arange(30), np.zeros(30), np.zeros(30)], axis=1)
    assert without_jumps(stamps, line, 70.0).all()
    bad = line.copy()
    bad[10:13, 1] += 500.0
    assert np.flatnonzero(~without_jumps(stamps, bad, 70.0)).tolist() == [10, 11, 12]
    first = line.copy()
    first[0] += 1e5  # a cold start
    assert np.flatnonzero(~without_jumps(stamps, first, 70.0)).tolist() == [0]
    tunnel = line.copy()
    tunnel[15:, 0] += 3000.0  # comes out elsewhere: both sides are real
    assert without_jumps(stamps, tunnel, 70.0).all()
    assert without_jumps(stamps[:3], bad[9:12], 70.0).sum() == 2  # none has five: the longest
    assert without_jumps(stamps[:1], line[:1], 70.0).all()
    assert without_jumps(stamps[:0], line[:0], 70.0).shape == (0,)


def north(count: int, lat: float = 48.0, lon: float = 11.0) -> np.ndarray:
    """Fixes of a drive to the north at 11 m/s, one a second."""
    return np.stack([lat + 1e-4 * np.arange(count), np.full(count, lon), np.full(count, 500.0)], 1)


@pytest.mark.parametrize(('where', 'lat', 'lon'), [
    ('first', 0.0, 11.0), ('first', 37.8, -122.4), ('middle', -48.0, -169.0),
    ('first', 48.5, 11.5), ('last', 90.0, 0.0)])
@pytest.mark.parametrize('lon_0', [11.0, 180.0])
def test_one_absurd_fix_is_a_jump_and_never_the_origin(where, lat, lon, lon_0):
    drive = north(12, lon=lon_0)
    drive[::2, 1] -= 360.0 * (lon_0 == 180.0)  # on the line of the date both are written
    at = {'first': 0, 'middle': 6, 'last': 12}[where]
    places = np.insert(drive, at, [lat, lon + lon_0 - 11.0, 0.0], axis=0)
    stamps = SECOND * np.arange(13)
    origin, positions, keep = on_one_plane(places, None, 70.0, stamps)
    assert np.flatnonzero(~keep).tolist() == [at]
    assert (origin.lat_deg, origin.alt_m) == (48.0, 500.0)
    assert positions[0] == pytest.approx([0, 0, 0], abs=1e-6)
    np.testing.assert_allclose(np.diff(positions[:, 1]), 11.12, atol=0.01)
    given = Origin(lat_deg=48.0, lon_deg=lon_0, alt_m=490.0)
    origin, positions, keep = on_one_plane(places, given, 70.0, stamps)
    assert (origin, int(keep.sum())) == (given, 12)
    assert positions[0] == pytest.approx([0, 0, 10], abs=1e-6)


def test_a_receiver_that_begins_on_another_continent_comes_home():
    places = np.concatenate([north(8, 37.8, -122.4), north(20)])
    origin, _, keep = on_one_plane(places, None, 70.0, SECOND * np.arange(28))
    assert keep.tolist() == [False] * 8 + [True] * 20
    assert origin == Origin(lat_deg=48.0, lon_deg=11.0, alt_m=500.0)


def test_whole_sources_too_far_from_one_another_are_refused_still():
    with pytest.raises(BagError, match=r'positions 9\d\d\d km from the origin \(latitude 37.8000,'
                                       r' .* do not fit one map; build one for each area'):
        on_one_plane(north(12), Origin(lat_deg=37.8, lon_deg=-122.4), 70.0, SECOND * np.arange(12))
    half = np.concatenate([north(6, 37.8, -122.4), north(6)])
    with pytest.raises(BagError, match=r'6 of 12 positions are more than 1000 km from the median '
                                       r'one .* do not fit one map; build one for each area'):
        on_one_plane(half, None, 70.0)


def test_places_without_times_have_no_speed():
    places = north(5)
    places[2, 1] += 1.0
    assert on_one_plane(places, None, 70.0)[2].all()
    assert on_one_plane(places[:1], None, 70.0, np.zeros(1, np.int64))[2].tolist() == [True]


def test_headings_follow_the_motion():
    circle = np.radians(np.arange(0, 360, 5))
    positions = 50.0 * np.stack([np.cos(circle), np.sin(circle)], axis=1)
    got = headings(positions, 1.0)
    want = circle + np.pi / 2
    error = np.angle(np.exp(1j * (got - want)))
    assert np.abs(error[1:-1]).max() < 1e-9
    assert np.abs(error).max() < np.radians(2.6)  # the ends look one way only


def test_a_robot_that_stands_keeps_its_heading():
    rng = np.random.default_rng(0)
    drive = np.stack([np.arange(10.0), np.zeros(10)], axis=1)
    stop = drive[-1] + rng.normal(0, 0.1, (50, 2))
    on = drive[-1] + np.stack([np.zeros(5), 1.5 + 1.5 * np.arange(5.0)], axis=1)
    got = headings(np.concatenate([drive[:1] + rng.normal(0, 0.1, (20, 2)), drive, stop, on]),
                   1.0)
    assert np.abs(got[:28]).max() < 0.35  # before it moves: as it will
    assert 0.3 < got[40] < 1.8  # between the way-points of the bend
    assert np.abs(got[-4:] - np.pi / 2).max() < 0.2
    assert np.isnan(headings(stop, 1.0)).all()
    assert headings(np.zeros((0, 2)), 1.0).shape == (0,)
    assert np.isnan(headings(np.zeros((1, 3)), 1.0)).all()


def test_a_compass_turns_the_other_way_from_north():
    assert yaw_of_heading([0, 90, 180, 270]).tolist() == pytest.approx(
        [np.pi / 2, 0, -np.pi / 2, -np.pi])
    T = yaw_poses(np.zeros((2, 3)), np.array([np.pi / 2, np.nan]))
    np.testing.assert_allclose(T[0, :3, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(T[1], np.eye(4))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r'gps.max_speed_mps is 0.0; expected 1.0 to 1000.0'):
        GpsConfig(max_speed_mps=0.0)
    with pytest.raises(ConfigError, match=r'gps.heading_step_m is nan'):
        GpsConfig(heading_step_m=float('nan'))


def test_without_pyproj_the_extra_is_named(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, 'pyproj', None)
    with pytest.raises(ConfigError, match=r"need pyproj: pip install 'regvpr_ros\[gps\]'"):
        Origin(lat_deg=0.0, lon_deg=0.0).metres([1.0], [1.0], [0.0])
