"""NetVLAD (Arandjelovic et al., 2016, arXiv:1511.07247) over patch tokens."""

from dataclasses import dataclass

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.config import check_settings, setting
from regvpr_core.models.salad import patch_rows
from regvpr_core.models.transport import full_precision


@dataclass(frozen=True, slots=True, kw_only=True)
class NetVladConfig:
    """clusters: 1 to 4096; the descriptor has clusters * width numbers."""

    clusters: int = setting(64, 'Number of clusters.', 1, 4096)

    def __post_init__(self) -> None:
        check_settings(self, 'aggregator')


class NetVlad(nn.Module):
    """Sums of residuals to learnt centroids, softly assigned."""

    def __init__(self, width: int, config: NetVladConfig) -> None:
        super().__init__()
        self.dimension = config.clusters * width
        self.assign = nn.Linear(width, config.clusters)
        self.centroids = nn.Parameter(torch.empty(config.clusters, width))
        nn.init.uniform_(self.centroids)

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """(B, width) and (B, width, h, w) to descriptors (B, clusters * width), unit rows."""
        tokens = patch_rows(patch_tokens, self.centroids.dtype)  # (B, n, width)
        tokens = F.normalize(tokens, dim=2)
        shares = self.assign(tokens).float().softmax(dim=2)  # (B, n, clusters)
        with full_precision(tokens.device):
            sums = shares.transpose(1, 2) @ tokens.float()  # (B, clusters, width)
            residuals = sums - shares.sum(dim=1)[:, :, None] * self.centroids.float()
        return F.normalize(F.normalize(residuals, dim=2).flatten(1), dim=1)
