"""Base of published networks that are not a backbone with an aggregator."""

import json

from torch import nn, Tensor

from regvpr_core.config import to_mapping
from regvpr_core.errors import ConfigError
from regvpr_core.models.preprocessing import Preprocessing

TOKEN_BLOCK = 4
"""Block of 12 whose patch tokens are local features; see `descriptor_model.TOKEN_DEPTH`."""


class PublishedNetwork(nn.Module):
    """Images in, unit descriptors out; in eval mode a row never depends on its batch.

    dimension: length D of a descriptor. preprocessing: as in the authors' evaluation.
    """

    dimension: int
    preprocessing: Preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) to (B, D) unit rows, float32."""
        return self.with_tokens(images)[0]

    def with_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors as `forward`, and patch tokens (B, h, w, width) of the same pass.

        Raises:
            ConfigError: the network has no patch tokens.
        """
        raise ConfigError(f'{type(self).__name__} gives no patch tokens; use features xfeat or '
                          f'none')

    def described(self) -> str:
        """Everything that affects a descriptor besides the weights, for the fingerprint."""
        return json.dumps({'network': type(self).__name__,
                           'preprocessing': to_mapping(self.preprocessing)}, sort_keys=True)


def not_for(purpose: str, network: PublishedNetwork) -> ConfigError:
    """Error for operations that need a `DescriptorModel`."""
    return ConfigError(f'{purpose} needs a DINOv2 backbone with an aggregator, which '
                       f'{type(network).__name__} is not; take salad_vitb14, megaloc, boq_vitb14 '
                       f'or a checkpoint of regvpr train')
