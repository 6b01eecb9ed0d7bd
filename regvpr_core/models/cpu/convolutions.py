"""Convolutions for CPUs, packed for oneDNN, with fused activation."""

from typing import cast

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.models.cpu.linear import Form
from regvpr_core.models.efficientnet import (
    EfficientNetLite0,
    InvertedBlock,
    same_padding,
    SameConv,
    two_maps,
)

PACKED_SIDE = 16
"""Patches along a side of an image of 224 pixels, for which weights are packed; other sizes run as
well."""


class FusedConv(nn.Module):
    """A `SameConv` with a weight packed for one input size."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: SameConv, grid: tuple[int, int], form: Form) -> None:
        """Pack for an input of `grid` (height, width)."""
        super().__init__()
        conv = layer.conv
        self.kernel, self.stride, self.groups = layer.kernel, layer.stride, conv.groups
        self.relu = ('hardtanh', [0.0, 6.0]) if layer.relu else ('none', [])
        pads = same_padding(grid, self.kernel, self.stride)
        inside = self.inside(pads)
        outside = [0, 0] if any(inside) else [pads[2] + pads[3], pads[0] + pads[1]]
        weight = conv.weight.detach().to(form.dtype).contiguous(memory_format=torch.channels_last)
        size = [1, conv.in_channels, grid[0] + outside[0], grid[1] + outside[1]]
        self.register_buffer('weight', torch.ops.mkldnn._reorder_convolution_weight(
            weight, inside, [self.stride] * 2, [1, 1], self.groups, size), persistent=False)
        self.register_buffer('bias', cast(Tensor, conv.bias).detach().to(form.dtype),
                             persistent=False)

    @staticmethod
    def inside(pads: list[int]) -> list[int]:
        """Padding for the convolution itself, possible if all four sides are equal."""
        return [pads[0]] * 2 if len(set(pads)) == 1 else [0, 0]

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) channels last to (B, outputs, H / stride, W / stride)."""
        pads = same_padding((int(x.shape[2]), int(x.shape[3])), self.kernel, self.stride)
        inside = self.inside(pads)
        if any(pads) and not any(inside):
            x = F.pad(x, pads)
        return cast(Tensor, torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, inside, [self.stride] * 2, [1, 1], self.groups,
            self.relu[0], self.relu[1], ''))


class PairedConv(nn.Module):
    """A 3x3 and a 5x5 convolution of equal channels as one of two groups, with ReLU.

    Reads and writes the channels of the first, then those of the second.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, small: nn.Conv2d, large: nn.Conv2d, form: Form) -> None:
        super().__init__()
        weight = torch.cat([F.pad(small.weight.detach(), (1, 1, 1, 1)), large.weight.detach()])
        weight = weight.to(form.dtype).contiguous(memory_format=torch.channels_last)
        if form.packed:
            size = [1, 2 * small.in_channels, PACKED_SIDE, PACKED_SIDE]
            weight = torch.ops.mkldnn._reorder_convolution_weight(
                weight, [2, 2], [1, 1], [1, 1], 2, size)
        biases = [cast(Tensor, conv.bias).detach() for conv in (small, large)]
        self.register_buffer('weight', weight, persistent=False)
        self.register_buffer('bias', torch.cat(biases).to(form.dtype), persistent=False)
        self.packed = form.packed

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W), channels last."""
        x = x.contiguous(memory_format=torch.channels_last)
        if not self.packed:
            return F.conv2d(x, self.weight, self.bias, padding=2, groups=2).relu_()
        return cast(Tensor, torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, [2, 2], [1, 1], [1, 1], 2, 'relu', [], ''))


class FusedBlock(nn.Module):
    """Replaces an `InvertedBlock` in inference, with packed convolutions."""

    def __init__(self, block: InvertedBlock, grid: tuple[int, int], form: Form) -> None:
        super().__init__()
        expands = isinstance(block.expand, SameConv)
        self.expand = FusedConv(cast(SameConv, block.expand), grid, form) if expands else \
            nn.Identity()
        self.depthwise = FusedConv(block.depthwise, grid, form)
        self.grid = smaller(grid, block.depthwise.stride)
        self.project = FusedConv(block.project, self.grid, form)
        self.adds = block.adds

    def forward(self, x: Tensor) -> Tensor:
        """As `InvertedBlock.forward`."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class FusedEfficientNet(nn.Module):
    """Replaces an `EfficientNetLite0` in inference; it cannot be trained."""

    def __init__(self, trunk: EfficientNetLite0, grid: tuple[int, int], form: Form) -> None:
        """Pack the weights for images of `grid` (height, width); other sizes run too."""
        super().__init__()
        self.dtype = form.dtype
        self.stem = FusedConv(trunk.stem, grid, form)
        grid = smaller(grid, trunk.stem.stride)
        self.blocks = nn.ModuleList()
        for block in trunk.blocks:
            self.blocks.append(FusedBlock(cast(InvertedBlock, block), grid, form))
            grid = cast(FusedBlock, self.blocks[-1]).grid

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `EfficientNetLite0.forward`."""
        return two_maps(self.stem, self.blocks, images.to(self.dtype))


def smaller(grid: tuple[int, int], stride: int) -> tuple[int, int]:
    """Size after a stride, rounded up."""
    return -(-grid[0] // stride), -(-grid[1] // stride)
