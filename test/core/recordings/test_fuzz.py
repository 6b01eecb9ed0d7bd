"""Mutated recordings and photos: a refusal in words at worst. `make soak` runs all seeds."""

from collections import Counter
from pathlib import Path
import shutil

import cv2
import numpy as np
import pytest

from regvpr_core.errors import RegvprError
from regvpr_core.images import encode_jpeg
from regvpr_core.recordings.sources import open_sources, SourceOptions
from test.core.recordings.test_bag_source import BagMaker, pose, START, T_BASE_CAM

SECOND = 10**9
SEEDS = range(2000)
FEW = range(60)
KINDS = ('mcap', 'sqlite3', 'ros1', 'photos')


def make(folder: Path, kind: str) -> Path:
    """A small recording of one kind."""
    rgb = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    if kind == 'photos':
        photos = folder / 'photos'
        photos.mkdir()
        rows = ['image,x,y,yaw,stamp']
        for k, suffix in enumerate(('.jpg', '.png', '.webp')):
            cv2.imwrite(str(photos / f'{k}{suffix}'), rgb)
            rows.append(f'{k}{suffix},{k},0,0.1,{1_700_000_000 + k}')
        (photos / 'poses.csv').write_text('\n'.join(rows))
        return photos
    with BagMaker(folder / 'bag', kind) as bag:
        bag.transform(START, 'base_link', 'camera_optical', T_BASE_CAM, static=True)
        for k in range(4):
            bag.odometry(START + k * SECOND // 4, pose(k))
            bag.image(START + k * SECOND // 4, rgb)
        bag.compressed(START, rgb, '.jpg')
    return bag.path


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Data with bytes changed, a part cut off, removed, doubled, or made of one value."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not out:
            break
        at, size = int(rng.integers(len(out))), int(rng.integers(1, 200))
        kind = int(rng.integers(6))
        if kind == 0:
            del out[at:]
        elif kind == 1:
            del out[at:at + size]
        elif kind == 2:
            out[at:at] = out[at:at + size]
        elif kind == 3:
            out[at:at + size] = bytes([int(rng.integers(256))]) * len(out[at:at + size])
        else:
            for place in rng.integers(0, len(out), 8):
                out[place] = int(rng.integers(256))
    return bytes(out)


def read(path: Path) -> str:
    """Read all of a recording; 'read', or the kind of refusal."""
    options = SourceOptions() if path.name == 'photos' else SourceOptions(
        image_topics=['/camera/image_raw'])
    bad = 0
    try:
        with open_sources([path], options) as (source,):
            for frame in source.frames():
                try:
                    frame.decode()
                except RegvprError:
                    bad += 1
    except RegvprError as error:
        return type(error).__name__ if str(error) else 'no word'
    return 'read in part' if bad else 'read'


def run(tmp_path: Path, seeds: range) -> Counter[str]:
    """Mutate one file of a recording for each seed."""
    whole = {}
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        whole[kind] = make(tmp_path / kind, kind)
    seen: Counter[str] = Counter()
    for seed in seeds:
        rng, kind = np.random.default_rng(seed), KINDS[seed % len(KINDS)]
        path = whole[kind]
        files = [path] if path.is_file() else sorted(path.iterdir())
        file = files[int(rng.integers(len(files)))]
        kept = file.read_bytes()
        file.write_bytes(mutated(kept, rng))
        try:
            seen[read(path)] += 1
        except Exception as error:
            raise AssertionError(f'seed {seed} ({kind}, {file.name})') from error
        finally:
            file.write_bytes(kept)
    shutil.rmtree(tmp_path / 'photos')
    return seen


def test_mutated_recordings_are_read_or_refused_in_words(tmp_path):
    seen = run(tmp_path, FEW)
    assert sum(seen.values()) == len(FEW)
    assert len(seen) >= 2
    assert 'no word' not in seen


@pytest.mark.soak
def test_two_thousand_mutated_recordings_are_read_or_refused_in_words(tmp_path):
    seen = run(tmp_path, SEEDS)
    assert sum(seen.values()) == len(SEEDS)
    print(dict(seen))


def test_the_photos_are_whole_before_they_are_mutated(tmp_path):
    for kind in KINDS:
        (tmp_path / kind).mkdir()
        assert read(make(tmp_path / kind, kind)) == 'read'
    assert encode_jpeg(np.zeros((8, 8, 3), np.uint8))
