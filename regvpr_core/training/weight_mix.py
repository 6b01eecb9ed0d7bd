"""Weighted means of the weights of a model before and after training.

After training on little data, such a mean is often better than both models, and it is less
specialised (Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022). The share of the
trained weights is chosen by the recall on validation images, which are used neither for training
nor for the reported recall. A share of 0 is the initial model, so the result is never worse there.

A model of two trunks contains a register head (models/joined_heads.py). If a run trained that
head, the mix is made and measured inside the joined model, because maps are made with that model.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from regvpr_core.errors import CheckpointError, ConfigError
from regvpr_core.models.backbones import fetch_backbone
from regvpr_core.models.checkpoints import load_model
from regvpr_core.models.joined_heads import JoinedHeads
from regvpr_core.training.config import TrainConfig
from regvpr_core.training.networks import build_model
from regvpr_core.training.run_folder import RunFolder

SHARES = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)


def choose_mix(config: TrainConfig, trained: Path, folder: Path,
               measure: Callable[[Path], float] | None, joined: str = ''
               ) -> tuple[float, Path]:
    """Write the best mix of the initial and the trained weights.

    Args:
        config: of the run.
        trained: its last checkpoint.
        folder: of the run.
        measure: value of a checkpoint; larger is better. Of equally good mixes, the one with the
            smallest share of trained weights is taken. None: the trained weights are taken.
        joined: model that contains the trained head (`joined_start`); '' for none.

    Returns:
        the share of the trained weights, and the checkpoint `site.safetensors`. If no mix is
        better than the initial model: 0, and `trained`.
    """
    model, backbone = build_model(config)
    path = None if config.backbone_path is None else Path(config.backbone_path)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    end = load_model(trained, path).backboned('a mix of weights').state_dict()
    second = None
    if joined:
        model, prefix = load_model(joined, path).backboned('a mix of weights'), 'aggregator.'
        start, end = (_inside(weights, prefix) for weights in (start, end))
        second = fetch_backbone(str(model.config.second))
    files = RunFolder(folder)

    def write(share: float, out: Path) -> Path:
        model.load_state_dict(
            start | {key: mixed(start[key], end[key], share) for key in end}, strict=not joined)
        files.write_checkpoint(out, model, config.name, backbone, {
            'start': joined or config.start, 'share_of_trained': share}, second)
        return out

    if measure is None:
        return 1.0, write(1.0, folder / 'site.safetensors')
    part = folder / 'mix.safetensors'
    values = {share: measure(write(share, part)) for share in SHARES}
    part.unlink()
    best = max(values, key=lambda share: (values[share], -share))
    return best, write(best, folder / 'site.safetensors') if best else trained


def joined_start(config: TrainConfig, name: str) -> str:
    """`name` if it is a joined model that contains the head the run starts from; else ''."""
    path = None if config.backbone_path is None else Path(config.backbone_path)
    trains_head_only = config.model.adapter is None and not config.model.trained_blocks
    if config.start is None or config.start == name or not trains_head_only:
        return ''
    try:
        joined, start = (load_model(one, path).backboned('training') for one in (
            name, config.start))
    except (CheckpointError, ConfigError):  # not on this machine, or another kind of network
        return ''
    if not isinstance(joined.aggregator, JoinedHeads):
        return ''
    own, begun = joined.aggregator.registers.state_dict(), start.aggregator.state_dict()
    same = own.keys() == begun.keys() and all(torch.equal(own[key], begun[key]) for key in own)
    return name if same else ''


def _inside(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Weights of a register head by their names in a joined model."""
    return {f'{prefix}registers.{key.removeprefix(prefix)}': value
            for key, value in weights.items() if key.startswith(prefix)}


def mixed(start: Tensor, end: Tensor, share: float) -> Tensor:
    """start + share * (end - start); integer tensors are taken from the nearer one."""
    if share == 1.0 or not start.is_floating_point():
        return end if share >= 0.5 else start
    return start + share * (end - start)
