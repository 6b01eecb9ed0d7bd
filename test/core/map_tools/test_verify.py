"""`map verify`: a flipped byte anywhere is told or changes nothing; what is sound is saved."""

from collections.abc import Callable
from pathlib import Path
import shutil
import sqlite3

import numpy as np
import pytest

from regvpr_core.errors import MapError, RegvprError
from regvpr_core.map_tools.verify import runs, salvage, verify
from regvpr_core.maps.files import attachment_names, Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.records import COLUMNS
from regvpr_core.maps.writer import Keyframe, MapWriter

COUNT = 40


def full_keyframe(i: int, row: np.ndarray, place, noise_rng) -> Keyframe:
    return place(i, row, image=f'{i:06d}.jpg', covariance=np.eye(3) * (i + 1),
                 thumbnail=noise_rng.integers(0, 256, (12, 16, 3), dtype=np.uint8),
                 local_features=noise_rng.bytes(200))


@pytest.fixture
def full_map(tmp_path: Path, rows, place) -> Callable[..., Path]:
    """A map with everything that a map can hold."""
    def make(name: str = 'map', count: int = COUNT) -> Path:
        rng = np.random.default_rng(1)
        manifest = Manifest(
            map_id='abc', model='m', fingerprint='f' * 64, dimension=16,
            extrinsics={'front': [0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]},
            origin={'lat_deg': 50.0, 'lon_deg': 8.0, 'alt_m': 100.0}, features='patch')
        with MapWriter.create(tmp_path / name, manifest) as writer:
            writer.append([full_keyframe(i, row, place, rng)
                           for i, row in enumerate(rows(count))])
            writer.attach('calibration', b'{"offset": 2.5}')
            writer.attach('pca', rng.bytes(9000))
        return tmp_path / name
    return make


def content(path: Path) -> list[object]:
    """All that a map says, read through the doors that check."""
    with PlaceMap.open(path) as place_map:
        return [place_map.manifest, place_map.attachment('calibration'),
                place_map.attachment('pca'), attachment_names(place_map._database),
                *([getattr(k, name) if not isinstance(getattr(k, name), np.ndarray)
                   else getattr(k, name).tobytes() for name in Keyframe.__dataclass_fields__]
                  for k in place_map.keyframes(range(len(place_map))))]


def flipped(file: Path, position: int, bit: int) -> bytes:
    damaged = bytearray(file.read_bytes())
    damaged[position] ^= 1 << bit
    return bytes(damaged)


def test_a_sound_map_is_sound(full_map):
    report = verify(full_map())
    assert report.sound
    assert report.facts() == {'sound': True, 'keyframes': COUNT, 'lost_keyframes': 0,
                              'what_works': 'everything'}


def test_an_empty_map_is_sound(make_map):
    assert verify(make_map(0)).sound


@pytest.mark.parametrize('state', ['closed', 'open'])
def test_a_flipped_byte_is_told_or_changes_nothing(full_map, place, rows, tmp_path, state):
    source = full_map()
    if state == 'open':  # what kill -9 leaves: commits that are in the log only
        with MapWriter.append_to(source) as writer:
            rng = np.random.default_rng(2)
            for i, row in enumerate(rows(COUNT + 6)[COUNT:], COUNT):
                writer.append([full_keyframe(i, row, place, rng)])
            shutil.copytree(source, tmp_path / 'copy')
        path = tmp_path / 'copy'
        assert (path / 'map.db-wal').stat().st_size > 0
    else:
        path = source
    shutil.copytree(path, tmp_path / 'whole')
    whole = content(path)
    files = {file.name: file.read_bytes() for file in (tmp_path / 'whole').iterdir()
             if file.stat().st_size}
    assert len(files) == {'closed': 3, 'open': 5}[state]
    rng = np.random.default_rng(3)
    told = dict.fromkeys(files, 0)
    for name, data in files.items():
        for _ in range(60):
            shutil.rmtree(path)
            shutil.copytree(tmp_path / 'whole', path)
            position, bit = int(rng.integers(len(data))), int(rng.integers(8))
            (path / name).write_bytes(flipped(path / name, position, bit))
            report = verify(path)
            if report.sound:
                assert content(path) == whole, (name, position, bit)
            else:
                told[name] += 1
    assert told['descriptors.f16'] == 60
    assert told['map.db'] >= 30
    if state == 'open':
        assert told['map.db-wal'] >= 10
    # Both are made anew; nothing is read from them that changes an answer.
    assert told['map.lock'] == told.get('map.db-shm', 0) == 0


def sql(path: Path, statement: str, *values: object) -> None:
    database = sqlite3.connect(path / 'map.db')
    database.execute(statement, values)
    database.commit()
    database.close()


def test_what_is_lost_is_named_with_its_time(full_map):
    path = full_map()
    for i in (7, 8, 9, 21):
        (path / 'descriptors.f16').write_bytes(flipped(path / 'descriptors.f16', i * 32 + 3, 6))
    sql(path, 'UPDATE keyframe SET x = 99.0 WHERE id = 30')
    sql(path, 'DELETE FROM keyframe WHERE id = 33')
    report = verify(path)
    facts = report.facts()
    assert report.lost == [7, 8, 9, 21, 30, 33]
    assert (facts['descriptor changed'], facts['record changed'], facts['missing']) == (
        '7-9, 21', '30', '33')
    assert (facts['lost_from_s'], facts['lost_to_s']) == (1.7e9, 1.7e9)
    assert facts['what_works'] == ('the map does not open; --salvage OUT writes its 34 sound '
                                   'keyframes to a new map')


def test_a_lost_thumbnail_does_not_cost_the_map(full_map):
    path = full_map()
    whole = content(path)
    sql(path, "UPDATE keyframe SET thumbnail = x'ffd8' WHERE id = 5")
    sql(path, 'UPDATE keyframe SET local_features = NULL WHERE id = 6')
    report = verify(path)
    assert (report.sound, report.lost) == (False, [])
    assert dict(report.damaged) == {'thumbnail changed': [5], 'local features changed': [6]}
    assert report.what_works().startswith('the map opens and localizes')
    with PlaceMap.open(path) as place_map:
        with pytest.raises(MapError, match='the thumbnail of keyframe 5 has changed'):
            place_map.thumbnail(5)
        with pytest.raises(MapError, match='the local features of keyframe 6 is missing'):
            place_map.local_features(6)
        assert place_map.thumbnail(6).shape == (12, 16, 3)
    assert salvage(path, path.with_name('saved'), report) == COUNT
    saved = content(path.with_name('saved'))
    assert verify(path.with_name('saved')).sound
    thumbnail, features = list(Keyframe.__dataclass_fields__).index('thumbnail'), -1
    assert saved[4 + 5][thumbnail] is None
    assert saved[4 + 6][features] is None
    assert saved[4:9] == whole[4:9]
    assert saved[4 + 7:] == whole[4 + 7:]


def test_a_changed_attachment_is_told_and_the_others_are_saved(full_map):
    path = full_map()
    sql(path, "UPDATE attachment SET value = x'00' WHERE name = 'pca'")
    report = verify(path)
    assert report.problems == [f"map {path} is damaged: its attachment 'pca' cannot be read: it "
                               f'has changed since it was written']
    salvage(path, path.with_name('saved'), report)
    with PlaceMap.open(path.with_name('saved')) as saved:
        assert saved.attachment('calibration') == b'{"offset": 2.5}'
        assert saved.attachment('pca') is None


def test_sound_keyframes_are_saved_from_behind_a_page_that_cannot_be_read(full_map):
    path = full_map('map', 400)
    with sqlite3.connect(path / 'map.db') as database:
        size = database.execute('PRAGMA page_size').fetchone()[0]
    data = bytearray((path / 'map.db').read_bytes())
    leaves = [i for i in range(1, len(data) // size) if data[i * size] == 13]
    data[leaves[10] * size:(leaves[10] + 1) * size] = b'\x99' * size
    (path / 'map.db').write_bytes(data)
    report = verify(path)
    assert 0 < len(report.lost) < 40
    with pytest.raises(MapError, match='is damaged'):
        PlaceMap.open(path)
    assert salvage(path, path.with_name('saved'), report) == 400 - len(report.lost)
    with PlaceMap.open(path.with_name('saved')) as saved:
        assert saved.images == [f'{i:06d}.jpg' for i in range(400) if i not in report.lost]
    assert verify(path.with_name('saved')).sound


def test_descriptors_that_were_cut_off_are_lost_alone(full_map):
    path = full_map()
    data = (path / 'descriptors.f16').read_bytes()
    (path / 'descriptors.f16').write_bytes(data[:32 * 25 + 7])
    report = verify(path)
    assert report.lost == list(range(25, COUNT))
    assert 'descriptors.f16 holds 25 whole rows' in report.problems[0]
    assert salvage(path, path.with_name('saved'), report) == 25
    assert verify(path.with_name('saved')).sound


def test_commits_that_are_gone_are_missed(full_map):
    path = full_map()
    sql(path, 'DELETE FROM keyframe WHERE id >= 37')
    with pytest.raises(MapError, match='40 keyframes were committed and 37 are there'):
        PlaceMap.open(path)
    report = verify(path)
    assert report.lost == [37, 38, 39]
    assert salvage(path, path.with_name('saved'), report) == 37


@pytest.mark.parametrize(('damage', 'message'), [
    (lambda p: (p / 'map.db').write_bytes(b'hello' * 1000), 'not a database'),
    (lambda p: (p / 'map.db').unlink(), 'has no map.db'),
    (lambda p: sql(p, "UPDATE manifest SET value = '{}'"), 'its manifest cannot be read'),
    (lambda p: sql(p, 'CREATE VIEW spy AS SELECT 1'), 'holds other things than a map does'),
    (lambda p: sql(p, 'PRAGMA user_version = 9'), 'update regvpr_ros')])
def test_a_map_of_which_nothing_is_left_says_so(full_map, damage, message):
    path = full_map()
    damage(path)
    report = verify(path)
    assert message in report.refusal
    assert report.what_works() == f'nothing: {report.refusal}'
    with pytest.raises(RegvprError, match=r'nothing of map .* can be saved'):
        salvage(path, path.with_name('saved'), report)
    assert not path.with_name('saved').exists()


def test_absurd_ids_of_a_stranger_cost_no_time(full_map):
    path = full_map()
    sql(path, 'UPDATE keyframe SET id = ? WHERE id = 39', 2**62)
    report = verify(path)
    assert not report.sound
    assert 'a map counts them from 0' in ' '.join(report.problems)
    assert report.lost == [39]
    (path / 'map.lock').write_text('999999999999 ')
    assert len(verify(path).lost) == 1


def test_no_map_is_refused(tmp_path):
    with pytest.raises(MapError, match='is no place map: it has no map'):
        verify(tmp_path / 'none')


def test_what_does_not_belong_is_named(full_map):
    path = full_map()
    (path / 'notes.txt').write_text('hello')
    report = verify(path)
    assert report.sound
    assert report.notes == ['notes.txt is no part of a map']


def test_a_flipped_byte_in_the_index_is_told_and_costs_nothing(full_map):
    path = full_map()
    with PlaceMap.open(path, index='rabitq') as place_map:
        want = place_map.search(place_map.descriptors(3, 4)[0], 5)
    file = path / 'index.rabitq'
    whole = file.read_bytes()
    assert verify(path).facts()['what_works'] == 'everything'
    assert verify(path).notes == []
    rng = np.random.default_rng(0)
    for position in (0, 20, 200, *rng.integers(256, len(whole), 20)):
        file.write_bytes(flipped(file, position, 1))
        report = verify(path)
        assert report.sound
        # The header names what it was made from: of another name it is stale, and not used.
        if position >= 256:
            assert report.notes == ['index.rabitq has changed since it was written; it is built '
                                    'again when needed']
        with PlaceMap.open(path, index='rabitq') as place_map:
            found = place_map.search(place_map.descriptors(3, 4)[0], 5)
        np.testing.assert_array_equal(found[1], want[1])
        file.write_bytes(whole)


def test_rows_that_no_commit_followed_are_a_note(full_map):
    path = full_map()
    with (path / 'descriptors.f16').open('ab') as file:
        file.write(b'\x55' * 100)
    report = verify(path)
    assert report.sound
    assert report.notes[0].startswith('descriptors.f16 has 3 rows after the last keyframe')


def test_runs_of_numbers_are_short():
    assert runs([]) == ''
    assert runs([3, 4, 5, 9]) == '3-5, 9'
    assert runs(list(range(0, 100, 2))).endswith('36, 38 and 30 more')


def test_every_column_is_covered_by_a_checksum(full_map):
    for column in COLUMNS[1:]:
        path = full_map(column)
        sql(path, f"UPDATE keyframe SET {column} = CASE typeof({column}) "
                  f"WHEN 'text' THEN {column} || 'x' WHEN 'blob' THEN x'01' "
                  f'ELSE {column} + 1 END WHERE id = 11')
        report = verify(path)
        assert next(iter(report.damaged.values())) == [11], column
