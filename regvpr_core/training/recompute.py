"""Activation checkpointing (Chen et al., 2016, arXiv:1604.06174) of transformer blocks."""

import functools
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from regvpr_core.models.vit import DinoVisionTransformer


def recompute(vit: DinoVisionTransformer, blocks: int, last_block: int | None = None) -> None:
    """Make the last `blocks` blocks store only their input; the rest is recomputed.

    Weights and key names do not change. Blocks are deterministic, so no random state is stored.
    """
    run = list(vit.blocks)[: None if last_block is None else last_block + 1]
    for block in run[len(run) - min(blocks, len(run)):]:
        _keep_input_only(block)


def _keep_input_only(block: nn.Module) -> None:
    forward: Any = block.forward
    # On the instance, because a wrapping module would change the names of the weights.
    setattr(block, 'forward', functools.partial(  # noqa: B010
        checkpoint, forward, use_reentrant=False, preserve_rng_state=False))
