"""Activation checkpointing (Chen et al., 2016, arXiv:1604.06174) of transformer blocks."""

import functools
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from regvpr_core.models.vit import DinoVisionTransformer


def recompute(vit: DinoVisionTransformer, blocks: int, last_block: int | None = None) -> None:
    """Let the last `blocks` that are run keep their input only; the rest is computed again.

    Weights and key names stay. Blocks hold nothing random, so no random state is kept.
    """
    run = list(vit.blocks)[: None if last_block is None else last_block + 1]
    for block in run[len(run) - min(blocks, len(run)):]:
        _keep_input_only(block)


def _keep_input_only(block: nn.Module) -> None:
    forward: Any = block.forward
    # On the instance: a module around the block would change the names of its weights.
    setattr(block, 'forward', functools.partial(  # noqa: B010
        checkpoint, forward, use_reentrant=False, preserve_rng_state=False))
