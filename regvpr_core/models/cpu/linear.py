"""Linear layers for CPUs: packed for oneDNN, with fused activation and residual."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn, Tensor
import torch.nn.functional as F


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Implementation of the operations of a `FusedVit`.

    dtype: of weights and tokens.
    packed: weights are packed for oneDNN once, instead of in every call.
    products: attention by two matrix products and a softmax, instead of SDPA.
    """

    dtype: torch.dtype = torch.float32
    packed: bool = False
    products: bool = False


class FusedLinear(nn.Module):
    """A linear layer with its activation, or with the residual that is added to its output."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None, form: Form, activation: str = 'none'
    ) -> None:
        super().__init__()
        weight = weight.detach().to(form.dtype).contiguous()
        if form.packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self.register_buffer('weight', weight, persistent=False)
        self.register_buffer('bias', None if bias is None else bias.detach().to(form.dtype),
                             persistent=False)
        self.packed, self.activation = form.packed, activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(..., K) to (..., N); `residual` (..., N) is added."""
        if self.packed and residual is not None:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise.binary(
                x, residual, self.weight, self.bias, 'add'))
        if self.packed:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise(
                x, self.weight, self.bias, self.activation, [], 'none'))
        x = F.linear(x, self.weight, self.bias)
        if self.activation == 'relu':
            x = x.relu_()
        elif self.activation == 'gelu':
            x = F.gelu(x)
        return x if residual is None else x + residual


def packing_works(dtype: torch.dtype = torch.float32) -> bool:
    """Whether oneDNN's packed linear layers support a type (x86, most of aarch64).

    Half precision needs AVX512 or similar, even if unpacked layers support it.
    """
    try:
        form = Form(dtype=dtype, packed=True)
        layer = FusedLinear(torch.eye(32), torch.zeros(32), form)
        x = torch.ones(2, 32, dtype=dtype)
        return torch.equal(layer(x, x), x + x)
    except (AttributeError, RuntimeError):
        return False
