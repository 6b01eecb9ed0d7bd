"""MixVPR (Ali-bey et al., 2023, arXiv:2303.02190) over patch tokens."""

from dataclasses import dataclass

from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.config import check_settings, setting
from regvpr_core.errors import ImageError


@dataclass(frozen=True, slots=True, kw_only=True)
class MixVprConfig:
    """Sizes of MixVPR; its mixers fix the grid of patches."""

    grid_height: int = setting(16, 'Rows of patches in an image; 16 are 224 pixels.', 1, 144)
    grid_width: int = setting(16, 'Columns of patches in an image; 16 are 224 pixels.', 1, 144)
    mixers: int = setting(4, 'Number of feature mixers in sequence.', 0, 48)
    mlp_ratio: int = setting(1, 'Hidden width of a mixer over the size of the grid.', 1, 16)
    channels: int = setting(
        1024, 'Channels after the reduction; the descriptor has channels * rows numbers.', 1, 8192)
    rows: int = setting(
        4, 'Rows after the reduction; the descriptor has channels * rows numbers.', 1, 8192)

    def __post_init__(self) -> None:
        check_settings(self, 'aggregator')


class FeatureMixer(nn.Module):
    """An MLP over the positions of every channel, with a residual."""

    def __init__(self, positions: int, mlp_ratio: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(
            nn.LayerNorm(positions), nn.Linear(positions, mlp_ratio * positions), nn.ReLU(),
            nn.Linear(mlp_ratio * positions, positions))
        for layer in self.mix:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, positions) to the same shape."""
        return x + self.mix(x)  # type: ignore[no-any-return]


class MixVpr(nn.Module):
    """Feature mixers, then a projection of channels and one of positions."""

    def __init__(self, width: int, config: MixVprConfig) -> None:
        super().__init__()
        self.config = config
        self.dimension = config.channels * config.rows
        positions = config.grid_height * config.grid_width
        self.mixers = nn.Sequential(
            *(FeatureMixer(positions, config.mlp_ratio) for _ in range(config.mixers)))
        self.channel_projection = nn.Linear(width, config.channels)
        self.row_projection = nn.Linear(positions, config.rows)

    def forward(self, class_token: Tensor, patch_tokens: Tensor) -> Tensor:
        """(B, width) and (B, width, h, w) to descriptors (B, channels * rows), unit rows.

        Raises:
            ImageError: (h, w) is not the grid that the model was made for.
        """
        grid = tuple(patch_tokens.shape[-2:])
        if grid != (self.config.grid_height, self.config.grid_width):
            raise ImageError(
                f'MixVPR was made for {self.config.grid_width}x{self.config.grid_height} patches '
                f'and got {grid[1]}x{grid[0]}: set preprocessing to '
                f'{14 * self.config.grid_width}x{14 * self.config.grid_height} pixels, or train '
                f'it with another aggregator.grid_width and grid_height')
        x = self.mixers(patch_tokens.flatten(2).to(self.row_projection.weight.dtype))
        x = self.channel_projection(x.transpose(1, 2)).transpose(1, 2)  # (B, channels, positions)
        return F.normalize(self.row_projection(x).float().flatten(1), dim=1)
