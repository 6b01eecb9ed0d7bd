"""Linear layers for CPUs: packed for oneDNN, with fused activation and residual."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn, Tensor
import torch.nn.functional as F

INT8_STEPS, INT8_ZERO = 63, 64
"""Largest absolute value of an input in 8 bits, and the code of zero."""

LEAST_GELU = -0.17
"""Least value of GELU, -0.16997, rounded down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """Implementation of the operations of a `FusedVit`.

    dtype: of weights and tokens.
    packed: weights are packed for oneDNN once, instead of in every call.
    products: attention by two matrix products and a softmax, instead of SDPA.
    int8: linear layers of transformer blocks compute their products in 8 bits; dtype is float32.
    """

    dtype: torch.dtype = torch.float32
    packed: bool = False
    products: bool = False
    int8: bool = False


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
        # With AVX2 alone, GELU takes oneDNN two to four times as long as torch: 3 % of a network.
        avx2 = torch.backends.cpu.get_cpu_capability() == 'AVX2'
        self.gelu_apart = activation == 'gelu' and avx2

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(..., K) to (..., N); `residual` (..., N) is added."""
        if self.packed and residual is not None:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise.binary(
                x, residual, self.weight, self.bias, 'add'))
        if self.packed:
            fused = 'none' if self.gelu_apart else self.activation
            x = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, fused, [], 'none')
            return torch.ops.aten.gelu_(x) if self.gelu_apart else x
        x = F.linear(x, self.weight, self.bias)
        if self.activation == 'relu':
            x = x.relu_()
        elif self.activation == 'gelu':
            x = F.gelu(x)
        return x if residual is None else x + residual


class Int8Linear(nn.Module):
    """A `FusedLinear` whose product is computed in 8 bits by oneDNN, from and to float32.

    Weights have a scale per output. Inputs have a scale per row, because single tokens have large
    values. Inputs are limited to 7 bits, because AVX2 sums pairs of 8-bit products in 16 bits,
    which would overflow.
    """

    weight: Tensor
    scale: Tensor
    zero: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, form: Form, activation: str = 'none',
                 after_gelu: bool = False) -> None:
        """after_gelu: inputs are at least `LEAST_GELU`, so that smaller values need no code."""
        super().__init__()
        weight = weight.detach().float()
        self.least, self.steps, self.at_zero = (LEAST_GELU, 2 * INT8_STEPS, 0) if after_gelu \
            else (0.0, INT8_STEPS, INT8_ZERO)
        scale = weight.abs().amax(dim=1).clamp_min(1e-12) / 127.0
        rounded = (weight / scale[:, None]).round().to(torch.int8)
        self.register_buffer('weight', torch.ops.onednn.qlinear_prepack(rounded, None),
                             persistent=False)
        self.register_buffer('scale', scale, persistent=False)
        self.register_buffer('zero', torch.zeros(len(scale), dtype=torch.int64), persistent=False)
        sums = (rounded * scale[:, None]).sum(dim=1)
        self.register_buffer('bias', (bias.detach() + self.least * sums).to(form.dtype),
                             persistent=False)
        self.activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """As `FusedLinear.forward`."""
        if self.least:
            x = x - self.least
        largest = torch.linalg.vector_norm(x, float('inf'), dim=-1, keepdim=True).clamp_min_(1e-12)
        # Positive numbers are rounded by adding a half.
        inputs = (x * (self.steps / largest)).add_(self.at_zero + 0.5).to(torch.uint8)
        product = torch.ops.onednn.qlinear_pointwise(
            inputs, 1.0 / self.steps, self.at_zero, self.weight, self.scale, self.zero, None, 1.0,
            0, torch.float32, 'none', [], 'none')
        x = torch.addcmul(self.bias, product, largest)
        if self.activation == 'gelu':
            x = F.gelu(x)
        return x if residual is None else x.add_(residual)


def linear(weight: Tensor, bias: Tensor, form: Form, activation: str = 'none',
           after_gelu: bool = False) -> FusedLinear | Int8Linear:
    """A linear layer in the precision of a form."""
    if form.int8:
        return Int8Linear(weight, bias, form, activation, after_gelu)
    return FusedLinear(weight, bias, form, activation)


def int8_works() -> bool:
    """Whether oneDNN computes products of 8 bits in this torch."""
    try:
        x = torch.eye(32)
        return torch.allclose(Int8Linear(x, torch.zeros(32), Form(int8=True))(x), x, atol=1e-3)
    except (AttributeError, RuntimeError):
        return False


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
