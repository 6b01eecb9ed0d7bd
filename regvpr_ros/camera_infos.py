"""Intrinsics of the cameras from their CameraInfo messages."""

import time
from typing import Any

import numpy as np

from regvpr_core.errors import ConfigError
from regvpr_core.verification.camera_rays import Intrinsics

EVERY_S = 1.0
"""Interval at which CameraInfo, which is published with each image, is read, s."""


class CameraInfos:
    """The newest intrinsics of each camera. Written by callbacks, read by the worker."""

    def __init__(self) -> None:
        self._read_at: dict[str, float] = {}
        self._known: dict[str, Intrinsics] = {}
        self.for_session: dict[str, dict[str, Any]] = {}
        """Intrinsics by camera in the form of a map's manifest; updated by messages."""

    def due(self, camera: str) -> bool:
        """Whether this camera's next message should be parsed."""
        now = time.monotonic()
        if now - self._read_at.get(camera, float('-inf')) < EVERY_S:
            return False
        self._read_at[camera] = now
        return True

    def put(self, camera: str, message: Any) -> None:
        """Store a sensor_msgs/CameraInfo; that of an uncalibrated camera is ignored.

        Raises:
            ConfigError: the camera model is unknown, or a number is not usable.
        """
        K = np.array(message.k, dtype=np.float64)
        if not K.any():
            return
        D = [float(v) for v in message.d]
        values = {'width': int(message.width), 'height': int(message.height), 'K': K.tolist(),
                  'model': str(message.distortion_model)[:64], 'D': D}
        if len(D) > 14:
            raise ConfigError(f'camera_info has {len(D)} distortion coefficients; expected at '
                              f'most 14')
        self._known[camera] = Intrinsics.from_mapping(values)
        self.for_session[camera] = values

    def of(self, camera: str) -> Intrinsics | None:
        """Intrinsics of a camera; None before its first message."""
        return self._known.get(camera)
