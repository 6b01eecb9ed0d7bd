"""Self-test of a device: agreement of each engine with float32 on the CPU, times and memory.

`regvpr doctor --device cuda` prints the report, which users can send to the developers.
"""

from collections.abc import Callable, Iterator
import copy
from functools import partial
from pathlib import Path
import tempfile
import time
from typing import Any

import numpy as np
import torch
from torch import nn

from regvpr_core.errors import RegvprError
from regvpr_core.models.checkpoints import load_model, LoadedModel
from regvpr_core.models.descriptor_model import DescriptorModel
from regvpr_core.models.encoder import torch_encoder
from regvpr_core.models.engines import PRECISIONS
from regvpr_core.models.export import export_onnx
from regvpr_core.models.gate import agreement, described, drawn_images
from regvpr_core.models.onnx_engine import OnnxEngine, onnxruntime, PROVIDERS

BATCHES = (1, 64)
TURNS = 15
STEP_BATCH = 240
"""Images of a training step: 60 places with 4 images each, as in the paper."""

Line = dict[str, Any]


def self_test(name: str, device: torch.device, batches: tuple[int, ...] = BATCHES,
              step_batch: int = STEP_BATCH) -> Iterator[Line]:
    """Yield the lines of the report; a failed part gives one line.

    Args:
        name: model or checkpoint.
        device: to test, such as cuda:0.
        batches: numbers of images per pass.
        step_batch: images of a training step.
    """
    yield card(device)
    loaded = load_model(name)
    images = drawn_images()
    wanted = described(torch_encoder(copied(loaded), torch.device('cpu'), 'fp32').describe, images)
    for precision in PRECISIONS:
        yield from guarded(f'torch {precision}', partial(
            torch_lines, copied(loaded), device, precision, images, wanted, batches))
    for provider in ('cuda', 'tensorrt') if device.type == 'cuda' else ('cpu',):
        yield from guarded(f'onnxruntime {provider}', partial(
            onnx_lines, copied(loaded), provider, images, wanted))
    if isinstance(loaded.model, DescriptorModel):
        yield from guarded('training step', lambda: [step_line(loaded, device, step_batch)])


def card(device: torch.device) -> Line:
    """Lines about the device."""
    line: Line = {'part': 'device', 'name': str(device), 'torch': torch.__version__}
    if device.type == 'cuda':
        about = torch.cuda.get_device_properties(device)
        line |= {'card': about.name, 'memory_gb': round(about.total_memory / 1e9, 1),
                 'capability': f'{about.major}.{about.minor}', 'cuda': torch.version.cuda}
    return line


def guarded(part: str, lines: Callable[[], Any]) -> Iterator[Line]:
    """Lines of a part, or one line with its error."""
    try:
        yield from lines()
    except (RegvprError, RuntimeError, ImportError) as error:
        yield {'part': part, 'failed': ' '.join(str(error).split())[:300]}


def torch_lines(
    loaded: LoadedModel, device: torch.device, precision: str, images: list[Any], wanted: Any,
    batches: tuple[int, ...],
) -> Iterator[Line]:
    """Agreement of a precision, for single images and a batch, and its speed."""
    start_memory(device)
    encoder = torch_encoder(loaded, device, precision)
    line = {'part': f'torch {precision}',
            'cosine': round(agreement(wanted, described(encoder.describe, images)), 6)}
    together = encoder.describe_batch(images)
    line['cosine_batch'] = round(agreement(wanted, together), 6)
    if device.type == 'cuda':
        line['cuda_graph'] = encoder.runs_graph
    for count in batches:
        inputs = [encoder.prepare(images[i % len(images)]) for i in range(count)]
        line[f'ms_batch_{count}'] = median_ms(partial(encoder.describe_prepared, inputs))
    yield line | memory(device)


def onnx_lines(loaded: LoadedModel, provider: str, images: list[Any], wanted: Any
               ) -> Iterator[Line]:
    """Agreement and speed of a provider of onnxruntime."""
    if PROVIDERS[provider] not in onnxruntime().get_available_providers():
        yield {'part': f'onnxruntime {provider}',
               'failed': 'this onnxruntime has no such provider'}
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.onnx'
        export_onnx(loaded, path)
        engine = OnnxEngine(path, provider, 'auto', None)
        inputs = engine.prepare(images[0])
        yield {'part': f'onnxruntime {provider}',
               'cosine': round(agreement(wanted, described(engine.describe, images)), 6),
               'ms_batch_1': median_ms(lambda: engine(inputs))}


def step_line(loaded: LoadedModel, device: torch.device, batch: int) -> Line:
    """Seconds and memory of a forward and backward pass, head and last four blocks trained, in
    fp16 (CUDA) or bf16.
    """
    model = copied(loaded).backboned('a training step').to(device).train()
    for part in (model.aggregator, *model.backbone.blocks[:model.config.depth][-4:]):
        part.requires_grad_(True)
    shown = model.preprocessing
    images = torch.randn(batch, 3, shown.height, shown.width, device=device)
    dtype = torch.float16 if device.type == 'cuda' else torch.bfloat16
    start_memory(device)

    def step() -> None:
        with torch.autocast(device.type, dtype):
            rows = model(images)
        loss: Any = nn.functional.mse_loss(rows.float() @ rows.float().T,
                                           torch.eye(batch, device=device))
        loss.backward()
        model.zero_grad()
        wait(device)

    step()
    start = time.perf_counter()
    step()
    return {'part': 'training step', 'images': batch,
            'seconds': round(time.perf_counter() - start, 3)} | memory(device)


def copied(loaded: LoadedModel) -> LoadedModel:
    """A copy that an engine may change in place."""
    return LoadedModel(copy.deepcopy(loaded.model), loaded.name, loaded.fingerprint, loaded.notice)


def median_ms(run: Callable[[], Any]) -> float:
    """Median time of a call after warming up, ms. Calls return NumPy, so they are synchronous."""
    times = []
    for _ in range(TURNS + 2):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return round(1e3 * float(np.median(times[2:])), 2)


def start_memory(device: torch.device) -> None:
    """Reset the device's counter of peak memory."""
    if device.type == 'cuda':
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def memory(device: torch.device) -> Line:
    """Peak of the device's memory since `start_memory`."""
    if device.type != 'cuda':
        return {}
    return {'peak_mb': round(torch.cuda.max_memory_allocated(device) / 1e6)}


def wait(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
