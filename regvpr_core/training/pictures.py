"""Converts image files to network input in batches."""

from collections.abc import Iterator, Sequence
import functools
import itertools
from pathlib import Path

import torch
from torch import Tensor
import torch.nn.functional as F

from regvpr_core.errors import ImageError
from regvpr_core.images import read
from regvpr_core.images.ahead import load_ahead
from regvpr_core.models.preprocessing import Preprocessing

AHEAD_GROUPS = 3


def resized(path: Path, preprocessing: Preprocessing) -> Tensor:
    """An image file as (3, height, width) uint8, resized with antialiasing.

    Raises:
        ImageError: it cannot be read.
    """
    pixels = torch.from_numpy(read(path)).permute(2, 0, 1)[None]  # (1, 3, H, W)
    size = (preprocessing.height, preprocessing.width)
    return F.interpolate(pixels, size, mode='bilinear', antialias=True)[0]


def read_groups(
    groups: Sequence[Sequence[Path]], preprocessing: Preprocessing, threads: int
) -> Iterator[list[Tensor | ImageError]]:
    """The images of each group of files, in order, decoded ahead; errors replace unreadable
    ones.
    """
    images = (image for _, image in load_ahead(
        itertools.chain.from_iterable(groups), functools.partial(
            resized, preprocessing=preprocessing),
        threads=threads, most=AHEAD_GROUPS * max(map(len, groups), default=0)))
    for group in groups:
        yield list(itertools.islice(images, len(group)))


def unit_range(pictures: Tensor, device: torch.device) -> Tensor:
    """Images (B, 3, H, W) uint8 to float32 in 0..1 on a device."""
    if device.type == 'cuda':
        pictures = pictures.pin_memory()
    return pictures.to(device, non_blocking=True).float() / 255.0


def normalised(x: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Images in 0..1 to network input."""
    mean = x.new_tensor(preprocessing.mean).view(1, 3, 1, 1)
    std = x.new_tensor(preprocessing.std).view(1, 3, 1, 1)
    return (x - mean) / std
