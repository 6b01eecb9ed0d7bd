"""Generalised mean pooling, alone (GeM) and before a linear layer (CosPlace, EigenPlaces)."""

from dataclasses import dataclass
import math

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.config import check_settings, setting
from regvpr_core.models.transport import full_precision

EPSILON = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingConfig:
    """Generalised mean over patch tokens."""

    power: float = setting(
        1.0,
        'Exponent of the mean: 1 averages, 3 is the usual GeM. Exponents other than 1 see only '
        'positive values, as in Radenovic et al. (2018).', 1.0, 100.0)
    regions: int = setting(
        1,
        'The image is pooled in a grid of this many rows and columns; 1 is the usual GeM. More '
        'regions keep the layout of the image: better for a robot in its lane, worse when the '
        'view turns.', 1, 8)

    def __post_init__(self) -> None:
        check_settings(self, 'aggregator')


class GeM(nn.Module):
    """Generalised mean pooling (Radenovic et al., 2018, arXiv:1711.02512), centred.

    The centre is the mean of the pooled features over a set of places and part of the weights. It
    is subtracted before the cosine is computed.
    """

    centre: Tensor

    def __init__(self, width: int, config: PoolingConfig) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(config.power), requires_grad=config.power != 1.0)
        self.averages = config.power == 1.0
        self.regions = config.regions
        self.dimension = width * config.regions**2
        self.register_buffer('centre', torch.zeros(self.dimension))

    def pooled(self, patch_tokens: Tensor) -> Tensor:
        """Patch tokens (B, width, h, w) to features (B, width * regions^2), not centred."""
        x = patch_tokens.float()
        if self.averages:
            return region_means(x, self.regions)
        x = region_means(x.clamp(min=EPSILON).pow(self.power), self.regions)
        return x.pow(1.0 / self.power)

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """(B, width) and (B, width, h, w) to descriptors (B, D), unit rows, float32."""
        return F.normalize(self.pooled(patch_tokens) - self.centre, dim=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class CosPlaceConfig:
    """GeM and a linear layer."""

    output_dim: int = setting(512, 'Length of the descriptor.', 1, 65536)
    power: float = setting(
        3.0, 'Exponent of the mean at the start of training; it is learnt.', 1.0, 100.0)

    def __post_init__(self) -> None:
        check_settings(self, 'aggregator')


class CosPlace(nn.Module):
    """L2 of each patch, GeM, linear layer, L2 (Berton et al., 2022, arXiv:2204.02287).

    EigenPlaces (arXiv:2308.10832) has the same network; it differs in how it is trained.
    """

    def __init__(self, width: int, config: CosPlaceConfig) -> None:
        super().__init__()
        self.dimension = config.output_dim
        self.power = nn.Parameter(torch.tensor(config.power))
        self.projection = nn.Linear(width, config.output_dim)

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """(B, width) and (B, width, h, w) to descriptors (B, output_dim), unit rows, float32."""
        x = F.normalize(patch_tokens.float().flatten(2), dim=1).clamp(min=EPSILON)
        pooled = x.pow(self.power).mean(dim=2).pow(1.0 / self.power)
        return F.normalize(self.projection(pooled.to(self.projection.weight.dtype)).float(), dim=1)


def region_means(x: Tensor, rows: int, columns: int | None = None) -> Tensor:
    """Means of (B, C, h, w) over rows x columns parts, channel first: (B, C * rows * columns).

    Equals `F.adaptive_avg_pool2d`, which cannot be exported to ONNX. columns None: rows.
    """
    h, w = (int(side) for side in x.shape[-2:])
    means = [x[:, :, down, across].mean(dim=(2, 3))
             for down in parts(h, rows) for across in parts(w, columns or rows)]
    return torch.stack(means, dim=2).flatten(1)


def row_waves(x: Tensor, rows: int, waves: int) -> Tensor:
    """Mean and amplitudes of the lowest waves along each row of regions, channel first.

    Amplitudes do not change if the content of a row is shifted sideways with wrap-around. So they
    change little when the camera pans.

    Args:
        x: (B, C, h, w).
        rows: of regions.
        waves: number of frequencies, from one wave over the width.

    Returns:
        (B, C * rows * (1 + waves)).
    """
    h, w = (int(side) for side in x.shape[-2:])
    y = torch.stack([x[:, :, down].mean(dim=2) for down in parts(h, rows)], dim=2)  # B C rows w
    steps = torch.arange(w, device=x.device, dtype=x.dtype)
    angles = 2.0 * math.pi / w * steps[:, None] * torch.arange(
        1, waves + 1, device=x.device, dtype=x.dtype)  # (w, waves)
    with full_precision(x.device):
        squares = (y @ angles.cos()) ** 2 + (y @ angles.sin()) ** 2
    amplitudes = (squares + EPSILON**2).sqrt() / w
    return torch.cat([y.mean(dim=3, keepdim=True), amplitudes], dim=3).flatten(1)


def parts(side: int, count: int) -> list[slice]:
    """Split a side into `count` parts; two parts share a pixel if it does not divide evenly."""
    return [slice(i * side // count, -(-(i + 1) * side // count)) for i in range(count)]
