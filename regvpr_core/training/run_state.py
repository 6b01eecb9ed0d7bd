"""State for resuming a run: trained tensors, moments of AdamW, scaler, step, curve.

No random state is saved: batches, augmentation and dropout depend only on seed and step.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn, Tensor

from regvpr_core.config import to_mapping
from regvpr_core.errors import TrainingError
from regvpr_core.models.vit import check_weights
from regvpr_core.training.config import TrainConfig

MOMENTS = ('exp_avg', 'exp_avg_sq', 'step')

MAY_CHANGE = frozenset({
    'backbone_path', 'data_root', 'device', 'epochs', 'recompute_blocks', 'save_steps', 'start',
    'steps', 'validate_batch', 'validate_epochs', 'validate_steps', 'workers'})
"""Settings that may differ in a resumed run; lengths only if the schedule has its own steps."""


@dataclass(slots=True, kw_only=True)
class Progress:
    """Progress of a run.

    step: steps done. best, best_step: of the mean recall@1. seconds: time of the steps.
    curve: measurements by step. pending: losses that are not in the curve yet.
    """

    step: int = 0
    best: float = -1.0
    best_step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, Any]] = field(default_factory=list)
    pending: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """Tensors that change in training: parameters and buffers by key, optimiser, scaler."""

    parameters: dict[str, nn.Parameter]
    buffers: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def tensors(self) -> dict[str, Tensor]:
        """Tensors to save, by key."""
        out: dict[str, Tensor] = {f'model.{key}': value.data
                                  for key, value in self.parameters.items()}
        out |= {f'buffer.{key}': value for key, value in self.buffers.items()}
        for key, parameter in self.parameters.items():
            moments = self.optimiser.state.get(parameter, {})
            out |= {f'{name}.{key}': moments[name] for name in MOMENTS if name in moments}
        return out

    def about(self, config: TrainConfig, data_digest: str, progress: Progress) -> dict[str, Any]:
        """Metadata to save with the tensors."""
        return {'config': to_mapping(config), 'data': data_digest, 'scaler': {
                    key: float(value) for key, value in self.scaler.state_dict().items()},
                'progress': asdict(progress)}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor], about: dict[str, Any], where: str) -> Progress:
        """Restore a saved state.

        Raises:
            CheckpointError: it is of another architecture.
            TrainingError: it is damaged.
        """
        own = {f'model.{key}': value.data for key, value in self.parameters.items()}
        own |= {f'buffer.{key}': value for key, value in self.buffers.items()}
        check_weights(own, {key: value for key, value in tensors.items()
                            if key.startswith(('model.', 'buffer.'))}, where)
        known = own.keys() | {f'{name}.{key}' for key in self.parameters for name in MOMENTS}
        if unknown := sorted(tensors.keys() - known):
            raise TrainingError(f'{where} is damaged: it has unknown {unknown[0]}')
        for key, value in own.items():
            value.copy_(tensors[key])
        try:
            for key, parameter in self.parameters.items():
                if f'exp_avg.{key}' in tensors:
                    self.optimiser.state[parameter] = {
                        name: tensors[f'{name}.{key}'].to(
                            'cpu' if name == 'step' else parameter.device) for name in MOMENTS}
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(
                    {key: int(value) if key in ('growth_interval', '_growth_tracker') else value
                     for key, value in about['scaler'].items()})
            return Progress(**about['progress'])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise TrainingError(f'{where} is damaged: {error}') from error


def check_same_run(
    about: dict[str, Any], config: TrainConfig, data_digest: str, where: str
) -> None:
    """Refuse to resume a run with other settings or other data.

    Raises:
        TrainingError: the message names the difference.
    """
    was, now = about.get('config'), to_mapping(config)
    if not isinstance(was, dict):
        raise TrainingError(f'{where} is damaged: it holds no config')
    fixed = [key for key in now if key not in MAY_CHANGE]
    if config.schedule.steps == 0:
        fixed += ['epochs', 'steps']
    if was.get('model') != plain(now['model']):
        raise TrainingError(f'{where} is of another architecture: '
                            f'{difference(was, now, "model")}; resume with the model that it was '
                            f'begun with')
    for key in fixed:
        if was.get(key) != plain(now[key]):
            raise TrainingError(f'{where} was begun with other settings: '
                                f'{difference(was, now, key)}; resume with those, or start anew '
                                f'in another folder')
    if about.get('data') != data_digest:
        raise TrainingError(f'the data is not what {where} was begun with (files were added, '
                            f'removed or changed); start anew in another folder')


def plain(value: Any) -> Any:
    """Convert to the form that JSON returns: lists for tuples."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def difference(was: Any, now: Any, key: str) -> str:
    """The first setting at or below a key that differs."""
    before, after = was.get(key) if isinstance(was, dict) else None, plain(now[key])
    if isinstance(before, dict) and isinstance(after, dict):
        for inner in after:
            if before.get(inner) != after[inner]:
                return f'{key}.{difference(before, after, inner)}'
    return f'{key} was {before!r}, now {after!r}'
