"""ImAge (Lu et al., 2025, arXiv:2511.06024): aggregation tokens join the tokens of a backbone.

Source: `network.py` of github.com/Lu-Feng/ImAge. The backbone is DINOv2 with four registers; the
position embedding is interpolated as in DINOv2 without registers.
"""

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.models.methods.network import PublishedNetwork, TOKEN_BLOCK
from regvpr_core.models.preprocessing import Preprocessing
from regvpr_core.models.vit import build_vit, check_sides

REGISTERS = 4


class ImageTokens(PublishedNetwork):
    """Eight tokens are added before block 8; after the last block they are the descriptor."""

    def __init__(self, backbone: str = 'vitb14', tokens: int = 8, joined: int = 8) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(height=322, width=322)
        self.backbone = build_vit(backbone)
        width = self.backbone.config.width
        self.register_tokens = nn.Parameter(torch.zeros(1, REGISTERS, width))
        self.aggregation_tokens = nn.Parameter(torch.zeros(1, tokens, width))
        self.joined = joined
        self.dimension = tokens * width

    def with_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors (B, D), unit rows, and patch tokens (B, h, w, width)."""
        B, grid = images.shape[0], check_sides(images)
        x = self.backbone.embed(images, grid)
        x = torch.cat([x[:, :1], self.register_tokens.expand(B, -1, -1), x[:, 1:]], dim=1)
        patches = x[:, 1 + REGISTERS:]
        for number, block in enumerate(self.backbone.blocks):
            if number == self.joined:
                x = torch.cat([self.aggregation_tokens.expand(B, -1, -1), x], dim=1)
            x = block(x, grid)
            if number == TOKEN_BLOCK:
                patches = x[:, 1 + REGISTERS:]
        kept = self.backbone.norm(x[:, :self.aggregation_tokens.shape[1]])
        return F.normalize(kept.float().flatten(1), dim=1), patches.reshape(B, *grid, -1)


def image_key(key: str) -> str:
    """Convert a key of this class to that in `ImAge_Merged.pth`."""
    return {'register_tokens': 'backbone.register_tokens',
            'aggregation_tokens': 'learnable_aggregation_tokens'}.get(key, key)
