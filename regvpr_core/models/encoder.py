"""Pictures in, descriptors out: device and precision chosen, the network kept warm."""

from collections.abc import Callable, Sequence
from pathlib import Path
import time

import numpy as np
import numpy.typing as npt
import torch

from regvpr_core.config import nearest
from regvpr_core.errors import ConfigError
from regvpr_core.images import RGB
from regvpr_core.models.backbones import Progress
from regvpr_core.models.checkpoints import DEFAULT_MODEL, load_model, LoadedModel
from regvpr_core.models.descriptor_model import DescriptorModel
from regvpr_core.models.preprocessing import network_input, Preprocessing

PRECISIONS = {'fp32': torch.float32, 'bf16': torch.bfloat16, 'fp16': torch.float16}
DEVICES = ('auto', 'cpu', 'cuda', 'mps')


class Encoder:
    """Describes images with one model. Not to be shared between threads."""

    def __init__(self, loaded: LoadedModel, device: str = 'auto', precision: str = 'auto') -> None:
        """Put a model on a device.

        Args:
            loaded: from `checkpoints.load_model`.
            device: auto, cpu, cuda, cuda:1, mps, ...
            precision: auto, fp32, bf16 or fp16. auto: fp16 on CUDA; on the CPU bf16 where one
                pass of the network was measured to be faster with it, else fp32.

        Raises:
            ConfigError: unknown device or precision, or a device that is not there.
        """
        self.name = loaded.name
        self.fingerprint = loaded.fingerprint
        self.notice = loaded.notice
        self.device = choose_device(device)
        self._model = loaded.model.to(self.device)
        self.dtype = self._choose_precision(precision)
        self._model.backbone.to(self.dtype)

    @property
    def dimension(self) -> int:
        """Length D of a descriptor."""
        return self._model.dimension

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are shown to the network."""
        return self._model.config.preprocessing

    @property
    def precision(self) -> str:
        """fp32, bf16 or fp16."""
        return next(name for name, dtype in PRECISIONS.items() if dtype == self.dtype)

    def describe(self, rgb: RGB) -> npt.NDArray[np.float32]:
        """Describe one image (H, W, 3) uint8 RGB of any size: (D,) float32, unit norm.

        Raises:
            ImageError: the image is not uint8 RGB or has a size that cannot be used.
        """
        row: npt.NDArray[np.float32] = self.describe_batch([rgb])[0]
        return row

    def describe_batch(self, images: Sequence[RGB]) -> npt.NDArray[np.float32]:
        """Describe images (each (H, W, 3) uint8 RGB, sizes may differ): (B, D), unit rows."""
        with torch.inference_mode():
            inputs = [network_input(rgb, self.preprocessing, self.device) for rgb in images]
            descriptors = self._model(torch.cat(inputs).to(self.dtype))
        return np.asarray(descriptors.float().cpu().numpy(), dtype=np.float32)

    def _choose_precision(self, precision: str) -> torch.dtype:
        if precision in PRECISIONS:
            return PRECISIONS[precision]
        if precision != 'auto':
            raise ConfigError(f'unknown precision {precision!r}{nearest(precision, PRECISIONS)}')
        if self.device.type == 'cuda':
            return torch.float16
        if self.device.type == 'cpu' and bf16_is_faster(self._model):
            return torch.bfloat16
        return torch.float32


def load_encoder(
    model: str | Path = DEFAULT_MODEL,
    device: str = 'auto',
    precision: str = 'auto',
    *,
    backbone_path: Path | None = None,
    download: bool = False,
    progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> Encoder:
    """Load a model by name or checkpoint file and make it ready.

    Args:
        model: a name such as `gem_vits14`, or a checkpoint file.
        device: auto (CUDA where there is one), cpu, cuda, mps.
        precision: auto, fp32, bf16 or fp16.
        backbone_path: backbone weights, instead of a search.
        download: fetch backbone weights that are not on this machine.
        progress, notice: told of a download.

    Raises:
        CheckpointError: weights are missing, damaged or do not fit.
        ConfigError: unknown device or precision.
    """
    loaded = load_model(model, backbone_path, download, progress, notice)
    return Encoder(loaded, device, precision)


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
    if kind not in DEVICES or (number and not number.isdigit()):
        raise ConfigError(f'unknown device {device!r}{nearest(device, DEVICES)}')
    if kind == 'cuda' and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(f'device {device!r} is not there: torch {torch.__version__} sees '
                          f'{torch.cuda.device_count()} CUDA devices; use auto or cpu')
    if kind == 'mps' and not torch.backends.mps.is_available():
        raise ConfigError("device 'mps' is not there; use auto or cpu")
    return torch.device(device)


def bf16_is_faster(model: DescriptorModel) -> bool:
    """Measure one block's MLP in both precisions: flags do not tell what a library makes of them.

    Takes some tens of milliseconds. The two take turns, so that a busy machine slows both.
    """
    width = model.backbone.config.width
    times: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    try:
        runs = [(dtype, torch.nn.Linear(width, 4 * width, dtype=dtype),
                 torch.zeros(257, width, dtype=dtype)) for dtype in times]
        with torch.inference_mode():
            for _ in range(12):
                for dtype, layer, x in runs:
                    start = time.perf_counter()
                    layer(x)
                    times[dtype].append(time.perf_counter() - start)
    except RuntimeError:  # no bf16 on this processor
        return False
    return min(times[torch.bfloat16]) < 0.8 * min(times[torch.float32])
