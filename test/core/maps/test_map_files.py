"""The files of a map: links and pipes of a stranger, read-only folders, publishing."""

import os
from pathlib import Path
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile

import numpy as np
import pytest

from regvpr_core.errors import MapError
from regvpr_core.map_tools.verify import verify
from regvpr_core.maps.files import (
    committed,
    file_digest,
    lock_folder,
    MAX_ATTACHMENTS,
    new_folder,
    note_committed,
    publish,
)
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize('name', ['map.db', 'descriptors.f16', 'map.db-wal', 'map.db-shm',
                                  'map.db-journal', 'map.lock'])
@pytest.mark.parametrize('kind', ['link', 'dangling link', 'pipe', 'folder'])
def test_a_map_reaches_nothing_outside_its_folder(make_map, tmp_path, name, kind):
    path = make_map(3)
    file, outside = path / name, tmp_path / 'outside'
    if kind != 'dangling link':
        if file.exists():
            shutil.copy(file, outside)
        else:
            outside.write_bytes(b'precious')
    before = outside.read_bytes() if outside.exists() else None
    file.unlink(missing_ok=True)
    if kind == 'pipe':
        os.mkfifo(file)
    elif kind == 'folder':
        file.mkdir()
    else:
        file.symlink_to(outside)
    for attempt in (PlaceMap.open, MapWriter.append_to):
        with pytest.raises(MapError, match=f'map {path} is refused: its {name} is no plain file'):
            attempt(path)
    report = verify(path)
    assert f'its {name} is no plain file' in report.refusal
    assert (outside.read_bytes() if outside.exists() else None) == before


def hot_journal(names: Path) -> bytes:
    """A rollback journal without pages of a database of 4 pages; part of what `names` leads."""
    magic, name = bytes.fromhex('d9d505f920a163d7'), str(names).encode()
    header = magic + struct.pack('>5I', 0, 0, 4, 512, 4096)
    return header.ljust(512, b'\0') + struct.pack('>I', 0x40000000 // 4096 + 1) + name \
        + struct.pack('>II', len(name), sum(name)) + magic


@pytest.mark.parametrize('attempt', [PlaceMap.open, MapWriter.append_to])
def test_a_journal_of_a_stranger_is_not_rolled_back(make_map, tmp_path, attempt):
    """It names a file that SQLite would read and delete."""
    path, outside = make_map(3), tmp_path / 'outside'
    outside.write_bytes(b'precious')
    (path / 'map.db-journal').write_bytes(hot_journal(outside))
    with pytest.raises(MapError, match=f'map {path} is refused: it has a map.db-journal, which '
                                       f'no finished map has'):
        attempt(path)
    assert 'it has a map.db-journal' in verify(path).refusal
    assert outside.read_bytes() == b'precious'
    (path / 'map.db-journal').write_bytes(b'')
    attempt(path).close()


def test_a_link_to_a_map_is_a_map(make_map, tmp_path):
    (tmp_path / 'link').symlink_to(make_map(3))
    with PlaceMap.open(tmp_path / 'link') as place_map:
        assert len(place_map) == 3
    assert verify(tmp_path / 'link').sound


OPEN = """
import os, sys
from pathlib import Path
from regvpr_core.errors import MapError
from regvpr_core.maps.writer import MapWriter
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.map_tools.verify import verify

def read(path):
    with PlaceMap.open(path) as place_map:
        place_map.search(place_map.descriptors(0, 1)[0], 3)
        return len(place_map), verify(path).sound

read(Path(sys.argv[2]))  # all modules are loaded: another user may not read this Python
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
path = Path(sys.argv[1])
try:
    print(*read(path))
except MapError as error:
    print(error)
try:
    MapWriter.append_to(path)
except MapError as error:
    print(error)
"""


def opened_without_rights(path: Path) -> list[str]:
    """What comes of opening a map whose folder cannot be written."""
    home = Path(tempfile.mkdtemp())  # that of pytest is closed to others
    home.chmod(0o755)
    try:
        shutil.copytree(path, home / 'map')
        for file in (home / 'map').iterdir():
            file.chmod(0o444)
        (home / 'map').chmod(0o555)
        done = subprocess.run([sys.executable, '-c', OPEN, str(home / 'map'), str(path)],
                              cwd=ROOT,
                              capture_output=True, text=True, check=False,
                              env={**os.environ, 'OMP_NUM_THREADS': '1'})
        assert done.returncode == 0, done.stderr
        return done.stdout.replace(str(home), '').splitlines()
    finally:
        (home / 'map').chmod(0o755)
        shutil.rmtree(home)


def test_a_map_in_a_folder_that_cannot_be_written_is_read(make_map):
    path = make_map(5)
    (path / 'map.lock').unlink()
    assert opened_without_rights(path) == [
        '5 True', 'cannot write map /map: Permission denied']


def test_a_map_that_was_not_closed_is_not_read_in_part_where_nothing_can_be_written(
        make_map, place, rows):
    path = make_map(5)
    with MapWriter.append_to(path) as writer:
        writer.append([place(5, rows(6)[5])])
        shutil.copytree(path, path.with_name('copy'))
    copy = path.with_name('copy')
    (copy / 'map.db-shm').unlink()
    assert opened_without_rights(copy)[0] == (
        'map /map was not closed when it was written, and its folder cannot be written now; copy '
        'the map to a folder that can')
    with PlaceMap.open(copy) as place_map:
        assert len(place_map) == 6


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with new_folder(tmp_path / 'deep' / 'map') as folder:
        (folder / 'file').write_text('whole')
        assert not (tmp_path / 'deep' / 'map').exists()
        with pytest.raises(MapError, match='is being written by another process'):
            with new_folder(tmp_path / 'deep' / 'map'):
                pass
        assert (folder / 'file').read_text() == 'whole'
    assert (tmp_path / 'deep' / 'map' / 'file').read_text() == 'whole'
    with pytest.raises(KeyboardInterrupt):
        with new_folder(tmp_path / 'other'):
            raise KeyboardInterrupt
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['deep', 'file', 'map']


def test_what_came_to_the_goal_meanwhile_is_not_overwritten(tmp_path):
    def write() -> None:
        with new_folder(tmp_path / 'map') as folder:
            (folder / 'file').write_text('new')
            (tmp_path / 'map').mkdir()
            (tmp_path / 'map' / 'old').write_text('old')

    with pytest.raises(MapError, match='cannot write map'):
        write()
    assert [p.name for p in tmp_path.rglob('*')] == ['map', 'old']


def test_a_published_map_holds_no_lock(make_map, tmp_path):
    publish(make_map(2), tmp_path / 'out')
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['descriptors.f16', 'map.db']


def test_the_number_of_commits_is_read_back_or_nothing(tmp_path):
    assert committed(tmp_path) == 0
    lock = lock_folder(tmp_path)
    for count in (0, 7, 12_345_678):
        note_committed(lock, count)
        assert committed(tmp_path) == count
    whole = (tmp_path / 'map.lock').read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        (tmp_path / 'map.lock').write_bytes(damaged)
        assert committed(tmp_path) in (0, 12_345_678)
    os.close(lock)


def test_a_digest_is_of_what_follows(tmp_path):
    (tmp_path / 'file').write_bytes(b'head' + b'abc')
    # FIPS 180-2, appendix B.1
    assert file_digest(tmp_path / 'file', 4) == (
        'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad')


def test_attachments_are_kept_replaced_and_bounded(make_map, monkeypatch):
    from regvpr_core.maps import writer as map_writer

    path = make_map(2)
    with MapWriter.append_to(path) as writer:
        writer.attach('calibration', b'old')
        writer.attach('calibration', b'new')
        writer.attach('empty', b'')
        assert writer.attachment('calibration') == b'new'
        for name in ('', 'a/b', '../x', 'A', 'x' * 65, 'a\n'):
            with pytest.raises(MapError, match='cannot name an attachment'):
                writer.attach(name, b'')
        monkeypatch.setattr(map_writer, 'MAX_ATTACHMENT_BYTES', 10)
        with pytest.raises(MapError, match="'big' has 11 bytes; a map takes at most 10"):
            writer.attach('big', bytes(11))
        for i in range(MAX_ATTACHMENTS - 2):
            writer.attach(f'a{i}', b'')
        with pytest.raises(MapError, match='has 64 attachments, the most it takes'):
            writer.attach('more', b'')
        writer.attach('calibration', b'still')
    with PlaceMap.open(path) as place_map:
        assert place_map.attachment('calibration') == b'still'
        assert place_map.attachment('empty') == b''
        assert place_map.attachment('none') is None


@pytest.mark.parametrize(('more', 'message'), [
    ({'image': 'x' * 4097}, 'has a name that cannot be kept'),
    ({'source': 'a\0b'}, 'has a name that cannot be kept'),
    ({'camera': os.fsdecode(b'\xff')}, 'has a name that cannot be kept'),
    ({'covariance': np.eye(2)}, r'is not \(3, 3\) finite numbers'),
    ({'covariance': np.full((3, 3), np.nan)}, r'is not \(3, 3\) finite numbers'),
    ({'local_features': bytes((1 << 20) + 1)}, 'have 1048577 bytes; at most 1048576'),
    ({'thumbnail': bytes((16 << 20) + 1)}, 'has 16777217 bytes; at most 16777216'),
    ({'stamp_ns': 2**63}, 'holds no number where one belongs')])
def test_what_could_not_be_read_back_is_not_written(make_map, place, rows, more, message):
    path = make_map(1)
    with MapWriter.append_to(path) as writer:
        with pytest.raises(MapError, match=message):
            writer.append([place(1, rows(2)[1], **more)])
        writer.append([place(1, rows(2)[1], image='ü' * 4096, T_map_cam=-0.0 * np.eye(4)
                             + np.eye(4))])
    with PlaceMap.open(path) as place_map:
        assert len(place_map) == 2


@pytest.mark.parametrize(('statement', 'read'), [
    ('UPDATE keyframe SET thumbnail = zeroblob(16777217)', lambda m: m.thumbnail(1)),
    ('UPDATE keyframe SET local_features = zeroblob(1048577)', lambda m: m.local_features(1)),
    ("UPDATE keyframe SET thumbnail = 'text', thumbnail_crc32 = 0", lambda m: m.thumbnail(1))])
def test_cells_of_a_stranger_are_bounded_before_they_are_read(make_map, statement, read):
    path = make_map(1)
    with PlaceMap.open(path) as place_map:  # its records are read
        with sqlite3.connect(path / 'map.db') as database:
            database.execute(statement)
        assert read(place_map) is None  # no such keyframe
        with pytest.raises(MapError, match=r'keyframe 0 is (blob|text) of \d+ bytes; expected a'):
            (place_map.thumbnail if 'thumbnail' in statement else place_map.local_features)(0)
