"""Pictures in, descriptors out: device, precision and engine chosen, the network kept warm."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from regvpr_core.config import DEFAULT_MODEL, from_mapping, nearest
from regvpr_core.errors import CheckpointError, ConfigError
from regvpr_core.images import RGB
from regvpr_core.models.checkpoints import load_model, LoadedModel
from regvpr_core.models.downloads import Progress
from regvpr_core.models.engines import (
    check_precision,
    check_threads,
    CpuEngine,
    DeviceEngine,
    Engine,
    OnnxEngine,
)
from regvpr_core.models.preprocessing import network_input, Preprocessing
from regvpr_core.models.published import PublishedNetwork
from regvpr_core.models.published_engine import PublishedEngine

DEVICES = ('auto', 'cpu', 'cuda', 'mps')
ENGINES = ('auto', 'torch', 'onnxruntime')


class Encoder:
    """Describes images with one model. Not to be shared between threads.

    name, fingerprint, notice: of the model. dimension: length D of a descriptor.
    preprocessing: how images are shown to the network. precision: fp32, bf16 or fp16.
    """

    def __init__(
        self,
        engine: Engine | PublishedEngine,
        device: torch.device,
        *,
        name: str,
        fingerprint: str,
        notice: str,
        dimension: int,
        preprocessing: Preprocessing,
    ) -> None:
        self.device = device
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

    def prepare(self, rgb: RGB) -> torch.Tensor:
        """Network input (1, 3, height, width) of one image. Other threads may call it, ahead.

        Raises:
            ImageError: the image is not uint8 RGB or has a size that cannot be used.
        """
        return network_input(rgb, self.preprocessing, self.device)

    def describe_prepared(self, inputs: Sequence[torch.Tensor]) -> npt.NDArray[np.float32]:
        """Describe one or more images that `prepare` has brought to size: (B, D), unit rows."""
        return self._engine(torch.cat(list(inputs)) if len(inputs) > 1 else inputs[0])

    def describe_with_tokens(
        self, rgb: RGB
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Describe one image, and give the patch tokens of the same pass.

        Returns:
            (D,) as `describe`, and (h, w, width): token of each 14 x 14 patch of the network
            input, rows from the top, after block `DescriptorModel.token_block`, not normalised.

        Raises:
            ImageError: as `describe`.
            ConfigError: an exported model that gives no tokens.
        """
        descriptors, tokens = self.describe_prepared_with_tokens([self.prepare(rgb)])
        return descriptors[0], tokens[0]

    def describe_prepared_with_tokens(
        self, inputs: Sequence[torch.Tensor]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """As `describe_prepared`, with patch tokens: (B, D) and (B, h, w, width)."""
        return self._engine.with_tokens(torch.cat(list(inputs)) if len(inputs) > 1 else inputs[0])


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
    """Load a model by name or file and make it ready.

    Args:
        model: a name such as `gem_vits14`, a checkpoint file, or an .onnx file that
            `regvpr export` made.
        device: auto (CUDA where there is one), cpu, cuda, cuda:1, mps.
        precision: auto, fp32, bf16 or fp16. auto: fp16 on CUDA, fp32 on MPS; on the CPU bf16 where
            a block of the network was measured to be faster with it, else fp32.
        engine: auto (by the file), torch or onnxruntime.
        threads: of the CPU, 1 to 1024; with torch they are those of the whole process.
        backbone_path: backbone weights, instead of a search.
        download: fetch backbone weights that are not on this machine.
        progress, notice: told of a download.

    Raises:
        CheckpointError: weights are missing, damaged or do not fit.
        ConfigError: unknown device, precision or engine, or one that is not there.
    """
    check_precision(precision)
    check_threads(threads)
    if engine not in ENGINES:
        raise ConfigError(f'unknown engine {engine!r}{nearest(engine, ENGINES)}')
    is_onnx = Path(model).suffix == '.onnx'
    if is_onnx and engine != 'torch':
        # `auto` must not take a device that onnxruntime has no provider for.
        return onnx_encoder(Path(model), 'cpu' if device == 'auto' else device, precision, threads)
    if is_onnx or engine == 'onnxruntime':
        raise ConfigError(f'engine {engine} cannot run {model}: onnxruntime runs .onnx files, '
                          f'which `regvpr export MODEL -o FILE.onnx` makes, and torch the rest')
    place = choose_device(device)
    return torch_encoder(load_model(model, backbone_path, download, progress, notice),
                         place, precision, threads)


def torch_encoder(
    loaded: LoadedModel, device: torch.device, precision: str = 'auto', threads: int | None = None
) -> Encoder:
    """An encoder of a loaded model, whose weights it takes over."""
    model = loaded.model
    engine: Engine | PublishedEngine
    if isinstance(model, PublishedNetwork):
        engine = PublishedEngine(model, device, precision, threads)
    elif device.type == 'cpu':
        engine = CpuEngine(model, precision, threads)
    else:
        engine = DeviceEngine(model, device, precision)
    return Encoder(engine, device, name=loaded.name, fingerprint=loaded.fingerprint,
                   notice=loaded.notice, dimension=model.dimension,
                   preprocessing=model.preprocessing)


def onnx_encoder(path: Path, device: str, precision: str, threads: int | None) -> Encoder:
    """An encoder of an exported file; name, fingerprint and preprocessing are in it."""
    if not path.is_file():
        raise CheckpointError(f'{path} does not exist')
    place = choose_device(device)
    engine = OnnxEngine(path, place, precision, threads)
    about = engine.about
    return Encoder(
        engine, torch.device('cpu'), name=str(about['name']),
        fingerprint=str(about['fingerprint']),
        notice=f'model {about["name"]}: exported, {path}', dimension=int(about['dimension']),
        preprocessing=from_mapping(Preprocessing, about['preprocessing'], 'preprocessing.'))


def choose_device(device: str) -> torch.device:
    """`auto` takes CUDA where there is one, then MPS, then the CPU.

    Raises:
        ConfigError: unknown name, or the device is not there.
    """
    if device == 'auto':
        if torch.cuda.is_available():
            return torch.device('cuda')
        return torch.device('mps' if torch.backends.mps.is_available() else 'cpu')
    kind, _, number = device.partition(':')
    if kind not in DEVICES[1:] or (number and not number.isdigit()):
        raise ConfigError(f'unknown device {device!r}{nearest(device, DEVICES)}')
    if kind == 'cuda' and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(f'device {device!r} is not there: torch {torch.__version__} sees '
                          f'{torch.cuda.device_count()} CUDA devices; use auto or cpu')
    if kind == 'mps' and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' is not there; use auto or cpu")
    return torch.device(device)
