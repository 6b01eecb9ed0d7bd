"""Export of a descriptor model to ONNX, checked against torch before the file gets its name.

The input size is that of the checkpoint, so the position embedding is a constant; the batch is
dynamic. onnxruntime runs the file, and TensorRT builds an engine from it (docs/export.md).
"""

from collections.abc import Sequence
import json
from pathlib import Path
import tempfile
from typing import Any
import warnings

import numpy as np
import torch
from torch import nn, Tensor

from regvpr_core.config import to_mapping
from regvpr_core.errors import ConfigError, ExportError
from regvpr_core.images import decode, RGB
from regvpr_core.models.checkpoints import LoadedModel
from regvpr_core.models.descriptor_model import DescriptorModel
from regvpr_core.models.downloads import file_digest
from regvpr_core.models.gate import drawn_images, kept_images, pack
from regvpr_core.models.methods.network import PublishedNetwork
from regvpr_core.models.onnx_engine import OnnxEngine, TOKENS
from regvpr_core.models.preprocessing import numpy_input
from regvpr_core.models.record import METADATA_KEY
from regvpr_core.models.vit import DinoVisionTransformer, PATCH

OPSET = 17
"""ONNX operator set: supported by onnxruntime from 1.12 and TensorRT from 8.6."""

CHECKED_BATCHES = (1, 3)

MAX_DIFFERENCE = 1e-4
"""Largest difference of any number of a descriptor between torch and onnxruntime, both fp32."""

MAX_ONNX_BYTES = 2_000_000_000
"""Size limit of a protobuf file, bytes."""


class BakedModel(nn.Module):
    """A descriptor model bound to one input size."""

    def __init__(
        self, model: DescriptorModel | PublishedNetwork, tokens: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.outputs = ['descriptors', TOKENS] if tokens else ['descriptors']
        size = model.preprocessing
        grid = (size.height // PATCH, size.width // PATCH)
        for vit in model.modules():
            if isinstance(vit, DinoVisionTransformer):
                positions = vit.positions(grid).detach().clone()
                # The position embedding must be traced as a constant, not as an interpolation.
                vit.positions = lambda _, fixed=positions: fixed  # type: ignore[method-assign, misc]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Network input (B, 3, H, W) of the fixed size to unit rows (B, D), and optionally patch
        tokens (B, h, w, width).
        """
        if TOKENS in self.outputs:
            return self.model.with_tokens(images)
        return (self.model(images),)


def export_onnx(
    loaded: LoadedModel, path: Path, *, tokens: bool = False, images: Sequence[RGB] = ()
) -> float:
    """Write a model as ONNX; the model is changed in place.

    Args:
        loaded: from `checkpoints.load_model`.
        path: of the new .onnx file; an older one is replaced after the check.
        tokens: add an output with patch tokens, which verification by `patch` needs.
        images: 16 of them are stored in the file, scaled down, with float32 descriptors, to check
            every engine before its first use; none: 16 synthetic images are used.

    Returns:
        the largest difference from torch over the checked batches.

    Raises:
        ExportError: the results differ from torch, or the model cannot be exported.
        ConfigError: the path is no .onnx file, or onnxruntime or onnx is missing.
    """
    if path.suffix != '.onnx':
        raise ConfigError(f'{path} must end in .onnx: by that it is known when it is loaded')
    if not path.parent.is_dir():
        raise ConfigError(f'folder {path.parent} does not exist')
    size = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    if size > MAX_ONNX_BYTES:
        raise ExportError(f'{loaded.name} has {size} bytes of weights; an ONNX file holds at most '
                          f'{MAX_ONNX_BYTES}')
    # The exporter restores this mode.
    baked = BakedModel(loaded.model.float().cpu(), tokens).eval()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / path.name
        write_graph(baked, part)
        content = file_digest(part)
        add_record(part, record(loaded) | {
            'precision': 'fp32', 'content': content, 'gate': gate_of(baked, images)})
        difference = largest_difference(baked, part)
        if not difference <= MAX_DIFFERENCE:  # NaN is a mismatch
            raise ExportError(f'{loaded.name} exported as ONNX differs from torch by '
                              f'{difference:.2e} (allowed: {MAX_DIFFERENCE:.0e}); no file written')
        part.replace(path)
    path.chmod(0o644)
    return difference


def write_graph(baked: BakedModel, path: Path) -> None:
    """Trace the model with a batch of two."""
    images = example(baked.model, 2)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter('ignore')  # the tracer warns about each fixed size
            torch.onnx.export(
                baked, (images,), str(path), dynamo=False, opset_version=OPSET,
                input_names=['images'], output_names=baked.outputs,
                dynamic_axes={name: {0: 'batch'} for name in ('images', *baked.outputs)})
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        reason = str(error).splitlines()[0][:300]
        raise ExportError(f'{type(baked.model).__name__} cannot be exported: {reason}') from error


def record(loaded: LoadedModel) -> dict[str, Any]:
    """Record of a file for the encoder."""
    config = to_mapping(loaded.model.config) if isinstance(loaded.model, DescriptorModel) else {}
    return {
        'name': loaded.name,
        'fingerprint': loaded.fingerprint,
        'dimension': loaded.model.dimension,
        'preprocessing': to_mapping(loaded.model.preprocessing),
        'config': config,
        'opset': OPSET,
        'notice': loaded.notice,
    }


def gate_of(baked: BakedModel, images: Sequence[RGB]) -> dict[str, Any]:
    """Test images and their float32 descriptors, to check engines.

    Raises:
        ImageError: fewer than 16 images.
    """
    photos = kept_images(images) if images else []
    shown = [decode(photo) for photo in photos] or drawn_images()
    with torch.no_grad():
        rows = [baked(torch.from_numpy(numpy_input(rgb, baked.model.preprocessing)))[0][0].numpy()
                for rgb in shown]
    return pack(photos, np.stack(rows))


def add_record(path: Path, about: dict[str, Any]) -> None:
    """Write the record into the file's metadata."""
    try:
        import onnx
    except ImportError as error:
        raise ConfigError('export needs `pip install onnx onnxruntime`') from error
    model = onnx.load(str(path))
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(about, sort_keys=True)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def largest_difference(baked: BakedModel, path: Path) -> float:
    """Largest difference between torch and onnxruntime, over batches of 1 and 3."""
    engine = OnnxEngine(path, 'cpu', 'fp32', None)
    worst = 0.0
    for batch in CHECKED_BATCHES:
        images = example(baked.model, batch)
        with torch.no_grad():
            wanted = baked(images)[0].numpy()
        worst = float(np.maximum(worst, np.abs(engine(images.numpy()) - wanted).max()))
    return worst


def example(model: DescriptorModel | PublishedNetwork, batch: int) -> Tensor:
    """Network input of smooth noise, the same in every call."""
    size = model.preprocessing
    noise = torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
    return nn.functional.interpolate(noise, (size.height, size.width), mode='bicubic')
