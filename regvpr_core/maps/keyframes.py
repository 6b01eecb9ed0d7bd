"""Which frames of a drive become keyframes."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from regvpr_core.config import check_range
from regvpr_core.geometry import Array, distance

ROUNDING = 1e-6
"""A step of exactly the distance counts, whatever transforms made of its last digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyframeConfig:
    """A frame is kept when it is far enough from the last one that was kept.

    distance_m: from the last one kept, 0 to 1000; this or the rotation suffices, both 0 keep every
        frame.
    rotation_rad: turned since the last one kept, 0 to 3.2.
    time_s: so much later a frame is kept wherever it is, 0 (time counts for nothing) to 86400.
    """

    distance_m: float = 1.0
    rotation_rad: float = 0.35
    time_s: float = 0.0

    def __post_init__(self) -> None:
        check_range('keyframes.distance_m', self.distance_m, 0.0, 1000.0)
        check_range('keyframes.rotation_rad', self.rotation_rad, 0.0, 3.2)
        check_range('keyframes.time_s', self.time_s, 0.0, 86_400.0)


class KeyframeSelector:
    """Decides frame by frame, for each camera of its own."""

    def __init__(self, config: KeyframeConfig) -> None:
        self._config = config
        self._last: dict[str, tuple[int, Array]] = {}

    def is_new(self, camera: str, T_map_cam: Array, stamp_ns: int = 0) -> bool:
        """True when the pose (4, 4) is far enough from the last one that was kept."""
        if camera not in self._last:
            return True
        last_ns, T_last = self._last[camera]
        metres, radians = distance(T_last, T_map_cam)
        config = self._config
        return bool(metres > config.distance_m - ROUNDING
                    or radians > config.rotation_rad - ROUNDING
                    or (config.time_s > 0.0
                        and abs(stamp_ns - last_ns) >= config.time_s * 1e9))

    def keep(self, camera: str, T_map_cam: Array, stamp_ns: int = 0) -> None:
        """Make this pose the one to compare with."""
        self._last[camera] = (stamp_ns, T_map_cam)

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON keeps it to the last bit."""
        return {camera: [stamp_ns, T.reshape(-1).tolist()]
                for camera, (stamp_ns, T) in self._last.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._last = {camera: (int(stamp_ns), np.array(values, dtype=np.float64).reshape(4, 4))
                      for camera, (stamp_ns, values) in state.items()}
