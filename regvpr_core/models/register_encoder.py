"""A pre-norm transformer encoder layer (paper, figure 3) that can return its attention."""

import torch
from torch import nn, Tensor
import torch.nn.functional as F


class EncoderLayer(nn.Module):
    """Norm, self-attention, residual; norm, MLP, residual, as drawn in figure 3.

    Equals `nn.TransformerEncoderLayer(norm_first=True, activation='gelu')`, with the same code
    in training and inference, and with access to the attention.
    """

    def __init__(self, width: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, feedforward), nn.GELU(), nn.Dropout(dropout),
                                 nn.Linear(feedforward, width))
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to the same shape."""
        q, k, v = self._heads(x)
        drop = self.dropout.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        attended = attended.transpose(1, 2).flatten(2)  # (B, N, width)
        x = x + self.dropout(self.proj(attended))
        return x + self.dropout(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]

    def attention(self, x: Tensor) -> Tensor:
        """Attention (B, N, N) of this layer, mean over heads; rows (queries) sum to 1."""
        q, k, _ = self._heads(x)
        logits = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5  # (B, heads, N, N)
        return logits.float().softmax(dim=3).mean(dim=1)  # type: ignore[no-any-return]

    def _heads(self, x: Tensor) -> tuple[Tensor, ...]:
        qkv = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1))
        return torch.unbind(qkv.permute(2, 0, 3, 1, 4))  # each (B, heads, N, width / heads)
