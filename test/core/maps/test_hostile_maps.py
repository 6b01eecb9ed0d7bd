"""Maps of a stranger whose checksums are right: every tool refuses them in a line, or serves."""

from collections.abc import Callable
import contextlib
import json
from pathlib import Path
import sqlite3
import zlib

import cv2
import numpy as np
import pytest

from regvpr_core.cli import main
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.records import record_crc32, SMALL
from regvpr_core.maps.writer import MapWriter

COUNT, CHANGED = 12, 5


@pytest.fixture
def make(tmp_path: Path, rows, place) -> Callable[[str], Path]:
    """A map with all that a map may hold."""
    def run(name: str) -> Path:
        manifest = Manifest(
            map_id=name, model='m', fingerprint='f' * 64, dimension=16, sources=['lap'],
            extrinsics={'front': [0.0, 0, 0, 0, 0, 0, 1]},
            intrinsics={'front': {'width': 64, 'height': 48, 'model': 'plumb_bob', 'D': [],
                                  'K': [50.0, 0, 32, 0, 50, 24, 0, 0, 1]}})
        with MapWriter.create(tmp_path / name, manifest) as writer:
            writer.append([place(i, row, covariance=np.eye(3), image=f'{i}.png',
                                 thumbnail=np.full((12, 16, 3), 20 * i, np.uint8))
                           for i, row in enumerate(rows(COUNT))])
        return tmp_path / name
    return run


def keyframe(**fields: object) -> Callable[[Path], None]:
    """Other values in a keyframe's record, and a checksum that fits."""
    def change(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path / 'map.db')) as database:
            found = database.execute(f'SELECT {", ".join(SMALL)} FROM keyframe WHERE id = ?',
                                     (CHANGED,)).fetchone()
            record = dict(zip(SMALL, found, strict=True)) | fields
            small = {name: record[name] for name in SMALL}
            values = {**fields, 'record_crc32': record_crc32(tuple(small.values()))}
            database.execute(f'UPDATE keyframe SET {", ".join(f"{n} = ?" for n in values)} '
                             f'WHERE id = ?', (*values.values(), CHANGED))
            database.commit()
    return change


def thumbnail(value: bytes) -> Callable[[Path], None]:
    """An image in a keyframe."""
    def change(path: Path) -> None:
        keyframe(thumbnail_crc32=zlib.crc32(value))(path)
        with contextlib.closing(sqlite3.connect(path / 'map.db')) as database:
            database.execute('UPDATE keyframe SET thumbnail = ? WHERE id = ?', (value, CHANGED))
            database.commit()
    return change


def manifest(**fields: object) -> Callable[[Path], None]:
    """Other values in the manifest, and a checksum that fits."""
    def change(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path / 'map.db')) as database:
            values = json.loads(database.execute('SELECT value FROM manifest').fetchone()[0])
            text = json.dumps(values | fields)
            database.execute('UPDATE manifest SET value = ?, crc32 = ?',
                             (text, zlib.crc32(text.encode())))
            database.commit()
    return change


def descriptor(value: float) -> Callable[[Path], None]:
    """A row of one value."""
    def change(path: Path) -> None:
        rows = np.memmap(path / 'descriptors.f16', '<f2', 'r+', shape=(COUNT, 16))
        rows[CHANGED] = value
        rows.flush()
        keyframe(descriptor_crc32=zlib.crc32(rows[CHANGED].tobytes()))(path)
    return change


def wide_jpeg() -> bytes:
    """A small JPEG that says it has 65,500 x 65,500 pixels."""
    jpeg = bytearray(cv2.imencode('.jpg', np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = jpeg.index(b'\xff\xc0') + 5
    jpeg[at:at + 4] = (65_500).to_bytes(2, 'big') * 2
    return bytes(jpeg)


K = [50.0, 0, 32, 0, 50, 24, 0, 0, 1]
SIZE = {'width': 64, 'height': 48}
UNREADABLE = {
    'a quaternion whose length overflows': keyframe(qw=1e200),
    'a place beyond all galaxies': keyframe(x=1e300),
    'an infinite place': keyframe(y=float('inf')),
    'a covariance that is none': keyframe(covariance=np.full(9, np.nan).tobytes()),
    'sources that are no names': manifest(sources=['lap', {'a': 1}]),
    'a lens without a focal length': manifest(
        intrinsics={'front': {**SIZE, 'K': [0.0] * 9, 'model': '', 'D': []}}),
    'a lens whose model is no name': manifest(
        intrinsics={'front': {**SIZE, 'K': K, 'model': {'a': 1}, 'D': []}}),
    'a lens of numbers beyond all floats': manifest(
        intrinsics={'front': {**SIZE, 'K': [10**400, *K[1:]], 'model': '', 'D': []}}),
    'a camera mounted beyond all floats': manifest(
        extrinsics={'front': [10**400, 0, 0, 0, 0, 0, 1]}),
    'descriptors of another length': manifest(dimension=8),
}
WITHOUT_DIRECTION = {'a descriptor of zeros': descriptor(0.0),
                     'an infinite descriptor': descriptor(np.inf)}
HARMLESS = {
    'control characters and markup': keyframe(camera='<script>alert(1)</script>\x1b[2J'),
    'a path out of the map': keyframe(source='../../etc', image='/etc/passwd'),
    'the last moment there is': keyframe(stamp_ns=2**63 - 1),
    'the first moment there is': keyframe(stamp_ns=-2**63),
    'a thumbnail that is no picture': thumbnail(b'garbage'),
    'a thumbnail too large to be': thumbnail(wide_jpeg()),
    'orders to a terminal in the manifest': manifest(
        model='\x1b[2J', sources=['\x1b]0;owned\x07'], features='\x9b31m'),
    'half a character in the manifest': manifest(map_frame='\ud800', sources=['a\ud800']),
    'settings of nobody': manifest(config={'keyframes': [1]}, preprocessing={'size': 'x'}),
}


@pytest.fixture
def tools(make, tmp_path, capsys) -> Callable[..., dict[str, int]]:
    """Exit codes of the tools on a map; a refusal must be one line that starts as ours do."""
    def run(path: Path, align: bool = True) -> dict[str, int]:
        sound = make('sound')
        codes = {}
        for name, arguments in {
            'info': (), 'verify': (), 'show': ('-o', tmp_path / 'page.html'),
            'export': ('-o', tmp_path / 'places.csv'),
            'merge': (sound, '--out', tmp_path / 'merged', '--same-frame'),
            'align': (sound, '--out', tmp_path / 'aligned', '--estimate'),
            'prune': ('--out', tmp_path / 'pruned', '--distance-m', '2'),
            'compress': ('--to', 'pca:4', '--out', tmp_path / 'short'),
        }.items():
            if name == 'align' and not align:
                continue
            verb = 'merge' if name == 'align' else name
            codes[name] = main(['map', verb, str(path), *map(str, arguments)])
            out, err = capsys.readouterr()
            assert not set('\x07\x1b\x9b') & set(out + err)  # a terminal would obey
            told = err.strip().splitlines()
            if codes[name]:
                assert told[-1].startswith('regvpr: ')
        return codes
    return run


@pytest.mark.parametrize('name', UNREADABLE)
def test_what_nobody_could_compute_with_is_refused_by_every_tool(name, make, tools, tmp_path):
    path = make('map')
    UNREADABLE[name](path)
    codes = tools(path)
    # Lengths are not checked before a descriptor is read.
    lazy = ('info', 'export', 'prune') if 'length' in name and 'focal' not in name else ()
    assert {n for n, code in codes.items() if not code} <= set(lazy)
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [
        'map', *(['pruned'] if not codes['prune'] else []), 'sound']


@pytest.mark.parametrize('name', WITHOUT_DIRECTION)
def test_a_descriptor_without_direction_is_refused_where_it_is_read(name, make, tools, capsys):
    path = make('map')
    WITHOUT_DIRECTION[name](path)
    codes = tools(path)
    assert [codes[tool] for tool in ('verify', 'show', 'merge', 'compress')] == [1] * 4
    assert main(['map', 'compress', str(path), '--to', 'pca:4', '--out', str(path) + '_2']) == 1
    assert 'a descriptor in it has no direction' in capsys.readouterr().err


@pytest.mark.parametrize('name', HARMLESS)
def test_what_is_odd_but_harmless_does_not_stop_a_tool(name, make, tools):
    path = make('map')
    HARMLESS[name](path)
    # Whether two maps of the same twelve places agree is not asked here.
    assert set(tools(path, align=False).values()) == {0}


def test_a_strangers_names_are_shown_without_what_a_terminal_obeys(make, capsys):
    path = make('map')
    HARMLESS['control characters and markup'](path)
    manifest(map_frame='\ud800', sources=['a\x1b]0;owned\x07', 'b'])(path)
    assert main(['map', 'info', str(path)]) == 0
    out, _ = capsys.readouterr()
    for line in (('cameras', '<script>alert(1)</script>\ufffd[2J, front'), ('frame', '\ufffd'),
                 ('sources', 'a\ufffd]0;owned\ufffd, b')):
        assert line in [tuple(map(str.strip, row.split('│')[1:3])) for row in out.splitlines()
                        if row.count('│') == 3]
    assert main(['map', 'info', str(path), '--json']) == 0
    assert json.loads(capsys.readouterr().out)['frame'] == '\ud800'


def test_an_error_that_quotes_a_map_is_one_line_without_what_a_terminal_obeys(make, tmp_path,
                                                                             capsys):
    path, picture = make('map'), tmp_path / 'a.png'
    picture.write_bytes(cv2.imencode('.png', np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    manifest(model='\x1b]0;owned\x07\n\ud800')(path)
    assert main(['localize', str(path), str(picture)]) == 1
    _, err = capsys.readouterr()
    assert f'map {path} was built with \ufffd]0;owned\ufffd \ufffd, which cannot' in err
    assert len(err.splitlines()) == 1


def test_a_compressed_map_without_its_projection_is_not_sound(make, capsys):
    path = make('map')
    manifest(compress='pca:16')(path)
    assert main(['map', 'verify', str(path), '--json']) == 1
    assert 'its attachment pca is missing' in capsys.readouterr().out


def test_a_schema_with_a_byte_that_is_no_text_is_refused(make, capsys):
    """SQLite quotes it in its error, which Python then cannot decode."""
    path = make('map')
    data = (path / 'map.db').read_bytes()
    at = data.index(b'covariance BLOB')
    (path / 'map.db').write_bytes(data[:at - 1] + b'\x94' + data[at:])
    for verb in ('info', 'verify'):
        assert main(['map', verb, str(path)]) == 1
        assert f'map {path} is damaged: ' in capsys.readouterr().err
