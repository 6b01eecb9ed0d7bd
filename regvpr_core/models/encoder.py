"""Encoder: turns images into descriptors on a chosen device, in a chosen precision.

Torch is imported only for torch engines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import importlib.util
from pathlib import Path
from typing import Any, Protocol, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from regvpr_core.config import AUTO, check_range, DEFAULT_MODEL, nearest
from regvpr_core.errors import ConfigError
from regvpr_core.images import RGB
from regvpr_core.models.added import find_added, find_exported, FunctionEngine, read_entry
from regvpr_core.models.choice import choose_model
from regvpr_core.models.downloads import Progress
from regvpr_core.models.gate import agreement, described, drawn_images, passed, unpack
from regvpr_core.models.onnx_engine import OnnxEngine
from regvpr_core.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch

    from regvpr_core.models.checkpoints import LoadedModel

Rows = npt.NDArray[np.float32]

DEVICES = ('auto', 'cpu', 'cuda', 'mps')
ENGINES = ('auto', 'torch', 'onnxruntime')
PRECISIONS = ('auto', 'fp32', 'bf16', 'fp16', 'int8')


class Engine(Protocol):
    """Runs a network.

    precision: fp32, bf16, fp16 or int8. device: name. title: library with version, and device.
    """

    precision: str
    device: str

    @property
    def title(self) -> str: ...

    def prepare(self, rgb: RGB) -> Any:
        """Network input of one image (H, W, 3) uint8 RGB; thread-safe."""

    def batch(self, inputs: Sequence[Any]) -> Any:
        """Several prepared images as one input."""

    def __call__(self, inputs: Any) -> Rows:
        """Unit rows (B, D) of a batch."""

    def with_tokens(self, inputs: Any) -> tuple[Rows, Rows]:
        """Unit rows (B, D) and patch tokens (B, h, w, width) of a batch."""


class Encoder:
    """Describes images with one model. Not to be shared between threads.

    name, fingerprint, notice: of the model. dimension: length D of a descriptor.
    preprocessing: of images. precision: fp32, bf16, fp16 or int8. device: such as cpu or cuda:0.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        name: str,
        fingerprint: str,
        notice: str,
        dimension: int,
        preprocessing: Preprocessing,
    ) -> None:
        self.device = engine.device
        self.name = name
        self.fingerprint = fingerprint
        self.notice = notice
        self.dimension = dimension
        self.preprocessing = preprocessing
        self.precision = engine.precision
        self._engine = engine

    def __repr__(self) -> str:
        return (f'Encoder({self.name!r}, dimension={self.dimension}, device={str(self.device)!r}, '
                f'precision={self.precision!r})')

    def describe(self, rgb: RGB) -> npt.NDArray[np.float32]:
        """Describe one image (H, W, 3) uint8 RGB of any size: (D,) float32, unit norm.

        Raises:
            ImageError: the image is not uint8 RGB or has a size that cannot be used.
        """
        row: npt.NDArray[np.float32] = self.describe_batch([rgb])[0]
        return row

    def describe_batch(self, images: Sequence[RGB]) -> npt.NDArray[np.float32]:
        """Describe images (each (H, W, 3) uint8 RGB, sizes may differ): (B, D), unit rows."""
        if not len(images):
            return np.zeros((0, self.dimension), dtype=np.float32)
        return self.describe_prepared([self.prepare(rgb) for rgb in images])

    @property
    def runs_graph(self) -> bool:
        """Whether single images are described by a recorded CUDA graph."""
        return bool(getattr(self._engine, 'runs_graph', False))

    @property
    def engine_title(self) -> str:
        """Library with its version, and device; identifies the engine."""
        return self._engine.title

    def prepare(self, rgb: RGB) -> Any:
        """Network input (1, 3, height, width) of one image; thread-safe.

        Raises:
            ImageError: the image is not uint8 RGB or has a size that cannot be used.
        """
        return self._engine.prepare(rgb)

    def describe_prepared(self, inputs: Sequence[Any]) -> npt.NDArray[np.float32]:
        """Describe one or more prepared images: (B, D), unit rows."""
        return self._engine(self._engine.batch(inputs))

    def describe_with_tokens(
        self, rgb: RGB
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Describe one image, and return the patch tokens of the same pass.

        Returns:
            (D,) as `describe`, and (h, w, width): token of each 14 x 14 patch of the network
            input, rows from the top, after block `DescriptorModel.token_block`, not normalised.

        Raises:
            ImageError: as `describe`.
            ConfigError: an exported model without tokens.
        """
        descriptors, tokens = self.describe_prepared_with_tokens([self.prepare(rgb)])
        return descriptors[0], tokens[0]

    def describe_prepared_with_tokens(
        self, inputs: Sequence[Any]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """As `describe_prepared`, with patch tokens: (B, D) and (B, h, w, width)."""
        return self._engine.with_tokens(self._engine.batch(inputs))


def load_encoder(
    model: str | Path = DEFAULT_MODEL,
    device: str = 'auto',
    precision: str = 'auto',
    *,
    engine: str = 'auto',
    threads: int | None = None,
    backbone_path: Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> Encoder:
    """Load a model by name or file, ready to describe images.

    Args:
        model: a name such as `megaloc` or one of `regvpr models add`, a checkpoint file, an .onnx
            file that `regvpr export` made, or auto: the best on this machine (`choice.py`).
            Without torch, NAME.onnx in a folder of REGVPR_WEIGHTS or in the cache stands for NAME.
        device: auto (CUDA if available), cpu, cuda, cuda:1, mps; for .onnx files also tensorrt,
            which auto tries first.
        precision: auto, fp32, bf16, fp16, or int8 on the CPU; auto: fp16 on CUDA, fp32 on MPS; on
            the CPU bf16 if it was measured to be faster for a block of the network, else fp32. An
            .onnx file has a fixed precision.
        engine: auto (by the file), torch or onnxruntime.
        threads: of the CPU, 1 to 1024; with torch, of the whole process.
        backbone_path: backbone weights, instead of a search.
        download: fetch weights that are not on this machine.
        progress, notice: called during a download; notice also about the choice of auto.

    Raises:
        CheckpointError: weights are missing, damaged or do not fit.
        ConfigError: an unknown or unavailable device, precision or engine.
    """
    for what, value, known in (('precision', precision, PRECISIONS), ('engine', engine, ENGINES)):
        if value not in known:
            raise ConfigError(f'unknown {what} {value!r}{nearest(value, known)}')
    if threads is not None:
        check_range('threads', threads, 1, 1024)
    if model == AUTO:
        model, line = choose_model()
        if notice:
            notice(line)
    has_torch = importlib.util.find_spec('torch') is not None
    file = find_added(str(model)) or (
        find_exported(str(model)) if engine == 'onnxruntime' or not has_torch else None)
    if file is not None and file.suffix == '.json':
        return added_encoder(file, device, precision, threads)
    model = file or model
    is_onnx = Path(model).suffix == '.onnx'
    if is_onnx and engine != 'torch':
        return onnx_encoder(Path(model), device, precision, threads)
    if is_onnx or engine == 'onnxruntime':
        raise ConfigError(f'engine {engine} cannot run {model}: onnxruntime runs .onnx files, '
                          f'which `regvpr export MODEL -o FILE.onnx` makes, and torch the rest')
    if not has_torch:
        raise ConfigError(f"model {model} needs torch: pip install 'regvpr_ros[torch]'; or make "
                          f'an .onnx file of it where torch is installed (regvpr export {model} '
                          f'-o FILE.onnx) and give that')
    from regvpr_core.models.checkpoints import load_model

    place = choose_device(device)

    def loaded(precision: str) -> Encoder:
        return torch_encoder(load_model(model, backbone_path, download, progress, notice),
                             place, precision, threads)

    return gated_torch(loaded, precision, notice)


def torch_encoder(
    loaded: LoadedModel, device: torch.device, precision: str = 'auto', threads: int | None = None
) -> Encoder:
    """An encoder of a loaded model; the weights of the model are converted in place.

    Raises:
        ConfigError: torch has no engine for the precision.
    """
    from regvpr_core.models.engines import CpuEngine, DeviceEngine, PRECISIONS as OF_TORCH
    from regvpr_core.models.methods.engine import PublishedEngine
    from regvpr_core.models.methods.network import PublishedNetwork

    model = loaded.model
    on_cpu = device.type == 'cpu' and not isinstance(model, PublishedNetwork)
    if precision != 'auto' and precision not in OF_TORCH and not on_cpu:
        raise ConfigError(f'with torch, precision {precision} is one of our models on a CPU; for '
                          f'{loaded.name} on {device.type}: regvpr export {loaded.name} '
                          f'-o FILE.onnx --precision {precision}')
    engine: Engine
    if isinstance(model, PublishedNetwork):
        engine = PublishedEngine(model, device, precision, threads)
    elif device.type == 'cpu':
        engine = CpuEngine(model, precision, threads)
    else:
        engine = DeviceEngine(model, device, precision)
    return Encoder(engine, name=loaded.name, fingerprint=loaded.fingerprint,
                   notice=loaded.notice, dimension=model.dimension,
                   preprocessing=model.preprocessing)


def onnx_encoder(path: Path, device: str, precision: str, threads: int | None) -> Encoder:
    """An encoder of an .onnx file, which contains name, fingerprint and preprocessing."""
    engine = OnnxEngine(path, device, precision, threads)
    about = engine.record
    if about.gate is not None or engine.device != 'cpu':
        passed(about.fingerprint + about.content, engine.title, engine.precision,
               lambda: onnx_agreement(engine, path, threads))
    return Encoder(engine, name=about.name, fingerprint=about.fingerprint,
                   notice=f'model {about.name}: exported, {path}', dimension=about.dimension,
                   preprocessing=about.preprocessing)


def onnx_agreement(engine: OnnxEngine, path: Path, threads: int | None) -> float:
    """Agreement of an engine with float32 descriptors: stored in the file, else of the CPU."""
    if engine.record.gate is not None:
        images, wanted = unpack(engine.record.gate, engine.record.dimension)
    else:
        images, full = drawn_images(), OnnxEngine(path, 'cpu', 'auto', threads)
        wanted = described(full.describe, images)
    return agreement(wanted, described(engine.describe, images))


def gated_torch(
    loaded: Callable[[str], Encoder], precision: str, notice: Callable[[str], None] | None
) -> Encoder:
    """A torch encoder that agrees with float32 on this machine, checked now or before.

    Args:
        loaded: makes an encoder of a precision.
        precision: as requested; with auto, float32 is used if the chosen one does not agree.
        notice: called in that case.

    Raises:
        ConfigError: the requested precision gives other descriptors than float32.
    """
    encoder = loaded(precision)
    if encoder.precision == 'fp32' and encoder.device == 'cpu':
        return encoder
    images = drawn_images()

    def measured() -> float:
        wanted = described(loaded('fp32').describe, images)
        return agreement(wanted, described(encoder.describe, images))

    try:
        passed(encoder.fingerprint, encoder.engine_title, encoder.precision, measured)
    except ConfigError as error:
        if precision != 'auto' or encoder.precision == 'fp32':
            raise
        if notice is not None:
            notice(f'{error}; fp32 is used')
        return loaded('fp32')
    return encoder


def added_encoder(
    file: Path, device: str, precision: str, threads: int | None
) -> Encoder:
    """An encoder of a model registered by `regvpr models add` without a copy."""
    entry = read_entry(file)
    if entry.kind == 'transformers':
        from regvpr_core.models.hugging_face import load_transformers

        return torch_encoder(load_transformers(entry), choose_device(device), precision, threads)
    return Encoder(FunctionEngine(entry), name=entry.name, fingerprint=entry.fingerprint,
                   notice=f'model {entry.name}: function {entry.source}',
                   dimension=entry.dimension, preprocessing=entry.preprocessing)


def cuda_devices() -> str:
    """How many CUDA devices torch finds, and if none, what is missing."""
    import torch

    count = torch.cuda.device_count()
    if torch.version.cuda is None:
        why = f'torch {torch.__version__} is built without CUDA; a build with it is on pytorch.org'
    elif not count:
        why = (f'torch {torch.__version__} is built for CUDA {torch.version.cuda}, but finds no '
               f'device; nvidia-smi says whether the driver of the card runs')
    else:
        why = f'torch {torch.__version__} sees {count} CUDA devices, counted from 0'
    return why


def choose_device(device: str) -> torch.device:
    """Choose a torch device; `auto` takes CUDA if available, then MPS, then the CPU.

    Raises:
        ConfigError: unknown name, or the device is not available.
    """
    import torch

    if device == 'auto':
        if torch.cuda.is_available():
            return torch.device('cuda')
        return torch.device('mps' if torch.backends.mps.is_available() else 'cpu')
    kind, _, number = device.partition(':')
    if kind not in DEVICES[1:] or (number and not number.isdigit()):
        raise ConfigError(f'unknown device {device!r}{nearest(device, DEVICES)}')
    if kind == 'cuda' and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(f'device {device!r} is not there: {cuda_devices()}; use auto or cpu')
    if kind == 'mps' and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' is not there; use auto or cpu")
    return torch.device(device)
