"""Backbone + aggregator = a descriptor model, built from one config."""

from dataclasses import dataclass, field
import re
from typing import Any

from torch import nn, Tensor

from regvpr_core.config import check_range, check_settings, from_mapping, setting
from regvpr_core.errors import ConfigError
from regvpr_core.models.adapter import adapt, AdapterConfig
from regvpr_core.models.aggregators import AGGREGATORS, TWO_TRUNKS
from regvpr_core.models.efficientnet import DEVIATION, EfficientNetLite0, MEAN
from regvpr_core.models.preprocessing import Preprocessing
from regvpr_core.models.vit import build_vit, VIT_CONFIGS

TOKEN_DEPTH = 0.35
"""Share of the blocks after which patch tokens are used as local features. Share of mutual nearest
tokens of a street by day and in rain that agree with the true motion: 0.73 after block 4 of 12,
0.69 after 7, 0.48 after 11."""


SECOND_TRUNKS = {'efficientnet_lite0': EfficientNetLite0}
"""Second trunks, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Architecture of a descriptor model, and the part of it that training changes."""

    backbone: str = setting('vits14', 'Backbone.', choices=tuple(VIT_CONFIGS))
    last_block: int | None = setting(
        None,
        'Block, counted from 0, whose output goes to the aggregator without the final LayerNorm; '
        'None for all blocks and the final LayerNorm, as DINOv2 gives its features.')
    second: str | None = setting(
        None,
        'Second trunk, frozen, that sees the same input; its maps go to an aggregator for two '
        'trunks. None: none.', choices=tuple(SECOND_TRUNKS))
    adapter: AdapterConfig | None = None
    aggregator: str = setting('gem', 'Aggregator.', choices=tuple(AGGREGATORS))
    aggregator_config: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    train: str = setting(
        'frozen',
        'Trained part besides the aggregator: `frozen` (nothing), `adapter`, `last_N` (that many '
        'last blocks of those that run, and adapters where there are any) or `all`.')
    train_norm: bool | None = setting(
        None,
        'Train the final LayerNorm as well; None: with `last_N` (as SALAD) and `all`, not with '
        '`adapter` (as CricaVPR).')

    def __post_init__(self) -> None:
        check_settings(self)
        size = VIT_CONFIGS[self.backbone]
        self.preprocessing.check_patches()
        from_mapping(AGGREGATORS[self.aggregator][1], self.aggregator_config, 'aggregator.')
        if (self.second is None) == (self.aggregator in TWO_TRUNKS):
            raise ConfigError(
                f'second is {self.second}, but aggregator {self.aggregator} takes the maps of '
                f'{"two trunks" if self.second is None else "one trunk"}')
        if self.adapter is not None:
            self.adapter.indices(self.depth)
            self.adapter.bottleneck(size.width)
        if self.last_block is not None:
            check_range('last_block', self.last_block, 0, size.depth - 1)
        if not re.fullmatch(r'frozen|adapter|all|last_\d+', self.train):
            raise ConfigError(f'train is {self.train!r}; expected frozen, adapter, last_4 or all')
        if self.train == 'adapter' and self.adapter is None:
            raise ConfigError('train is adapter, but the model has none; set adapter, or train to '
                              'frozen')
        check_range('train: last_N', self.trained_blocks, 0, self.depth)
        if self.train_norm and self.last_block is not None:
            raise ConfigError('train_norm is set, but with last_block the final LayerNorm does '
                              'not run; leave one of them out')

    @property
    def depth(self) -> int:
        """Number of blocks computed: all, or those up to `last_block`."""
        return VIT_CONFIGS[self.backbone].depth if self.last_block is None else \
            self.last_block + 1

    def is_unused(self, key: str) -> bool:
        """Whether a key of the state belongs to a block behind `last_block`."""
        block = re.match(r'backbone\.blocks\.(\d+)\.', key)
        return block is not None and int(block[1]) >= self.depth

    @property
    def trained_blocks(self) -> int:
        """N of `last_N`, else 0."""
        return int(self.train.removeprefix('last_')) if self.train.startswith('last_') else 0

    @property
    def trains_norm(self) -> bool:
        """Whether the final LayerNorm is trained."""
        if self.last_block is not None:
            return False  # it is not computed
        if self.train_norm is None:
            return self.train == 'all' or self.trained_blocks > 0
        return self.train_norm


class DescriptorModel(nn.Module):
    """Images in, unit descriptors out; in eval mode a row never depends on its batch."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_vit(config.backbone)
        if config.adapter is not None:
            adapt(self.backbone, config.adapter, config.depth)
        self.second: nn.Module | None = None if config.second is None else \
            SECOND_TRUNKS[config.second]()
        module, config_type = AGGREGATORS[config.aggregator]
        settings: Any = from_mapping(config_type, config.aggregator_config, 'aggregator.')
        self.aggregator = module(VIT_CONFIGS[config.backbone].width, settings)

    def drop_unused_blocks(self) -> None:
        """Remove the blocks behind `last_block`, which are never computed."""
        self.backbone.blocks = self.backbone.blocks[:self.config.depth]

    @property
    def dimension(self) -> int:
        """Length D of a descriptor."""
        return int(self.aggregator.dimension)

    @property
    def preprocessing(self) -> Preprocessing:
        """Preprocessing of images."""
        return self.config.preprocessing

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W), sides multiples of 14, to (B, D) unit rows, float32."""
        tokens = self.backbone(images, self.config.last_block)
        descriptors: Tensor = self.aggregator(*tokens, *self.second_maps(images))
        return descriptors

    def second_maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the second trunk for the same network input; empty without one."""
        if self.second is None:
            return ()
        size = self.config.preprocessing
        mean, deviation = (images.new_tensor(v).view(1, 3, 1, 1) for v in (size.mean, size.std))
        maps: tuple[Tensor, ...] = self.second((images * deviation + mean - MEAN) / DEVIATION)
        return maps

    def with_tokens(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Descriptors as `forward`, and patch tokens (B, h, w, width) of the same pass."""
        last = self.config.last_block
        class_token, patch_tokens, tokens = self.backbone.with_tokens(
            images, last, self.token_block)
        descriptors: Tensor = self.aggregator(class_token, patch_tokens,
                                              *self.second_maps(images))
        return descriptors, tokens

    @property
    def token_block(self) -> int:
        """Block whose patch tokens are local features; see `TOKEN_DEPTH`."""
        depth = self.backbone.config.depth
        last = depth - 1 if self.config.last_block is None else self.config.last_block
        return min(round(TOKEN_DEPTH * depth), last)
