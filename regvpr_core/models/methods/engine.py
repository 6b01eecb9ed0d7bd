"""What runs the networks of other people: torch, autocast where half precision is faster."""

import contextlib
from typing import Any

import torch
from torch import Tensor

from regvpr_core.models.engines import bf16_is_faster, PRECISIONS, Rows, rows, TorchEngine
from regvpr_core.models.methods.network import PublishedNetwork

MEASURED_WIDTH = 768


class PublishedEngine(TorchEngine):
    """Torch on any device. Matrix products run in the precision; norms and softmax in float32."""

    def __init__(self, model: PublishedNetwork, device: torch.device, precision: str,
                 threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)  # of the whole process: torch knows no other way
        if precision == 'auto':
            precision = {'cuda': 'fp16', 'cpu': 'bf16' if bf16_is_faster(MEASURED_WIDTH) else
                         'fp32'}.get(device.type, 'fp32')
        self.precision = precision
        super().__init__(model.preprocessing, device)
        self._model = model.to(device)

    def __call__(self, inputs: Tensor) -> Rows:
        """Network input (B, 3, H, W) to unit rows (B, D)."""
        with torch.inference_mode(), self._autocast():
            return rows(self._model(inputs))

    def with_tokens(self, inputs: Tensor) -> tuple[Rows, Rows]:
        """Unit rows (B, D) and patch tokens (B, h, w, width).

        Raises:
            ConfigError: the network has no patches.
        """
        with torch.inference_mode(), self._autocast():
            descriptors, tokens = self._model.with_tokens(inputs)
            return rows(descriptors), rows(tokens)

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self.precision == 'fp32':
            return contextlib.nullcontext()
        return torch.autocast(self._place.type, dtype=PRECISIONS[self.precision])
