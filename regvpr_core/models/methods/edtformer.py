"""EDTformer (Jin et al., 2025): queries decode the tokens of an adapted backbone.

Source: `network.py`, `SACA.py` and `backbone/LadderAdapter.py` of github.com/Tong-Jin01/EDTformer.
"""

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.models.methods.network import PublishedNetwork, TOKEN_BLOCK
from regvpr_core.models.preprocessing import Preprocessing
from regvpr_core.models.vit import build_vit, check_sides

ALPHA = 0.5
"""Share of an adapter's output."""

HEADS = 16


class LowRankAdapter(nn.Module):
    """Bottleneck of two linear layers."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.D_fc1 = nn.Linear(width, rank)
        self.D_fc2 = nn.Linear(rank, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, width) to the same shape."""
        return x + ALPHA * self.D_fc2(F.gelu(self.D_fc1(x)))  # type: ignore[no-any-return]


class DecoderBlock(nn.Module):
    """Self-attention of queries, then cross-attention to tokens; post-norm, no MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """Queries (B, q, width) and tokens (B, N, width) to queries."""
        x = queries
        x = self.norm1(x + self.self_attn(x, x, x, need_weights=False)[0])
        x = x + self.multihead_attn(x, tokens, tokens, need_weights=False)[0]
        return self.norm2(x)  # type: ignore[no-any-return]


class EdtFormer(PublishedNetwork):
    """64 queries, two decoder blocks, a projection of channels and one of queries."""

    def __init__(self, backbone: str = 'vitb14', rank: int = 4, queries: int = 64,
                 channels: int = 256, rows: int = 16) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(height=322, width=322)
        self.backbone = build_vit(backbone)
        width = self.backbone.config.width
        self.adapters = nn.ModuleList(LowRankAdapter(width, rank) for _ in self.backbone.blocks)
        self.fc = nn.Linear(width, width)
        self.decoder = nn.ModuleList(DecoderBlock(width) for _ in range(2))
        self.queries = nn.Parameter(torch.zeros(1, queries, width))
        self.channel_proj = nn.Linear(width, channels)
        self.row_proj = nn.Linear(queries, rows)
        self.dimension = channels * rows

    def with_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors (B, D), unit rows, and patch tokens (B, h, w, width)."""
        grid = check_sides(images)
        x = side = self.backbone.embed(images, grid)
        patches = x
        for number, (block, adapter) in enumerate(
                zip(self.backbone.blocks, self.adapters, strict=True)):
            x = block(x, grid)
            side = adapter(side + x)
            if number == TOKEN_BLOCK:
                patches = x
        tokens = self.fc(self.backbone.norm(side))
        queries = self.queries.expand(images.shape[0], -1, -1)
        for layer in self.decoder:
            queries = layer(queries, tokens)
        rows = self.row_proj(self.channel_proj(queries).transpose(1, 2))  # (B, channels, rows)
        return (F.normalize(rows.float().flatten(1), dim=1),
                patches[:, 1:].reshape(images.shape[0], *grid, -1))


def edtformer_key(key: str) -> str:
    """Convert a key of this class to that in `EDTformer.pth`."""
    if key.startswith('adapters.'):
        return f'backbone.{key}'
    return key.replace('decoder.', 'decoder.layers.', 1) if key.startswith('decoder.') else key
