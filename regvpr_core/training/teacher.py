"""Distillation of the similarities of images from another model, the teacher.

Only similarities within a batch are learnt, so the teacher may have any descriptor length. The
teacher describes the unaugmented images.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from regvpr_core.arrays import Int64
from regvpr_core.datasets.dataset import PictureFile
from regvpr_core.datasets.place_set import PlaceSet
from regvpr_core.errors import TrainingError
from regvpr_core.evaluation.describe_pictures import describe_pictures, open_cache, Rows
from regvpr_core.evaluation.describers import Describer
from regvpr_core.evaluation.model_specs import open_describer
from regvpr_core.training.config import DistilConfig
from regvpr_core.training.processes import Processes

BLOCK = 4096
"""Number of descriptors read at once to compute their mean."""


class Lesson(Protocol):
    """An additional loss."""

    def __call__(self, descriptors: Tensor, images: Tensor) -> Tensor:
        """Loss of unit rows (B, D) and the indices (B) of their images."""


def no_lesson(descriptors: Tensor, images: Tensor) -> Tensor:
    """No additional loss: the loss is 0."""
    return descriptors.new_zeros(())


class Teacher:
    """Compares the similarities of a batch with those of the teacher.

    The loss is 1 - r, r being the correlation of a row of similarities with the teacher's, without
    the diagonal, averaged over rows (relational distillation as in Park et al., 2019,
    arXiv:1904.05068, with correlation in place of distances). The teacher's descriptors are
    centred over the training set.
    """

    def __init__(self, rows: Rows, weight: float) -> None:
        self._rows = rows
        self._weight = weight
        self._centre = centre(rows)

    def __call__(self, descriptors: Tensor, images: Tensor) -> Tensor:
        """The weighted loss of unit rows (B, D) of images with these indices (B)."""
        taught = self.similarities(images.cpu().numpy()).to(descriptors.device)
        rows = descriptors.float()
        learnt = rows @ rows.T
        off = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        pairs = [x[off].view(len(rows), -1) for x in (learnt, taught)]
        pairs = [x - x.mean(dim=1, keepdim=True) for x in pairs]
        return self._weight * (1.0 - F.cosine_similarity(pairs[0], pairs[1], dim=1)).mean()

    def similarities(self, images: Int64) -> Tensor:
        """Cosines (B, B) float32 of centred descriptors."""
        rows = self._rows.select(images).block(0, len(images)) - self._centre
        unit = F.normalize(torch.from_numpy(rows), dim=1)
        return unit @ unit.T


def centre(rows: Rows) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Mean descriptor of the images that have one."""
    known = rows.select(np.flatnonzero(rows.numbers >= 0))
    total = sum(known.block(start, start + BLOCK).sum(axis=0, dtype=np.float64)
                for start in range(0, len(known), BLOCK))
    return np.asarray(total / max(len(known), 1), dtype=np.float32)


def open_teacher(
    config: DistilConfig | None, places: PlaceSet, folder: Path, device: torch.device,
    processes: Processes, told: Callable[[str, int, int], None],
) -> tuple[Lesson, PlaceSet]:
    """The teacher with its descriptors of all images, and the places with descriptors.

    Args:
        config: settings; None: no teacher.
        places: of the run.
        folder: cache of descriptors.
        device: to run the teacher on.
        processes: run one after another, so that the first fills the cache.
        told: called with the progress; may raise to stop.

    Raises:
        TrainingError: the teacher cannot read an image.
        EvaluationError, CheckpointError: there is no such model.
    """
    if config is None:
        return no_lesson, places
    describer = open_describer(config.teacher, device=str(device))
    files = [PictureFile(name, path)
             for name, path in zip(places.names, places.paths, strict=True)]
    for turn in range(processes.count):  # the cache can be open in one process at a time
        if turn == processes.rank:
            rows, unreadable = described(files, describer, folder, told)
        processes.wait()
    if len(unreadable) == len(files):
        raise TrainingError(f'{config.teacher} can read none of {len(files)} images: '
                            f'{next(iter(unreadable.values()))}')
    return Teacher(rows, config.weight), places.without(unreadable)


def described(
    files: list[PictureFile], describer: Describer, folder: Path,
    told: Callable[[str, int, int], None],
) -> tuple[Rows, dict[int, str]]:
    """Descriptors of the teacher, through its cache."""
    with open_cache(folder, describer) as cache:
        return describe_pictures(
            files, describer, cache,
            progress=lambda p: told('teacher', p.found + p.described, p.total))
