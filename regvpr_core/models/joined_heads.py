"""Descriptor of two trunks: the register head of the ViT joined with maps of a second trunk.

Features of an ImageNet network and of the ViT complement each other: joined, they have a higher
recall than either. The head's clusters are shortened, the second trunk's maps are pooled by
region, and directions in which sessions of one place differ get less weight
(training/session_shifts.py).
"""

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.config import check_range, check_settings, setting
from regvpr_core.models.efficientnet import LATE_WIDTH, MIDDLE_WIDTH
from regvpr_core.models.gem import region_means, row_waves
from regvpr_core.models.register_aggregator import RegisterAggregator, RegisterConfig
from regvpr_core.models.transport import full_precision

MAPS = {'middle': MIDDLE_WIDTH, 'late': LATE_WIDTH}
"""Feature maps of the second trunk, and their numbers of channels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapPoolConfig:
    """Settings of pooling one map of the second trunk."""

    map: str = setting('late', 'Map: `middle` has stride 16, `late` stride 32.',
                       choices=tuple(MAPS))
    regions: int = setting(
        4, 'The averages of this many rows and columns of regions are kept. More regions keep the '
        'layout of the image: better for a robot in its lane, worse when the view turns.', 1, 14)
    columns: int | None = setting(
        None, 'Number of columns of regions, where it is not that of rows. One: rows over the '
        'whole width, which change little when the camera turns sideways.', 1, 14)
    waves: int = setting(
        0, 'Instead of columns: the mean of each row and the amplitudes of this many of the '
        'longest waves along it, which stay when the content moves sideways. 0: columns.', 0, 7)
    channels: int = setting(
        160, 'The channels of the map are whitened and shortened to this many.', 1, 320)
    weight: float = setting(
        1.0, 'Length of this part of the descriptor; the register head has length 1.', 0.01, 100.0)

    def __post_init__(self) -> None:
        check_settings(self, 'aggregator.pools')
        check_range('aggregator.pools.channels', self.channels, 1, MAPS[self.map])

    @property
    def dimension(self) -> int:
        """Length of this part of the descriptor."""
        return self.channels * self.regions * (
            1 + self.waves if self.waves else self.columns or self.regions)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinedConfig:
    """Parts of the joined descriptor."""

    registers: RegisterConfig = field(default_factory=RegisterConfig)
    short_dim: int = setting(
        48, 'Each cluster of the register head is shortened to this many numbers.', 1, 8192)
    pools: tuple[MapPoolConfig, ...] = (MapPoolConfig(),)
    shifts: int = setting(
        64, 'Number of directions that count for less, because sessions differ along them.',
        0, 4096)

    def __post_init__(self) -> None:
        check_settings(self, 'aggregator')


class MapPool(nn.Module):
    """Pooling of one map by region, with channels centred, whitened and shortened."""

    mean: Tensor
    basis: Tensor

    def __init__(self, config: MapPoolConfig) -> None:
        super().__init__()
        self.config = config
        width = MAPS[config.map]
        self.register_buffer('mean', torch.zeros(width))
        self.register_buffer('basis', torch.eye(config.channels, width))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to rows (B, config.dimension) of length `weight`, float32."""
        pooled = self.pooled(features) - self.mean[:, None]
        with full_precision(features.device):
            return self.config.weight * F.normalize((self.basis @ pooled).flatten(1), dim=1)

    def pooled(self, features: Tensor) -> Tensor:
        """Pool (B, C, h, w) by region to (B, C, values per channel), float32, not centred."""
        x, config = features.float(), self.config
        pooled = row_waves(x, config.regions, config.waves) if config.waves else \
            region_means(x, config.regions, config.columns)
        return pooled.view(-1, len(self.mean), config.dimension // config.channels)


class JoinedHeads(nn.Module):
    """Joins the register head and pooled maps of the second trunk to one descriptor.

    Each part is normalised to unit length and weighted. The parts are concatenated and centred;
    directions in which sessions differ as a whole (`shift_basis`) are scaled down.
    """

    shorten: Tensor
    centre: Tensor
    shift_basis: Tensor
    shift_gain: Tensor

    def __init__(self, width: int, config: JoinedConfig) -> None:
        super().__init__()
        self.config = config
        of_head = config.registers
        self.registers = RegisterAggregator(width, of_head)
        self.pools = nn.ModuleList(MapPool(pool) for pool in config.pools)
        self.dimension = of_head.token_dim + of_head.clusters * config.short_dim + sum(
            pool.dimension for pool in config.pools)
        self.register_buffer('shorten', torch.eye(config.short_dim, of_head.cluster_dim))
        self.register_buffer('centre', torch.zeros(self.dimension))
        self.register_buffer('shift_basis', torch.zeros(self.dimension, config.shifts))
        self.register_buffer('shift_gain', torch.zeros(config.shifts))

    def forward(
        self, class_token: Tensor, patch_tokens: Tensor, middle: Tensor, late: Tensor
    ) -> Tensor:
        """Tokens of the ViT and maps of the second trunk to unit rows (B, dimension), float32.

        Args:
            class_token: (B, width). patch_tokens: (B, width, h, w).
            middle: (B, 112, H / 16, W / 16). late: (B, 320, H / 32, W / 32).
        """
        rows = self.joined(self.registers(class_token, patch_tokens), middle, late) - self.centre
        with full_precision(rows.device):
            shifts = (rows @ self.shift_basis) * self.shift_gain
            return F.normalize(rows - shifts @ self.shift_basis.T, dim=1)

    def joined(self, head_rows: Tensor, middle: Tensor, late: Tensor) -> Tensor:
        """The concatenated parts (B, dimension), float32, not centred.

        Args:
            head_rows: (B, D) unit rows of the register head. middle, late: as `forward`.
        """
        of_head = self.config.registers
        scene, local = head_rows[:, : of_head.token_dim], head_rows[:, of_head.token_dim:]
        with full_precision(head_rows.device):
            local = self.shorten @ local.reshape(-1, of_head.cluster_dim, of_head.clusters)
        parts = [F.normalize(torch.cat([scene, local.flatten(1)], dim=1), dim=1)]
        maps = {'middle': middle, 'late': late}
        for pool in (cast(MapPool, module) for module in self.pools):
            parts.append(pool(maps[pool.config.map]))
        return torch.cat(parts, dim=1)
