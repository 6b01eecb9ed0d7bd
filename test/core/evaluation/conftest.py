"""Miniature copies of published layouts, and data sets without a network."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from regvpr_core.datasets.dataset import Dataset, PictureFile
from regvpr_core.datasets.ground_truth import matches


@pytest.fixture
def line_dataset(tmp_path: Path, picture: Callable[..., Path]) -> Callable[..., Dataset]:
    """References along x every 10 m, queries at given references' images."""
    def make(count: int, shown: Sequence[int], name: str = 'line') -> Dataset:
        root = tmp_path / name
        references = [PictureFile(f'r{i}.png', picture(root / f'r{i}.png', i))
                      for i in range(count)]
        queries = [PictureFile(f'q{i}.png', picture(root / f'q{i}.png', place))
                   for i, place in enumerate(shown)]
        xy = np.stack([10.0 * np.arange(count), np.zeros(count)], axis=1)
        return Dataset(name=name, protocol=name, rule='the same place', references=references,
                       queries=queries, positives=matches([[p] for p in shown]),
                       reference_xy=xy, query_xy=xy[list(shown)])
    return make


class PixelMeans:
    """Describes an image by the means of a 4 x 3 grid, centred: tells seeds apart."""

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
