"""DINOv2 vision transformer (Oquab et al., 2023, arXiv:2304.07193) with the official key names.

Official checkpoints (`dinov2_vits14_pretrain.pth` and its siblings) load strictly. Deviations: no
drop path (inference and frozen training), and the position embedding is cached per grid size.
"""

from dataclasses import dataclass

import torch
from torch import nn, Tensor
import torch.nn.functional as F

from regvpr_core.errors import CheckpointError, ConfigError, ImageError

PATCH = 14
PRETRAINED_GRID = 37
"""Grid size of the official position embeddings (518 pixels)."""

INTERPOLATE_OFFSET = 0.1
"""DINOv2 scales by (side + 0.1) / 37, so that rounding never drops a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VitConfig:
    """Size of a DINOv2 backbone: token width, number of blocks, attention heads."""

    width: int
    depth: int
    heads: int

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.heads) < 1 or self.width % self.heads:
            raise ConfigError(f'{self.heads} heads do not divide a token width of {self.width}')


VIT_CONFIGS = {
    'vits14': VitConfig(width=384, depth=12, heads=6),
    'vitb14': VitConfig(width=768, depth=12, heads=12),
    'vitl14': VitConfig(width=1024, depth=24, heads=16),
}


class PatchEmbed(nn.Module):
    """Images (B, 3, H, W) to patch tokens (B, H/14 * W/14, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, kernel_size=PATCH, stride=PATCH)

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.proj(images)
        return tokens.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention over tokens (B, N, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, N, width = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, N, width / heads)
        x = attended(q, k, v).transpose(1, 2).reshape(B, N, width)
        out: Tensor = self.proj(x)
        return out


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of (B, heads, N, side) tensors.

    On the CPU in bfloat16 the backward pass of SDPA takes four times as long as that of two matrix
    products, which keep the weights (B, heads, N, N) for it.
    """
    if not (q.requires_grad and q.device.type == 'cpu' and q.dtype == torch.bfloat16):
        return F.scaled_dot_product_attention(q, k, v)
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
    out: Tensor = weights.softmax(dim=3).to(v.dtype) @ v
    return out


class Mlp(nn.Module):
    """Two-layer perceptron with exact GELU and an expansion of 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    """A learnt gain per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Pre-norm transformer block with layer scale."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)
        self.ls2 = LayerScale(width)

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, 1 + h * w, width) of a grid of h x w patches, class token first."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class DinoVisionTransformer(nn.Module):
    """DINOv2 ViT-S/B/L with 14-pixel patches."""

    def __init__(self, config: VitConfig) -> None:
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + PRETRAINED_GRID**2, config.width))
        self.mask_token = nn.Parameter(torch.zeros(1, config.width))
        self.patch_embed = PatchEmbed(config.width)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self._positions: dict[tuple[object, ...], Tensor] = {}

    def forward(self, images: Tensor, last_block: int | None = None) -> tuple[Tensor, Tensor]:
        """Compute the tokens of one block.

        Args:
            images: (B, 3, H, W) normalised; H and W multiples of 14.
            last_block: index of the block whose output is returned, without the final LayerNorm;
                later blocks are not computed. None: all blocks and the final LayerNorm.

        Returns:
            class tokens (B, width) and patch tokens (B, width, H/14, W/14).

        Raises:
            ImageError: a side is no multiple of 14.
        """
        return self.with_tokens(images, last_block, 0)[:2]

    def with_tokens(
        self, images: Tensor, last_block: int | None, block: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, and the patch tokens (B, h, w, width) after another block.

        Args:
            images, last_block: see `forward`.
            block: index of that block, at most `last_block`.
        """
        B, grid = images.shape[0], check_sides(images)
        tokens = x = self.embed(images, grid)
        for number, layer in enumerate(self.blocks[: None if last_block is None
                                                   else last_block + 1]):
            x = layer(x, grid)
            if number == block:
                tokens = x
        if last_block is None:
            x = self.norm(x)
        return (x[:, 0], x[:, 1:].transpose(1, 2).reshape(B, -1, *grid),
                tokens[:, 1:].reshape(B, *grid, -1))

    def embed(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Images to tokens (B, 1 + h * w, width) with their positions, class token first."""
        x = self.patch_embed(images)
        x = torch.cat([self.cls_token.expand(images.shape[0], -1, -1), x], dim=1)
        return x + self.positions(grid).to(x.dtype)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Position embedding (1, 1 + h * w, width) for a grid, interpolated as DINOv2 does."""
        if grid == (PRETRAINED_GRID, PRETRAINED_GRID):
            return self.pos_embed
        if self.pos_embed.requires_grad and torch.is_grad_enabled():
            return self._interpolated_positions(grid)
        # The version counter changes when the weights are loaded or changed in place.
        key = (grid, self.pos_embed.device, self.pos_embed.dtype, self.pos_embed._version)
        if key not in self._positions:
            self._positions.clear()
            self._positions[key] = self._interpolated_positions(grid).detach()
        return self._positions[key]

    def _interpolated_positions(self, grid: tuple[int, int]) -> Tensor:
        scale = [(side + INTERPOLATE_OFFSET) / PRETRAINED_GRID for side in grid]
        table = self.pos_embed[:, 1:].float().transpose(1, 2)
        table = table.reshape(1, -1, PRETRAINED_GRID, PRETRAINED_GRID)
        table = F.interpolate(table, scale_factor=scale, mode='bicubic', antialias=False)
        if tuple(table.shape[-2:]) != grid:
            raise ImageError(f'no position embedding for a grid of {grid[1]}x{grid[0]} patches')
        patches = table.flatten(2).transpose(1, 2)
        return torch.cat([self.pos_embed[:, :1].float(), patches], dim=1).to(self.pos_embed.dtype)


def check_sides(images: Tensor) -> tuple[int, int]:
    """The grid (H/14, W/14) of network input (B, 3, H, W).

    Raises:
        ImageError: a side is no multiple of 14.
    """
    H, W = (int(side) for side in images.shape[-2:])  # int: constants when traced for export
    if H % PATCH or W % PATCH or not H or not W:
        raise ImageError(f'network input is {W}x{H} pixels; each side must be a multiple of 14')
    return H // PATCH, W // PATCH


def build_vit(name: str) -> DinoVisionTransformer:
    """An untrained backbone of a known size, by its short DINOv2 name such as `vits14`."""
    if name not in VIT_CONFIGS:
        raise ConfigError(f'unknown backbone {name!r}; known: {", ".join(VIT_CONFIGS)}')
    return initialise(DinoVisionTransformer(VIT_CONFIGS[name]))


def initialise(vit: DinoVisionTransformer) -> DinoVisionTransformer:
    """Random weights as timm and DINOv2 draw them: truncated normals of 0.02, zero biases."""
    for module in vit.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(vit.pos_embed, std=0.02)
    nn.init.normal_(vit.cls_token, std=1e-6)
    return vit


def check_weights(expected: dict[str, Tensor], weights: dict[str, Tensor], source: str) -> None:
    """Refuse weights that are not exactly those expected.

    Raises:
        CheckpointError: names the keys that are missing, unknown, of another shape or not finite.
    """
    problems = {
        'lacks': sorted(expected.keys() - weights.keys()),
        'has unknown': sorted(weights.keys() - expected.keys()),
        'has': [f'{key} {tuple(weights[key].shape)} instead of {tuple(expected[key].shape)}'
                for key in sorted(expected.keys() & weights.keys())
                if weights[key].shape != expected[key].shape],
    }
    for problem, keys in problems.items():
        if keys:
            more = f' and {len(keys) - 3} more' if len(keys) > 3 else ''
            raise CheckpointError(f'{source} is of another architecture: it {problem} '
                                  f'{", ".join(keys[:3])}{more}')
    for key, value in weights.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise CheckpointError(f'{source} is damaged: {key} holds values that are not finite')


def load_backbone_weights(vit: nn.Module, weights: dict[str, Tensor], source: str) -> None:
    """Load a full set of DINOv2 weights strictly; adapters are not changed.

    Raises:
        CheckpointError: names keys that are missing, unknown or of another shape, and NaNs.
    """
    adapters = {key: value for key, value in vit.state_dict().items() if '.adapter.' in key}
    expected = {key: value for key, value in vit.state_dict().items() if key not in adapters}
    check_weights(expected, weights, source)
    vit.load_state_dict(adapters | weights)
