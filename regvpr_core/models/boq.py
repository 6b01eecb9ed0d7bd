"""BoQ (Ali-bey et al., 2024, arXiv:2405.07364): learnt queries attend to the features of an image.

Source: `src/boq.py` of github.com/amaralibey/Bag-of-Queries, with the same key names. Deviation:
queries do not depend on the image, so their self-attention is computed once per batch.
"""

from dataclasses import dataclass

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.config import check_settings, setting
from regvpr_core.errors import ConfigError

HEAD_WIDTH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class BoqConfig:
    """Sizes of BoQ; the descriptor has channels * rows numbers."""

    channels: int = setting(384, 'Width of the queries, a multiple of 64.', HEAD_WIDTH, 8192)
    queries: int = setting(64, 'Queries of a block.', 1, 1024)
    blocks: int = setting(2, 'Blocks that follow each other.', 1, 16)
    rows: int = setting(32, 'Rows of the last projection.', 1, 1024)

    def __post_init__(self) -> None:
        check_settings(self, 'aggregator')
        if self.channels % HEAD_WIDTH:
            raise ConfigError(f'aggregator.channels is {self.channels}; expected a multiple of '
                              f'{HEAD_WIDTH}')


class BoqBlock(nn.Module):
    """An encoder layer over features, and queries that attend to them."""

    def __init__(self, width: int, queries: int) -> None:
        super().__init__()
        heads = width // HEAD_WIDTH
        self.encoder = nn.TransformerEncoderLayer(
            width, heads, dim_feedforward=4 * width, dropout=0.0, batch_first=True)
        self.queries = nn.Parameter(torch.randn(1, queries, width))
        self.self_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_q = nn.LayerNorm(width)
        self.cross_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm_out = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B, n, width) to encoded ones, and answers (B, queries, width)."""
        x = self.encoder(x)
        q = self.queries
        q = self.norm_q(q + self.self_attn(q, q, q, need_weights=False)[0])
        q = q.expand(x.shape[0], -1, -1)
        out = self.cross_attn(q, x, x, need_weights=False)[0]
        return x, self.norm_out(out)


class Boq(nn.Module):
    """Reduction by a 3x3 convolution, blocks of queries, one projection over all answers."""

    def __init__(self, width: int, config: BoqConfig) -> None:
        super().__init__()
        self.dimension = config.channels * config.rows
        self.proj_c = nn.Conv2d(width, config.channels, kernel_size=3, padding=1)
        self.norm_input = nn.LayerNorm(config.channels)
        self.boqs = nn.ModuleList(
            BoqBlock(config.channels, config.queries) for _ in range(config.blocks))
        self.fc = nn.Linear(config.blocks * config.queries, config.rows)

    def forward(self, class_token: Tensor | None, patch_tokens: Tensor) -> Tensor:
        """Features (B, width, h, w) to descriptors (B, channels * rows), unit rows, float32."""
        x = self.proj_c(patch_tokens.to(self.fc.weight.dtype)).flatten(2).transpose(1, 2)
        x = self.norm_input(x)
        answers = []
        for block in self.boqs:
            x, out = block(x)
            answers.append(out)
        out = self.fc(torch.cat(answers, dim=1).transpose(1, 2))  # (B, channels, rows)
        return F.normalize(out.float().flatten(1), dim=1)
