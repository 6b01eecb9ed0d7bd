"""Registers inside the backbone: reading D of the paper (docs/paper.md).

Learnt tokens join before the last blocks of a transformer and pass through them beside the
patches, as in ImAge (NeurIPS 2025). Either the registers are the descriptor, or they are dropped
and the patches are aggregated by optimal transport. The blocks are copies of the backbone's last
blocks, which the backbone itself then does not compute.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.config import check_settings, setting
from regvpr_core.errors import ConfigError
from regvpr_core.models.register_aggregator import RegisterAggregator, RegisterConfig
from regvpr_core.models.salad import patch_rows
from regvpr_core.models.vit import Block

HEAD_WIDTH = 64
"""Width of an attention head of DINOv2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InsideConfig:
    """Settings of registers inside the backbone, and of their use."""

    registers: int = setting(8, 'Number of registers k.', 1, 1024)
    blocks: int = setting(
        4, 'Number of blocks that the registers pass, copies of those behind `last_block`.', 1, 24)
    train_blocks: bool = setting(
        True, 'Train these blocks, at the rate of the backbone; else the registers and what is '
        'behind the blocks.')
    keep: bool = setting(
        True, 'The registers are the descriptor; else they are dropped and the patches are '
        'aggregated.')
    register_std: float = setting(
        0.02, 'Standard deviation of the normal distribution that registers start from.',
        0.0, 10.0)
    transport: RegisterConfig = field(
        default_factory=lambda: RegisterConfig(registers=0, layers=0))

    def __post_init__(self) -> None:
        check_settings(self, 'aggregator')


class InsideRegisters(nn.Module):
    """The last blocks of a backbone with registers among their tokens."""

    def __init__(self, width: int, config: InsideConfig) -> None:
        super().__init__()
        if width % HEAD_WIDTH:
            raise ConfigError(f'aggregator inside needs tokens whose width is a multiple of '
                              f'{HEAD_WIDTH}, got {width}')
        self.config = config
        self.registers = nn.Parameter(torch.randn(config.registers, width) * config.register_std)
        self.blocks = nn.ModuleList(
            Block(width, width // HEAD_WIDTH) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.transport: RegisterAggregator | None = None if config.keep else \
            RegisterAggregator(width, config.transport)
        self.dimension = config.registers * width if self.transport is None else \
            self.transport.dimension

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """(B, width) and (B, width, h, w) to descriptors (B, dimension), unit rows, float32."""
        class_token, patch_tokens, registers = self.passed(class_token, patch_tokens)
        if self.transport is None:
            return F.normalize(registers.flatten(1).float(), dim=1)
        out: Tensor = self.transport(class_token, patch_tokens)
        return out

    def passed(self, class_token: Tensor, patch_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens behind the blocks: (B, width), (B, width, h, w), registers (B, k, width)."""
        grid = (int(patch_tokens.shape[2]), int(patch_tokens.shape[3]))
        patches = patch_rows(patch_tokens, self.registers.dtype)
        B, n, _ = patches.shape
        x = torch.cat([class_token[:, None].to(patches.dtype), patches,
                       self.registers.expand(B, -1, -1)], dim=1)
        for block in self.blocks:
            x = block(x, grid)
        x = self.norm(x)
        return x[:, 0], x[:, 1:1 + n].transpose(1, 2).reshape(B, -1, *grid), x[:, 1 + n:]

    def start_from(self, blocks: Iterable[nn.Module]) -> None:
        """Copy the weights of the blocks from those of the backbone after `last_block`.

        Raises:
            ConfigError: the backbone has too few of them.
        """
        found = list(blocks)
        if len(found) < len(self.blocks):
            raise ConfigError(f'aggregator.blocks is {len(self.blocks)}, but the backbone has '
                              f'{len(found)} blocks behind last_block')
        for own, theirs in zip(self.blocks, found, strict=False):
            own.load_state_dict(theirs.state_dict())
