"""onnxruntime engine for .onnx files with the record of a model. Needs no torch."""

from collections.abc import Sequence
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regvpr_core.config import nearest
from regvpr_core.errors import CheckpointError, ConfigError, OnnxFileError
from regvpr_core.images import RGB
from regvpr_core.models.downloads import cache_folder
from regvpr_core.models.preprocessing import numpy_input
from regvpr_core.models.record import ModelRecord, read_record

Rows = npt.NDArray[np.float32]

TOKENS = 'tokens'
"""Name of the optional output with patch tokens (B, h, w, width)."""

PROVIDERS = {
    'tensorrt': 'TensorrtExecutionProvider',
    'cuda': 'CUDAExecutionProvider',
    'cpu': 'CPUExecutionProvider',
}
"""Providers by device, in the order in which they are tried; the CPU runs unsupported nodes."""


class OnnxEngine:
    """Runs an exported model in the precision of the file."""

    def __init__(self, path: Path, device: str, precision: str, threads: int | None) -> None:
        """Open the file.

        Args:
            path: the .onnx file.
            device: auto (the first available of tensorrt, cuda, cpu), or one of them, optionally
                with an index such as cuda:1.
            precision: auto, or that of the file.
            threads: of the CPU; None: as many as this process may use.

        Raises:
            CheckpointError: the file is damaged or has no record.
            ConfigError: onnxruntime, the device or the precision is not available.
        """
        ort = onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        self._session = open_session(ort, path, options, providers(ort, device))
        self.record: ModelRecord = read_record(
            self._session.get_modelmeta().custom_metadata_map, path)
        self.precision = self.record.precision
        if precision not in ('auto', self.precision):
            raise ConfigError(f'precision is {precision!r}; {path} is {self.precision}: export '
                              f'the model again with --precision, or leave it at auto')
        used = self._session.get_providers()
        self.device = next(name for name, provider in PROVIDERS.items() if provider in used)
        if device.partition(':')[0] not in ('auto', self.device):
            raise ConfigError(f'onnxruntime cannot use device {device!r} here (its libraries do '
                              f'not load); it would run on {self.device}: use auto or cpu')
        batch = self._session.get_inputs()[0].shape[0]
        self._one_by_one = batch == 1  # exported with a fixed batch size
        self._outputs = {output.name for output in self._session.get_outputs()}

    @property
    def title(self) -> str:
        """Library with its version, and device."""
        return f'onnxruntime {onnxruntime().__version__} on {self.device}'

    def describe(self, rgb: RGB) -> Rows:
        """Descriptor (D,) of one image, unit norm."""
        row: Rows = self(self.prepare(rgb))[0]
        return row

    def prepare(self, rgb: RGB) -> Rows:
        """Network input (1, 3, height, width) of one image."""
        return numpy_input(rgb, self.record.preprocessing)

    def batch(self, inputs: Sequence[Rows]) -> Rows:
        """Network input (B, 3, height, width) of several prepared images."""
        return np.concatenate(inputs)

    def __call__(self, inputs: Rows) -> Rows:
        """Network input (B, 3, H, W) to unit rows (B, D)."""
        (out,) = self._run([self.record.output], inputs)
        return unit_rows(out)

    def with_tokens(self, inputs: Rows) -> tuple[Rows, Rows]:
        """Unit rows (B, D) and patch tokens (B, h, w, width).

        Raises:
            ConfigError: the file has no output with tokens.
        """
        if TOKENS not in self._outputs:
            raise ConfigError('this .onnx file gives no patch tokens; export it with --tokens, or '
                              'use verification xfeat or none')
        descriptors, tokens = self._run([self.record.output, TOKENS], inputs)
        return unit_rows(descriptors), np.asarray(tokens, np.float32)

    def _run(self, outputs: list[str], inputs: Rows) -> list[Rows]:
        """Outputs of the graph for a batch."""
        if not self._one_by_one or len(inputs) == 1:
            return list(self._session.run(outputs, {self.record.inputs: inputs}))
        rows = [self._session.run(outputs, {self.record.inputs: one[None]}) for one in inputs]
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def unit_rows(rows: Any) -> Rows:
    """Scale rows (B, D) of any float type to length 1, float32; zero rows are unchanged."""
    rows = np.asarray(rows, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0.0, lengths, 1.0), np.float32)


def onnxruntime() -> Any:
    """Import onnxruntime.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise ConfigError("an .onnx model needs onnxruntime: pip install 'regvpr_ros[onnx]', or "
                          'onnxruntime-gpu for CUDA and TensorRT') from error
    return ort


def providers(ort: Any, device: str) -> list[Any]:
    """Providers of onnxruntime for a device, each with its options, in order.

    Raises:
        ConfigError: unknown device, or this onnxruntime has no provider for it.
    """
    kind, _, number = device.partition(':')
    known = ('auto', *PROVIDERS)
    if kind not in known or (number and not number.isdigit()):
        raise ConfigError(f'engine onnxruntime has no device {device!r}{nearest(device, known)}')
    there = ort.get_available_providers()
    if kind != 'auto' and PROVIDERS[kind] not in there:
        raise ConfigError(f'this onnxruntime has no {kind}; install onnxruntime-gpu (of NVIDIA '
                          f'for Jetson), or use device cpu')
    first = 0 if kind == 'auto' else list(PROVIDERS).index(kind)
    settings: dict[str, dict[str, str]] = {
        'tensorrt': {'device_id': number or '0', 'trt_engine_cache_enable': '1',
                     'trt_engine_cache_path': str(cache_folder() / 'tensorrt'),
                     'trt_fp16_enable': '0'},
        'cuda': {'device_id': number or '0'},
        'cpu': {},
    }
    return [(provider, settings[name]) for name, provider in list(PROVIDERS.items())[first:]
            if provider in there]


def open_session(ort: Any, path: Path, options: Any, wanted: list[Any]) -> Any:
    """Open an onnxruntime session.

    Raises:
        CheckpointError: the file does not exist, is truncated or no ONNX model.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    if not path.is_file():
        raise CheckpointError(f'{path} does not exist')
    try:
        return ort.InferenceSession(str(path), options, providers=wanted)
    except (state.Fail, state.InvalidArgument, state.InvalidProtobuf, state.InvalidGraph,
            state.NoSuchFile, state.NotImplemented, state.RuntimeException) as error:
        raise OnnxFileError(f'{path} is truncated or no ONNX model: {error}') from error
