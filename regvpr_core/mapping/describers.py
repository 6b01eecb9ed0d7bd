"""Describers of keyframes: descriptors, and local features if they are stored."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from regvpr_core.images import RGB
from regvpr_core.models.encoder import Encoder
from regvpr_core.verification.local_extractor import LocalExtractor

Described = tuple[npt.NDArray[np.float32], Sequence[bytes | None]]


class Describer(Protocol):
    """Describes images for keyframes. `prepare` is called ahead by other threads."""

    features: str
    """Kind of the local features, as in the manifest; '' for none."""

    def prepare(self, rgb: RGB) -> Any:
        """Prepare an image for `__call__`."""

    def __call__(self, inputs: Sequence[Any]) -> Described:
        """Descriptors (B, D), unit rows, and local features of one or more images."""


class PlainDescriber:
    """Describes without local features."""

    features = ''

    def __init__(self, encoder: Encoder) -> None:
        self.prepare = encoder.prepare
        self._encoder = encoder

    def __call__(self, inputs: Sequence[Any]) -> Described:
        """Descriptors (B, D) and no features."""
        return self._encoder.describe_prepared(inputs), [None] * len(inputs)


def describer_of(features: str, encoder: Encoder) -> Describer:
    """The describer for a kind of local features; `none`: descriptors only.

    Raises:
        ConfigError: unknown features, or their package is not installed.
    """
    return PlainDescriber(encoder) if features in ('', 'none') else LocalExtractor(features,
                                                                                   encoder)
