"""Intrinsics of a camera, and conversion of pixels to rays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from regvpr_core.errors import ConfigError
from regvpr_core.geometry import Array

PINHOLE = frozenset({'', 'pinhole', 'plumb_bob', 'rational_polynomial'})
FISHEYE = frozenset({'equidistant', 'fisheye'})
COEFFICIENTS = (0, 4, 5, 8, 12, 14)
"""Numbers of distortion coefficients that OpenCV accepts; a fisheye camera has four."""
ASPECT = 0.01


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Intrinsics:
    """Intrinsics. width, height: image size of K, px. K: (3, 3). model: as in CameraInfo.
    D: distortion coefficients.
    """

    width: int
    height: int
    K: Array
    model: str = ''
    D: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.model not in PINHOLE | FISHEYE:
            raise ConfigError(f'camera model {self.model!r} is unknown; known: '
                              f'{", ".join(sorted((PINHOLE | FISHEYE) - {""}))}')
        if len(self.D) not in COEFFICIENTS:
            raise ConfigError(f'intrinsics have {len(self.D)} distortion coefficients D; expected '
                              f'one of {", ".join(map(str, COEFFICIENTS))}')
        if not (np.shape(self.K) == (3, 3) and np.isfinite(self.K).all()
                and np.isfinite(np.asarray(self.D, dtype=np.float64)).all()
                and self.K[0, 0] > 0.0 and self.K[1, 1] > 0.0
                and self.width > 0 and self.height > 0):
            raise ConfigError(f'intrinsics of a {self.width}x{self.height} image are not usable: '
                              f'K {np.asarray(self.K).tolist()}, D {list(self.D)}')

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> 'Intrinsics':
        """Parse an entry of a map's manifest: width, height, K (9 numbers), model, D.

        Raises:
            ConfigError: a number is missing or invalid.
        """
        try:
            return cls(width=int(values['width']), height=int(values['height']),
                       K=np.array(values['K'], dtype=np.float64).reshape(3, 3),
                       model=str(values.get('model', '')),
                       D=tuple(float(v) for v in values.get('D', ())))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f'intrinsics {str(dict(values))[:200]} cannot be read: {error}') \
                from error

    def fits(self, width: int, height: int) -> bool:
        """Whether an image size has the camera's aspect ratio."""
        return abs(width * self.height / (height * self.width) - 1.0) < ASPECT

    def focal_px(self, width: int) -> float:
        """Focal length in an image of this width."""
        mean = float(self.K[0, 0] + self.K[1, 1]) / 2.0
        return mean * width / self.width

    def rays(self, xy: Array, width: int, height: int) -> Array:
        """Pixels (N, 2) of an image of this size as (x/z, y/z) (N, 2), undistorted."""
        if not len(xy):
            return np.zeros((0, 2))
        scale = np.array([self.width / width, self.height / height])
        pixels = ((xy + 0.5) * scale - 0.5)[:, None]
        D = np.asarray(self.D, dtype=np.float64) if len(self.D) else np.zeros(4)
        if self.model in FISHEYE:
            rays = cv2.fisheye.undistortPoints(pixels, self.K, D[:4])
        else:
            rays = cv2.undistortPoints(pixels, self.K, D)
        return np.asarray(rays[:, 0], dtype=np.float64)
