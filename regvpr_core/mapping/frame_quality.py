"""Rejects frames that would make bad places: blurred, black, overexposed or repeated images."""

import base64
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from regvpr_core.config import check_settings, setting
from regvpr_core.errors import MapError
from regvpr_core.images import RGB

MEASURED_PX = 320
"""Longer side in pixels at which sharpness is measured, so that cameras are comparable."""

SIGNATURE_PX = 32

BLURRED = 'blurred'
BLACK = 'too dark'
WHITE = 'overexposed'
DUPLICATE = 'the same image as the last keyframe'


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig:
    """Thresholds of rejection; 0 (sharpness, change) or 1 (shares) disables a test."""

    sharpness: float = setting(
        2.0,
        'Least variance of the second derivative, in squared grey levels at 320 pixels width: '
        'the smaller of the row and the column direction, as motion blurs one of them. 0 '
        'switches the test off.', 0.0, 1000000.0)
    black_share: float = setting(
        0.95, 'Largest share of an image at grey level 10 or below; 1 switches the test off.',
        0.0, 1.0)
    white_share: float = setting(
        0.95, 'Largest share of an image at grey level 245 or above; 1 switches the test off.',
        0.0, 1.0)
    change: float = setting(
        1.0,
        'Least mean difference in grey levels to the last keyframe of the camera; 0 switches the '
        'test off.', 0.0, 255.0)

    def __post_init__(self) -> None:
        check_settings(self, 'quality')


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Measures:
    """Measurements of an image. signature: (32, 32) uint8, the scaled-down grey image."""

    sharpness: float
    black: float
    white: float
    signature: npt.NDArray[np.uint8]


def measure(rgb: RGB) -> Measures:
    """Measure an image (H, W, 3). Thread-safe."""
    # Scaled down by area first, so that noise of single pixels does not count as sharpness.
    scale = MEASURED_PX / max(rgb.shape[:2])
    if scale < 1.0:
        size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
        rgb = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    grey = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    return Measures(
        sharpness=float(min(cv2.Sobel(grey, cv2.CV_32F, 2, 0, ksize=1).var(),
                            cv2.Sobel(grey, cv2.CV_32F, 0, 2, ksize=1).var())),
        black=float(np.count_nonzero(grey <= 10)) / grey.size,
        white=float(np.count_nonzero(grey >= 245)) / grey.size,
        signature=np.asarray(cv2.resize(grey, (SIGNATURE_PX, SIGNATURE_PX),
                                        interpolation=cv2.INTER_AREA), dtype=np.uint8))


class QualityGate:
    """Judges images in order; each camera is independent."""

    def __init__(self, config: QualityConfig) -> None:
        self._config = config
        self._last: dict[str, npt.NDArray[np.uint8]] = {}

    def refuses(self, camera: str, measures: Measures) -> str:
        """Reason for rejecting an image; empty if it is accepted."""
        config = self._config
        if measures.black > config.black_share:
            return BLACK
        if measures.white > config.white_share:
            return WHITE
        if measures.sharpness < config.sharpness:
            return BLURRED
        if camera in self._last:
            change = np.abs(measures.signature.astype(np.int16) - self._last[camera]).mean()
            if change < config.change:
                return DUPLICATE
        return ''

    def keep(self, camera: str, measures: Measures) -> None:
        """Set the image that the next ones are compared with."""
        self._last[camera] = measures.signature

    def state(self) -> dict[str, str]:
        """State, for JSON."""
        return {camera: base64.b64encode(signature.tobytes()).decode('ascii')
                for camera, signature in self._last.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state made by `state`.

        Raises:
            MapError: the state is damaged.
        """
        try:
            self._last = {
                camera: np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(
                    SIGNATURE_PX, SIGNATURE_PX)
                for camera, text in state.items()}
        except (ValueError, TypeError) as error:
            raise MapError(f'the state of the unfinished map is damaged: {error}') from error
