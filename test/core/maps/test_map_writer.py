import os
from pathlib import Path
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from regvpr_core.errors import MapError
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter

ROOT = Path(__file__).resolve().parents[3]

WRITE_FOR_EVER = """
import sys
import numpy as np
from pathlib import Path
from regvpr_core.maps.writer import Keyframe, MapWriter

with MapWriter.append_to(Path(sys.argv[1])) as writer:
    print('ready', flush=True)
    while True:
        first, T = len(writer), np.eye(4)
        T[0, 3] = first
        writer.append([Keyframe(stamp_ns=i, camera='front', T_map_cam=T, source='kill',
                                descriptor=np.full(16, 1.0 + i % 100, np.float32))
                       for i in range(first, first + 3)])
        print(len(writer), flush=True)
"""


def test_appending_goes_on_where_it_stopped(make_map, rows, place):
    path = make_map(4)
    d = rows(9)
    for i in range(4, 9):
        with MapWriter.append_to(path) as writer:
            assert len(writer) == i
            writer.append([place(i, d[i])])
    with PlaceMap.open(path) as place_map:
        assert place_map.T_map_cam[:, 0, 3].tolist() == list(range(9))
        np.testing.assert_allclose(place_map.descriptors()[4:], d[4:], atol=1e-3)


def test_a_second_writer_is_refused_until_the_first_is_done(make_map):
    path = make_map(1)
    with MapWriter.append_to(path):
        with pytest.raises(MapError, match=f'map {path} is being written by another process'):
            MapWriter.append_to(path)
    MapWriter.append_to(path).close()


def test_a_reader_beside_a_writer_sees_what_was_committed_when_it_opened(make_map, rows, place):
    path = make_map(3)
    d = rows(10)
    with MapWriter.append_to(path) as writer, PlaceMap.open(path) as early:
        for i in range(3, 10):
            writer.append([place(i, d[i])])
            with PlaceMap.open(path) as late:
                assert len(late) == i + 1
                assert late.search(d[i], 1)[1].tolist() == [i]
        assert len(early) == 3
        assert early.search(d[1], 1)[1].tolist() == [1]
        assert early.thumbnail(1) is None


def test_keyframes_are_kept_all_or_none(make_map, rows, place):
    path = make_map(2)
    d = rows(4)
    wrong_pose = np.eye(4)
    wrong_pose[1, 3] = np.nan
    wrong_turn = np.eye(4)
    wrong_turn[1, 1] = np.inf
    with MapWriter.append_to(path) as writer:
        for bad, message in (
                (place(3, np.ones(8, np.float32)), r'shape \(8,\) does not fit a map of 16'),
                (place(3, np.full(16, np.nan, np.float32)), 'has no direction'),
                (place(3, np.zeros(16, np.float32)), 'has no direction'),
                (place(3, d[3], T_map_cam=wrong_pose), 'the pose of the keyframe at 17000.*3 ns'),
                (place(3, d[3], T_map_cam=wrong_turn), 'is not finite')):
            with pytest.raises(MapError, match=message):
                writer.append([place(2, d[2]), bad])
        writer.append([])
        writer.append([place(2, d[2])])
        assert len(writer) == 3
    with PlaceMap.open(path) as place_map:
        assert place_map.search(d[2], 1)[1].tolist() == [2]


def test_what_a_crash_left_behind_the_last_keyframe_is_not_read(make_map, rows, place):
    path = make_map(3)
    with (path / 'descriptors.f16').open('ab') as file:
        file.write(b'\x55' * 77)
    with PlaceMap.open(path) as place_map:
        assert len(place_map) == 3
    with MapWriter.append_to(path) as writer:
        writer.append([place(3, rows(4)[3])])
    assert (path / 'descriptors.f16').stat().st_size == 4 * 32
    PlaceMap.open(path).close()


def test_a_damaged_map_is_not_written_to(make_map):
    path = make_map(3)
    (path / 'descriptors.f16').write_bytes(b'\0' * 40)
    with pytest.raises(MapError, match=r'descriptors.f16 has 40 bytes, 3 keyframes need 96'):
        MapWriter.append_to(path)
    assert (path / 'descriptors.f16').stat().st_size == 40
    (path / 'descriptors.f16').unlink()
    with pytest.raises(MapError, match=r'descriptors.f16 has 0 bytes'):
        MapWriter.append_to(path)
    (path / 'map.db').write_bytes(b'no database' * 400)
    with pytest.raises(MapError, match='file is not a database'):
        MapWriter.append_to(path)
    (path / 'map.db').unlink()
    with pytest.raises(MapError, match='is no place map'):
        MapWriter.append_to(path)


@pytest.mark.parametrize('statement', ['DROP TABLE keyframe', 'DROP TABLE manifest'])
def test_a_map_without_its_tables_is_not_written_to(make_map, statement):
    import sqlite3

    path = make_map(3)
    database = sqlite3.connect(path / 'map.db')
    database.execute(statement)
    database.commit()
    database.close()
    for _ in range(2):  # the lock is given back
        with pytest.raises(MapError, match='holds other things than a map does'):
            MapWriter.append_to(path)


def test_a_new_map_wants_an_empty_place(make_map, manifest, tmp_path):
    path = make_map(1)
    with pytest.raises(MapError, match='is not empty; choose a new folder for the map'):
        MapWriter.create(path, manifest)
    (tmp_path / 'file').write_text('in the way')
    for where in (tmp_path / 'file', tmp_path / 'file' / 'map', Path('/proc/no/map')):
        with pytest.raises(MapError, match=f'cannot write map {where}: '):
            MapWriter.create(where, manifest)
    with pytest.raises(MapError, match=f'cannot write map {tmp_path / "none"}: No such file'):
        MapWriter.append_to(tmp_path / 'none')


def test_a_full_disk_keeps_what_was_committed(make_map, rows, place, monkeypatch):
    path = make_map(2)
    d = rows(4)
    with MapWriter.append_to(path) as writer:
        def full(_: int) -> None:
            raise OSError(28, 'No space left on device')

        monkeypatch.setattr(os, 'fsync', full)
        with pytest.raises(MapError, match=r'No space left on device; the keyframes committed '
                                           r'before \(2\) are safe'):
            writer.append([place(2, d[2])])
        monkeypatch.undo()
        writer.append([place(2, d[3])])
    with PlaceMap.open(path) as place_map:
        assert place_map.search(d[3], 1)[1].tolist() == [2]


def test_every_committed_keyframe_survives_kill_9(make_map):
    path = make_map(0)
    rng = random.Random(0)
    committed = 0
    for kill in range(5):
        process = subprocess.Popen(
            [sys.executable, '-c', WRITE_FOR_EVER, str(path)], cwd=ROOT, stdout=subprocess.PIPE,
            text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})
        assert process.stdout is not None
        assert process.stdout.readline() == 'ready\n'
        told = [int(process.stdout.readline())] if kill % 2 else []  # a busy machine is slow
        time.sleep(rng.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.stdout.read().split('\n')[:-1]]
        process.wait()
        process.stdout.close()
        with PlaceMap.open(path) as place_map:
            count = len(place_map)
            assert count >= max([committed, *told])
            assert count % 3 == 0
            assert place_map.stamps_ns.tolist() == list(range(count))
            assert place_map.T_map_cam[:, 0, 3].tolist() == [3.0 * (i // 3) for i in range(count)]
        committed = count
    assert committed > 0
