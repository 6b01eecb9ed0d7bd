"""Converts uint8 pixels to network input, by torch on the network's device, or by NumPy.

Torch is imported only where needed, because exported models run without it.
"""

from __future__ import annotations

from dataclasses import dataclass
import functools
from typing import Any, TYPE_CHECKING
import warnings

import cv2
import numpy as np
import numpy.typing as npt
from scipy import sparse

from regvpr_core.config import check_range
from regvpr_core.errors import ConfigError
from regvpr_core.images import check_rgb

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PATCH = 14
INTERPOLATIONS = ('bilinear', 'bicubic')


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Preprocessing of images; part of a checkpoint.

    height, width: network input in pixels, 14 to 2016; multiples of 14 for a ViT.
    resize: `stretch` ignores the aspect ratio, as in RegVPR, SALAD and GSV-Cities.
    mean, std: per channel of RGB in 0..1.
    interpolation: bilinear or bicubic, antialiased.
    """

    height: int = 224
    width: int = 224
    resize: str = 'stretch'
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = 'bilinear'

    def __post_init__(self) -> None:
        for name in ('height', 'width'):
            check_range(f'preprocessing.{name}', getattr(self, name), PATCH, 2016)
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(f'preprocessing.interpolation is {self.interpolation!r}; known: '
                              f'{", ".join(INTERPOLATIONS)}')
        if self.resize != 'stretch':
            raise ConfigError(f'preprocessing.resize is {self.resize!r}; known: stretch')
        for value in self.std:
            check_range('preprocessing.std', value, 1e-3, 1e3)

    def check_patches(self) -> None:
        """Refuse a size that a ViT with 14-pixel patches cannot take.

        Raises:
            ConfigError: the message names the side.
        """
        for name in ('height', 'width'):
            size = getattr(self, name)
            if size % PATCH:
                raise ConfigError(f'preprocessing.{name} is {size}; expected a multiple of 14')


# Images of messages are read-only and not changed here; a copy would cost as much as resizing.
warnings.filterwarnings('ignore', message='The given NumPy array is not writ')


def network_input(
    rgb: npt.NDArray[np.uint8], preprocessing: Preprocessing, device: torch.device
) -> Tensor:
    """One image (H, W, 3) uint8 RGB to (1, 3, height, width) float32, resized with antialiasing.

    Raises:
        ImageError: the image is not uint8 RGB or has a size that cannot be used.
    """
    import torch
    import torch.nn.functional as F

    check_rgb(rgb)
    pixels = torch.from_numpy(np.ascontiguousarray(rgb))
    if device.type == 'cuda':
        pixels = pixels.pin_memory()  # allows an asynchronous copy to the device
    pixels = pixels.to(device, non_blocking=True)
    pixels = pixels.permute(2, 0, 1)[None]  # (1, 3, H, W), channels last in memory
    size = (preprocessing.height, preprocessing.width)
    # Resizing in uint8 avoids floats of the full image; the rounding error is below 1/255.
    if device.type == 'cpu':
        pixels = F.interpolate(pixels, size, mode=preprocessing.interpolation, antialias=True)
        x = pixels.float()
    else:
        x = F.interpolate(pixels.float(), size, mode=preprocessing.interpolation, antialias=True)
        x = x.clamp(0, 255)  # bicubic resampling overshoots
    mean, std = moments(preprocessing, device)
    return ((x - mean) / std).contiguous()


@functools.lru_cache
def moments(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1, 3, 1, 1) in grey levels, cached on the device: sending them
    with every image would make the CPU wait for the GPU.
    """
    import torch

    with torch.inference_mode(False):
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255.0
                     for values in (preprocessing.mean, preprocessing.std))
        return mean.to(device), std.to(device)


def numpy_input(
    rgb: npt.NDArray[np.uint8], preprocessing: Preprocessing
) -> npt.NDArray[np.float32]:
    """As `network_input` on the CPU, without torch: (1, 3, height, width) float32.

    As in torch for uint8, columns are resampled before rows, and each pass is rounded to whole
    grey levels. A few pixels differ from torch by one level.

    Raises:
        ImageError: the image is not uint8 RGB or has a size that cannot be used.
    """
    check_rgb(rgb)
    height, width, kind = preprocessing.height, preprocessing.width, preprocessing.interpolation
    # OpenCV transposes thirty times faster than NumPy.
    columns = resampled(cv2.transpose(rgb).reshape(rgb.shape[1], -1), width, kind)
    rows = cv2.transpose(columns.reshape(width, -1, 3)).reshape(len(rgb), -1)  # (H, width * 3)
    pixels = resampled(rows, height, kind).reshape(height, width, 3)
    mean, std = (255.0 * np.array(values, np.float32)[:, None, None]
                 for values in (preprocessing.mean, preprocessing.std))
    return np.ascontiguousarray((pixels.transpose(2, 0, 1) - mean) / std, np.float32)[None]


def resampled(lines: npt.NDArray[Any], count: int, kind: str) -> npt.NDArray[np.float32]:
    """Resample N lines of grey levels (N, M) to (count, M), rounded."""
    if len(lines) == count:
        return lines.astype(np.float32)
    levels = resampling(len(lines), count, kind) @ lines
    return np.asarray(np.clip(np.floor(levels + 0.5), 0.0, 255.0), np.float32)


@functools.lru_cache(maxsize=16)
def resampling(old: int, new: int, kind: str) -> Any:
    """Weights of antialiased resampling of a line of pixels: sparse (new, old) float32.

    When shrinking, the filter is widened by the scale, as in Pillow and torch. bicubic is Keys'
    filter with a = -0.5.
    """
    scale = old / new
    wider = max(scale, 1.0)
    support = wider if kind == 'bilinear' else 2.0 * wider
    centres = (np.arange(new) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), old)
    at = first[:, None] + np.arange(int((last - first).max()))  # (new, taps)
    x = np.abs(at + 0.5 - centres[:, None]) / wider
    if kind == 'bilinear':
        weights = np.maximum(1.0 - x, 0.0)
    else:
        weights = np.where(x < 1.0, (1.5 * x - 2.5) * x * x + 1.0,
                           np.where(x < 2.0, ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0, 0.0))
    weights[at >= last[:, None]] = 0.0
    weights /= weights.sum(axis=1, keepdims=True)
    # Fixed-point weights of 15 bits, as torch uses for uint8.
    unit = 2.0 ** np.floor(np.log2((2 ** 15 - 0.5) / weights.max()))
    weights = np.trunc(weights * unit + np.copysign(0.5, weights)) / unit
    lines = np.repeat(np.arange(new), at.shape[1])
    return sparse.csr_array(
        (weights.ravel().astype(np.float32), (lines, np.minimum(at, old - 1).ravel())),
        shape=(new, old))
