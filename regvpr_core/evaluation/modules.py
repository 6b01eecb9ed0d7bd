"""Third-party networks: their input and their output."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from regvpr_core.arrays import Float32
from regvpr_core.config import check_range
from regvpr_core.errors import ConfigError, EvaluationError
from regvpr_core.evaluation.describers import unit_rows
from regvpr_core.images import check_rgb, RGB
from regvpr_core.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD

INTERPOLATIONS = ('bilinear', 'bicubic')


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Input size and normalisation of a network.

    height, width: pixels, 8 to 4096, aspect is not kept; None keeps the image size.
    mean, std: per channel of RGB in 0..1. interpolation: bilinear or bicubic, antialiased.
    one_by_one: batches of one, for networks whose output depends on the batch.
    """

    height: int | None = 322
    width: int | None = 322
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = 'bilinear'
    one_by_one: bool = False

    def __post_init__(self) -> None:
        if (self.height is None) != (self.width is None):
            raise ConfigError('height and width: give both, or neither for images as they are')
        for side in (self.height, self.width):
            if side is not None:
                check_range('size', side, 8, 4096)
        if self.interpolation not in INTERPOLATIONS:
            raise ConfigError(f'interpolation is {self.interpolation!r}; known: '
                              f'{", ".join(INTERPOLATIONS)}')

    def input(self, rgb: RGB) -> Tensor:
        """Network input (1, 3, height, width) float32 of an image (H, W, 3) uint8 RGB."""
        check_rgb(rgb)
        x = torch.from_numpy(np.require(rgb, requirements=['C', 'W'])).permute(2, 0, 1)[None]
        if self.height is not None and self.width is not None:
            x = F.interpolate(x, (self.height, self.width), mode=self.interpolation,
                              antialias=True)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255.0 for v in (self.mean, self.std))
        return ((x.float() - mean) / std).contiguous()


class ModuleDescriber:
    """A torch network from (B, 3, h, w) to rows (B, D)."""

    def __init__(self, network: Callable[[Tensor], Any], shown: Shown, device: torch.device, *,
                 name: str, fingerprint: str, notice: str) -> None:
        self._network = network
        self._shown = shown
        self._device = device
        self.name = name
        self.fingerprint = fingerprint
        self.notice = notice

    def prepare(self, rgb: RGB) -> Tensor:
        """Network input (1, 3, h, w)."""
        return self._shown.input(rgb)

    def describe(self, prepared: Sequence[Tensor]) -> Float32:
        """Descriptors (B, D), unit rows; one pass if all images have one size."""
        sizes = {tuple(x.shape) for x in prepared}
        alone = self._shown.one_by_one or len(sizes) > 1
        passes = [[x] for x in prepared] if alone else [list(prepared)]
        return np.concatenate([self._pass(inputs) for inputs in passes])

    def _pass(self, inputs: list[Tensor]) -> Float32:
        try:
            with torch.inference_mode():
                rows = self._network(torch.cat(inputs).to(self._device))
        except Exception as error:  # third-party code may raise anything
            raise EvaluationError(
                f'model {self.name} failed on a batch of {tuple(torch.cat(inputs).shape)}: '
                f'{type(error).__name__}: {" ".join(str(error).split())[:300]}') from error
        return unit_rows(rows, len(inputs), self.name)


def module_fingerprint(module: torch.nn.Module, *about: str) -> str:
    """Digest of a network's printed structure, all its tensors and further texts."""
    digest = hashlib.sha256('\n'.join((repr(module), *about)).encode())
    for key, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, Tensor):
            plain = tensor.detach().cpu().contiguous()
            digest.update(f'{key} {plain.dtype} {tuple(plain.shape)}'.encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
