"""Trained networks: the whole model, or its part after stored tokens."""

from collections.abc import Callable
import math
from pathlib import Path

import torch
from torch import nn, Tensor

from regvpr_core.errors import TrainingError
from regvpr_core.models.backbones import (
    BackboneWeights,
    fetch_backbone,
    find_backbone,
)
from regvpr_core.models.checkpoints import load_model
from regvpr_core.models.descriptor_model import DescriptorModel
from regvpr_core.models.downloads import Progress
from regvpr_core.models.inside_registers import InsideRegisters
from regvpr_core.models.vit import check_weights, load_backbone_weights
from regvpr_core.training.config import TrainConfig


class TokenNetwork(nn.Module):
    """The part of a model after one block."""

    def __init__(self, model: DescriptorModel, block: int) -> None:
        super().__init__()
        self.model = model
        self.block = block

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, 1 + h * w, width) after the block to unit rows (B, D).

        The patches are those of the whole grid or of a square window.
        """
        descriptors: Tensor = self.model.aggregator(*self.tokens(tokens))
        return descriptors

    def tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Input of the aggregator: (B, width) and (B, width, h, w)."""
        size, vit = self.model.config.preprocessing, self.model.backbone
        grid = (size.height // 14, size.width // 14)
        if tokens.shape[1] - 1 != grid[0] * grid[1]:
            grid = (math.isqrt(tokens.shape[1] - 1),) * 2
        last = self.model.config.last_block
        x = tokens
        for block in vit.blocks[self.block + 1: None if last is None else last + 1]:
            x = block(x, grid)
        if last is None:
            x = vit.norm(x)
        return x[:, 0], x[:, 1:].transpose(1, 2).reshape(len(x), -1, *grid)


def build_model(
    config: TrainConfig, progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> tuple[DescriptorModel, BackboneWeights]:
    """The initial model: backbone weights, and a new head or that of a checkpoint.

    Raises:
        CheckpointError: weights are missing or do not fit.
        TrainingError: the checkpoint to start from is of another model.
    """
    backbone, origin = config.model.backbone, config.backbone_origin
    if config.backbone_path:
        weights = find_backbone(backbone, origin, Path(config.backbone_path))
    else:
        weights = fetch_backbone(backbone, origin, progress, notice)
    torch.manual_seed(config.seed)
    model = DescriptorModel(config.model)
    load_backbone_weights(model.backbone, weights.tensors, str(weights.path))
    if isinstance(model.aggregator, InsideRegisters) and config.start is None:
        model.aggregator.start_from(model.backbone.blocks[config.model.depth:])
    if config.start is not None:
        path = Path(config.backbone_path) if config.backbone_path else None
        start = load_model(config.start, path).backboned('start')
        tensors = start.state_dict()
        own = model.state_dict()
        # Adapters may be new: they start at zero, so the initial model equals the checkpoint.
        added = {key: value for key, value in own.items() if key not in tensors
                 and ('.adapter.' in key or config.model.is_unused(key))}
        tensors |= added
        check_weights(own, tensors, config.start)
        if start.config.last_block != config.model.last_block:
            raise TrainingError(f'{config.start} takes block {start.config.last_block}, the '
                                f'config says {config.model.last_block}')
        model.load_state_dict({key: value.clone() for key, value in tensors.items()})
    return model, weights
