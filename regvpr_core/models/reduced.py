"""Half precision and int8 forms of an exported model, compared with float32. Needs no torch.

Quantisation to int8 is static: per output channel for weights, with ranges from given images for
activations. Products of activations (attention), the aggregator and depthwise convolutions stay in
float32, because they take a tenth of the time and lose most accuracy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
import json
from pathlib import Path
import tempfile
from typing import Any, TypeVar
import warnings

import numpy as np
import numpy.typing as npt

from regvpr_core.errors import ConfigError, ExportError
from regvpr_core.images import RGB
from regvpr_core.models.downloads import file_digest
from regvpr_core.models.gate import agreement, BOUND, described, KEPT_LAYERS, unpack
from regvpr_core.models.onnx_engine import OnnxEngine
from regvpr_core.models.record import METADATA_KEY

Rows = npt.NDArray[np.float32]
Item = TypeVar('Item')

CALIBRATION_IMAGES = 64
COMPARED_IMAGES = 200

FP32_LAYERS = ('Softmax', 'LayerNormalization', 'Exp', 'Log', 'ReduceLogSumExp', 'ReduceSum',
               'ReduceMean', 'ReduceL2', 'Pow', 'Sqrt', 'Erf')
"""ONNX operators that stay in float32 in an fp16 file: sums and exponentials."""

FLOAT_PARTS = ('aggregator',)
"""Prefixes of nodes that are not quantised."""

FLOAT_CHANNELS = 3
"""Convolutions that read at most this many channels are not quantised: the depthwise ones, whose
ranges differ between channels, and the first one, which reads the pixels. If they were, the least
cosine of `regvpr_offline` would be 0.91 instead of 0.98, and the time 5 % shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduced:
    """Accuracy of a reduced form.

    cosine: least centred cosine over the images in the file (`gate.agreement`).
    first_match: share of the compared images whose most similar other image is the same as in
        float32. compared: number of these images, 0 if none were given.
    """

    cosine: float
    first_match: float
    compared: int


def reduce_onnx(source: Path, out: Path, precision: str, images: Sequence[RGB]) -> Reduced:
    """Write an fp16 or int8 form of a float32 file that `regvpr export` made.

    Args:
        source: the float32 file.
        out: the file to write; an older one is replaced if the new one is accurate enough.
        precision: fp16 or int8.
        images: of places like those of the robot; int8 is calibrated on them.

    Raises:
        ConfigError: no images for int8, or a package is missing.
        ExportError: the agreement with float32 is below its bound; no file is written.
    """
    if precision == 'int8' and not images:
        raise ConfigError('int8 is calibrated on images: give --images FOLDER, with some dozens '
                          'of images of places like those where the robot drives')
    full = OnnxEngine(source, 'cpu', 'fp32', None)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        part = Path(folder) / out.name
        if precision == 'fp16':
            write_fp16(source, part)
        else:
            write_int8(source, part, full, spread(images, CALIBRATION_IMAGES))
        about = json.loads(metadata(source)[METADATA_KEY])
        about |= {'precision': precision, 'content': file_digest(part)}
        set_record(part, about)
        small = OnnxEngine(part, 'cpu', precision, None)
        kept, wanted = unpack(about.get('gate'), full.record.dimension)
        cosine = agreement(wanted, described(small.describe, kept))
        if not cosine >= BOUND[precision]:
            raise ExportError(f'{full.record.name} in {precision} differs from float32: least '
                              f'cosine of {len(kept)} images {cosine:.4f}, at least '
                              f'{BOUND[precision]} is needed; no file written. Layers that lose '
                              f'most: {KEPT_LAYERS}; give other or more --images, or keep fp32')
        compared = spread(images, COMPARED_IMAGES)
        share = first_match(full, small, compared)
        part.replace(out)
    out.chmod(0o644)
    return Reduced(cosine=cosine, first_match=share, compared=len(compared))


def write_fp16(source: Path, part: Path) -> None:
    """Weights and products in half precision; inputs and outputs stay float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16, DEFAULT_OP_BLOCK_LIST

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # about weights rounded to zero
        model = convert_float_to_float16(
            onnx.load(str(source)), keep_io_types=True,
            op_block_list=[*DEFAULT_OP_BLOCK_LIST, *FP32_LAYERS])
    onnx.save(model, str(part))


def write_int8(source: Path, part: Path, full: OnnxEngine, images: Sequence[RGB]) -> None:
    """Quantise products with weights, with ranges from images."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, quantize_static, QuantType
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            rgb = next(self._rest, None)
            return None if rgb is None else {full.record.inputs: full.prepare(rgb)}

    ready = part.with_name('ready.onnx')
    quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
    graph = onnx.load(str(ready)).graph
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    left = [node.name for node in graph.node
            if (node.op_type == 'MatMul' and node.input[1] not in weights)
            or (node.op_type == 'Conv' and weights[node.input[1]][1] <= FLOAT_CHANNELS)
            or any(name in node.name for name in FLOAT_PARTS)]
    quantize_static(str(ready), str(part), Reader(), per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                    op_types_to_quantize=['MatMul', 'Gemm', 'Conv'], nodes_to_exclude=left)
    ready.unlink()


def metadata(path: Path) -> dict[str, str]:
    """Metadata of an .onnx file."""
    import onnx

    return {entry.key: entry.value
            for entry in onnx.load(str(path), load_external_data=False).metadata_props}


def set_record(path: Path, about: dict[str, Any]) -> None:
    """Replace the record of a file."""
    import onnx

    model = onnx.load(str(path))
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(about, sort_keys=True)
    onnx.save(model, str(path))


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Select at most `most` items, evenly spaced."""
    if len(items) <= most:
        return list(items)
    return [items[i] for i in np.linspace(0, len(items) - 1, most).astype(int)]


def first_match(full: OnnxEngine, small: OnnxEngine, images: Sequence[RGB]) -> float:
    """Share of images with the same most similar image in both forms; 1.0 for fewer than 2."""
    if len(images) < 2:
        return 1.0
    firsts = []
    for engine in (full, small):
        rows = described(engine.describe, images)
        cosines = rows @ rows.T
        np.fill_diagonal(cosines, -2.0)
        firsts.append(cosines.argmax(axis=1))
    return float((firsts[0] == firsts[1]).mean())
