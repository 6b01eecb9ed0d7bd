"""Published networks on convolutional trunks: a trunk, and an aggregator over its features.

CosPlace (arXiv:2204.02287), EigenPlaces (arXiv:2308.10832), MixVPR (arXiv:2303.02190), BoQ
(arXiv:2405.07364) on ResNet-50, and GeM as in github.com/gmberton/deep-visual-geo-localization-
benchmark. NetVLAD (arXiv:1511.07247) is the VGG-16 with whitening that its authors published for
MATLAB.
"""

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.models.boq import Boq, BoqConfig
from regvpr_core.models.gem import CosPlace, CosPlaceConfig, EPSILON
from regvpr_core.models.methods.network import PublishedNetwork
from regvpr_core.models.methods.trunks import ResNet, Vgg16
from regvpr_core.models.mixvpr import MixVpr, MixVprConfig
from regvpr_core.models.preprocessing import Preprocessing

AS_PHOTOGRAPHED = Preprocessing(height=480, width=640)
"""Input size: CosPlace, EigenPlaces, GeM and NetVLAD are evaluated at the size of the images, 640
x 480 in most data sets; a map needs a fixed size."""


class ConvolutionalNetwork(PublishedNetwork):
    """A convolutional trunk with an aggregator of this package."""

    def __init__(self, trunk: nn.Module, aggregator: nn.Module, preprocessing: Preprocessing
                 ) -> None:
        super().__init__()
        self.trunk = trunk
        self.aggregator = aggregator
        self.preprocessing = preprocessing
        self.dimension = int(aggregator.dimension)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to (B, D) unit rows, float32."""
        features = self.trunk(images)
        descriptors: Tensor = self.aggregator(features.flatten(2)[..., 0], features)
        return descriptors

    def described(self) -> str:
        """The text of `PublishedNetwork.described`, followed by the aggregator's name."""
        return f'{super().described()} {type(self.aggregator).__name__}'


class NormalisedGem(nn.Module):
    """L2 of each feature, then GeM.

    Deviation: rows have unit length; the authors compare unnormalised descriptors by distance.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dimension = width
        self.power = nn.Parameter(torch.tensor(3.0))

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """Features (B, width, h, w) to descriptors (B, width), unit rows, float32."""
        x = F.normalize(patch_tokens.float().flatten(2), dim=1).clamp(min=EPSILON)
        return F.normalize(x.pow(self.power).mean(dim=2).pow(1.0 / self.power), dim=1)


class WhitenedNetVlad(nn.Module):
    """NetVLAD without biases of the assignment, then a whitening layer.

    Key names of `hloc/extractors/netvlad.py` in github.com/cvg/Hierarchical-Localization.
    """

    def __init__(self, width: int, clusters: int = 64, output_dim: int = 4096) -> None:
        super().__init__()
        self.dimension = output_dim
        self.score_proj = nn.Linear(width, clusters, bias=False)
        self.centers = nn.Parameter(torch.zeros(width, clusters))
        self.whiten = nn.Linear(width * clusters, output_dim)

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """Features (B, width, h, w) to descriptors (B, output_dim), unit rows, float32."""
        x = F.normalize(patch_tokens.float().flatten(2), dim=1)  # (B, width, n)
        shares = self.score_proj(x.transpose(1, 2)).float().softmax(dim=2)  # (B, n, clusters)
        residuals = x @ shares - self.centers * shares.sum(dim=1)[:, None]
        local = F.normalize(F.normalize(residuals, dim=1).flatten(1), dim=1)
        return F.normalize(self.whiten(local).float(), dim=1)


class NetVladNetwork(ConvolutionalNetwork):
    """The published NetVLAD: input in grey levels 0 to 255; the network subtracts the mean."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__(Vgg16(), WhitenedNetVlad(Vgg16.width), Preprocessing(
            height=480, width=640, mean=(0.0, 0.0, 0.0), std=(1 / 255,) * 3))
        self.register_buffer('mean', torch.zeros(3))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) of 0 to 255 to (B, D) unit rows, float32."""
        return super().forward(images - self.mean[:, None, None])


def mixvpr() -> PublishedNetwork:
    """MixVPR, 4096 numbers, on three stages of ResNet-50, at 320 x 320 only."""
    trunk = ResNet(stages=3)
    return ConvolutionalNetwork(
        trunk, MixVpr(trunk.width, MixVprConfig(grid_height=20, grid_width=20)),
        Preprocessing(height=320, width=320))


def cosplace() -> PublishedNetwork:
    """CosPlace and EigenPlaces, 2048 numbers, on ResNet-50."""
    trunk = ResNet()
    return ConvolutionalNetwork(
        trunk, CosPlace(trunk.width, CosPlaceConfig(output_dim=2048)), AS_PHOTOGRAPHED)


def gem() -> PublishedNetwork:
    """GeM, 1024 numbers, on three stages of ResNet-50."""
    trunk = ResNet(stages=3)
    return ConvolutionalNetwork(trunk, NormalisedGem(trunk.width), AS_PHOTOGRAPHED)


def boq() -> PublishedNetwork:
    """BoQ, 16384 numbers, on three stages of ResNet-50."""
    trunk = ResNet(stages=3)
    return ConvolutionalNetwork(
        trunk, Boq(trunk.width, BoqConfig(channels=512)),
        Preprocessing(height=384, width=384, interpolation='bicubic'))
