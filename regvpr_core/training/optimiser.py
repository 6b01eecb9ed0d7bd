"""AdamW over groups of parameters, and the learning rate as a function of the step."""

import math

import torch
from torch import nn

from regvpr_core.errors import TrainingError
from regvpr_core.models.descriptor_model import DescriptorModel
from regvpr_core.models.trainable import freeze_the_rest
from regvpr_core.training.config import OptimiserConfig, ScheduleConfig

GROUPS = ('adapters', 'head', 'backbone')


def named_trainable(model: DescriptorModel) -> dict[str, dict[str, nn.Parameter]]:
    """Enable gradients for the parameters selected by the model's config; by group and key.

    Raises:
        TrainingError: no parameter is trained.
    """
    groups = freeze_the_rest(model)
    keys = {id(parameter): key for key, parameter in model.named_parameters()}
    named = {group: {keys[id(p)]: p for p in groups[group]} for group in GROUPS}
    if not any(named.values()):
        raise TrainingError(f'the model trains nothing: its {model.config.aggregator} head learns '
                            f'nothing and train is {model.config.train}; take another aggregator '
                            f'or train adapter, last_4 or all')
    return named


def adamw(named: dict[str, dict[str, nn.Parameter]], config: OptimiserConfig) -> torch.optim.AdamW:
    """AdamW with groups for adapters, head and trained blocks; empty ones are omitted."""
    groups = []
    for group, parameters in named.items():
        own = getattr(config, f'lr_{group}')
        lr = config.lr if own is None else own
        if parameters:
            groups.append({'params': list(parameters.values()), 'lr': lr, 'full_lr': lr,
                           'name': group})
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)


def set_rates(optimiser: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to a fraction of its full value."""
    for group in optimiser.param_groups:
        group['lr'] = group['full_lr'] * factor


def rate_factor(config: ScheduleConfig, step: int, run_steps: int) -> float:
    """Factor of the learning rate at a step, counted from 0, in a run of `run_steps`."""
    length = config.steps or run_steps
    done = min(step / max(length, 1), 1.0)
    if config.kind == 'one_cycle' or config.warmup:
        if done < config.warmup:
            rising = (step + 1) / max(config.warmup * length, 1.0)
            return 0.5 - 0.5 * math.cos(math.pi * min(rising, 1.0)) \
                if config.kind == 'one_cycle' else min(rising, 1.0)
        done = (done - config.warmup) / max(1.0 - config.warmup, 1e-9)
    if config.kind == 'constant':
        return 1.0
    if config.kind == 'linear':
        return 1.0 + (config.end - 1.0) * done
    return config.end + (1.0 - config.end) * 0.5 * (1.0 + math.cos(math.pi * done))
