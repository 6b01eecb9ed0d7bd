"""Interface of models under evaluation: images in, descriptors out."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from regvpr_core.arrays import Float32
from regvpr_core.errors import EvaluationError
from regvpr_core.images import RGB
from regvpr_core.models.encoder import Encoder


class Describer(Protocol):
    """A model under evaluation.

    name: in tables. fingerprint: identifies everything that affects a descriptor; '' if unknown,
    then descriptors are not kept between runs. notice: one line about the origin of the weights.
    """

    name: str
    fingerprint: str
    notice: str

    def prepare(self, rgb: RGB) -> Any:
        """Network input of one image (H, W, 3). Called ahead of its use, in other threads."""

    def describe(self, prepared: Sequence[Any]) -> Float32:
        """Descriptors (B, D) of prepared images, unit rows.

        Raises:
            EvaluationError: the model returns anything else.
        """


class EncoderDescriber:
    """A model of this package."""

    def __init__(self, encoder: Encoder, name: str | None = None) -> None:
        self._encoder = encoder
        self.name = encoder.name if name is None else name
        self.fingerprint = f'{encoder.fingerprint}-{encoder.precision}'
        self.notice = f'{encoder.notice}; on {encoder.device} in {encoder.precision}'

    def prepare(self, rgb: RGB) -> Any:
        """Network input (1, 3, h, w) of one image."""
        return self._encoder.prepare(rgb)

    def describe(self, prepared: Sequence[Any]) -> Float32:
        """Descriptors (B, D), unit rows."""
        return unit_rows(self._encoder.describe_prepared(prepared), len(prepared), self.name)


class CallableDescriber:
    """A function from a list of images, each (H, W, 3) uint8 RGB, to rows (B, D)."""

    def __init__(self, function: Callable[[list[RGB]], Any], name: str, notice: str,
                 fingerprint: str = '') -> None:
        self._function = function
        self.name = name
        self.fingerprint = fingerprint
        self.notice = notice

    def prepare(self, rgb: RGB) -> Any:
        """The image, unchanged."""
        return rgb

    def describe(self, prepared: Sequence[Any]) -> Float32:
        """Descriptors (B, D), scaled to unit rows."""
        try:
            rows = self._function(list(prepared))
        except Exception as error:  # third-party code may raise anything
            raise EvaluationError(f'model {self.name} failed on {len(prepared)} images: '
                                  f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'
                                  ) from error
        return unit_rows(rows, len(prepared), self.name)


def unit_rows(rows: Any, count: int, name: str) -> Float32:
    """Convert the output of a model to float32 unit rows (count, D).

    Args:
        rows: array or tensor. If it is a tuple, its first element is used, because some models
            return feature maps after their descriptors.

    Raises:
        EvaluationError: another shape, NaN, or a row of length zero.
    """
    if isinstance(rows, tuple):
        rows = rows[0]
    if hasattr(rows, 'detach'):
        rows = rows.detach().cpu().float().numpy()
    try:
        array = np.asarray(rows, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise EvaluationError(f'model {name} gives {type(rows).__name__}, expected rows of '
                              f'numbers ({count}, D)') from error
    if array.ndim != 2 or len(array) != count or not array.shape[1]:
        raise EvaluationError(f'model {name} gives descriptors of shape {array.shape} for {count} '
                              f'images, expected ({count}, D)')
    norms = np.linalg.norm(array, axis=1, keepdims=True)
    if not np.isfinite(norms).all():
        raise EvaluationError(f'model {name} gives descriptors that are not finite (NaN or '
                              f'infinite)')
    if not norms.all():
        raise EvaluationError(f'model {name} gives a descriptor of zeros, which has no direction')
    return np.asarray(array / norms, dtype=np.float32)
