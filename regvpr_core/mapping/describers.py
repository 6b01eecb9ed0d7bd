"""What makes a keyframe's descriptor, and its local features if they are kept."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from regvpr_core.images import RGB
from regvpr_core.models.encoder import Encoder
from regvpr_core.verification.local_extractor import LocalExtractor

Described = tuple[npt.NDArray[np.float32], Sequence[bytes | None]]


class Describer(Protocol):
    """Makes of images what a keyframe holds. `prepare` runs in threads, ahead."""

    features: str
    """What the local features are, as the manifest names them; '' for none."""

    def prepare(self, rgb: RGB) -> Any:
        """What `__call__` needs of an image."""

    def __call__(self, inputs: Sequence[Any]) -> Described:
        """Descriptors (B, D), unit rows, and local features of one or more images."""


class PlainDescriber:
    """Descriptors alone."""

    features = ''

    def __init__(self, encoder: Encoder) -> None:
        self.prepare = encoder.prepare
        self._encoder = encoder

    def __call__(self, inputs: Sequence[Any]) -> Described:
        """Descriptors (B, D) and no features."""
        return self._encoder.describe_prepared(inputs), [None] * len(inputs)


def describer_of(features: str, encoder: Encoder) -> Describer:
    """The describer that keeps these local features; `none` keeps descriptors alone.

    Raises:
        ConfigError: unknown features, or their package is not installed.
    """
    return PlainDescriber(encoder) if features in ('', 'none') else LocalExtractor(features,
                                                                                   encoder)
