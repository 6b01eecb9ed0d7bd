"""Register assisted aggregation of RegVPR (paper 3.2, equations 5 to 7, figure 3).

SALAD without dustbin, with registers that join the local descriptors in a small transformer
encoder and are dropped after it. docs/paper.md lists the choices that the paper leaves open.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn, Tensor

from regvpr_core.config import check_settings, setting
from regvpr_core.errors import ConfigError
from regvpr_core.models.register_encoder import EncoderLayer
from regvpr_core.models.salad import patch_rows, reduction, scene_descriptor, transport_sum
from regvpr_core.models.transport import sinkhorn

JOINS = ('patches', 'clusters')
REGISTER_WIDTHS = ('token', 'reduced')


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterConfig:
    """Sizes of the register aggregator, and choices that the paper leaves open."""

    registers: int = setting(
        4, 'Number of registers k; 0 for the ablation without registers.', 0, 1024)
    layers: int = setting(
        2, 'Depth of the transformer encoder; 0 for the ablation without it.', 0, 48)
    join: str = setting(
        'patches',
        '`patches`: the registers join the n patch descriptors before the transport (reading A). '
        '`clusters`: they join the m cluster descriptors after it (reading B).', choices=JOINS)
    register_width: str = setting(
        'token',
        '`token`: registers have the width of tokens and pass the shared reduction. `reduced`: '
        'registers have the width of local descriptors.', choices=REGISTER_WIDTHS)
    register_std: float = setting(
        0.02, 'Standard deviation of the normal distribution that registers start from.',
        0.0, 10.0)
    clusters: int = setting(64, 'Number of clusters m.', 1, 8192)
    cluster_dim: int = setting(128, 'Width l of a local descriptor.', 1, 8192)
    token_dim: int = setting(256, 'Width of the scene token.', 1, 8192)
    hidden_dim: int = setting(512, 'Hidden width of the MLPs.', 1, 8192)
    dropout: float = setting(
        0.3, 'Dropout before the ReLU of the score and feature MLPs.', 0.0, 0.9)
    heads: int = setting(8, 'Attention heads of the encoder; must divide cluster_dim.', 1, 8192)
    feedforward_dim: int = setting(
        512, 'Hidden width of the feed-forward part of the encoder.', 1, 8192)
    encoder_dropout: float = setting(0.1, 'Dropout of the encoder.', 0.0, 0.9)
    iterations: int = setting(3, 'Iterations of the Sinkhorn transport.', 1, 1000)
    reg: float = setting(1.0, 'Entropy regularisation of the Sinkhorn transport.', 0.001, 1000.0)

    def __post_init__(self) -> None:
        check_settings(self, 'aggregator')
        if self.cluster_dim % self.heads:
            raise ConfigError(f'aggregator.heads is {self.heads}; expected a divisor of '
                              f'aggregator.cluster_dim, which is {self.cluster_dim}')


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterViews:
    """Attention and transport over the patches of an image, for heatmaps.

    attention: (layers, B, k, h, w), attention of each register in each layer, mean over heads.
        Attention of registers that join clusters is mapped to patches by the transport plan.
    plan: (B, m, h, w): share of each patch in each cluster; sums to 1 over m.
    """

    attention: Tensor
    plan: Tensor


class RegisterAggregator(nn.Module):
    """Aggregator with registers, which absorb information that should not be in the descriptor."""

    def __init__(self, width: int, config: RegisterConfig) -> None:
        super().__init__()
        self.config = config
        self.dimension = config.clusters * config.cluster_dim + config.token_dim
        self.token_features = nn.Sequential(
            nn.Linear(width, config.hidden_dim), nn.ReLU(),
            nn.Linear(config.hidden_dim, config.token_dim))
        self.cluster_features = reduction(width, config.hidden_dim, config.cluster_dim,
                                          config.dropout)
        self.score = reduction(width, config.hidden_dim, config.clusters, config.dropout)
        register_width = width if config.register_width == 'token' else config.cluster_dim
        self.registers = nn.Parameter(
            torch.randn(config.registers, register_width).mul_(config.register_std))
        self.encoder = nn.ModuleList(
            EncoderLayer(config.cluster_dim, config.heads, config.feedforward_dim,
                         config.encoder_dropout)
            for _ in range(config.layers))

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """(B, width) and (B, width, h, w) to descriptors (B, dimension), unit rows, float32."""
        tokens = patch_rows(patch_tokens, self.registers.dtype)
        plan, sequence = self.local_descriptors(tokens)
        for layer in self.encoder:
            sequence = layer(sequence)
        kept = sequence[:, : sequence.shape[1] - self.config.registers]
        clusters = (transport_sum(kept, plan) if self.config.join == 'patches'
                    else kept.transpose(1, 2))  # (B, l, m)
        scene = self.token_features(class_token.to(self.registers.dtype))
        return scene_descriptor(scene, clusters)

    def local_descriptors(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Input of the encoder, from patch rows (B, n, width).

        Returns:
            the transport plan (B, m, n), and the sequence (B, n + k, l) of patches and registers,
            or (B, m + k, l) of clusters and registers.
        """
        B, n, _ = tokens.shape
        plan = sinkhorn(self.score(tokens).transpose(1, 2), iterations=self.config.iterations,
                        reg=self.config.reg)
        local = self.cluster_features(tokens)  # (B, n, l)
        if self.config.join == 'clusters':
            # Means instead of sums, so that the input of the encoder does not grow with the image.
            local = transport_sum(local, plan).transpose(1, 2) * (self.config.clusters / n)
        registers = self.registers.expand(B, -1, -1)
        if self.config.register_width == 'token':
            registers = self.cluster_features(registers)  # (B, k, l)
        return plan, torch.cat([local.to(registers.dtype), registers], dim=1)

    @torch.no_grad()
    def views(self, patch_tokens: Tensor) -> RegisterViews:
        """Attention of the registers, and the transport plan, of patch tokens (B, width, h, w)."""
        grid, k = tuple(patch_tokens.shape[-2:]), self.config.registers
        tokens = patch_rows(patch_tokens, self.registers.dtype)
        plan, sequence = self.local_descriptors(tokens)
        maps = [plan.new_zeros(0, len(plan), k, tokens.shape[1])]
        for layer in (cast(EncoderLayer, module) for module in self.encoder):
            kept = sequence.shape[1] - k
            attention = layer.attention(sequence)[:, kept:, :kept].float()  # (B, k, n or m)
            if self.config.join == 'clusters':
                attention = attention @ plan
            maps.append(attention[None])
            sequence = layer(sequence)
        return RegisterViews(attention=torch.cat(maps).reshape(len(maps) - 1, len(plan), k, *grid),
                             plan=plan.reshape(*plan.shape[:2], *grid))
