"""Which images are worth the network: by time, by distance driven, or when asked."""

from regvpr_core.geometry import Array, inverse, rotation_angle

TURN_RAD = 0.5
"""A turn on the spot shows other things, so it opens the gate as a drive does."""


class Gate:
    """Open for every image unless told otherwise. Used by the worker only, but for `ask`."""

    def __init__(self, min_interval_s: float, min_distance_m: float, on_request: bool) -> None:
        """See NodeConfig for the three."""
        self.change(min_interval_s, min_distance_m, on_request)
        self._asked = False
        self.reset()

    def change(self, min_interval_s: float, min_distance_m: float, on_request: bool) -> None:
        """Take new settings at once."""
        self._interval_ns = int(min_interval_s * 1e9)
        self._distance_m = min_distance_m
        self._on_request = on_request

    def reset(self) -> None:
        """Forget the last image that went through."""
        self._last: dict[str, tuple[int, Array | None]] = {}

    def ask(self, wanted: bool = True) -> None:
        """Let images through until a fix was found (`ask(False)`)."""
        self._asked = wanted

    @property
    def admits_all(self) -> bool:
        """Whether no image is held back now."""
        return self._asked or not (self._on_request or self._interval_ns or self._distance_m)

    def admits(self, camera: str, stamp_ns: int, T_odom_base: Array | None) -> bool:
        """True where the image is to be looked at; it is then the last one.

        Args:
            camera: each has its own count.
            stamp_ns: of the image; one from before the last begins anew.
            T_odom_base: (4, 4); without odometry only time counts.
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
