"""Describe images through the cache: streamed, in bounded memory, resumable."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
import itertools
import os
from pathlib import Path
import shutil
import tempfile
from typing import Any

import numpy as np
import numpy.typing as npt

from regvpr_core.datasets.dataset import Matrix, Picture
from regvpr_core.errors import ImageError
from regvpr_core.evaluation.describers import Describer
from regvpr_core.evaluation.descriptor_cache import DescriptorCache, picture_digest
from regvpr_core.images import decode_photo, orientation_of, RGB
from regvpr_core.images.ahead import load_ahead

DECODERS = 2
AHEAD_BATCHES = 2

Degrade = Callable[[RGB, int], RGB]


@dataclass(slots=True, kw_only=True)
class DescribeProgress:
    """Progress of a run; reported after every batch."""

    total: int
    found: int = 0
    described: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Descriptors of images, read from disk on demand.

    numbers: (N,) rows of the matrix; -1 for an unreadable image.
    """

    matrix: Matrix
    numbers: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def dimension(self) -> int:
        """Length of a descriptor."""
        return int(self.matrix.shape[1])

    def block(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Descriptors (stop - start, D) float32."""
        return np.asarray(self.matrix[self.numbers[start:stop]], dtype=np.float32)

    def select(self, which: npt.NDArray[np.int64]) -> 'Rows':
        """Select some of the images."""
        return Rows(self.matrix, self.numbers[which])


def open_cache(folder: Path | None, describer: Describer) -> DescriptorCache:
    """Open the cache of a model; a temporary one if descriptors are not kept.

    Args:
        folder: parent of all caches; None keeps nothing.
    """
    if folder is not None and describer.fingerprint:
        return DescriptorCache(folder, describer.fingerprint, describer.name)
    temporary = tempfile.mkdtemp(prefix='regvpr-evaluate-')
    return _Thrown(Path(temporary), describer.fingerprint or describer.name, describer.name)


class _Thrown(DescriptorCache):
    """A cache that is deleted after the run."""

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.path.parent, ignore_errors=True)


def describe_pictures(
    pictures: Sequence[Picture],
    describer: Describer,
    cache: DescriptorCache,
    *,
    batch: int = 16,
    degrade: Degrade | None = None,
    degrade_mark: str = '',
    progress: Callable[[DescribeProgress], None] | None = None,
) -> tuple[Rows, dict[int, str]]:
    """Describe the images that are not in the cache yet.

    Args:
        pictures: queries or references of a data set.
        describer: the model.
        cache: of that model.
        batch: images per pass, 1 or more.
        degrade: changes the pixels of image i before they are described.
        degrade_mark: names the change; part of the cache key.
        progress: called after every batch.

    Returns:
        rows in the order of the images, and index and reason of each unreadable image.

    Raises:
        EvaluationError: the model gives no usable descriptors.
    """
    report = DescribeProgress(total=len(pictures))
    digests: list[bytes | None] = [None] * len(pictures)
    new = _new_pictures(pictures, describer, cache, batch, degrade, degrade_mark, digests, report)
    # A duplicate image may occur twice in one batch: the later row is used.
    while group := list(itertools.islice(new, batch)):
        rows = describer.describe([prepared for _, prepared in group])
        cache.append([digest for digest, _ in group], rows)
        report.described += len(group)
        if progress:
            progress(report)
    if progress:
        progress(report)
    numbers = np.full(len(pictures), -1, dtype=np.int64)
    for i, digest in enumerate(digests):
        row = None if digest is None else cache.row_of(digest)
        numbers[i] = -1 if row is None else row
    return Rows(cache.matrix(), numbers), report.unreadable


def _new_pictures(
    pictures: Sequence[Picture], describer: Describer, cache: DescriptorCache, batch: int,
    degrade: Degrade | None, mark: str, digests: list[bytes | None], report: DescribeProgress,
) -> Iterator[tuple[bytes, Any]]:
    """Digest and network input of each image to describe, read ahead in threads."""
    def load(i: int) -> tuple[bytes, Any]:
        data = pictures[i].encoded()
        changed = f'|{mark}|{i}' if mark else ''
        if (turned := orientation_of(data)) != 1:
            changed += f'|turned {turned}'  # earlier versions did not rotate these images
        digest = picture_digest(data + changed.encode() if changed else data)
        if cache.row_of(digest) is not None:
            return digest, None
        rgb = decode_photo(data, pictures[i].name)
        return digest, describer.prepare(rgb if degrade is None else degrade(rgb, i))

    threads = min(DECODERS, os.cpu_count() or 1)
    for i, loaded in load_ahead(range(len(pictures)), load, threads=threads,
                                most=AHEAD_BATCHES * batch):
        if isinstance(loaded, ImageError):
            report.unreadable[i] = str(loaded)
            continue
        digests[i], prepared = loaded
        if prepared is None:
            report.found += 1
        else:
            yield loaded
