"""Miniature copies of published layouts, and data sets without a network."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from regvpr_core.datasets.dataset import Dataset, PictureFile
from regvpr_core.datasets.ground_truth import matches


def write_picture(path: Path, seed: int = 0) -> Path:
    """A small picture of smooth noise, the same for a seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(small, (64, 48), interpolation=cv2.INTER_CUBIC))
    return path


@pytest.fixture
def picture() -> Callable[..., Path]:
    """`picture(path, seed)` writes one."""
    return write_picture


def utm_name(east: float, north: float, note: str = '', suffix: str = 'jpg') -> str:
    """A file name of the convention; the note is its seventh field."""
    return f'@{east:010.2f}@{north:010.2f}@10@S@037.00000@-122.00000@{note}@@@@@@@@.{suffix}'


@pytest.fixture
def utm_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write `images/test/database|queries` with pictures at positions (x, y), seeds by place."""
    def make(references: Sequence[tuple[float, float]], queries: Sequence[tuple[float, float]],
             name: str = 'set', split: str = 'images/test', query_folder: str = 'queries') -> Path:
        root = tmp_path / name
        for side, positions in (('database', references), (query_folder, queries)):
            (root / split / side).mkdir(parents=True, exist_ok=True)
            for i, (x, y) in enumerate(positions):
                write_picture(root / split / side / utm_name(x, y, f'{side}{i}'), int(x))
        return root
    return make


@pytest.fixture
def line_dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """References along x every 10 m, queries at given references' pictures."""
    def make(count: int, shown: Sequence[int], name: str = 'line') -> Dataset:
        root = tmp_path / name
        references = [PictureFile(f'r{i}.png', write_picture(root / f'r{i}.png', i))
                      for i in range(count)]
        queries = [PictureFile(f'q{i}.png', write_picture(root / f'q{i}.png', place))
                   for i, place in enumerate(shown)]
        xy = np.stack([10.0 * np.arange(count), np.zeros(count)], axis=1)
        return Dataset(name=name, protocol=name, rule='the same place', references=references,
                       queries=queries, positives=matches([[p] for p in shown]),
                       reference_xy=xy, query_xy=xy[list(shown)])
    return make


class PixelMeans:
    """Describes a picture by the means of a 4 x 3 grid, centred: tells seeds apart."""

    name = 'pixel_means'
    notice = 'model pixel_means: no weights'

    def __init__(self, fingerprint: str = 'pixel-means-1') -> None:
        self.fingerprint = fingerprint
        self.described = 0

    def prepare(self, rgb):
        return cv2.resize(rgb, (4, 3), interpolation=cv2.INTER_AREA)

    def describe(self, prepared):
        self.described += len(prepared)
        rows = np.stack(prepared).reshape(len(prepared), -1).astype(np.float32)
        rows -= rows.mean(axis=1, keepdims=True)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def pixel_means() -> PixelMeans:
    """A describer without a network."""
    return PixelMeans()
