"""A backbone for CPUs: the same function with fewer, larger and packed operations.

LayerScale is folded into the projections before it, and the adapter's last 1x1 convolution into
its up projection. 1x1 convolutions of the same channels become one linear layer, activations and
residuals are fused into the matrix products (oneDNN), and patches are embedded by one matrix
product. The original weights are not kept.
"""

from typing import Any, cast

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.models.adapter import AdaptedBlock, MffAdapter
from regvpr_core.models.cpu.convolutions import FusedEfficientNet, PairedConv
from regvpr_core.models.cpu.head import FusedReduction, FusedRegisterAggregator
from regvpr_core.models.cpu.linear import Form, FusedLinear, linear
from regvpr_core.models.descriptor_model import DescriptorModel
from regvpr_core.models.efficientnet import EfficientNetLite0
from regvpr_core.models.joined_heads import JoinedHeads
from regvpr_core.models.register_aggregator import RegisterAggregator
from regvpr_core.models.salad import Salad
from regvpr_core.models.vit import Block, check_sides, DinoVisionTransformer, PATCH

MAX_ATTENTION_WEIGHTS = 1 << 25
"""Largest number of attention weights, B * heads * N * N, for attention by two matrix products.
For more, `scaled_dot_product_attention` is used, which needs less memory."""


class FusedAdapter(nn.Module):
    """The MFF adapter without its residual; see `MffAdapter`."""

    def __init__(self, adapter: MffAdapter, gain: Tensor, form: Form) -> None:
        """Fold `gain` (width), LayerScale or ones, and the scale into the up projection."""
        super().__init__()
        fusion, gain = adapter.fusion, gain.detach() * adapter.scale
        up, up_bias = adapter.up.weight * gain[:, None], adapter.up.bias * gain
        self.down = FusedLinear(adapter.down.weight, adapter.down.bias, form, 'relu')
        self.merged = fusion.variant == 'paper'
        if not self.merged:
            self.fusion = channels_last(fusion, form)
            self.up = FusedLinear(up, up_bias, form)
            self.class_gain = adapter.class_gain
            return
        narrow, small, large = fusion.branch1, fusion.branch3, fusion.branch5
        reduce3, conv3 = (part[0] for part in cast(Any, small))
        reduce5, conv5 = (part[0] for part in cast(Any, large))
        readers = [cast(nn.Conv2d, conv) for conv in (narrow[0], reduce3, reduce5)]
        self.wide, self.few = readers[0].out_channels, 2 * conv3.in_channels
        # Rows of zeros leave room for the output of the convolutions.
        unread = adapter.down.out_features - self.wide - self.few
        self.reduce = FusedLinear(
            F.pad(torch.cat([conv.weight.flatten(1) for conv in readers]), (0, 0, 0, unread)),
            F.pad(torch.cat([cast(Tensor, conv.bias) for conv in readers]), (0, unread)),
            form, 'relu')
        self.convs = PairedConv(conv3, conv5, form)
        fuse = cast(nn.Conv2d, fusion.fuse)
        fuse_bias = cast(Tensor, fuse.bias)
        self.up = FusedLinear(up @ fuse.weight.flatten(1), up_bias + up @ fuse_bias, form)
        # The class token bypasses the last convolution, so its up projection is unchanged.
        self.class_up = FusedLinear(up, -(up @ fuse_bias), form)

    def forward(self, y: Tensor, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Residual x plus the adapter of normalised tokens y, both (B, 1 + h * w, width)."""
        hidden = self.down(y)
        if not self.merged:
            B, _, bottleneck = hidden.shape
            maps = hidden[:, 1:].transpose(1, 2).reshape(B, bottleneck, *grid)
            maps = self.fusion(maps.contiguous(memory_format=torch.channels_last))
            classes = hidden[:, :1] * self.class_gain
            hidden = torch.cat([classes, maps.flatten(2).transpose(1, 2)], dim=1)
            return cast(Tensor, self.up(hidden, x))
        joined = self.reduce(hidden)  # the row of the class token is not used
        maps = joined[:, 1:, self.wide:self.wide + self.few].unflatten(1, grid)
        maps = self.convs(maps.permute(0, 3, 1, 2))
        joined[:, 1:, self.wide:] = maps.permute(0, 2, 3, 1).flatten(1, 2)
        joined[:, :1] = 0
        out: Tensor = self.up(joined, x)
        out[:, :1] += self.class_up(hidden[:, :1])
        return out


class FusedBlock(nn.Module):
    """A transformer block, adapted or not."""

    def __init__(self, block: Block | AdaptedBlock, form: Form) -> None:
        super().__init__()
        self.norm1, self.norm2 = block.norm1.to(form.dtype), block.norm2.to(form.dtype)
        self.heads, self.products = block.attn.heads, form.products
        gain1, gain2 = block.ls1.gamma, block.ls2.gamma
        attn, mlp = block.attn, block.mlp
        # The weights of the queries contain the scale.
        scale = torch.ones(len(attn.qkv.weight))
        scale[: len(gain1)] = (len(gain1) // attn.heads) ** -0.5
        self.qkv = linear(attn.qkv.weight * scale[:, None], attn.qkv.bias * scale, form)
        self.proj = linear(attn.proj.weight * gain1[:, None], attn.proj.bias * gain1, form)
        self.fc1 = linear(mlp.fc1.weight, mlp.fc1.bias, form, 'gelu')
        self.fc2 = linear(mlp.fc2.weight * gain2[:, None], mlp.fc2.bias * gain2, form,
                          after_gelu=True)
        self.adapter: FusedAdapter | None = None
        if isinstance(block, AdaptedBlock):
            gain = gain2 if block.inside_layer_scale else torch.ones_like(gain2)
            self.adapter = FusedAdapter(block.adapter, gain, form)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, 1 + h * w, width), class token first."""
        x = self.proj(self.attend(self.qkv(self.norm1(x))), x)
        y = self.norm2(x)
        x = self.fc2(self.fc1(y), x)
        return x if self.adapter is None else cast(Tensor, self.adapter(y, x, grid))

    def attend(self, qkv: Tensor) -> Tensor:
        """Queries, keys and values (B, N, 3 * width) to attended values (B, N, width)."""
        B, N, triple = qkv.shape
        side = triple // 3 // self.heads
        qkv = qkv.view(B, N, 3, self.heads, side).permute(2, 0, 3, 1, 4)  # (3, B, heads, N, side)
        if not self.products or B * self.heads * N * N > MAX_ATTENTION_WEIGHTS:
            q, k, v = qkv.unbind(0)
            out = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        else:
            q, k, v = qkv.reshape(3, B * self.heads, N, side).unbind(0)
            weights = torch.bmm(q, k.transpose(1, 2)).softmax(dim=2)
            out = torch.bmm(weights, v).view(B, self.heads, N, side)
        return out.transpose(1, 2).reshape(B, N, -1)


class FusedVit(nn.Module):
    """Replaces a `DinoVisionTransformer` in inference; it cannot be trained."""

    def __init__(self, vit: DinoVisionTransformer, form: Form) -> None:
        super().__init__()
        self.config, self.form = vit.config, form
        embed = vit.patch_embed.proj
        self.embed = FusedLinear(embed.weight.flatten(1), embed.bias, form)
        self.blocks = nn.ModuleList(fused_block(block, form) for block in vit.blocks)
        self.norm = vit.norm.to(form.dtype)
        self._table = vit  # only for the position embedding and the class token
        vit.blocks = nn.ModuleList()
        self._positions: dict[tuple[int, int], Tensor] = {}

    def forward(self, images: Tensor, last_block: int | None = None) -> tuple[Tensor, Tensor]:
        """As `DinoVisionTransformer.forward`."""
        return self.with_tokens(images, last_block, 0)[:2]

    def with_tokens(
        self, images: Tensor, last_block: int | None, block: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `DinoVisionTransformer.with_tokens`."""
        grid = check_sides(images)
        B, width = images.shape[0], self.config.width
        first, positions = self._starts(grid)
        x = first.new_empty(B, 1 + grid[0] * grid[1], width)
        x[:, :1] = first
        pixels = images.to(self.form.dtype).view(B, 3, grid[0], PATCH, grid[1], PATCH)
        pixels = pixels.permute(0, 2, 4, 1, 3, 5).reshape(B, grid[0] * grid[1], -1)
        x[:, 1:] = self.embed(pixels, positions.expand(B, -1, -1))
        tokens = x
        for number, layer in enumerate(self.blocks[: None if last_block is None
                                                   else last_block + 1]):
            x = layer(x, grid)
            if number == block:
                tokens = x
        if last_block is None:
            x = self.norm(x)
        return (x[:, 0], x[:, 1:].transpose(1, 2).reshape(B, width, *grid),
                tokens[:, 1:].reshape(B, *grid, width))

    def _starts(self, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The class token with its position, and the positions of the patches, for a grid."""
        if grid not in self._positions:
            table = self._table.positions(grid)
            table = torch.cat([table[:, :1] + self._table.cls_token, table[:, 1:]], dim=1)
            self._positions = {grid: table.detach().to(self.form.dtype)}
        table = self._positions[grid]
        return table[:, :1], table[:, 1:]


def fuse(model: DescriptorModel, form: Form) -> DescriptorModel:
    """Convert a model to a form of operations, in place."""
    model.drop_unused_blocks()
    model.backbone = FusedVit(model.backbone, form)  # type: ignore[assignment]
    if model.second is not None:
        size = model.config.preprocessing
        model.second = fused_second(model.second, (size.height, size.width), form)
    model.aggregator = fused_head(model.aggregator, form)
    return model


def fused_second(trunk: nn.Module, grid: tuple[int, int], form: Form) -> nn.Module:
    """Convert the second trunk, for images of `grid` (height, width)."""
    if not form.packed or not isinstance(trunk, EfficientNetLite0):
        return channels_last(trunk, form)
    return FusedEfficientNet(trunk, grid, form)


def fused_head(head: nn.Module, form: Form) -> nn.Module:
    """Convert a head, in place if possible.

    Heads with optimal transport compute in `form.dtype`, others in float32. Transport, sums and
    norms are always in float32.
    """
    if isinstance(head, RegisterAggregator):
        return FusedRegisterAggregator(head, form)
    if isinstance(head, JoinedHeads):
        head.registers = FusedRegisterAggregator(head.registers, form)  # type: ignore[assignment]
        return head
    if isinstance(head, Salad):
        head.to(form.dtype)
        for name in ('token_features', 'cluster_features', 'score'):
            setattr(head, name, FusedReduction(getattr(head, name), form))
    head_form = form if isinstance(head, Salad) else Form(packed=form.packed)
    for parent in list(head.modules()):
        if isinstance(parent, nn.TransformerEncoderLayer | nn.MultiheadAttention):
            continue  # fused kernels contain the weights of these layers
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear):
                setattr(parent, name, FusedLinear(child.weight, child.bias, head_form))
    return head


def fused_block(block: nn.Module, form: Form) -> FusedBlock:
    """Convert one block."""
    return FusedBlock(cast(Any, block), form)


def channels_last(module: nn.Module, form: Form) -> nn.Module:
    """Convert convolutions, with weights in channels-last layout."""
    moved: nn.Module = cast(Any, module).to(form.dtype, memory_format=torch.channels_last)
    return moved
