"""Convolutional trunks under the key names of torchvision: ResNet-50 and 101, VGG-16.

He et al. (2016, arXiv:1512.03385), with the stride on the 3x3 convolution as torchvision has it;
Simonyan and Zisserman (2015, arXiv:1409.1556). Features only, no classifier.
"""

from typing import Any, cast

from torch import nn, Tensor
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

RESNET_DEPTHS = {'resnet50': (3, 4, 6, 3), 'resnet101': (3, 4, 23, 3)}
EXPANSION = 4
VGG_16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)
"""Channels of each 3x3 convolution; 0 is max pooling by 2."""


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a residual."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)) \
            if stride > 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) to (B, 4 * width, h / stride, w / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """The stages of a ResNet, optionally without the last one.

    width: channels of the features. shrink: stride of the features in pixels.
    """

    def __init__(self, name: str = 'resnet50', stages: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for number in range(stages):
            width, blocks = 64 << number, []
            for index in range(RESNET_DEPTHS[name][number]):
                blocks.append(Bottleneck(inputs, width, 2 if number and not index else 1))
                inputs = EXPANSION * width
            setattr(self, f'layer{number + 1}', nn.Sequential(*blocks))
        self.stages = stages
        self.width = inputs
        self.shrink = 2 << stages

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to features (B, width, H / shrink, W / shrink), sides rounded up."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(images))), 3, stride=2, padding=1)
        for number in range(self.stages):
            x = getattr(self, f'layer{number + 1}')(x)
        return x


class Vgg16(nn.Sequential):
    """The convolutions of VGG-16 up to conv5_3, without its ReLU and pooling."""

    width = 512

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        inputs = 3
        for channels in VGG_16:
            if channels:
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.ReLU()]
                inputs = channels
            else:
                layers.append(nn.MaxPool2d(2))
        super().__init__(*layers[:-1])


def fold_batch_norms(trunk: nn.Module) -> None:
    """Fold the batch normalisation of a ResNet into the preceding convolutions, in place."""
    for part in list(trunk.modules()):
        children = dict(part.named_children())
        for name, child in children.items():
            norm = name.replace('conv', 'bn')
            if isinstance(child, nn.Conv2d) and isinstance(children.get(norm), nn.BatchNorm2d):
                setattr(part, name, fuse_conv_bn_eval(child, cast(Any, children[norm])))
                setattr(part, norm, nn.Identity())
        if isinstance(part, Bottleneck) and part.downsample is not None:
            conv, batch_norm = cast(Any, part.downsample)
            part.downsample = nn.Sequential(fuse_conv_bn_eval(conv, batch_norm))
