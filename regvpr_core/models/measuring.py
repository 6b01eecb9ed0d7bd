"""Measures the speed of a model, with random weights if its weights are not available."""

from typing import Any

import torch

from regvpr_core.errors import CheckpointError
from regvpr_core.models.catalogue import CATALOGUE, local_file
from regvpr_core.models.checkpoints import LoadedModel
from regvpr_core.models.encoder import choose_device, load_encoder, torch_encoder
from regvpr_core.models.peers import PEERS
from regvpr_core.models.speeds import measure


def measure_model(name: str) -> dict[str, Any]:
    """Time and memory of a model in this process, which should be new.

    Returns:
        the result of `measure`, the precision, and `weights`: here or random.

    Raises:
        CheckpointError: the weights on this machine are damaged.
    """
    here = name not in CATALOGUE or local_file(name) is not None
    if here:
        encoder = load_encoder(name)
    else:
        encoder = torch_encoder(random_model(name), choose_device('auto'))
    return {**measure(encoder), 'precision': encoder.precision,
            'weights': 'here' if here else 'random'}


def random_model(name: str) -> LoadedModel:
    """A catalogued network with random weights, to measure its speed.

    Raises:
        CheckpointError: the model is not supported.
    """
    if name not in PEERS:
        raise CheckpointError(f'{name} is not built: {CATALOGUE[name].refused}')
    torch.manual_seed(0)
    model = PEERS[name].make()
    return LoadedModel(model.eval().requires_grad_(False), f'{name} (random)', 'random',
                       f'model {name}: RANDOM weights')
