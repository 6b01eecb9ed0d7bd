"""Small maps made without a network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from regvpr_core.places.map_files import Manifest
from regvpr_core.places.map_writer import Keyframe, MapWriter

DIMENSION = 16


def descriptors(count: int, seed: int = 0, dimension: int = DIMENSION) -> np.ndarray:
    """Rows (count, dimension) of length 1 that lean to one side, as a network's do."""
    rows = np.random.default_rng(seed).normal(size=(count, dimension)) + 0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def keyframe(i: int, descriptor: np.ndarray, **more) -> Keyframe:
    """Keyframe i, i metres along x."""
    T = np.eye(4)
    T[0, 3] = i
    return Keyframe(**({'stamp_ns': 1_700_000_000_000_000_000 + i, 'camera': 'front',
                        'T_map_cam': T, 'descriptor': descriptor, 'source': 'lap'} | more))


@pytest.fixture
def manifest() -> Manifest:
    """Of a map with `DIMENSION` numbers a descriptor."""
    return Manifest(map_id='abc', model='m', fingerprint='f' * 64, dimension=DIMENSION)


@pytest.fixture
def rows() -> Callable[..., np.ndarray]:
    """Unit descriptors: `rows(count, seed)`."""
    return descriptors


@pytest.fixture
def place() -> Callable[..., Keyframe]:
    """A keyframe: `place(i, descriptor, **fields)`."""
    return keyframe


@pytest.fixture
def make_map(tmp_path: Path, manifest: Manifest) -> Callable[..., Path]:
    """A map of so many keyframes along a line: `make_map(count, name)`."""
    def make(count: int, name: str = 'map', seed: int = 0) -> Path:
        with MapWriter.create(tmp_path / name, manifest) as writer:
            writer.append([keyframe(i, row) for i, row in enumerate(descriptors(count, seed))])
        return tmp_path / name
    return make
