from collections.abc import Callable
import contextlib
import json
from pathlib import Path
import shutil
import sqlite3
import zlib

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.errors import MapError
from regvpr_core.localization.belief import BeliefConfig, place_radius
from regvpr_core.maps.place_map import CENTRE_PRIOR, PlaceMap, unit
from regvpr_core.maps.records import COLUMNS, record_crc32, RecordError, SMALL
from regvpr_core.maps.writer import MapWriter
from regvpr_core.search.index import ExactIndex


def test_keyframes_come_back_as_they_were_written(tmp_path, manifest, rows, place, noise):
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4), (6, 1, 1))
    poses[:, :3, :3] = Rotation.random(6, rng=rng).as_matrix()
    poses[:, :3, 3] = rng.normal(scale=1e4, size=(6, 3))
    d, pictures = rows(6), noise(6)
    with MapWriter.create(tmp_path / 'map', manifest) as writer:
        writer.append([place(i, d[i], T_map_cam=poses[i], camera=f'c{i % 2}', source=f's{i}',
                             thumbnail=pictures[i] if i else None, covariance=np.eye(3))
                       for i in range(6)])
        assert len(writer) == 6
    with PlaceMap.open(tmp_path / 'map', 'f' * 64) as place_map:
        assert len(place_map) == 6
        assert place_map.map_id == 'abc'
        assert place_map.manifest == manifest
        assert place_map.stamps_ns.tolist() == [1_700_000_000_000_000_000 + i for i in range(6)]
        assert place_map.cameras == ['c0', 'c1'] * 3
        assert place_map.sources == [f's{i}' for i in range(6)]
        np.testing.assert_allclose(place_map.T_map_cam, poses, atol=1e-9)
        np.testing.assert_allclose(place_map.descriptors(), d, atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(place_map.descriptors(2, 4), axis=1), 1.0,
                                   atol=1e-6)
        assert place_map.thumbnail(0) is None
        assert place_map.thumbnail(99) is None
        assert np.abs(place_map.thumbnail(3).astype(int) - pictures[3]).mean() < 8.0


def test_search_is_that_of_numpy_on_centred_rows(make_map, rows):
    with PlaceMap.open(make_map(300)) as place_map:
        d = place_map.descriptors()
        centre = d.sum(axis=0) / (300 + CENTRE_PRIOR)
        np.testing.assert_allclose(place_map.centre, centre, atol=1e-5)
        for query in rows(20, seed=9):
            similarities, ids = place_map.search(query, 10)
            want = unit(d - centre) @ unit(query - centre)
            order = np.argsort(-want)[:10]
            assert ids.tolist() == order.tolist()
            np.testing.assert_allclose(similarities, want[order], atol=1e-5)


def test_a_query_can_be_measured_against_its_own_mean(make_map, rows):
    with PlaceMap.open(make_map(50)) as place_map:
        shift = 3.0 * rows(1, seed=5)[0]
        plain = place_map.search(rows(1, seed=8)[0], 5)
        shifted = place_map.search(rows(1, seed=8)[0] + shift, 5, place_map.centre + shift)
        assert plain[1].tolist() == shifted[1].tolist()
        np.testing.assert_allclose(plain[0], shifted[0], atol=1e-5)


def test_a_keyframe_finds_itself_first(make_map):
    with PlaceMap.open(make_map(80)) as place_map:
        for i, row in enumerate(place_map.descriptors()):
            similarities, ids = place_map.search(row, 1)
            assert ids.tolist() == [i]
            assert float(similarities[0]) == pytest.approx(1.0, abs=1e-5)


def test_no_more_is_found_than_there_is(make_map, rows):
    with PlaceMap.open(make_map(3)) as place_map:
        assert len(place_map.search(rows(1)[0], 50)[1]) == 3
        assert len(place_map.search(rows(1)[0], 0)[1]) == 0
    with PlaceMap.open(make_map(0, 'empty')) as place_map:
        similarities, ids = place_map.search(rows(1)[0], 5)
        assert similarities.shape == ids.shape == (0,)
        assert place_map.T_map_cam.shape == (0, 4, 4)


def test_a_query_of_another_length_is_refused(make_map):
    with PlaceMap.open(make_map(3)) as place_map:
        for shape in ((8,), (1, 16), ()):
            with pytest.raises(MapError, match='cannot be searched in a map of 16 numbers'):
                place_map.search(np.ones(shape, np.float32), 1)
    with pytest.raises(MapError, match=r'shape \(1, 8\) cannot be searched in a map of 16'):
        ExactIndex(16).search(np.ones((1, 8), np.float32), 1)


def sql(statement: str, *values, sign: bool = False) -> Callable[[Path], None]:
    """A damage done to the database; `sign` makes all checksums right afterwards."""
    def damage(path: Path) -> None:
        database = sqlite3.connect(path / 'map.db')
        database.execute('PRAGMA ignore_check_constraints=ON')
        database.execute(statement, values)
        if sign:
            for row in database.execute(f'SELECT {", ".join(SMALL)} FROM keyframe').fetchall():
                with contextlib.suppress(RecordError):
                    database.execute('UPDATE keyframe SET record_crc32 = ? WHERE id = ?',
                                     (record_crc32(row), row[0]))
            for (text,) in database.execute('SELECT value FROM manifest').fetchall():
                database.execute('UPDATE manifest SET crc32 = ?', (zlib.crc32(text.encode()),))
        database.commit()
        database.close()
    return damage


def manifest_with(**changes) -> Callable[[Path], None]:
    """A damage done to the manifest, its checksum right; None takes a value out."""
    def damage(path: Path) -> None:
        database = sqlite3.connect(path / 'map.db')
        values = json.loads(database.execute('SELECT value FROM manifest').fetchone()[0])
        database.close()
        values = {k: v for k, v in (values | changes).items() if v is not None}
        sql('UPDATE manifest SET value = ?', json.dumps(values), sign=True)(path)
    return damage


def format_1(path: Path) -> None:
    """What the first format looked like."""
    sql('DROP TABLE attachment')(path)
    sql('PRAGMA user_version = 0')(path)


def flip(file: str, position: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray((path / file).read_bytes())
        content[position] ^= 0x10
        (path / file).write_bytes(content)
    return damage


def nan_row(path: Path) -> None:
    content = np.fromfile(path / 'descriptors.f16', '<f2').reshape(-1, 16)
    content[4] = np.nan
    content.tofile(path / 'descriptors.f16')
    sql('UPDATE keyframe SET descriptor_crc32 = ? WHERE id = 4',
        zlib.crc32(content[4].tobytes()), sign=True)(path)


DAMAGES = {
    'a newer format': (sql('PRAGMA user_version = 3'),
                       'has format 3; this version reads format 2: update regvpr_ros'),
    'a newer manifest': (manifest_with(format_version=3),
                         'has format 3; this version reads format 2: update regvpr_ros'),
    'an older manifest': (manifest_with(format_version=0),
                          'has format 0; this version reads format 2: build the map again'),
    'the first format': (format_1,
                         'has format 1; this version reads format 2: build the map again'),
    'no format number': (sql('PRAGMA user_version = 0'), 'holds other things than a map does'),
    'a format of text': (manifest_with(format_version='1'), 'its manifest cannot be read'),
    'no format': (manifest_with(format_version=None), 'its manifest cannot be read'),
    'no fingerprint': (manifest_with(fingerprint=None), 'its manifest cannot be read'),
    'a number as name': (manifest_with(model=3), 'model is 3; expected str'),
    'an unknown entry': (manifest_with(colour='red'), "unknown setting 'colour'"),
    'extrinsics of six numbers': (manifest_with(extrinsics={'camera': [0.0] * 6}),
                                  "extrinsics of 'camera' are 6 numbers, not 7"),
    'extrinsics without a rotation': (manifest_with(extrinsics={'camera': [0.0] * 7}),
                                      'a quaternion is all zeros'),
    'extrinsics of text': (manifest_with(extrinsics='none'), "extrinsics is 'none'"),
    'intrinsics of 8 numbers': (
        manifest_with(intrinsics={'c': {'K': [1.0] * 8, 'D': [], 'width': 4, 'height': 4}}),
        "intrinsics of 'c' are not K of 9"),
    'intrinsics that are infinite': (
        manifest_with(intrinsics={'c': {'K': [np.inf] * 9, 'D': [], 'width': 4, 'height': 4}}),
        "intrinsics of 'c' are not K of 9"),
    'intrinsics without a K': (manifest_with(intrinsics={'c': {}}), 'manifest cannot be read'),
    'intrinsics of text': (manifest_with(intrinsics={'c': 'f'}), 'manifest cannot be read'),
    'half an origin': (manifest_with(origin={'lat_deg': 50.0}), "origin has ['lat_deg']"),
    'an origin beyond the pole': (
        manifest_with(origin={'lat_deg': 91.0, 'lon_deg': 0.0, 'alt_m': 0.0}),
        'origin lat_deg is 91.0; expected -90.0 to 90.0'),
    'a manifest that has changed': (
        sql("UPDATE manifest SET value = replace(value, 'abc', 'abd')"),
        'its manifest cannot be read: it has changed'),
    'no dimension': (manifest_with(dimension=0), 'dimension is 0; expected 1 to 65536'),
    'a negative dimension': (manifest_with(dimension=-16), 'dimension is -16'),
    'an absurd dimension': (manifest_with(dimension=10**12), 'dimension is 1000000000000'),
    'half a dimension': (manifest_with(dimension=15.5), 'dimension is 15.5; expected int'),
    'a larger dimension': (manifest_with(dimension=17),
                           'descriptors.f16 has 320 bytes, 10 keyframes need 340'),
    'a smaller dimension': (manifest_with(dimension=8), 'descriptor of keyframe 0 has changed'),
    'a manifest of no JSON': (sql("UPDATE manifest SET value = '{'", sign=True),
                              'manifest cannot be read: Expecting property name'),
    'a manifest that is a list': (sql("UPDATE manifest SET value = '[1]'", sign=True),
                                  'manifest cannot'),
    'a manifest of brackets': (sql('UPDATE manifest SET value = ?', '[' * 100_000, sign=True),
                               'manifest'),
    'a huge manifest': (sql('UPDATE manifest SET value = ?', ' ' * 1_000_001, sign=True),
                        'manifest cannot'),
    'a manifest of bytes': (sql("UPDATE manifest SET value = x'00'"), 'manifest cannot be read'),
    'no manifest': (sql('DELETE FROM manifest'), 'its manifest cannot be read'),
    'no table': (sql('DROP TABLE keyframe'), 'holds other things than a map does'),
    'another table': (sql('CREATE TABLE more (a)'), 'holds other things than a map does'),
    'another column': (sql('ALTER TABLE keyframe ADD COLUMN more'), 'holds other things than'),
    'a missing keyframe': (sql('DELETE FROM keyframe WHERE id = 3'), 'keyframe 3 is missing'),
    'a keyframe too many': (
        sql(f'INSERT INTO keyframe SELECT 10, {", ".join(COLUMNS[1:])} FROM keyframe '
            f'WHERE id = 9', sign=True), 'descriptors.f16 has 320 bytes, 11 keyframes need 352'),
    'a pose that has changed': (sql('UPDATE keyframe SET x = 2.5 WHERE id = 2'),
                                'the record of keyframe 2 has changed; `regvpr map verify'),
    'a stamp that has changed': (sql('UPDATE keyframe SET stamp_ns = 1 WHERE id = 2'),
                                 'the record of keyframe 2 has changed'),
    'a name that has changed': (sql("UPDATE keyframe SET image = 'x' WHERE id = 9"),
                                'the record of keyframe 9 has changed'),
    'a long name': (sql('UPDATE keyframe SET source = ? WHERE id = 2', 'x' * 5000, sign=True),
                    'holds a name that is no text of at most 4096 characters'),
    'a long covariance': (sql('UPDATE keyframe SET covariance = zeroblob(99) WHERE id = 2'),
                          'holds a covariance that is not 72 bytes'),
    'an infinite pose': (sql('UPDATE keyframe SET x = 9e999 WHERE id = 2', sign=True),
                         'not finite'),
    'a pose of text': (sql("UPDATE keyframe SET y = 'here' WHERE id = 2"),
                       'the record of keyframe 2 holds no number where one belongs'),
    'a zero quaternion': (sql('UPDATE keyframe SET qw = 0 WHERE id = 2', sign=True), 'all zeros'),
    'a stamp of text': (sql("UPDATE keyframe SET stamp_ns = 'now' WHERE id = 2"),
                        'holds no number'),
    'a flipped bit': (flip('descriptors.f16', 7 * 32 + 5),
                      'the descriptor of keyframe 7 has changed; `regvpr map verify'),
    'a truncated file': (lambda p: (p / 'descriptors.f16').write_bytes(b'\0' * 100),
                         'descriptors.f16 has 100 bytes, 10 keyframes need 320'),
    'no descriptors': (lambda p: (p / 'descriptors.f16').unlink(), 'descriptors.f16 has 0 bytes'),
    'a NaN descriptor': (nan_row, 'a descriptor in it has no direction'),
    'no map.db': (lambda p: (p / 'map.db').unlink(), 'is no place map: it has no map.db; build'),
    'no SQLite': (lambda p: (p / 'map.db').write_bytes(b'hello' * 1000), 'not a database'),
    'an empty map.db': (lambda p: (p / 'map.db').write_bytes(b''),
                        'holds other things than a map does'),
    'half a map.db': (lambda p: (p / 'map.db').write_bytes((p / 'map.db').read_bytes()[:5000]),
                      'is damaged'),
    'no folder': (shutil.rmtree, 'is no place map'),
}


def test_what_is_no_map_is_answered_with_the_map_that_is_near(make_map, tmp_path):
    path = make_map(2)
    (tmp_path / 'photos').mkdir()
    for recording in (tmp_path / 'lap.mcap', tmp_path / 'photos' / 'a.JPG'):
        recording.write_bytes(b'x')
    for given, message in (
            (path.parent, f'but {path} in it is one; give that'),
            (path / 'map.db', f'is a file of a place map; give its folder {path}'),
            (path.with_name(path.name + 'q'), f"did you mean '{path.name}'?"),
            (tmp_path / 'lap.mcap', 'a recording: where a command takes both, MAP comes first'),
            (tmp_path / 'photos', 'a recording: where a command takes both, MAP comes first'),
            (path / 'descriptors.f16', 'a map is a folder; build one with `regvpr map build')):
        with pytest.raises(MapError) as error:
            PlaceMap.open(given)
        assert message in str(error.value)


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_map_is_refused_in_one_clear_line(make_map, damage):
    path = make_map(10)
    change, message = DAMAGES[damage]
    change(path)
    with pytest.raises(MapError) as error:
        PlaceMap.open(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert '\n' not in str(error.value)


def test_a_flipped_bit_is_a_map_error_or_a_map_and_always_seen_in_descriptors(make_map):
    path = make_map(10)
    rng = np.random.default_rng(0)
    whole = {file: (path / file).read_bytes() for file in ('map.db', 'descriptors.f16')}
    refused = 0
    for _ in range(150):
        for file, content in whole.items():
            damaged = bytearray(content)
            damaged[rng.integers(len(content))] ^= 1 << rng.integers(8)
            (path / file).write_bytes(damaged)
            try:
                with PlaceMap.open(path) as place_map:
                    assert place_map.T_map_cam.shape == (len(place_map), 4, 4)
                    assert file == 'map.db'
            except MapError:
                refused += 1
            (path / file).write_bytes(content)
    assert refused > 150


def test_a_map_of_another_model_is_refused_with_both_names(make_map):
    path = make_map(3)
    with pytest.raises(MapError) as error:
        PlaceMap.open(path, 'e' * 64)
    assert str(error.value) == (
        f'map {path} was built with m (ffffffffffff), not with the model in use (eeeeeeeeeeee); '
        f'set model to m, or bring the map to the model in use: `regvpr map convert {path} '
        f'--model MODEL --out NEW`')
    PlaceMap.open(path, None).close()


def test_a_path_with_signs_of_a_uri_is_opened(make_map):
    with PlaceMap.open(make_map(2, 'a map?mode=rw#100%25')) as place_map:
        assert len(place_map) == 2


def test_a_copy_is_the_map(make_map, tmp_path):
    with PlaceMap.open(make_map(12)) as place_map:
        place_map.copy_to(tmp_path / 'deep' / 'copy')
        with PlaceMap.open(tmp_path / 'deep' / 'copy', 'f' * 64) as copy:
            assert copy.manifest == place_map.manifest
            np.testing.assert_array_equal(copy.descriptors(), place_map.descriptors())
            np.testing.assert_array_equal(copy.T_map_cam, place_map.T_map_cam)
            assert copy.stamps_ns.tolist() == place_map.stamps_ns.tolist()
    assert sorted(p.name for p in (tmp_path / 'deep').iterdir()) == ['copy']
    with MapWriter.append_to(tmp_path / 'deep' / 'copy') as writer:
        assert len(writer) == 12


def test_a_copy_holds_what_its_reader_saw_though_a_writer_went_on(
        make_map, tmp_path, place, rows):
    path = make_map(4)
    with PlaceMap.open(path) as place_map, MapWriter.append_to(path) as writer:
        writer.append([place(4, rows(5)[4])])
        place_map.copy_to(tmp_path / 'copy')
        with PlaceMap.open(tmp_path / 'copy') as copy, PlaceMap.open(path) as now:
            assert (len(copy), len(now)) == (4, 5)


def test_a_copy_over_something_or_to_nowhere_is_refused(make_map, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with PlaceMap.open(make_map(2)) as place_map:
        with pytest.raises(MapError, match=r'file exists; choose a new folder for the map'):
            place_map.copy_to(tmp_path / 'file')
        with pytest.raises(MapError, match=r'cannot write map .*file/copy: .*Not a directory'):
            place_map.copy_to(tmp_path / 'file' / 'copy')
        (tmp_path / '.copy.new' / 'map').mkdir(parents=True)
        place_map.copy_to(tmp_path / 'copy')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['copy', 'file', 'map']


def test_a_map_is_never_changed_by_reading_it(make_map, rows):
    path = make_map(5)
    before = {p.name: p.read_bytes() for p in path.iterdir()}
    with PlaceMap.open(path) as place_map:
        place_map.search(rows(1)[0], 3)
    after = {p.name: p.read_bytes() for p in path.iterdir() if p.name in before}
    assert after == before


@pytest.mark.parametrize('statement', [
    'CREATE VIEW spy AS SELECT 1',
    'CREATE TRIGGER spy AFTER INSERT ON keyframe BEGIN DELETE FROM keyframe; END',
])
def test_views_and_triggers_of_a_stranger_are_refused(make_map, statement):
    saved_map = make_map(3)
    with sqlite3.connect(saved_map / 'map.db') as database:
        database.execute(statement)
    with pytest.raises(MapError, match='holds other things than a map does'):
        PlaceMap.open(saved_map)


def test_a_manifest_that_is_an_endless_view_is_refused_at_once(make_map):
    saved_map = make_map(3)
    with sqlite3.connect(saved_map / 'map.db') as database:
        database.execute('DROP TABLE manifest')
        database.execute('CREATE VIEW manifest AS WITH RECURSIVE c(value) AS '
                         "(SELECT 'x' UNION ALL SELECT value FROM c) SELECT value FROM c "
                         'WHERE length(value) > 9')
    with pytest.raises(MapError, match='holds other things than a map does'):
        PlaceMap.open(saved_map)


def test_a_second_drive_beside_the_first_makes_no_place_smaller(rows, place, tmp_path, manifest):
    with MapWriter.create(tmp_path / 'two', manifest) as writer:
        for source, metres in (('monday', 0.0), ('tuesday', 0.1)):
            T = np.tile(np.eye(4), (20, 1, 1))
            T[:, 0, 3] = 2.0 * np.arange(20) + metres
            writer.append([place(i, row, source=source, T_map_cam=T[i])
                           for i, row in enumerate(rows(20, 3))])
    with PlaceMap.open(tmp_path / 'two') as opened:
        assert opened.drives[0] == 'monday\0front'
        assert len(set(opened.drives)) == 2
        assert place_radius(opened.T_map_cam, BeliefConfig(), opened.drives) == 5.0
