"""Converts image files to network input in batches."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
import itertools
from pathlib import Path

import torch
from torch import Tensor
import torch.nn.functional as F

from regvpr_core.errors import ImageError
from regvpr_core.images import read
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
    def load(path: Path) -> Tensor | ImageError:
        try:
            return resized(path, preprocessing)
        except ImageError as error:
            return error

    rest = iter(groups)
    waiting: deque[list[Future[Tensor | ImageError]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                for group in itertools.islice(rest, AHEAD_GROUPS - len(waiting)):
                    waiting.append([pool.submit(load, path) for path in group])
                if not waiting:
                    return
                yield [future.result() for future in waiting.popleft()]
        finally:
            pool.shutdown(cancel_futures=True)


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
