"""Maps as CSV, GeoJSON and NPZ: what other programs read is what was stored."""

from collections.abc import Callable
import csv
import json
from pathlib import Path

import numpy as np
import pytest

from regvpr_core.errors import ConfigError, MapError
from regvpr_core.map_tools.export import export_map
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter

ORIGIN = {'lat_deg': 50.0, 'lon_deg': 8.0, 'alt_m': 100.0}


@pytest.fixture
def make(tmp_path: Path, rows, place) -> Callable[..., PlaceMap]:
    """A map of five keyframes a metre apart to the east, open: `make(origin)`."""
    def run(origin: dict | None = None, **fields) -> PlaceMap:
        manifest = Manifest(map_id='abc', model='m', fingerprint='f', dimension=16,
                            origin=origin or {})
        with MapWriter.create(tmp_path / 'map', manifest) as writer:
            writer.append([place(i, row, **({'image': f'ü "{i}",.jpg'} | fields))
                           for i, row in enumerate(rows(5))])
        return PlaceMap.open(tmp_path / 'map', index='none')
    return run


def read_csv(file: Path) -> list[dict[str, str]]:
    with file.open(encoding='utf-8', newline='') as stream:
        return list(csv.DictReader(stream))


def test_csv_has_every_pose_and_name(make, tmp_path):
    with make() as place_map:
        size = export_map(place_map, tmp_path / 'out.csv')
        assert size == (tmp_path / 'out.csv').stat().st_size
        table = read_csv(tmp_path / 'out.csv')
        assert list(table[0]) == ['id', 'stamp_ns', 'camera', 'x', 'y', 'z', 'qx', 'qy', 'qz',
                                  'qw', 'source', 'image']
        assert [int(row['stamp_ns']) for row in table] == place_map.stamps_ns.tolist()
        assert [row['image'] for row in table] == place_map.images
        assert [float(row['x']) for row in table] == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert [float(row['qw']) for row in table] == [1.0] * 5


def test_a_map_with_an_origin_has_latitudes(make, tmp_path):
    pytest.importorskip('pyproj')
    with make(ORIGIN) as place_map:
        export_map(place_map, tmp_path / 'out.csv')
        export_map(place_map, tmp_path / 'out.geojson')
    table = read_csv(tmp_path / 'out.csv')
    features = json.loads((tmp_path / 'out.geojson').read_text(encoding='utf-8'))['features']
    # A degree of longitude at 50 degrees north is 71 696 m on WGS84.
    for i, (row, feature) in enumerate(zip(table, features, strict=True)):
        assert float(row['lon_deg']) == pytest.approx(8.0 + i / 71_696, abs=1e-8)
        assert float(row['lat_deg']) == pytest.approx(50.0, abs=1e-8)
        assert float(row['alt_m']) == 100.0
        assert feature['type'] == 'Feature'
        assert feature['geometry']['type'] == 'Point'
        lon, lat, alt = feature['geometry']['coordinates']
        assert (lon, lat, alt) == pytest.approx(
            (float(row['lon_deg']), float(row['lat_deg']), 100.0), abs=1e-9)
        assert feature['properties']['image'] == f'ü "{i}",.jpg'


def test_geojson_of_a_map_without_an_origin_is_refused_unless_metres_are_wanted(make, tmp_path):
    with make() as place_map:
        with pytest.raises(MapError, match="does not know where on the Earth its frame 'map' lies"
                                           r'.*--local writes metres'):
            export_map(place_map, tmp_path / 'out.geojson')
        assert not (tmp_path / 'out.geojson').exists()
        export_map(place_map, tmp_path / 'out.geojson', local=True)
    features = json.loads((tmp_path / 'out.geojson').read_text())['features']
    assert [f['geometry']['coordinates'] for f in features] == [[i, 0, 0] for i in range(5)]


def test_an_npz_needs_no_pickle_and_holds_the_map(make, tmp_path, rows):
    with make() as place_map:
        export_map(place_map, tmp_path / 'out.npz')
        with np.load(tmp_path / 'out.npz', allow_pickle=False) as data:
            np.testing.assert_array_equal(data['descriptors'], rows(5).astype(np.float16))
            np.testing.assert_array_equal(data['T_map_cam'], place_map.T_map_cam)
            assert data['stamps_ns'].tolist() == place_map.stamps_ns.tolist()
            assert data['images'].tolist() == place_map.images
            assert data['cameras'].tolist() == ['front'] * 5
            assert (str(data['model']), str(data['map_frame'])) == ('m', 'map')


def test_an_empty_map_is_exported(tmp_path, manifest):
    MapWriter.create(tmp_path / 'map', manifest).close()
    with PlaceMap.open(tmp_path / 'map', index='none') as place_map:
        for name in ('out.csv', 'out.npz', 'out.geojson'):
            export_map(place_map, tmp_path / name, local=True)
    assert read_csv(tmp_path / 'out.csv') == []
    assert json.loads((tmp_path / 'out.geojson').read_text())['features'] == []
    with np.load(tmp_path / 'out.npz') as data:
        assert data['T_map_cam'].shape == (0, 4, 4)


def test_a_damaged_descriptor_is_not_exported(make, tmp_path):
    with make() as place_map:
        path = place_map.path
    data = bytearray((path / 'descriptors.f16').read_bytes())
    data[40] ^= 1
    (path / 'descriptors.f16').write_bytes(data)
    with PlaceMap.open(path, index='none') as place_map:
        with pytest.raises(MapError, match='the descriptor of keyframe 1 has changed'):
            export_map(place_map, tmp_path / 'out.npz')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['map']


@pytest.mark.parametrize(('name', 'error', 'message'), [
    ('out.xlsx', ConfigError, r"ends in '\.xlsx'; expected one of \.csv, \.geojson, \.npz"),
    ('out', ConfigError, "ends in 'nothing'; expected one of"),
    ('there.csv', MapError, r'there\.csv exists; remove it or choose another name'),
    ('none/out.csv', MapError, r'cannot write .*none/out\.csv: .*No such file'),
    ('none/out.npz', MapError, r'cannot write .*none/out\.npz: .*No such file')])
def test_files_that_cannot_be_written_are_refused(make, tmp_path, name, error, message):
    (tmp_path / 'there.csv').write_text('keep')
    with make() as place_map, pytest.raises(error, match=message):
        export_map(place_map, tmp_path / name)
    assert (tmp_path / 'there.csv').read_text() == 'keep'
    assert not list(tmp_path.glob('*.partial*'))


def test_names_of_a_stranger_lead_nowhere_and_blow_nothing_up(make, tmp_path, rows, place,
                                                              monkeypatch):
    from regvpr_core.map_tools import export

    with make(image='../../../etc/passwd', source='/root/.ssh', camera='a\nb,c"') as place_map:
        for name in ('out.csv', 'out.npz', 'out.geojson'):
            export_map(place_map, tmp_path / name, local=True)
        assert read_csv(tmp_path / 'out.csv')[0]['camera'] == 'a\nb,c"'
        assert sorted(p.name for p in tmp_path.iterdir()) == [
            'map', 'out.csv', 'out.geojson', 'out.npz']
        monkeypatch.setattr(export, 'MAX_TEXT_BYTES', 100)
        with pytest.raises(MapError, match='a name of 6 characters would make 5 names 120 bytes'):
            export_map(place_map, tmp_path / 'more.npz')
