"""Multi-scale feature fusion (MFF) adapter of RegVPR, beside the MLP of transformer blocks.

Paper: section 3.1, equations 3 and 4, figure 2. The widths, and the class token that bypasses the
convolutions, are from CricaVPR (Lu et al., 2024, arXiv:2402.19231), which the paper builds on.
Deviations: the true (h, w) grid instead of a square one; convolutions are initialised at random
(He et al., 2015), where CricaVPR uses the constant 1e-5.
"""

from dataclasses import dataclass
import re

import torch
from torch import nn, Tensor

from regvpr_core.config import check_range, check_settings, setting
from regvpr_core.errors import ConfigError
from regvpr_core.models.vit import Block, DinoVisionTransformer

VARIANTS = ('paper', 'shared_reduction', 'cricavpr')


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """Settings of the adapters."""

    blocks: str = setting('all', '`all`, `last_N`, or indices counted from 0, as in `8,9,10,11`.')
    ratio: float = setting(
        0.5, 'Bottleneck width over token width; the bottleneck must be a multiple of 16.',
        0.05, 1.0)
    scale: float = setting(0.2, 'The factor s of equation 4.', 0.0, 10.0)
    variant: str = setting(
        'paper',
        '`paper` (a reduction for each larger branch, final 1x1, no normalisation), '
        '`shared_reduction` (one reduction before all three branches, final 1x1), or `cricavpr` '
        '(batch normalisation and ReLU after every convolution, residual inside the bottleneck, '
        'no final 1x1). With `cricavpr` a descriptor depends on its batch while training; in eval '
        'mode the running statistics are used and it does not.', choices=VARIANTS)
    inside_layer_scale: bool = setting(
        True, 'LayerScale gain over MLP + s * MFF, as CricaVPR; else over the MLP alone.')

    def __post_init__(self) -> None:
        check_settings(self, 'adapter')
        if not re.fullmatch(r'all|last_\d+|\d+(\s*,\s*\d+)*', self.blocks):
            raise ConfigError(f'adapter.blocks is {self.blocks!r}; expected all, last_4 or '
                              f'indices such as 8,9,10,11')

    def indices(self, depth: int) -> tuple[int, ...]:
        """The adapted blocks of a backbone of `depth` blocks, ascending.

        Raises:
            ConfigError: the backbone has no such block.
        """
        if self.blocks == 'all':
            return tuple(range(depth))
        if self.blocks.startswith('last_'):
            count = int(self.blocks.removeprefix('last_'))
            check_range('adapter.blocks: last_N', count, 1, depth)
            return tuple(range(depth - count, depth))
        chosen = sorted({int(index) for index in self.blocks.split(',')})
        check_range('adapter.blocks: index', chosen[-1], 0, depth - 1)
        return tuple(chosen)

    def bottleneck(self, width: int) -> int:
        """Width between down and up projection.

        Raises:
            ConfigError: it is not a multiple of 16, which the widths of the branches need.
        """
        bottleneck = round(width * self.ratio)
        if bottleneck % 16:
            raise ConfigError(f'adapter.ratio {self.ratio} of a token width of {width} is '
                              f'{bottleneck}; expected a multiple of 16')
        return bottleneck


class ChannelFusion(nn.Module):
    """Parallel 1x1, 3x3 and 5x5 convolutions over the patch grid, concatenated.

    Output widths 1/2, 1/4 and 1/4 of the bottleneck b; 3x3 and 5x5 have b/16 input channels.
    """

    def __init__(self, bottleneck: int, variant: str) -> None:
        super().__init__()
        self.variant = variant
        b, few, half, quarter = bottleneck, bottleneck // 16, bottleneck // 2, bottleneck // 4
        batch_norm = variant == 'cricavpr'
        if variant == 'shared_reduction':
            self.reduce: nn.Module = convolution(b, few, 1, batch_norm)
            self.branch1 = convolution(few, half, 1, batch_norm)
            self.branch3 = convolution(few, quarter, 3, batch_norm)
            self.branch5 = convolution(few, quarter, 5, batch_norm)
        else:
            self.reduce = nn.Identity()
            self.branch1 = convolution(b, half, 1, batch_norm)
            self.branch3 = nn.Sequential(convolution(b, few, 1, batch_norm),
                                         convolution(few, quarter, 3, batch_norm))
            self.branch5 = nn.Sequential(convolution(b, few, 1, batch_norm),
                                         convolution(few, quarter, 5, batch_norm))
        self.residual = variant == 'cricavpr'
        self.fuse = nn.Identity() if variant == 'cricavpr' else nn.Conv2d(b, b, 1)
        if isinstance(self.fuse, nn.Conv2d):
            nn.init.xavier_uniform_(self.fuse.weight)
            nn.init.zeros_(self.fuse.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """(B, bottleneck, h, w) to the same shape."""
        reduced = self.reduce(x)
        branches = [self.branch1(reduced), self.branch3(reduced), self.branch5(reduced)]
        fused: Tensor = self.fuse(torch.cat(branches, dim=1))
        return fused + x if self.residual else fused


class MffAdapter(nn.Module):
    """Down projection, ReLU, channel fusion over the grid, up projection (zero at first)."""

    def __init__(self, width: int, config: AdapterConfig) -> None:
        super().__init__()
        bottleneck = config.bottleneck(width)
        self.scale = config.scale
        self.class_gain = 2.0 if config.variant == 'cricavpr' else 1.0
        self.down = nn.Linear(width, bottleneck)
        self.fusion = ChannelFusion(bottleneck, config.variant)
        self.up = nn.Linear(bottleneck, width)
        nn.init.kaiming_normal_(self.down.weight, nonlinearity='relu')
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """s * MFF(x) for normalised tokens (B, 1 + h * w, width), class token first.

        The class token bypasses the convolutions. In CricaVPR the residual of the bottleneck is
        also added to it, which doubles it.
        """
        x = self.down(x).relu()
        patches = x[:, 1:].transpose(1, 2).reshape(x.shape[0], -1, *grid)  # (B, bottleneck, h, w)
        patches = self.fusion(patches).flatten(2).transpose(1, 2)
        x = torch.cat([x[:, :1] * self.class_gain, patches], dim=1)
        return self.scale * self.up(x)  # type: ignore[no-any-return]


class AdaptedBlock(nn.Module):
    """A transformer block with an MFF adapter beside its MLP (equations 3 and 4).

    It reuses the modules of the block, so the official key names are unchanged.
    """

    def __init__(self, block: Block, width: int, config: AdapterConfig) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1 = block.norm1, block.attn, block.ls1
        self.norm2, self.mlp, self.ls2 = block.norm2, block.mlp, block.ls2
        self.adapter = MffAdapter(width, config)
        self.inside_layer_scale = config.inside_layer_scale

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, 1 + h * w, width) of a grid of h x w patches, class token first."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        y = self.norm2(x)
        if self.inside_layer_scale:
            x = x + self.ls2(self.mlp(y) + self.adapter(y, grid))
        else:
            x = x + self.ls2(self.mlp(y)) + self.adapter(y, grid)
        return x


def adapt(vit: DinoVisionTransformer, config: AdapterConfig, depth: int | None = None
          ) -> DinoVisionTransformer:
    """Add adapters to the chosen blocks, in place; untrained adapters do not change the features.

    Args:
        depth: number of blocks that the network uses, to which `blocks` refers; None: all.

    Raises:
        ConfigError: a block does not exist, or the bottleneck is not a multiple of 16.
    """
    for index in config.indices(len(vit.blocks) if depth is None else depth):
        block = vit.blocks[index]
        if not isinstance(block, Block):
            raise ConfigError(f'block {index} is adapted already')
        vit.blocks[index] = AdaptedBlock(block, vit.config.width, config)
    return vit


def convolution(inputs: int, outputs: int, side: int, batch_norm: bool) -> nn.Sequential:
    """A convolution that keeps the grid size, optional batch normalisation, ReLU."""
    conv = nn.Conv2d(inputs, outputs, side, padding=side // 2)
    nn.init.kaiming_normal_(conv.weight, nonlinearity='relu')
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    norm = [nn.BatchNorm2d(outputs, eps=1e-3)] if batch_norm else []
    return nn.Sequential(conv, *norm, nn.ReLU())
