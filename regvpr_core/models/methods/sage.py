"""SAGE (Chen et al., 2026, arXiv:2509.25723), the form for single images.

Source: `backbone/dinov2_sage.py` and `aggregators/SAGE.py` of github.com/chenshunpeng/SAGE. The
other form, with attention over the images of a batch, is not supported: its descriptors depend on
the other images.
"""

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.models.methods.network import PublishedNetwork, TOKEN_BLOCK
from regvpr_core.models.preprocessing import Preprocessing
from regvpr_core.models.salad import patch_rows, reduction
from regvpr_core.models.vit import build_vit, check_sides

EPSILON = 1e-6
WEIGHTING = 0.5
"""Share of the soft weighting, `weighting_alpha`."""


class DynamicPower(nn.Module):
    """Adds to each row a signed power of it; the exponent is learnt from the mean row."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.projection = nn.Sequential(
            nn.Linear(width, hidden), nn.Dropout(0.1), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to the same shape, float32, in which small powers do not underflow."""
        exponent = self.projection(x.mean(dim=1)).sigmoid().float()[:, :, None]
        x = x.float()
        return x.sign() * (x.abs() + EPSILON).pow(exponent) + x


class SoftProbing(nn.Module):
    """Patches weighted by their length, then bilinear pooling of features and scores."""

    def __init__(self, width: int, clusters: int = 64, cluster_dim: int = 128,
                 token_dim: int = 256, hidden: int = 512) -> None:
        super().__init__()
        self.dimension = token_dim + clusters * cluster_dim
        self.soft_weighting = nn.ModuleDict({'predictor': nn.Sequential(
            nn.Linear(1, 128), nn.ReLU(), nn.Linear(128, 1), nn.Sigmoid())})
        self.token_features = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, token_dim))
        self.cluster_features = reduction(width, hidden, cluster_dim, 0.3)
        self.score = reduction(width, hidden, clusters, 0.3)
        self.gpn = DynamicPower(clusters, clusters // 2)

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """(B, width) and (B, width, h, w) to descriptors (B, D), unit rows, float32."""
        x = patch_rows(patch_tokens, patch_tokens.dtype)
        length = x.float().norm(dim=2, keepdim=True) + EPSILON
        x = x * (1.0 + WEIGHTING * self.soft_weighting['predictor'](length))
        features, scores = self.cluster_features(x).float(), self.score(x).float()
        # The authors average over channels and patches, giving one number per image.
        features = features - features.mean(dim=(1, 2), keepdim=True)
        scores = scores - scores.mean(dim=(1, 2), keepdim=True)
        pooled = features.transpose(1, 2) @ scores.softmax(dim=1) / x.shape[1]  # (B, l, m)
        local = F.normalize(self.gpn(pooled), dim=1).flatten(1)
        scene = F.normalize(self.token_features(class_token).float(), dim=1)
        return F.normalize(torch.cat([scene, local], dim=1), dim=1)


class Sage(PublishedNetwork):
    """DINOv2 with dynamic powers after its last four blocks, then soft probing."""

    def __init__(self, backbone: str = 'vitb14', recalibrated: int = 4) -> None:
        super().__init__()
        self.preprocessing = Preprocessing(height=322, width=322)
        self.backbone = build_vit(backbone)
        width = self.backbone.config.width
        self.gpn_norms = nn.ModuleList(DynamicPower(width, 16) for _ in range(recalibrated))
        self.aggregator = SoftProbing(width)
        self.dimension = self.aggregator.dimension

    def with_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors (B, D), unit rows, and patch tokens (B, h, w, width)."""
        B, grid = images.shape[0], check_sides(images)
        x = self.backbone.embed(images, grid)
        patches = x
        plain = len(self.backbone.blocks) - len(self.gpn_norms)
        for number, block in enumerate(self.backbone.blocks):
            x = block(x, grid)
            if number >= plain:
                x = self.gpn_norms[number - plain](x)
            if number == TOKEN_BLOCK:
                patches = x
        x = self.backbone.norm(x)
        descriptors = self.aggregator(x[:, 0], x[:, 1:].transpose(1, 2).unflatten(2, grid))
        return descriptors, patches[:, 1:].reshape(B, *grid, -1)


def sage_key(key: str) -> str:
    """Convert a key of this class to that in the published SAGE files."""
    if key.startswith('gpn_norms.'):
        return f'backbone.{key}'
    return key.replace('backbone.', 'backbone.model.', 1) if key.startswith('backbone.') else key
