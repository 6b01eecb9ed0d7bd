"""A build that is killed anywhere, resumed, and compared with one that was not."""

from pathlib import Path
import sqlite3
import subprocess
import sys

import cv2
import numpy as np
import pytest

from regvpr_core.errors import MapError
from regvpr_core.map_tools import compression
from regvpr_core.mapping.builder import build_map, BuildConfig, BuildOptions
from regvpr_core.mapping.frame_quality import QualityConfig
from regvpr_core.mapping.partial_map import kept_keyframes, partial_folder, PartialMap
from regvpr_core.maps.keyframes import KeyframeConfig
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter
from regvpr_core.recordings.folders import FolderOptions, open_folder
from regvpr_core.recordings.frames import PosedFrame, PosedSource
from regvpr_core.recordings.geodesy import GpsConfig
from regvpr_core.recordings.sources import SourceOptions

ROOT = Path(__file__).parents[3]

KILLER = '''
import os, random, signal, sys, time
from pathlib import Path
from regvpr_core.models import engines
from regvpr_core.models.encoder import load_encoder
from regvpr_core.models.cpu.network import Form
from regvpr_core.mapping.builder import build_map, BuildConfig, BuildOptions

engines.fastest_form = lambda *_: Form()  # chosen by timing else: processes would differ
folder, model, whole, cut = map(Path, sys.argv[1:5])
rng = random.Random(5)
encoder = load_encoder(model, 'cpu', 'fp32', threads=1)  # no threads yet: it may be forked

def build(out, told):
    """In a process of its own, as a user's command is."""
    if pid := os.fork():
        return pid
    try:
        build_map([folder], BuildOptions(out=out, config=BuildConfig(batch=2), resume=True),
                  encoder, lambda report: os.write(told, b'.'))
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)

listen, told = os.pipe()
assert os.waitpid(build(whole, told), 0)[1] == 0
os.read(listen, 10_000)
kills = 0
while not cut.exists():
    listen, told = os.pipe()
    pid = build(cut, told)
    os.close(told)
    if kills < 8:
        for _ in range(rng.randrange(1, 4)):
            os.read(listen, 1)
        time.sleep(rng.random() * 0.01)  # anywhere between two batches
        os.kill(pid, signal.SIGKILL)
    os.close(listen)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    kills += status == signal.SIGKILL
print(kills)
'''


def write_folder(folder: Path, pictures: list[np.ndarray]) -> Path:
    """Images 1 m apart along x; of ten, one is black, one repeated and one torn."""
    folder.mkdir()
    lines = []
    for i, rgb in enumerate(pictures):
        file = folder / f'{i}.png'
        shown = np.zeros_like(rgb) if i % 10 == 4 else pictures[i - (i % 10 == 6)]
        cv2.imwrite(str(file), shown[..., ::-1])
        if i % 10 == 8:
            file.write_bytes(b'torn')
        lines.append(f'{file.name},{i},0,0')
    (folder / 'poses.csv').write_text('\n'.join(lines) + '\n')
    return folder


def files_of(path: Path) -> set[str]:
    """Names of a map's files, without those that SQLite keeps beside an open database."""
    return {p.name for p in path.iterdir() if not p.name.startswith('map.db-')}


def content(path: Path) -> tuple[list[tuple], bytes]:
    """Every row of a map's keyframes and the bytes of its descriptors."""
    with sqlite3.connect(path / 'map.db') as database:
        rows = database.execute('SELECT * FROM keyframe ORDER BY id').fetchall()
    return rows, (path / 'descriptors.f16').read_bytes()


def test_a_build_killed_again_and_again_ends_as_one_that_was_not(
        tmp_path, noise, small_model):
    folder = write_folder(tmp_path / 'lap', noise(60))
    run = subprocess.run(
        [sys.executable, '-c', KILLER, str(folder), str(small_model), str(tmp_path / 'whole'),
         str(tmp_path / 'cut')], cwd=ROOT, capture_output=True, text=True, timeout=160)
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout) >= 3  # kills; the last builds may have been through before theirs
    assert sorted(p.name for p in tmp_path.iterdir()) == ['cut', 'lap', 'whole']
    # Killed right after it had its name, a map keeps what was noted of its build.
    assert {'descriptors.f16', 'map.db'} <= files_of(tmp_path / 'cut') <= {
        'descriptors.f16', 'map.db', 'about.json', 'probe.json', 'state-0.json', 'state-1.json'}
    rows, descriptors = content(tmp_path / 'whole')
    assert len(rows) == 42
    assert content(tmp_path / 'cut') == (rows, descriptors)


def frames_of(folder: Path, stop_at: int = 10**9, error: type[BaseException] = KeyboardInterrupt):
    """The frames of a folder; after `stop_at` of them an error."""
    for i, frame in enumerate(open_folder(folder, FolderOptions(), GpsConfig()).frames()):
        if i == stop_at:
            raise error('stop')
        yield frame


@pytest.fixture
def build(small_encoder, tmp_path):
    """Build a map of frames; gives the report."""
    def run(frames, name: str = 'map', config: BuildConfig | None = None, *, map_frame='map',
            extrinsics=None, about=None, encoder=small_encoder, **more):
        source = PosedSource(name='lap', poses='', world='', frames=lambda: iter(frames), total=0,
                             extrinsics=extrinsics or {}, identity=about or {})
        reports = []
        build_map([source], BuildOptions(
            out=tmp_path / name, config=config or BuildConfig(batch=2),
            sources=SourceOptions(map_frame=map_frame), **more), encoder, reports.append).close()
        return reports[-1]
    return run


@pytest.mark.parametrize('error', [KeyboardInterrupt, RuntimeError, MapError])
@pytest.mark.parametrize('stop_at', [17, 30])
def test_a_build_that_is_broken_off_goes_on(build, tmp_path, noise, error, stop_at):
    folder = write_folder(tmp_path / 'lap', noise(40))
    whole = build(frames_of(folder), 'whole')
    with pytest.raises(error):
        build(frames_of(folder, stop_at, error))
    assert not (tmp_path / 'map').exists()
    before = kept_keyframes(tmp_path / 'map')
    assert 0 < before < whole.kept
    report = build(frames_of(folder), resume=True)
    assert content(tmp_path / 'map') == content(tmp_path / 'whole')
    assert (report.resumed, report.kept, report.other_bits) == (before, whole.kept, False)
    assert (report.seen, dict(report.dropped), report.first_image_error) == (
        whole.seen, dict(whole.dropped), whole.first_image_error)
    assert report.length_m == pytest.approx(whole.length_m, abs=1e-9)
    assert whole.dropped == {'too dark': 4, 'image cannot be decoded': 4,
                             'the same image as the last keyframe': 4}


def test_a_build_that_compresses_ends_the_same_wherever_it_is_broken_off(
        build, tmp_path, noise, monkeypatch):
    folder = write_folder(tmp_path / 'lap', noise(40))
    long = build(frames_of(folder), 'long')
    report = build(frames_of(folder), 'whole', compress='pca:6')
    assert (report.kept, report.compression.dimension_after) == (long.kept, 6)
    assert report.compression.recall_before >= report.compression.recall_after - 0.1
    # 1. While frames come; 2. while the map is compressed.
    with pytest.raises(KeyboardInterrupt):
        build(frames_of(folder, 30), compress='pca:6')
    with monkeypatch.context() as patch:
        patch.setattr(MapWriter, 'attach', lambda *_: (_ for _ in ()).throw(MapError('full')))
        with pytest.raises(MapError, match='full'):
            build(frames_of(folder), resume=True, compress='pca:6')
    assert not (tmp_path / 'map').exists()
    assert kept_keyframes(tmp_path / 'map') == long.kept
    build(frames_of(folder), resume=True, compress='pca:6')
    assert content(tmp_path / 'map') == content(tmp_path / 'whole')
    with PlaceMap.open(tmp_path / 'map') as short, PlaceMap.open(tmp_path / 'long') as whole:
        assert (short.manifest.compress, short.manifest.dimension) == ('pca:6', 6)
        query = whole.descriptors(5, 6)[0]
        assert short.search(short.project(query), 1)[1].tolist() == [5]
    assert sorted(p.name for p in tmp_path.iterdir()) == ['lap', 'long', 'map', 'whole']


def test_a_map_too_small_to_compress_is_kept_and_can_be_finished_otherwise(
        build, tmp_path, noise):
    folder = write_folder(tmp_path / 'lap', noise(20))
    with pytest.raises(MapError, match=r'14 keyframes are too few to learn 30 directions'):
        build(frames_of(folder), compress='pca:30')
    assert kept_keyframes(tmp_path / 'map') == 14
    assert build(frames_of(folder), resume=True).resumed == 14
    with PlaceMap.open(tmp_path / 'map') as place_map:
        assert (len(place_map), place_map.manifest.compress) == (14, '')
    with pytest.raises(MapError, match=r'pca:9999 does not shorten the \d+ numbers of'):
        build(frames_of(folder), 'none', compress='pca:9999')
    assert not partial_folder(tmp_path / 'none').exists()


def test_resuming_nothing_is_building(build, tmp_path, noise):
    folder = write_folder(tmp_path / 'lap', noise(8))
    report = build(frames_of(folder), resume=True)
    assert report.resumed == 0
    assert report.kept > 0


def test_an_unfinished_build_is_not_thrown_away_unasked(build, tmp_path, noise):
    folder = write_folder(tmp_path / 'lap', noise(30))
    with pytest.raises(KeyboardInterrupt):
        build(frames_of(folder, 25))
    kept = kept_keyframes(tmp_path / 'map')
    with pytest.raises(MapError) as error:
        build(frames_of(folder))
    assert str(error.value) == (
        f'an earlier build of {tmp_path / "map"} was interrupted; continue it with --resume, or '
        f'remove {tmp_path / ".map.partial"} to start again')
    assert kept_keyframes(tmp_path / 'map') == kept > 0


@pytest.mark.parametrize(('change', 'message'), [
    ({'config': BuildConfig(batch=2, keyframes=KeyframeConfig(distance_m=2.0))},
     'had settings.keyframes.distance_m 1.0, this one has 2.0'),
    ({'config': BuildConfig(batch=4)}, 'had settings.batch 2, this one has 4'),
    ({'config': BuildConfig(batch=2, quality=QualityConfig(change=0.0))},
     'had settings.quality.change 1.0, this one has 0.0'),
    ({'about': {'name': 'lap', 'bytes': 8}},
     'had source 1.bytes 7, this one has 8'),
    ({'about': {'name': 'lap', 'bytes': 7, 'images': '/two'}},
     'had source 1.images none, this one has /two')])
def test_going_on_with_something_else_is_refused_and_named(
        build, tmp_path, noise, change, message):
    folder = write_folder(tmp_path / 'lap', noise(30))
    same = {'about': {'name': 'lap', 'bytes': 7}}
    with pytest.raises(KeyboardInterrupt):
        build(frames_of(folder, 25), **same)
    with pytest.raises(MapError, match=message):
        build(frames_of(folder), **(same | change), resume=True)
    assert build(frames_of(folder), **same, resume=True).resumed > 0


def test_fewer_frames_than_were_seen_are_refused(build, tmp_path, noise):
    folder = write_folder(tmp_path / 'lap', noise(30))
    with pytest.raises(KeyboardInterrupt):
        build(frames_of(folder, 25))
    with pytest.raises(MapError, match=r'the sources have 3 images, but \d+ had been seen'):
        build(list(frames_of(folder))[:3], resume=True)


def test_of_two_builds_of_one_map_the_second_is_refused(build, tmp_path, noise):
    folder = write_folder(tmp_path / 'lap', noise(20))

    def meanwhile():
        for i, frame in enumerate(frames_of(folder)):
            if i == 12:
                for resume in (False, True):
                    with pytest.raises(MapError, match=r'map .*map is being built by another'):
                        build(frames_of(folder), resume=resume)
                assert kept_keyframes(tmp_path / 'map') == 0  # not its to count
            yield frame

    assert build(meanwhile()).kept > 3


def test_another_network_that_rounds_otherwise_is_told(build, tmp_path, noise):
    folder = write_folder(tmp_path / 'lap', noise(30))
    with pytest.raises(KeyboardInterrupt):
        build(frames_of(folder, 25))
    (partial_folder(tmp_path / 'map') / 'probe.json').write_text('{"probe": 1}')
    assert build(frames_of(folder), resume=True).other_bits


@pytest.mark.parametrize('damage', ['', '{', '[]', '{"keyframes": 999}'])
def test_a_state_that_is_damaged_is_refused(build, tmp_path, noise, damage):
    folder = write_folder(tmp_path / 'lap', noise(30))
    with pytest.raises(KeyboardInterrupt):
        build(frames_of(folder, 25))
    for name in ('state-0.json', 'state-1.json'):
        (partial_folder(tmp_path / 'map') / name).write_text(damage)
    with pytest.raises(MapError, match=r'the state of the build cannot be read; remove it'):
        build(frames_of(folder), resume=True)


def test_a_full_disk_keeps_what_is_committed(build, tmp_path, noise, monkeypatch):
    folder = write_folder(tmp_path / 'lap', noise(30))
    whole = build(frames_of(folder), 'whole')
    append, room = MapWriter.append, [3]

    def until_full(self, keyframes):
        room[0] -= 1
        if room[0] < 0:
            raise MapError('cannot append: No space left on device')
        append(self, keyframes)

    with monkeypatch.context() as patch:
        patch.setattr(MapWriter, 'append', until_full)
        with pytest.raises(MapError, match='No space left'):
            build(frames_of(folder))
    assert kept_keyframes(tmp_path / 'map') == 6
    assert build(frames_of(folder), resume=True).kept == whole.kept
    assert content(tmp_path / 'map') == content(tmp_path / 'whole')


def test_a_build_that_could_not_give_its_map_the_name_goes_on(
        build, tmp_path, noise, monkeypatch):
    folder = write_folder(tmp_path / 'lap', noise(30))
    whole = build(frames_of(folder), 'whole')

    def fail(*_: object) -> None:
        raise OSError('Input/output error')

    with monkeypatch.context() as patch:
        patch.setattr(Path, 'replace', fail)
        with pytest.raises(MapError, match=r'cannot write map .*Input/output error'):
            build(frames_of(folder))
    assert kept_keyframes(tmp_path / 'map') == whole.kept > 0
    with pytest.raises(MapError, match='continue it with --resume'):
        build(frames_of(folder))
    assert build(frames_of(folder), resume=True).resumed == whole.kept
    assert files_of(tmp_path / 'map') == {'descriptors.f16', 'map.db'}
    assert content(tmp_path / 'map') == content(tmp_path / 'whole')


def test_what_a_compressed_map_was_made_from_does_not_stay_for_good(
        build, tmp_path, noise, monkeypatch):
    folder = write_folder(tmp_path / 'lap', noise(30))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PartialMap, 'discard', killed)
        with pytest.raises(KeyboardInterrupt):
            build(frames_of(folder), compress='pca:6')
    assert partial_folder(tmp_path / 'map').exists()
    with pytest.raises(MapError, match=r'map exists; .*\.map\.partial, left over from its build, '
                                       r'is removed'):
        build(frames_of(folder), resume=True, compress='pca:6')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['lap', 'map']
    with PlaceMap.open(tmp_path / 'map') as place_map:
        assert (len(place_map), place_map.manifest.compress) == (21, 'pca:6')


@pytest.mark.parametrize('step', ['attach', '_compare'])
def test_a_compressed_map_has_its_name_when_all_is_done(build, tmp_path, noise, monkeypatch, step):
    """Till then the build can be resumed, as a message says."""
    folder = write_folder(tmp_path / 'lap', noise(30))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MapWriter if step == 'attach' else compression, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            build(frames_of(folder), compress='pca:6')
    assert [p.name for p in tmp_path.iterdir() if 'map' in p.name] == ['.map.partial']
    assert build(frames_of(folder), resume=True, compress='pca:6').resumed == 21


def test_what_is_kept_does_not_depend_on_how_far_is_decoded_ahead(build, tmp_path, noise):
    """Wrong guesses are taken back: the outcome is that of one frame at a time."""
    pictures = noise(60)
    rng = np.random.default_rng(1)
    bad = set(rng.choice(60, 25, replace=False).tolist())

    def frames():
        for i, rgb in enumerate(pictures):
            T = np.eye(4)
            T[0, 3] = 0.4 * i
            shown = np.zeros_like(rgb) if i in bad else rgb
            yield PosedFrame(stamp_ns=i, camera='ab'[i % 2], T_map_cam=T, source='lap',
                             decode=lambda shown=shown: shown, held_bytes=1)

    # One frame at a time, written out.
    last: dict[str, float] = {}
    want = []
    for i in range(60):
        camera = 'ab'[i % 2]
        if (camera not in last or 0.4 * i - last[camera] > 1.0 - 1e-6) and i not in bad:
            want.append(i)
            last[camera] = 0.4 * i
    for batch in (1, 3, 16):
        report = build(frames(), f'map{batch}', BuildConfig(batch=batch))
        rows, _ = content(tmp_path / f'map{batch}')
        assert [row[1] for row in rows] == want
        assert report.seen == 60
