"""Order of stamps, and odometry: restarts, distance driven, pose at a stamp."""

from bisect import bisect_left, insort
from dataclasses import dataclass
import enum
import math

import numpy as np

from regvpr_core.geometry import Array, interpolate, inverse

LATE_S = 1.0
"""A stamp that is older than the newest by at most this is late, s; an older one means that time
jumped back (a bag was restarted)."""

CORRECTION_M = 1.0
"""A jump of odometry up to this distance is a correction, not a restart, m."""

SPEED_LIMIT_MPS = 60.0
"""Odometry that moves faster than this has restarted, m/s."""


class Order(enum.Enum):
    """Order of a stamp relative to the newest one."""

    NEXT = 'next'
    LATE = 'late'
    JUMPED_BACK = 'jumped back'


class Clock:
    """Order of the stamps of one stream."""

    def __init__(self, late_s: float = LATE_S) -> None:
        """Start without a stamp. late_s: largest age of a late stamp before the newest, s."""
        self.newest_ns: int | None = None
        self._late_ns = int(late_s * 1e9)

    def order(self, stamp_ns: int) -> Order:
        """Order of a stamp relative to the newest one; the clock is not changed."""
        if self.newest_ns is None or stamp_ns >= self.newest_ns:
            return Order.NEXT
        return Order.LATE if stamp_ns >= self.newest_ns - self._late_ns else Order.JUMPED_BACK

    def see(self, stamp_ns: int) -> Order:
        """Order of a stamp; unless it is late, it becomes the newest."""
        order = self.order(stamp_ns)
        if order is not Order.LATE:
            self.newest_ns = stamp_ns
        return order


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """Odometry at a stamp.

    T_odom_base: (4, 4), None if unknown. part: number of earlier restarts; poses of different
    parts are in different frames. way_m: distance driven since the start, over all parts, m.
    """

    stamp_ns: int
    T_odom_base: Array | None
    part: int
    way_m: float

    def motion_to(self, later: 'Moment') -> Array | None:
        """Motion (4, 4) of the base from this moment to another; None if unknown."""
        if self.T_odom_base is None or later.T_odom_base is None or self.part != later.part:
            return None
        return inverse(self.T_odom_base) @ later.T_odom_base


class Odometry:
    """Odometry of one robot. Not to be shared between threads.

    Each pose is compared with the last known pose, even if stamps without odometry lie between, so
    that a restart is always detected.
    """

    def __init__(self, *, speed_limit_mps: float = SPEED_LIMIT_MPS, horizon_s: float = 10.0,
                 max_gap_s: float = 1.0, late_s: float = LATE_S) -> None:
        """Start without poses.

        Args:
            speed_limit_mps: faster motion is a restart.
            horizon_s: duration for which poses are kept for `at`.
            max_gap_s: largest gap between interpolated poses, and largest age of the newest
                pose at a stamp ahead of it.
            late_s: as in `Clock`.
        """
        self._speed_limit_mps = speed_limit_mps
        self._horizon_ns = int(horizon_s * 1e9)
        self._max_gap_ns = int(max_gap_s * 1e9)
        self._late_s = late_s
        self._arrivals = 0
        self.clear()

    def clear(self) -> None:
        """Forget all poses, after a jump of time or for another robot."""
        self.clock = Clock(self._late_s)
        self.part, self.way_m = 0, 0.0
        self._last: tuple[int, Array] | None = None
        # (stamp, arrival, pose), sorted by stamp; equal stamps in the order of arrival.
        self._kept: list[tuple[int, int, Array]] = []

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest pose."""
        return None if self._last is None else self._last[0]

    def put(self, stamp_ns: int, T_odom_base: Array | None) -> Moment:
        """Add the pose (4, 4) at a stamp; None or a non-finite pose means unknown.

        If time jumped back, all earlier poses are forgotten. A late pose is only kept for `at`.
        """
        if T_odom_base is not None and not np.isfinite(T_odom_base).all():
            T_odom_base = None
        order = self.clock.order(stamp_ns)
        if order is Order.JUMPED_BACK:
            self.clear()
        self.clock.see(stamp_ns)
        if T_odom_base is None:
            return Moment(stamp_ns, None, self.part, self.way_m)
        if order is not Order.LATE and self._last is not None:
            last_ns, last = self._last
            metres = math.dist(T_odom_base[:3, 3], last[:3, 3])
            elapsed_s = (stamp_ns - last_ns) / 1e9
            if metres <= CORRECTION_M + self._speed_limit_mps * elapsed_s:
                self.way_m += metres
            else:  # earlier poses are in the frame before the restart
                self.part += 1
                self._kept.clear()
        moment = Moment(stamp_ns, T_odom_base, self.part, self.way_m)
        if order is not Order.LATE:
            self._last = (stamp_ns, T_odom_base)
        self._keep(stamp_ns, T_odom_base)
        return moment

    def at(self, stamp_ns: int) -> Array | None:
        """Pose (4, 4) at a stamp, interpolated, or the newest pose if it is recent enough.

        None if unknown.
        """
        after = bisect_left(self._kept, (stamp_ns, 0))
        if after == len(self._kept):
            if not self._kept or stamp_ns - self._kept[-1][0] > self._max_gap_ns:
                return None
            return self._kept[-1][2]
        end_ns, _, end = self._kept[after]
        if end_ns == stamp_ns:
            return end
        if after == 0:
            return None
        start_ns, _, start = self._kept[after - 1]
        if end_ns - start_ns > self._max_gap_ns:
            return None
        return interpolate(start, end, (stamp_ns - start_ns) / (end_ns - start_ns))

    def _keep(self, stamp_ns: int, T_odom_base: Array) -> None:
        self._arrivals += 1
        insort(self._kept, (stamp_ns, self._arrivals, T_odom_base))
        oldest_ns = self._kept[-1][0] - self._horizon_ns
        del self._kept[: bisect_left(self._kept, (oldest_ns, 0))]
