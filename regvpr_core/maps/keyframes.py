"""Selection of keyframes from the frames of a drive."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from regvpr_core.config import check_settings, setting
from regvpr_core.geometry import Array, distance

ROUNDING = 1e-6
"""Rounding tolerance: a step of exactly the distance is accepted."""

NEARLY = 0.99
"""A frame is kept from this share of `distance_m` on, because poses are noisy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyframeConfig:
    """Smallest motion between two keyframes."""

    distance_m: float = setting(
        1.0,
        'A frame is kept at this distance from the last keyframe, or at `rotation_rad`. Both 0 '
        'keep every frame.', 0.0, 1000.0, unit='m')
    rotation_rad: float = setting(
        0.35, 'A frame is kept when the camera has turned by this angle since the last keyframe.',
        0.0, 3.2, unit='rad')
    time_s: float = setting(
        0.0, 'A frame is kept after this time whatever its pose; 0 ignores time.',
        0.0, 86400.0, unit='s')

    def __post_init__(self) -> None:
        check_settings(self, 'keyframes')


class KeyframeSelector:
    """Selects keyframes frame by frame; each camera is independent."""

    def __init__(self, config: KeyframeConfig) -> None:
        self._config = config
        self._last: dict[str, tuple[int, Array]] = {}

    def is_new(self, camera: str, T_map_cam: Array, stamp_ns: int = 0) -> bool:
        """True if the pose (4, 4) is far enough from the camera's last keyframe."""
        if camera not in self._last:
            return True
        last_ns, T_last = self._last[camera]
        metres, radians = distance(T_last, T_map_cam)
        config = self._config
        return bool(metres > NEARLY * config.distance_m - ROUNDING
                    or radians > config.rotation_rad - ROUNDING
                    or (config.time_s > 0.0
                        and abs(stamp_ns - last_ns) >= config.time_s * 1e9))

    def keep(self, camera: str, T_map_cam: Array, stamp_ns: int = 0) -> None:
        """Set the pose of the last keyframe."""
        self._last[camera] = (stamp_ns, T_map_cam)

    def state(self) -> dict[str, Any]:
        """State for JSON; floats round-trip exactly."""
        return {camera: [stamp_ns, T.reshape(-1).tolist()]
                for camera, (stamp_ns, T) in self._last.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state made by `state`."""
        self._last = {camera: (int(stamp_ns), np.array(values, dtype=np.float64).reshape(4, 4))
                      for camera, (stamp_ns, values) in state.items()}
