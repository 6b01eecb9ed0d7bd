"""Register assisted aggregation of RegVPR (paper 3.2, equations 5 to 7, figure 3).

SALAD without its dustbin, and registers that join the local descriptors in a small transformer
encoder and are dropped behind it. docs/paper.md lists where the paper leaves a choice.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn, Tensor

from regvpr_core.config import check_range, nearest
from regvpr_core.errors import ConfigError
from regvpr_core.models.register_encoder import EncoderLayer
from regvpr_core.models.salad import patch_rows, reduction, scene_descriptor, transport_sum
from regvpr_core.models.transport import sinkhorn

JOINS = ('patches', 'clusters')
REGISTER_WIDTHS = ('token', 'reduced')


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterConfig:
    """Sizes and readings of the register aggregator.

    registers, layers: k and the depth of the encoder; 0 of either is legal (ablations).
    join: `patches`: the registers join the n patch descriptors, the transport sums behind the
        encoder (reading A). `clusters`: they join the m cluster descriptors that the transport
        has summed (reading B).
    register_width: `token`: registers as wide as tokens, through the shared reduction; `reduced`:
        they have the width of local descriptors and join as they are.
    register_std: of the normal they are drawn from.
    clusters, cluster_dim, token_dim, hidden_dim: m, l, width of the scene token, of the MLPs.
    dropout: 0 to 0.9, before the ReLU of the score and feature MLPs.
    heads, feedforward_dim, encoder_dropout: of the encoder; heads divide cluster_dim.
    iterations, reg: of Sinkhorn's transport.
    """

    registers: int = 4
    layers: int = 2
    join: str = 'patches'
    register_width: str = 'token'
    register_std: float = 0.02
    clusters: int = 64
    cluster_dim: int = 128
    token_dim: int = 256
    hidden_dim: int = 512
    dropout: float = 0.3
    heads: int = 8
    feedforward_dim: int = 512
    encoder_dropout: float = 0.1
    iterations: int = 3
    reg: float = 1.0

    def __post_init__(self) -> None:
        check_range('aggregator.registers', self.registers, 0, 1024)
        check_range('aggregator.layers', self.layers, 0, 48)
        for name, known in (('join', JOINS), ('register_width', REGISTER_WIDTHS)):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f'unknown aggregator.{name} {value!r}{nearest(value, known)}')
        for name in ('clusters', 'cluster_dim', 'token_dim', 'hidden_dim', 'heads',
                     'feedforward_dim'):
            check_range(f'aggregator.{name}', getattr(self, name), 1, 8192)
        for name in ('dropout', 'encoder_dropout'):
            check_range(f'aggregator.{name}', getattr(self, name), 0.0, 0.9)
        check_range('aggregator.register_std', self.register_std, 0.0, 10.0)
        check_range('aggregator.iterations', self.iterations, 1, 1000)
        check_range('aggregator.reg', self.reg, 1e-3, 1e3)
        if self.cluster_dim % self.heads:
            raise ConfigError(f'aggregator.heads is {self.heads}; expected a divisor of '
                              f'aggregator.cluster_dim, which is {self.cluster_dim}')


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterViews:
    """What the aggregator does with the patches of a grid, for pictures.

    attention: (layers, B, k, h, w), mean over heads: what each register looks at in each layer.
        Registers that join clusters look at patches through the transport plan.
    plan: (B, m, h, w): share of each patch in each cluster; sums to 1 over m.
    """

    attention: Tensor
    plan: Tensor


class RegisterAggregator(nn.Module):
    """Registers take what should not be in the descriptor, and are thrown away."""

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
            torch.randn(config.registers, register_width) * config.register_std)
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
        """What enters the encoder, from patch rows (B, n, width).

        Returns:
            the transport plan (B, m, n), and the sequence (B, n + k, l) of patches and registers,
            or (B, m + k, l) of clusters and registers.
        """
        B, n, _ = tokens.shape
        plan = sinkhorn(self.score(tokens).transpose(1, 2), iterations=self.config.iterations,
                        reg=self.config.reg)
        local = self.cluster_features(tokens)  # (B, n, l)
        if self.config.join == 'clusters':
            # Means, not sums: the size of what enters the encoder must not grow with the image.
            local = transport_sum(local, plan).transpose(1, 2) * (self.config.clusters / n)
        registers = self.registers.expand(B, -1, -1)
        if self.config.register_width == 'token':
            registers = self.cluster_features(registers)  # (B, k, l)
        return plan, torch.cat([local.to(registers.dtype), registers], dim=1)

    @torch.no_grad()
    def views(self, patch_tokens: Tensor) -> RegisterViews:
        """What each register attends to, and the plan, for patch tokens (B, width, h, w)."""
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
