"""Extracts descriptors and local features of images, in one pass if possible."""

from collections.abc import Sequence
from typing import Any

from regvpr_core.arrays import Float32
from regvpr_core.config import nearest
from regvpr_core.errors import ConfigError
from regvpr_core.images import RGB
from regvpr_core.models.encoder import Encoder
from regvpr_core.verification.local_features import encode_features, KINDS, LocalFeatures
from regvpr_core.verification.patch_features import patch_features
from regvpr_core.verification.xfeat import XFeat


class LocalExtractor:
    """Describes images with local features of one kind; also a `Describer` for `build_map`.

    features: the kind, '' for none.
    """

    def __init__(self, features: str, encoder: Encoder, keypoints: int = 512) -> None:
        """Load the extractor of this kind.

        Raises:
            ConfigError: unknown kind, or its package is not installed.
        """
        if features not in ('', *KINDS):
            raise ConfigError(f'features is {features!r}{nearest(features, KINDS)}')
        self.features = features
        self._encoder = encoder
        self._xfeat = XFeat(keypoints) if features == 'xfeat' else None

    def describe(self, rgb: RGB) -> tuple[Float32, LocalFeatures | None]:
        """Descriptor (D,) and features of an image; features are None if the kind is none.

        Raises:
            ImageError: the image cannot be used.
        """
        if self.features == 'patch':
            descriptor, tokens = self._encoder.describe_with_tokens(rgb)
            return descriptor, patch_features(tokens, rgb.shape[1], rgb.shape[0])
        descriptor = self._encoder.describe(rgb)
        return descriptor, None if self._xfeat is None else self._xfeat.features(rgb)

    def prepare(self, rgb: RGB) -> Any:
        """Prepare an image for a call; thread-safe."""
        return self._encoder.prepare(rgb), rgb

    def __call__(self, inputs: Sequence[Any]) -> tuple[Float32, list[bytes | None]]:
        """Descriptors (B, D), unit rows, and encoded features of prepared images."""
        prepared, images = [one for one, _ in inputs], [rgb for _, rgb in inputs]
        if self.features == 'patch':
            rows, tokens = self._encoder.describe_prepared_with_tokens(prepared)
            return rows, [encode_features(patch_features(one, rgb.shape[1], rgb.shape[0]))
                          for one, rgb in zip(tokens, images, strict=True)]
        rows = self._encoder.describe_prepared(prepared)
        if self._xfeat is None:
            return rows, [None] * len(images)
        return rows, [encode_features(self._xfeat.features(rgb)) for rgb in images]
