"""Weights between a start and what training made of them.

On little data, the weights between the two often do better than either, and forget less (Wortsman
et al., Robust fine-tuning of zero-shot models, CVPR 2022). The share is chosen on a stretch that
is neither trained on nor reported; 0 is the start, so that the result is not worse there.
"""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from regvpr_core.models.checkpoints import load_model
from regvpr_core.training.config import TrainConfig
from regvpr_core.training.networks import build_model
from regvpr_core.training.run_folder import RunFolder

SHARES = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)


def choose_mix(config: TrainConfig, trained: Path, folder: Path,
               measure: Callable[[Path], float]) -> tuple[float, Path]:
    """Write the best mix of the start and the trained weights.

    Args:
        config: of the run.
        trained: its last checkpoint.
        folder: of the run.
        measure: value of a checkpoint; larger is better. Of equal ones the nearest to the start
            is taken.

    Returns:
        the share of the trained weights, and the checkpoint: `site.safetensors`; 0 and the
        trained one as it is where no mix is better than the start.
    """
    model, backbone = build_model(config)
    path = None if config.backbone_path is None else Path(config.backbone_path)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    end = load_model(trained, path).backboned('a mix of weights').state_dict()
    files = RunFolder(folder)

    def write(share: float, out: Path) -> Path:
        model.load_state_dict(
            start | {key: mixed(start[key], end[key], share) for key in end})
        files.write_checkpoint(out, model, config.name, backbone,
                               {'start': config.start, 'share_of_trained': share})
        return out

    part = folder / 'mix.safetensors'
    values = {share: measure(write(share, part)) for share in SHARES}
    part.unlink()
    best = max(values, key=lambda share: (values[share], -share))
    return best, write(best, folder / 'site.safetensors') if best else trained


def mixed(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Weights at a share of the way; whole numbers are those of the nearer end."""
    if not start.is_floating_point():
        return end if share >= 0.5 else start
    return start + share * (end - start)
