"""The aggregator of CricaVPR (Lu et al., 2024, arXiv:2402.19231), for single images.

Source: `network.py` of github.com/Lu-Feng/CricaVPR. Its encoder attends over the images of a
batch. Here each image is a separate batch, so that a descriptor never depends on other images.
Attention over a single image returns its value.
"""

from dataclasses import dataclass
import itertools

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.config import check_settings, setting
from regvpr_core.errors import ImageError
from regvpr_core.models.gem import EPSILON

GRID = (16, 16)
CUTS = ((0, 8, 16), (0, 5, 11, 16))
"""Patch rows and columns at which the image is cut into 2 x 2 and 3 x 3 regions; the class token
represents the whole image."""

HEADS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class CricaConfig:
    """Sizes of the encoder."""

    layers: int = setting(2, 'Encoder layers.', 1, 16)
    feedforward_dim: int = setting(2048, 'Hidden width of their MLPs.', 1, 65536)

    def __post_init__(self) -> None:
        check_settings(self, 'aggregator')


class Crica(nn.Module):
    """The class token and GeM of 13 regions, through an encoder."""

    def __init__(self, width: int, config: CricaConfig) -> None:
        super().__init__()
        self.dimension = 14 * width
        self.power = nn.Parameter(torch.tensor(3.0))
        layer = nn.TransformerEncoderLayer(
            width, HEADS, dim_feedforward=config.feedforward_dim, activation='gelu',
            batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, config.layers, enable_nested_tensor=False)

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """(B, width) and (B, width, 16, 16) to descriptors (B, 14 * width), unit rows, float32.

        Raises:
            ImageError: the grid is not 16 x 16, which is 224 pixels.
        """
        if tuple(patch_tokens.shape[-2:]) != GRID:
            raise ImageError(f'CricaVPR was made for 16x16 patches and got '
                             f'{patch_tokens.shape[-1]}x{patch_tokens.shape[-2]}: set '
                             f'preprocessing to 224x224 pixels')
        x = F.normalize(patch_tokens.float(), dim=1).clamp(min=EPSILON).pow(self.power)
        pooled = [class_token.float()]
        for cuts in CUTS:
            spans = [slice(*span) for span in itertools.pairwise(cuts)]
            pooled += [x[:, :, rows, columns].mean(dim=(2, 3)).pow(1.0 / self.power)
                       for rows in spans for columns in spans]
        regions = torch.stack(pooled, dim=1)  # (B, 14, width)
        alone = regions.flatten(0, 1)[:, None]  # sequences of length one
        out = self.encoder(alone.to(self.power.dtype)).reshape(regions.shape[0], -1)
        return F.normalize(out.float(), dim=1)
