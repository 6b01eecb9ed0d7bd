"""From uint8 pixels to network input, in torch, on the device of the network."""

from dataclasses import dataclass
import functools
import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
import torch.nn.functional as F

from regvpr_core.config import check_range
from regvpr_core.errors import ConfigError
from regvpr_core.images import check_rgb

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PATCH = 14
INTERPOLATIONS = ('bilinear', 'bicubic')


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """Part of a checkpoint: how its network was shown images.

    height, width: network input in pixels, 14 to 2016; of a ViT multiples of 14.
    resize: `stretch` to that size whatever the aspect, as RegVPR, SALAD and GSV-Cities do.
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
            ConfigError: names the side.
        """
        for name in ('height', 'width'):
            size = getattr(self, name)
            if size % PATCH:
                raise ConfigError(f'preprocessing.{name} is {size}; expected a multiple of 14')


# Images of messages are read-only, and only read here; a copy would cost as much as resizing.
warnings.filterwarnings('ignore', message='The given NumPy array is not writ')


def network_input(
    rgb: npt.NDArray[np.uint8], preprocessing: Preprocessing, device: torch.device
) -> Tensor:
    """One image (H, W, 3) uint8 RGB to (1, 3, height, width) float32, resized with antialiasing.

    Raises:
        ImageError: the image is not uint8 RGB or has a size that cannot be used.
    """
    check_rgb(rgb)
    pixels = torch.from_numpy(np.ascontiguousarray(rgb))
    if device.type == 'cuda':
        pixels = pixels.pin_memory()  # else the copy to the device waits
    pixels = pixels.to(device, non_blocking=True)
    pixels = pixels.permute(2, 0, 1)[None]  # (1, 3, H, W), channels last in memory
    size = (preprocessing.height, preprocessing.width)
    # Resizing uint8 keeps the full image from ever becoming floats; the rounding is below 1/255.
    if device.type == 'cpu':
        pixels = F.interpolate(pixels, size, mode=preprocessing.interpolation, antialias=True)
        x = pixels.float()
    else:
        x = F.interpolate(pixels.float(), size, mode=preprocessing.interpolation, antialias=True)
        x = x.clamp(0, 255)  # bicubic overshoots
    mean, std = moments(preprocessing, device)
    return ((x - mean) / std).contiguous()


@functools.lru_cache
def moments(preprocessing: Preprocessing, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation (1, 3, 1, 1) in grey levels, kept on the device: sending them with every
    image would make the CPU wait for the GPU.
    """
    with torch.inference_mode(False):
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) * 255.0
                     for values in (preprocessing.mean, preprocessing.std))
        return mean.to(device), std.to(device)
