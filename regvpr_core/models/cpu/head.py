"""The register aggregator for CPUs: the same function with fewer, packed operations.

The registers' reduction is computed once, not for every image; activations and residuals are fused
into the matrix products (oneDNN); the scale of attention is folded into the queries; images are
processed in groups, so that intermediate results stay small.
"""

from typing import cast

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.models.cpu.linear import Form, FusedLinear
from regvpr_core.models.register_aggregator import RegisterAggregator
from regvpr_core.models.register_encoder import EncoderLayer
from regvpr_core.models.salad import scene_descriptor, transport_sum
from regvpr_core.models.transport import sinkhorn

GROUP = 30
"""Images per group. More is hardly faster; each needs about 2 MB at 256 patches."""


class FusedReduction(nn.Module):
    """The MLP of `salad.reduction`, or of a scene token, without its dropout."""

    def __init__(self, mlp: nn.Module, form: Form) -> None:
        super().__init__()
        first, last = (part for part in mlp.modules() if isinstance(part, nn.Linear))
        self.first = FusedLinear(first.weight, first.bias, form, 'relu')
        self.last = FusedLinear(last.weight, last.bias, form)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to (..., outputs)."""
        return cast(Tensor, self.last(self.first(x)))


class FusedEncoderLayer(nn.Module):
    """`EncoderLayer` in inference."""

    def __init__(self, layer: EncoderLayer, form: Form) -> None:
        super().__init__()
        self.heads = layer.heads
        self.norm1, self.norm2 = layer.norm1.to(form.dtype), layer.norm2.to(form.dtype)
        width = layer.proj.in_features
        scale = torch.ones(3 * width)
        scale[:width] = (width // layer.heads) ** -0.5
        self.qkv = FusedLinear(layer.qkv.weight * scale[:, None], layer.qkv.bias * scale, form)
        self.proj = FusedLinear(layer.proj.weight, layer.proj.bias, form)
        first, last = (part for part in layer.mlp if isinstance(part, nn.Linear))
        self.fc1 = FusedLinear(first.weight, first.bias, form, 'gelu')
        self.fc2 = FusedLinear(last.weight, last.bias, form)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, width) to the same shape."""
        qkv = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, width / heads)
        attended = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(2)
        x = self.proj(attended, x)
        return cast(Tensor, self.fc2(self.fc1(self.norm2(x)), x))


class FusedRegisterAggregator(nn.Module):
    """Replaces a `RegisterAggregator` in inference; it cannot be trained."""

    registers: Tensor

    def __init__(self, head: RegisterAggregator, form: Form) -> None:
        super().__init__()
        self.config, self.dimension, self.form = head.config, head.dimension, form
        registers = head.registers.detach()
        if head.config.register_width == 'token':
            with torch.no_grad():
                registers = head.eval().cluster_features(registers)
        self.register_buffer('registers', registers.to(form.dtype), persistent=False)
        self.token_features = FusedReduction(head.token_features, form)
        self.cluster_features = FusedReduction(head.cluster_features, form)
        self.score = FusedReduction(head.score, form)
        self.encoder = nn.Sequential(
            *(FusedEncoderLayer(cast(EncoderLayer, layer), form) for layer in head.encoder))

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """(B, width) and (B, width, h, w) to descriptors (B, dimension), unit rows, float32."""
        rows = patch_tokens.flatten(2).transpose(1, 2)  # (B, n, width), a view
        clusters = torch.cat([self.clusters(group.to(self.form.dtype).contiguous())
                              for group in torch.split(rows, GROUP)])
        scene = self.token_features(class_token.to(self.form.dtype).contiguous())
        return scene_descriptor(scene, clusters)

    def clusters(self, tokens: Tensor) -> Tensor:
        """Patch rows (B, n, width) to clusters (B, l, m) before any norm."""
        B, n, _ = tokens.shape
        plan = sinkhorn(self.score(tokens).transpose(1, 2), iterations=self.config.iterations,
                        reg=self.config.reg)
        local = self.cluster_features(tokens)  # (B, n, l)
        joins_patches = self.config.join == 'patches'
        if not joins_patches:
            local = transport_sum(local, plan).transpose(1, 2) * (self.config.clusters / n)
        registers = self.registers.expand(B, -1, -1)
        sequence = self.encoder(torch.cat([local.to(registers.dtype), registers], dim=1))
        kept = sequence[:, : local.shape[1]]
        return transport_sum(kept, plan) if joins_patches else kept.transpose(1, 2)
