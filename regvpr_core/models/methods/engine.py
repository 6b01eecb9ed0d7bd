"""Torch engine for third-party networks, in half precision if that is faster."""

import contextlib
from typing import Any

import torch
from torch import nn, Tensor

from regvpr_core.models.cpu.linear import Form
from regvpr_core.models.cpu.network import channels_last, FusedBlock
from regvpr_core.models.engines import (
    bf16_is_faster,
    fastest_form,
    name_of,
    PRECISIONS,
    Rows,
    rows,
    TorchEngine,
)
from regvpr_core.models.methods.convolutional import ConvolutionalNetwork
from regvpr_core.models.methods.network import PublishedNetwork
from regvpr_core.models.methods.trunks import fold_batch_norms
from regvpr_core.models.vit import Block, DinoVisionTransformer

MEASURED_WIDTH = 768


class PublishedEngine(TorchEngine):
    """Torch on any device.

    On the CPU transformer blocks are fused and batch norms are folded into convolutions; the rest
    runs under autocast, with norms and softmax in float32.
    """

    def __init__(self, model: PublishedNetwork, device: torch.device, precision: str,
                 threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)  # for the whole process; torch has no other setting
        vit = next((m for m in model.modules() if isinstance(m, DinoVisionTransformer)), None)
        if device.type == 'cpu' and vit is not None:
            dtypes = ('fp32', 'bf16') if precision == 'auto' else (precision,)
            form = fastest_form(vit.config.width, vit.config.heads, dtypes,
                                torch.get_num_threads())
            precision = name_of(form.dtype)
            vit.blocks = nn.ModuleList(
                FusedPlainBlock(block, form) for block in vit.blocks if isinstance(block, Block))
        elif precision == 'auto':
            precision = {'cuda': 'fp16', 'cpu': 'bf16' if bf16_is_faster(MEASURED_WIDTH) else
                         'fp32'}.get(device.type, 'fp32')
        if device.type == 'cpu' and isinstance(model, ConvolutionalNetwork):
            model.trunk = FoldedTrunk(model.trunk, Form(dtype=PRECISIONS[precision]))
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


class FusedPlainBlock(nn.Module):
    """A fused block, for networks whose tokens are float32."""

    def __init__(self, block: Block, form: Form) -> None:
        super().__init__()
        self.block = FusedBlock(block, form)
        self.dtype = form.dtype

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (B, N, width) to the same shape and dtype."""
        with torch.autocast('cpu', enabled=False):
            out: Tensor = self.block(x.to(self.dtype), grid)
        return out.to(x.dtype)


class FoldedTrunk(nn.Module):
    """A convolutional trunk in one dtype, channels last, without batch normalisation."""

    def __init__(self, trunk: nn.Module, form: Form) -> None:
        super().__init__()
        fold_batch_norms(trunk)
        self.trunk = channels_last(trunk, form)
        self.dtype = form.dtype

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to features, float32."""
        with torch.autocast('cpu', enabled=False):
            features: Tensor = self.trunk(
                images.to(self.dtype).contiguous(memory_format=torch.channels_last))
        return features.float().contiguous()
