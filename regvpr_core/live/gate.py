"""Selects the images that the network processes: by time, by distance, or on request."""

from regvpr_core.geometry import Array, inverse, rotation_angle

TURN_RAD = 0.5
"""Rotation after which an image is processed even if the distance driven is too short, rad."""


class Gate:
    """Decides whether an image is processed. Only `ask` may be called by other threads."""

    def __init__(self, min_interval_s: float, min_distance_m: float, on_request: bool) -> None:
        """Arguments: see the fields of NodeConfig of the same names."""
        self.change(min_interval_s, min_distance_m, on_request)
        self._asked = False
        self.reset()

    def change(self, min_interval_s: float, min_distance_m: float, on_request: bool) -> None:
        """Replace the settings."""
        self._interval_ns = int(min_interval_s * 1e9)
        self._distance_m = min_distance_m
        self._on_request = on_request

    def reset(self) -> None:
        """Forget the last image that went through."""
        self._last: dict[str, tuple[int, Array | None]] = {}

    def ask(self, wanted: bool = True) -> None:
        """Let all images through until `ask(False)`, which follows a fix."""
        self._asked = wanted

    @property
    def admits_all(self) -> bool:
        """Whether every image is let through at present."""
        return self._asked or not (self._on_request or self._interval_ns or self._distance_m)

    def admits(self, camera: str, stamp_ns: int, T_odom_base: Array | None) -> bool:
        """True if the image is to be processed; it then becomes the last one.

        Args:
            camera: name; cameras are independent.
            stamp_ns: of the image; a stamp before the last one starts over.
            T_odom_base: (4, 4) odometry; None: only time decides.
        """
        if self._on_request and not self._asked:
            return False
        last = self._last.get(camera)
        if last is not None and not self._asked:
            elapsed_ns = stamp_ns - last[0]
            if 0 <= elapsed_ns < self._interval_ns or self._is_near(last[1], T_odom_base):
                return False
        self._last[camera] = (stamp_ns, T_odom_base)
        return True

    def _is_near(self, last: Array | None, this: Array | None) -> bool:
        if last is None or this is None or not self._distance_m:
            return False
        step = inverse(last) @ this
        return bool((step[:3, 3] @ step[:3, 3]) ** 0.5 < self._distance_m
                    and rotation_angle(step[:3, :3]) < TURN_RAD)
