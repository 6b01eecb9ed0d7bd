"""kill -9 at random moments: what was committed is there, and maps are whole or not there."""

from collections.abc import Callable
import os
from pathlib import Path
import random
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from regvpr_core.errors import MapError
from regvpr_core.map_tools.verify import verify
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter

ROOT = Path(__file__).resolve().parents[3]

WRITE_FOR_EVER = """
import sys
import numpy as np
from pathlib import Path
from regvpr_core.maps.writer import Keyframe, MapWriter

def write(writer, first, size):
    T = np.eye(4)
    T[0, 3] = first
    writer.append([Keyframe(stamp_ns=i, camera='front', T_map_cam=T, source='kill',
                            image=f'{i}.jpg', thumbnail=bytes([i % 251]) * 3000,
                            local_features=bytes([i % 199]) * 500,
                            descriptor=np.full(16, 1.0 + i % 100, np.float32))
                   for i in range(first, first + size)])

with MapWriter.append_to(Path(sys.argv[1])) as writer:
    print('ready', flush=True)
    round = 0
    while True:
        write(writer, len(writer), 1 + round % 5)
        print('keyframes', len(writer), flush=True)
        if round % 4 == 0:
            number = int((writer.attachment('calibration') or b'0')[:12]) + 1
            writer.attach('calibration', f'{number:012d}'.encode() * 2000)
            print('attached', number, flush=True)
        round += 1
"""

TOOLS = {
    'merge': """
from regvpr_core.map_tools.merge import merge_maps
merge_maps([PlaceMap.open(path, index='none'), PlaceMap.open(other, index='none')],
           [np.eye(4)], out, progress=told)
""",
    'prune': """
from regvpr_core.map_tools.prune import choose, prune_map, PruneConfig
place_map = PlaceMap.open(path, index='none')
told()
prune_map(place_map, choose(place_map, PruneConfig(distance_m=1.5)), out)
""",
    'convert': """
from regvpr_core.models.encoder import load_encoder
from regvpr_core.map_tools.convert import convert_map
encoder = load_encoder(sys.argv[4], 'cpu', 'fp32')
told()
convert_map(PlaceMap.open(path, index='none'), encoder, out, progress=told)
""",
    'copy': """
told()
PlaceMap.open(path, index='none').copy_to(out)
"""}

TOOL = """
import sys
import numpy as np
from pathlib import Path
from regvpr_core.maps.place_map import PlaceMap
path, other, out = map(Path, sys.argv[1:4])
def told(*done):
    print(*done, flush=True)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, '-c', code, *map(str, arguments)], cwd=ROOT,
                            stdout=subprocess.PIPE, text=True,
                            env={**os.environ, 'OMP_NUM_THREADS': '1'})


def kill_after(process: subprocess.Popen[str], seconds: float) -> list[str]:
    """Let it run, kill -9, and give what it had said."""
    timer = threading.Timer(seconds, process.send_signal, [signal.SIGKILL])
    timer.start()
    assert process.stdout is not None
    said = process.stdout.read().splitlines()
    process.wait()
    timer.cancel()
    process.stdout.close()
    return said


def kill_writers(path: Path, kills: int, seed: int) -> tuple[int, int]:
    """Kill writers of a map at random moments, and check it after each; keyframes, attachments."""
    rng = random.Random(seed)
    keyframes = attached = 0
    for kill in range(kills):
        process = start(WRITE_FOR_EVER, path)
        assert process.stdout is not None
        assert process.stdout.readline() == 'ready\n'
        told: list[str] = []
        while kill % 2 and not (told and told[-1].startswith('attached')):
            told.append(process.stdout.readline())  # on a busy machine little is written in time
        for line in told + kill_after(process, rng.uniform(0.0, 0.25)):
            words = line.split()
            if len(words) == 2 and words[0] == 'keyframes':
                keyframes = max(keyframes, int(words[1]))
            elif len(words) == 2 and words[0] == 'attached':
                attached = max(attached, int(words[1]))
        report = verify(path)
        assert report.sound, report.facts()
        with PlaceMap.open(path) as place_map:
            count = len(place_map)
            assert count >= keyframes
            assert place_map.stamps_ns.tolist() == list(range(count))
            assert place_map.images == [f'{i}.jpg' for i in range(count)]
            np.testing.assert_array_equal(
                place_map.stored_descriptors[:, 0], 1.0 + np.arange(count) % 100)
            for i in range(max(0, count - 9), count):
                assert place_map.local_features(i) == bytes([i % 199]) * 500
            value = place_map.attachment('calibration')
            number = int(value[:12]) if value else 0
            assert number >= attached
            assert not value or value == f'{number:012d}'.encode() * 2000
        keyframes, attached = count, number
    return keyframes, attached


def test_every_committed_keyframe_and_attachment_survives_kill_9(make_map):
    keyframes, attached = kill_writers(make_map(0), 8, seed=0)
    assert keyframes > 8
    assert attached > 1


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_they_survive_sixty_kills(make_map):
    keyframes, attached = kill_writers(make_map(0), 60, seed=1)
    assert keyframes > 60
    assert attached > 15


@pytest.fixture
def source(tmp_path: Path, manifest, rows, place) -> Callable[[str, int], Path]:
    """A map with images: `source(name, count)`."""
    def make(name: str, count: int) -> Path:
        picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
        with MapWriter.create(tmp_path / name, manifest) as writer:
            writer.append([place(i, row, thumbnail=picture) for i, row in enumerate(rows(count))])
        return tmp_path / name
    return make


def kill_tool(name: str, source: Callable[[str, int], Path], tmp_path: Path, model: Path,
              kills: int, count: int) -> int:
    """Kill a tool at random moments, then let it finish; how often it had before."""
    path, other, out = source('a', count), source('b', count), tmp_path / 'out'
    want = {'merge': 2 * count, 'prune': count // 2, 'convert': count, 'copy': count}[name]
    whole = {file.name: file.read_bytes() for file in path.iterdir() if file.name != 'map.lock'}
    rng = random.Random(0)
    finished = 0
    for _ in range(kills):
        process = start(TOOL + TOOLS[name], path, other, out, model)
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        kill_after(process, rng.uniform(0.0, 1.0 if name == 'convert' else 0.15))
        if out.exists():
            finished += 1
            assert verify(out).sound
            with PlaceMap.open(out) as place_map:
                assert len(place_map) == want
            shutil.rmtree(out)
        for file, data in whole.items():
            assert (path / file).read_bytes() == data
    # What the killed ones left is in nobody's way.
    process = start(TOOL + TOOLS[name], path, other, out, model)
    process.communicate()
    assert process.returncode == 0
    assert verify(out).keyframes == want
    assert verify(out).sound
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a', 'b', 'out']
    return finished


@pytest.mark.parametrize('name', TOOLS)
def test_a_killed_tool_leaves_a_whole_map_or_none(name, source, tmp_path, small_model):
    kill_tool(name, source, tmp_path, small_model, 1, 60)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize('name', TOOLS)
def test_tools_survive_twenty_kills(name, source, tmp_path, small_model):
    assert kill_tool(name, source, tmp_path, small_model, 20, 600) < 20


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from regvpr_core.errors import MapError
from regvpr_core.maps.writer import Keyframe, MapWriter

resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    with MapWriter.append_to(Path(sys.argv[1])) as writer:
        while True:
            i = len(writer)
            writer.append([Keyframe(stamp_ns=i, camera='front', T_map_cam=np.eye(4),
                                    thumbnail=bytes(int(sys.argv[2])),
                                    descriptor=np.full(16, 1.0 + i % 100, np.float32))])
            print(len(writer), flush=True)
except MapError as error:
    print(error, flush=True)
"""


@pytest.mark.parametrize('thumbnail_bytes', [10, 9000])
def test_a_disk_that_is_full_keeps_what_was_committed(make_map, thumbnail_bytes, place, rows):
    """First the descriptors, then the database meets the limit of a file."""
    path = make_map(0)
    if thumbnail_bytes == 10:  # so that descriptors.f16 is the larger file
        with MapWriter.append_to(path) as writer:
            for i in range(62):
                writer.append([place(i, row) for row in rows(100)])
    before = len(PlaceMap.open(path, index='none'))
    process = start(FULL, path, thumbnail_bytes)
    out, _ = process.communicate()
    *counts, error = out.splitlines()
    assert process.returncode == 0
    committed = int(counts[-1]) if counts else before
    assert f'cannot append to map {path}: ' in error
    assert error.endswith(f'; the keyframes committed before ({committed}) are safe')
    assert verify(path).sound
    with PlaceMap.open(path) as place_map:
        assert len(place_map) == committed
    with MapWriter.append_to(path) as writer:  # there is room again
        writer.append([place(1, rows(1)[0])])
    assert verify(path).keyframes == committed + 1


def test_a_merge_onto_a_full_disk_leaves_nothing(source, tmp_path):
    path, other = source('a', 60), source('b', 60)
    code = TOOL.replace('import sys', 'import resource, sys') + """
from regvpr_core.errors import MapError
from regvpr_core.map_tools.merge import merge_maps
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    merge_maps([PlaceMap.open(path, index='none'), PlaceMap.open(other, index='none')],
               [np.eye(4)], out)
except MapError as error:
    print(error)
"""
    process = start(code, path, other, tmp_path / 'out')
    out, _ = process.communicate()
    assert process.returncode == 0
    assert out.startswith('cannot append to map ')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a', 'b']


READ_FOR_EVER = """
import sys
from pathlib import Path
from regvpr_core.maps.place_map import PlaceMap
print('ready', flush=True)
seen = 0
while True:
    with PlaceMap.open(Path(sys.argv[1])) as place_map:
        assert len(place_map) >= seen
        seen = len(place_map)
        assert place_map.stamps_ns.tolist() == list(range(seen))
        if seen:
            assert place_map.local_features(seen - 1) is not None
            place_map.check_descriptors()
    print(seen, flush=True)
"""


def test_readers_in_other_processes_work_beside_a_writer_and_a_second_writer_does_not(make_map):
    path = make_map(0)
    readers = [start(READ_FOR_EVER, path) for _ in range(2)]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == 'ready\n'
    writer = start(WRITE_FOR_EVER, path)
    assert writer.stdout is not None
    assert writer.stdout.readline() == 'ready\n'
    with pytest.raises(MapError, match='is being written by another process'):
        MapWriter.append_to(path)
    for reader in readers:  # until each has seen it grow
        assert reader.stdout is not None
        seen: set[int] = set()
        while len(seen) < 4:
            line = reader.stdout.readline()
            assert line, 'the reader has failed'
            seen.add(int(line))
    for process in (writer, *readers):
        assert process.poll() is None
        kill_after(process, 0.0)
    assert verify(path).sound
    MapWriter.append_to(path).close()
