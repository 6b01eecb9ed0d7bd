"""Which frames of a drive become keyframes."""

from dataclasses import dataclass

from regvpr_core.config import check_range
from regvpr_core.geometry import Array, distance

ROUNDING = 1e-6
"""A step of exactly the distance counts, whatever transforms made of its last digits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyframeConfig:
    """A frame is kept when it is far enough from the last one that was kept.

    distance_m: 0 to 1000. rotation_rad: 0 to 3.2. Either suffices; both 0 keep every frame.
    """

    distance_m: float = 1.0
    rotation_rad: float = 0.35

    def __post_init__(self) -> None:
        check_range('keyframes.distance_m', self.distance_m, 0.0, 1000.0)
        check_range('keyframes.rotation_rad', self.rotation_rad, 0.0, 3.2)


class KeyframeSelector:
    """Decides frame by frame, for each camera of its own."""

    def __init__(self, config: KeyframeConfig) -> None:
        self._config = config
        self._last: dict[str, Array] = {}

    def is_new(self, camera: str, T_map_cam: Array) -> bool:
        """True when the pose (4, 4) is far enough from the last one that was kept."""
        if camera not in self._last:
            return True
        metres, radians = distance(self._last[camera], T_map_cam)
        return bool(metres > self._config.distance_m - ROUNDING
                    or radians > self._config.rotation_rad - ROUNDING)

    def keep(self, camera: str, T_map_cam: Array) -> None:
        """Make this pose the one to compare with."""
        self._last[camera] = T_map_cam
