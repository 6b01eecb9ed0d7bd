"""Torch engines for the CPU, CUDA and MPS. See `encoder.Engine`."""

from collections.abc import Sequence
from dataclasses import replace
import functools
import time

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from regvpr_core.errors import ConfigError
from regvpr_core.images import RGB
from regvpr_core.models.cpu.linear import Form, int8_works, packing_works
from regvpr_core.models.cpu.network import fuse, FusedBlock
from regvpr_core.models.descriptor_model import DescriptorModel
from regvpr_core.models.preprocessing import network_input, Preprocessing
from regvpr_core.models.vit import Block

Rows = npt.NDArray[np.float32]

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}

BF16_GAIN = 0.8
"""bf16 is chosen if it takes less than this share of the time of fp32."""

MEASURED_TOKENS = 257
MEASURED_TURNS = 4


class TorchEngine:
    """Base of the torch engines: preprocessing on a device."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        self.device = str(device)
        self._place = device
        self._preprocessing = preprocessing

    @property
    def title(self) -> str:
        """Library with its version, and device."""
        card = torch.cuda.get_device_name(self._place) if self._place.type == 'cuda' else ''
        return f'torch {torch.__version__} on {self.device} {card}'.strip()

    def prepare(self, rgb: RGB) -> Tensor:
        """Network input (1, 3, height, width) of one image."""
        return network_input(rgb, self._preprocessing, self._place)

    def batch(self, inputs: Sequence[Tensor]) -> Tensor:
        """Network input (B, 3, height, width) of several prepared images."""
        return torch.cat(list(inputs)) if len(inputs) > 1 else inputs[0]


class CpuEngine(TorchEngine):
    """Torch on the CPU, in the form of operations that was measured to be fastest."""

    def __init__(self, model: DescriptorModel, precision: str, threads: int | None) -> None:
        if threads is not None:
            torch.set_num_threads(threads)  # for the whole process; torch has no other setting
        int8 = precision == 'int8'
        if int8 and not int8_works():
            raise ConfigError(f'torch {torch.__version__} has no products in 8 bits on this '
                              f'processor; use precision fp32')
        dtypes = {'auto': ('fp32', 'bf16'), 'int8': ('fp32',)}.get(precision, (precision,))
        size = model.backbone.config
        self.form = replace(
            fastest_form(size.width, size.heads, dtypes, torch.get_num_threads()), int8=int8)
        self.precision = 'int8' if int8 else name_of(self.form.dtype)
        super().__init__(model.preprocessing, torch.device('cpu'))
        self._model = fuse(model, self.form)

    def __call__(self, inputs: Tensor) -> Rows:
        """Network input (B, 3, H, W) to unit rows (B, D)."""
        with torch.inference_mode():
            return rows(self._model(inputs))

    def with_tokens(self, inputs: Tensor) -> tuple[Rows, Rows]:
        """Unit rows (B, D) and patch tokens (B, h, w, width)."""
        with torch.inference_mode():
            descriptors, tokens = self._model.with_tokens(inputs)
            return rows(descriptors), rows(tokens)


class DeviceEngine(TorchEngine):
    """Torch on CUDA or MPS: the backbone in half precision, batches of one as a CUDA graph."""

    def __init__(self, model: DescriptorModel, device: torch.device, precision: str) -> None:
        self.precision = 'fp16' if precision == 'auto' else precision
        if precision == 'auto' and device.type != 'cuda':
            self.precision = 'fp32'
        self._dtype = PRECISIONS[self.precision]
        super().__init__(model.preprocessing, device)
        self._model = model.to(device)
        self._model.backbone.to(self._dtype)
        if self._model.second is not None:
            self._model.second.to(self._dtype)
        shape = (1, 3, model.config.preprocessing.height, model.config.preprocessing.width)
        self._input = torch.zeros(shape, device=device, dtype=self._dtype)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._output = (torch.zeros(0), torch.zeros(0))
        with torch.inference_mode():
            if device.type != 'cuda':
                self._model(self._input)
                return
            with torch.cuda.device(device):  # streams and graphs belong to the current device
                self._capture()

    def __call__(self, inputs: Tensor) -> Rows:
        """Network input (B, 3, H, W) to unit rows (B, D)."""
        with torch.inference_mode():
            return rows(self._run(inputs)[0])

    def with_tokens(self, inputs: Tensor) -> tuple[Rows, Rows]:
        """Unit rows (B, D) and patch tokens (B, h, w, width)."""
        with torch.inference_mode():
            descriptors, tokens = self._run(inputs)
            return rows(descriptors), rows(tokens)

    def _run(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        if self._graph is None or inputs.shape != self._input.shape:
            return self._model.with_tokens(inputs.to(self._dtype))
        with torch.cuda.device(self._input.device):
            self._input.copy_(inputs)
            self._graph.replay()
        return self._output

    @property
    def runs_graph(self) -> bool:
        """Whether batches of one are replayed as a CUDA graph."""
        return self._graph is not None

    def _capture(self) -> None:
        """Record one pass after warming up; if this fails, passes run without a graph."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._model(self._input)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        try:
            # CUDA calls of other threads are not recorded.
            with torch.cuda.graph(graph, capture_error_mode='thread_local'):
                self._output = self._model.with_tokens(self._input)
            self._graph = graph
        except RuntimeError:
            torch.cuda.synchronize()


def rows(descriptors: Tensor) -> Rows:
    """Descriptors as NumPy."""
    return np.asarray(descriptors.float().cpu().numpy(), dtype=np.float32)


def name_of(dtype: torch.dtype) -> str:
    """fp32, bf16 or fp16."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)


@functools.cache
def fastest_form(width: int, heads: int, precisions: tuple[str, ...], threads: int) -> Form:
    """Measure a block in each form of operations, since CPU flags do not predict the speed.

    Takes some tenths of a second. The forms take turns, so that a busy machine slows all of them.
    The result is the same for all encoders of a process, so that they agree to the bit.
    """
    dtypes = [PRECISIONS[name] for name in precisions]
    # If only fp32 can be packed, bf16 is emulated; measuring it on a busy machine could mislead.
    emulated = packing_works() and not packing_works(torch.bfloat16)
    if len(dtypes) > 1 and (emulated or not bf16_is_faster(width)):
        return fastest_form(width, heads, ('fp32',), threads)
    forms = [Form(dtype=dtype, packed=packed, products=products) for dtype in dtypes
             for packed, products in ((False, False), (True, False), (True, True))
             if not packed or packing_works(dtype)]
    if len(forms) == 1:
        return forms[0]
    with torch.random.fork_rng(devices=[]):  # keep the caller's random state
        blocks = {form: FusedBlock(Block(width, heads), form) for form in forms}
    inputs = {form: torch.zeros(1, MEASURED_TOKENS, width, dtype=form.dtype) for form in forms}
    seconds = dict.fromkeys(forms, float('inf'))
    with torch.inference_mode():
        for _ in range(MEASURED_TURNS):
            for form, block in blocks.items():
                start = time.perf_counter()
                block(inputs[form], (16, 16))
                seconds[form] = min(seconds[form], time.perf_counter() - start)
    best = {dtype: min((f for f in forms if f.dtype == dtype), key=seconds.__getitem__)
            for dtype in dtypes}
    if len(best) == 1:
        return next(iter(best.values()))
    full, half = best[torch.float32], best[torch.bfloat16]
    return half if seconds[half] < BF16_GAIN * seconds[full] else full


def bf16_is_faster(width: int) -> bool:
    """Time a small product in both precisions, to detect emulated bf16 early."""
    seconds: dict[torch.dtype, float] = {torch.float32: 1e9, torch.bfloat16: 1e9}
    try:
        for _ in range(6):
            for dtype in seconds:
                x, w = torch.zeros(64, width, dtype=dtype), torch.zeros(width, width, dtype=dtype)
                start = time.perf_counter()
                torch.nn.functional.linear(x, w)
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - start)
    except RuntimeError:  # no bf16 on this processor
        return False
    return seconds[torch.bfloat16] < seconds[torch.float32]
