"""SelaVPR++ (Lu et al., 2025, arXiv:2502.16601): adapters beside a frozen backbone, then GeM.

Source: `model/` of github.com/Lu-Feng/SelaVPRplusplus, the form with floating-point descriptors
and one stage. Deviation: the true (h, w) grid instead of a square one.
"""

import re

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.models.adapter import AdapterConfig, MffAdapter
from regvpr_core.models.gem import EPSILON
from regvpr_core.models.methods.network import PublishedNetwork, TOKEN_BLOCK
from regvpr_core.models.preprocessing import Preprocessing
from regvpr_core.models.vit import build_vit, check_sides

ADAPTER = AdapterConfig(variant='cricavpr', scale=1.0)


class SelaVpr(PublishedNetwork):
    """The side path starts with the embedded tokens; the adapter of each block adds to it."""

    def __init__(self, backbone: str = 'vitb14', output_dim: int = 2048) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(height=322, width=322)
        self.backbone = build_vit(backbone)
        width = self.backbone.config.width
        self.adapters = nn.ModuleList(MffAdapter(width, ADAPTER) for _ in self.backbone.blocks)
        self.linear1 = nn.Linear(width, width)
        self.power = nn.Parameter(torch.tensor(3.0))
        self.linear2 = nn.Linear(width, output_dim)
        self.dimension = output_dim

    def with_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors (B, D), unit rows, and patch tokens (B, h, w, width)."""
        grid = check_sides(images)
        x = side = self.backbone.embed(images, grid)
        patches = x
        for number, (block, adapter) in enumerate(
                zip(self.backbone.blocks, self.adapters, strict=True)):
            x = block(x, grid)
            side = side + adapter(side + x, grid)
            if number == TOKEN_BLOCK:
                patches = x
        y = self.linear1(self.backbone.norm(side)[:, 1:]).float()
        y = F.normalize(y, dim=2).clamp(min=EPSILON)
        pooled = y.pow(self.power).mean(dim=1).pow(1.0 / self.power)
        descriptors = F.normalize(self.linear2(pooled).float(), dim=1)
        return descriptors, patches[:, 1:].reshape(images.shape[0], *grid, -1)


def adapter_key(key: str) -> str:
    """Convert a key of `MffAdapter` to that of `MulConvAdapter` in CricaVPR and SelaVPR++."""
    for ours, theirs in ((r'fusion\.branch1\.', 'branch1.'),
                         (r'fusion\.branch3\.(\d)\.', r'branch2.\1.'),
                         (r'fusion\.branch5\.(\d)\.', r'branch3.\1.')):
        key = re.sub(ours + r'0\.', theirs + 'conv.', key)
        key = re.sub(ours + r'1\.', theirs + 'bn.', key)
    return key.replace('.down.', '.D_fc1.').replace('.up.', '.D_fc2.')


def selavpr_key(key: str) -> str:
    """Convert a key of this class to that in `SelaVPRplusplus_base.pth`."""
    if key.startswith('adapters.'):
        return f'backbone.{adapter_key(key)}'
    return 'aggregation.1.p' if key == 'power' else key
