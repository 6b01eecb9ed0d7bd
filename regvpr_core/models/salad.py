"""SALAD (Izquierdo and Civera, 2024, arXiv:2311.15937), and the parts RegVPR takes from it."""

from dataclasses import dataclass

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.config import check_settings, setting
from regvpr_core.models.transport import full_precision, sinkhorn


@dataclass(frozen=True, slots=True, kw_only=True)
class SaladConfig:
    """Sizes of SALAD; MegaLoc is cluster_dim 256 with output_dim 8448."""

    clusters: int = setting(64, 'Number of clusters m.', 1, 8192)
    cluster_dim: int = setting(128, 'Width l of a local descriptor.', 1, 8192)
    token_dim: int = setting(256, 'Width of the scene token.', 1, 8192)
    hidden_dim: int = setting(512, 'Hidden width of the MLPs.', 1, 8192)
    dropout: float = setting(
        0.3, 'Dropout before the ReLU of the score and feature MLPs.', 0.0, 0.9)
    iterations: int = setting(3, 'Iterations of the Sinkhorn transport.', 1, 1000)
    reg: float = setting(1.0, 'Entropy regularisation of the Sinkhorn transport.', 0.001, 1000.0)
    output_dim: int | None = setting(
        None, 'Length of a final linear layer; None for no such layer.', 1, 65536)

    def __post_init__(self) -> None:
        check_settings(self, 'aggregator')


class Salad(nn.Module):
    """Optimal transport aggregation with a dustbin; key names as in the official code."""

    def __init__(self, width: int, config: SaladConfig) -> None:
        super().__init__()
        self.config = config
        local = config.clusters * config.cluster_dim + config.token_dim
        self.dimension = config.output_dim or local
        self.token_features = nn.Sequential(
            nn.Linear(width, config.hidden_dim), nn.ReLU(),
            nn.Linear(config.hidden_dim, config.token_dim))
        self.cluster_features = reduction(width, config.hidden_dim, config.cluster_dim,
                                          config.dropout)
        self.score = reduction(width, config.hidden_dim, config.clusters, config.dropout)
        self.dust_bin = nn.Parameter(torch.tensor(1.0))
        self.projection = nn.Identity() if config.output_dim is None else nn.Linear(
            local, config.output_dim)

    def plan(self, tokens: Tensor) -> Tensor:
        """Transport plan (B, m, n): share of each patch (B, n, width) in each cluster."""
        return sinkhorn(self.score(tokens).transpose(1, 2), self.dust_bin,
                        iterations=self.config.iterations, reg=self.config.reg)

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """(B, width) and (B, width, h, w) to descriptors (B, dimension), unit rows, float32.

        Raises:
            ImageError: h * w is not larger than the number of clusters.
        """
        tokens = patch_rows(patch_tokens, self.dust_bin.dtype)
        clusters = transport_sum(self.cluster_features(tokens), self.plan(tokens))
        scene = self.token_features(class_token.to(self.dust_bin.dtype))
        local = scene_descriptor(scene, clusters).to(self.dust_bin.dtype)
        projected: Tensor = self.projection(local)
        return F.normalize(projected.float(), dim=1)


def reduction(width: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    """The MLP of equations 5 and 6, dropout before the ReLU as SALAD places it.

    SALAD writes it as 1x1 convolutions; over rows of patches a linear layer is the same.
    """
    return nn.Sequential(nn.Linear(width, hidden), nn.Dropout(dropout), nn.ReLU(inplace=True),
                         nn.Linear(hidden, outputs))


def patch_rows(patch_tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, width, h, w) to (B, h * w, width), contiguous: several linear layers read it."""
    return patch_tokens.flatten(2).transpose(1, 2).to(dtype).contiguous()


def transport_sum(features: Tensor, plan: Tensor) -> Tensor:
    """Sum features (B, n, l) by a plan (B, m, n): clusters (B, l, m), float32.

    One matrix product per image; SALAD expands both to (B, l, m, n) and sums the product.
    """
    with full_precision(features.device):
        return features.float().transpose(1, 2) @ plan.transpose(1, 2)


def scene_descriptor(scene: Tensor, clusters: Tensor) -> Tensor:
    """Scene token (B, g) and clusters (B, l, m) to unit rows (B, g + l * m), float32.

    L2 of the token, of each cluster over l, and of the whole; the cluster index runs fastest.
    """
    scene = F.normalize(scene.float(), dim=1)
    local = F.normalize(clusters.float(), dim=1).flatten(1)
    return F.normalize(torch.cat([scene, local], dim=1), dim=1)
