"""Random augmentation of a batch of images on its device, different for each image.

RandAugment (Cubuk et al., 2020, arXiv:1909.13719) with torchvision's operations and strengths;
then larger changes of view and light. All geometric changes of an image are combined into one
warp, so that it is resampled once; pixels from outside are black. Photometric operations are those
of kornia.
"""

from collections.abc import Callable
import math
from typing import Any

import torch
from torch import Tensor

from regvpr_core.errors import TrainingError
from regvpr_core.training.config import AugmentationConfig
from regvpr_core.training.weather import at_night, blurred, erased, in_rain

MAX_MAGNITUDE = 30.0
MOVES = ('shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate')
LIGHTS = ('brightness', 'colour', 'contrast', 'sharpness', 'posterize', 'solarize',
          'autocontrast', 'equalize')
OPERATIONS = ('identity', *MOVES, *LIGHTS)


class Augmenter:
    """Augments images; the same seed gives the same changes on every device."""

    def __init__(self, config: AugmentationConfig) -> None:
        try:
            import kornia
        except ImportError as error:
            raise TrainingError("augmentation needs kornia: pip install 'regvpr_ros[train]', or "
                                'set every share and augmentation.operations to 0') from error
        self._config = config
        self._kornia: Any = kornia

    def __call__(self, pictures: Tensor, random: torch.Generator) -> Tensor:
        """Augment images (B, 3, H, W), float in 0..1.

        Args:
            pictures: of the batch.
            random: generator on the CPU for all random numbers.
        """
        config, count = self._config, len(pictures)
        chosen = torch.randint(len(OPERATIONS), (count, config.operations), generator=random)
        signs = torch.randint(2, (count, config.operations), generator=random) * 2.0 - 1.0
        x = self._warped(pictures, self._homographies(chosen, signs, random))
        for turn in range(config.operations):
            for number, name in enumerate(OPERATIONS):
                rows = (chosen[:, turn] == number).nonzero()[:, 0]
                if name in LIGHTS and len(rows):
                    at = rows.to(x.device)
                    x = x.index_copy(0, at, self._light(name, x[at], signs[rows, turn]))
        for share, change in ((config.blur, blurred), (config.night, at_night),
                              (config.rain, in_rain), (config.erase, erased)):
            rows = self._rows(count, share, random)
            if len(rows):
                at = rows.to(x.device)
                x = x.index_copy(0, at, change(x[at], random))
        return x.clamp(0.0, 1.0)

    def _rows(self, count: int, share: float, random: torch.Generator) -> Tensor:
        return (torch.rand(count, generator=random) < share).nonzero()[:, 0]

    def _homographies(self, chosen: Tensor, signs: Tensor, random: torch.Generator) -> Tensor:
        """Homographies (B, 3, 3) from augmented to original images, coordinates in -1..1."""
        config, count = self._config, len(chosen)
        H = torch.eye(3).repeat(count, 1, 1)
        for turn in range(config.operations):
            for number, name in enumerate(OPERATIONS):
                rows = (chosen[:, turn] == number).nonzero()[:, 0]
                if name in MOVES and len(rows):
                    H[rows] = H[rows] @ self._move(name, signs[rows, turn])
        rows = self._rows(count, config.crop, random)
        H[rows] = H[rows] @ crops(len(rows), config.crop_scale, random)
        rows = self._rows(count, config.homography, random)
        corners = corner_positions().expand(len(rows), 4, 2)
        moved = corners + (torch.rand(len(rows), 4, 2, generator=random) * 4 - 2) * config.jitter
        if len(rows):
            H[rows] = H[rows] @ self._kornia.geometry.get_perspective_transform(corners, moved)
        return H

    def _move(self, name: str, signs: Tensor) -> Tensor:
        """Homographies (B, 3, 3) of one geometric operation of RandAugment."""
        size = signs * self._config.magnitude / MAX_MAGNITUDE
        H = torch.eye(3).repeat(len(signs), 1, 1)
        if name == 'rotate':
            angle = size * math.radians(30.0)
            H[:, 0, 0], H[:, 0, 1] = angle.cos(), -angle.sin()
            H[:, 1, 0], H[:, 1, 1] = angle.sin(), angle.cos()
        elif name.startswith('shear'):
            row, column = (0, 1) if name == 'shear_x' else (1, 0)
            H[:, row, column] = 0.3 * size
        else:
            H[:, 0 if name == 'translate_x' else 1, 2] = 2 * 150.0 / 331.0 * size
        return H

    def _warped(self, pictures: Tensor, H: Tensor) -> Tensor:
        """Warp images by homographies; images with the identity are not resampled."""
        rows = (H - torch.eye(3)).abs().amax(dim=(1, 2)).nonzero()[:, 0]
        if not len(rows):
            return pictures
        at = rows.to(pictures.device)
        moved = self._kornia.geometry.transform.homography_warp(
            pictures[at], H[rows].to(pictures.device, pictures.dtype),
            (int(pictures.shape[2]), int(pictures.shape[3])), normalized_homography=True,
            align_corners=False)
        return pictures.index_copy(0, at, moved)

    def _light(self, name: str, x: Tensor, signs: Tensor) -> Tensor:
        """One photometric operation of RandAugment."""
        enhance = self._kornia.enhance
        share = self._config.magnitude / MAX_MAGNITUDE
        factor = (1.0 + signs * 0.9 * share).to(x)
        by_name: dict[str, Callable[[], Tensor]] = {
            'brightness': lambda: enhance.adjust_brightness_accumulative(x, factor),
            'colour': lambda: blend(grey(x), x, factor),
            'contrast': lambda: blend(grey(x).mean(dim=(1, 2, 3), keepdim=True), x, factor),
            'sharpness': lambda: enhance.sharpness(x, factor),
            'posterize': lambda: enhance.posterize(x, 8 - round(4 * share)),
            'solarize': lambda: enhance.solarize(x, 1.0 - share),
            'autocontrast': lambda: stretched(x),
            'equalize': lambda: enhance.equalize(x),
        }
        return by_name[name]()


def grey(x: Tensor) -> Tensor:
    """Luminance (B, 1, H, W) of images (B, 3, H, W)."""
    weights = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True)


def blend(base: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """Interpolate from `base` (factor 0) to x (factor 1) and beyond, clipped to 0..1."""
    return (base + (x - base) * factor.view(-1, 1, 1, 1)).clamp(0.0, 1.0)


def stretched(x: Tensor) -> Tensor:
    """Stretch each channel to 0..1; a constant channel is unchanged."""
    low, high = x.amin(dim=(2, 3), keepdim=True), x.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, (x - low) / (high - low).clamp(min=1e-6), x)


def crops(count: int, smallest: float, random: torch.Generator) -> Tensor:
    """Random crops as homographies (count, 3, 3), with `smallest` to 1 of each side."""
    sides = smallest + (1.0 - smallest) * torch.rand(count, 2, generator=random)
    centres = (torch.rand(count, 2, generator=random) * 2 - 1) * (1.0 - sides)
    H = torch.eye(3).repeat(count, 1, 1)
    H[:, 0, 0], H[:, 1, 1] = sides[:, 0], sides[:, 1]
    H[:, :2, 2] = centres
    return H


def corner_positions() -> Tensor:
    """Corners (1, 4, 2) of an image in -1..1, x first."""
    return torch.tensor([[[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]])
