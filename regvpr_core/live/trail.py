"""Thinned odometry of a whole session, for poses at old stamps."""

from bisect import bisect_left

from regvpr_core.geometry import Array, interpolate

STEP_NS = 100_000_000
GAP_NS = 2_000_000_000
CAPACITY = 100_000
"""Largest number of poses (about 30 MB); then every second pose of the older half is deleted."""


class Trail:
    """Poses of the base in the odometry frame, at most one per 0.1 s."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._stamps: list[int] = []
        self._poses: list[Array] = []

    def __len__(self) -> int:
        return len(self._stamps)

    def put(self, stamp_ns: int, T_odom_base: Array) -> None:
        """Add a pose (4, 4), unless it is older than the newest or too close in time to it."""
        if self._stamps and stamp_ns < self._stamps[-1] + STEP_NS:
            return
        self._stamps.append(stamp_ns)
        self._poses.append(T_odom_base)
        if len(self._stamps) > self._capacity:
            half = len(self._stamps) // 2
            self._stamps[:half] = self._stamps[:half:2]
            self._poses[:half] = self._poses[:half:2]

    def at(self, stamp_ns: int) -> Array | None:
        """Pose (4, 4) at a stamp, interpolated between two poses close in time; else None."""
        after = bisect_left(self._stamps, stamp_ns)
        if after < len(self._stamps) and self._stamps[after] == stamp_ns:
            return self._poses[after]
        if after in (0, len(self._stamps)):
            return None
        start, end = self._stamps[after - 1], self._stamps[after]
        if end - start > GAP_NS:
            return None
        return interpolate(self._poses[after - 1], self._poses[after],
                           (stamp_ns - start) / (end - start))

    def clear(self) -> None:
        """Forget all poses, after a jump of time or a restart of odometry."""
        self._stamps.clear()
        self._poses.clear()
