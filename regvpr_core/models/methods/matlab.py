"""NetVLAD as its authors publish it: a MATLAB file with a struct of layers."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError
import torch
from torch import Tensor

from regvpr_core.errors import CheckpointError
from regvpr_core.models.methods.trunks import Vgg16

NETVLAD, WHITENING = 30, 33
"""Indices of the layers after the 30 layers of VGG-16."""


def is_matlab(path: Path) -> bool:
    """Whether a file starts with the magic bytes of MATLAB 5."""
    with path.open('rb') as file:
        return file.read(6) == b'MATLAB'


def read_netvlad(path: Path) -> dict[str, Tensor]:
    """The tensors of `Pitts30K_struct.mat` under the key names of hloc's NetVLAD, and `mean`.

    Raises:
        CheckpointError: the file is truncated or has another struct.
    """
    try:
        net = loadmat(path, struct_as_record=False, squeeze_me=True)['net']
        layers: Any = net.layers
        tensors = {'mean': _tensor(np.reshape(net.meta.normalization.averageImage, (-1, 3))[0])}
        for index, layer in enumerate(Vgg16()):
            if isinstance(layer, torch.nn.Conv2d):
                weight, bias = layers[index].weights
                tensors[f'backbone.{index}.weight'] = _tensor(weight.transpose(3, 2, 0, 1))
                tensors[f'backbone.{index}.bias'] = _tensor(bias)
        assigned, centres = layers[NETVLAD].weights
        tensors['netvlad.score_proj.weight'] = _tensor(assigned.T)
        tensors['netvlad.centers'] = _tensor(-centres)  # stored with opposite sign
        weight, bias = layers[WHITENING].weights
        tensors['whiten.weight'] = _tensor(np.squeeze(weight).T)
        tensors['whiten.bias'] = _tensor(bias)
    except (MatReadError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError,
            NotImplementedError) as error:
        raise CheckpointError(f'{path} is truncated or not the NetVLAD of its authors: '
                              f'{" ".join(str(error).split())[:200]}') from error
    return tensors


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32, order='C'))
