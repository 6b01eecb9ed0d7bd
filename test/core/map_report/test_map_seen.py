"""Directions and times of day in which a map has seen its places."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.cli import main
from regvpr_core.map_report.seen import bits, places, seen, summary
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter

NINE_NS = 1_750_064_400_000_000_000  # 2025-06-16 09:00 UTC
HOUR_NS = 3_600_000_000_000
CAMERA = Rotation.from_matrix([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])


def looking(x: float, yaw_deg: float) -> np.ndarray:
    T = np.eye(4)
    T[:3, :3] = (Rotation.from_euler('z', yaw_deg, degrees=True) * CAMERA).as_matrix()
    T[0, 3] = x
    return T


@pytest.fixture
def make(tmp_path: Path):
    def write(drives: list[tuple[str, int, list[tuple[float, float]]]], **manifest) -> Path:
        """Drives: a name, the stamp of all their images, and (x, yaw) of these."""
        about = Manifest(**({'map_id': 'seen', 'model': 'm', 'fingerprint': 'f' * 64,
                             'dimension': 8} | manifest))
        row = np.ones(8, np.float32) / np.sqrt(np.float32(8))
        with MapWriter.create(tmp_path / 'site', about) as writer:
            writer.append([
                Keyframe(stamp_ns=stamp_ns, camera='front', source=name, descriptor=row,
                         T_map_cam=looking(x, yaw_deg))
                for name, stamp_ns, keyframes in drives for x, yaw_deg in keyframes])
        return tmp_path / 'site'
    return write


def street(start: float, end: float, yaw_deg: float) -> list[tuple[float, float]]:
    return [(x, yaw_deg) for x in np.arange(start, end, 2.0)]


def test_directions_hours_and_drives_of_a_place_are_those_of_the_keyframes_near_it(make):
    path = make([('out', NINE_NS, street(0, 100, 0)),
                 ('back', NINE_NS + 8 * HOUR_NS, street(50, 100, 180)),
                 ('wobble', NINE_NS + HOUR_NS // 2, street(0, 30, 15))])
    with PlaceMap.open(path) as place_map:
        found = seen(place_map, np.array([5, 40]), 5.0, 0.9)
    # x = 10: eastward twice, 15 degrees apart, in the hour from nine. x = 80: both ways.
    assert found.directions.tolist() == [0b1, 0b10001]
    assert found.hours.tolist() == [1 << 9, 1 << 9 | 1 << 17]
    assert found.drives.tolist() == [2, 2]
    assert found.clock == 'utc'


@pytest.mark.parametrize(('yaws', 'count'), [
    ([0.0, 20.0, -20.0], 1), ([0.0, 40.0, -40.0], 1), ([0.0, 52.0], 2), ([0.0, 51.0], 1),
    ([0.0, 180.0, 90.0, 270.0], 4), ([170.0, -170.0], 1), (list(range(0, 360, 10)), 6)])
def test_directions_closer_than_the_angle_of_a_place_count_as_one(make, yaws, count):
    path = make([('turn', NINE_NS, [(0.0, yaw) for yaw in yaws])])
    with PlaceMap.open(path) as place_map:
        found = seen(place_map, np.array([0]), 5.0, 0.9)
    assert bits(found.directions).tolist() == [count]


def test_shares_are_of_places_however_often_each_was_photographed(make):
    # 50 keyframes at one spot are one place among the ten of the rest of the street.
    path = make([('out', NINE_NS, [(10.0 * i, 0.0) for i in range(10)] + [(200.0, 0.0)] * 50),
                 ('back', NINE_NS + 3 * HOUR_NS, [(200.0, 180.0), (0.0, 90.0)])])
    with PlaceMap.open(path) as place_map:
        assert len(places(place_map, 5.0)) == 11
        assert summary(place_map, 5.0, 0.9) == {
            'directions_per_place': ['1 direction: 82%', '2 directions: 18%'],
            'hours_per_place': ['1 hour: 82%', '2 hours: 18%'],
            'places_by_hour_utc': ['09 h: 100%', '12 h: 18%'],
            'drives_per_place': ['1 drive: 82%', '2 drives: 18%']}


def test_hours_are_those_of_the_sun_where_the_map_has_an_origin_on_the_earth(make):
    # 135 degrees east: the sun is nine hours ahead of Greenwich.
    path = make([('out', NINE_NS, street(0, 10, 0))],
                origin={'lat_deg': 35.0, 'lon_deg': 135.0, 'alt_m': 0.0})
    with PlaceMap.open(path) as place_map:
        assert summary(place_map, 5.0, 0.9)['places_by_hour_solar'] == ['18 h: 100%']


def test_stamps_without_a_date_say_nothing_of_the_hour(make):
    path = make([('simulated', 7 * HOUR_NS, street(0, 10, 0))])
    with PlaceMap.open(path) as place_map:
        assert seen(place_map, np.arange(5), 5.0, 0.9).hours.tolist() == [0] * 5
        assert summary(place_map, 5.0, 0.9)['hours_per_place'] == ['not known']


def test_an_empty_map_has_no_shares(make):
    with PlaceMap.open(make([])) as place_map:
        assert summary(place_map, 5.0, 0.9) == {}


def test_the_command_lists_directions_and_hours(make, capsys):
    path = make([('out', NINE_NS, street(0, 100, 0)), ('back', NINE_NS, street(0, 100, 180))])
    assert main(['map', 'info', str(path), '--places', '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['directions_per_place'] == ['2 directions: 100%']
    assert facts['places_by_hour_utc'] == ['09 h: 100%']
    assert main(['map', 'info', str(path), '--places']) == 0
    assert '2 directions: 100%' in capsys.readouterr().out
