"""One clock and one odometry: order of stamps, restarts, way driven, pose at a stamp."""

from bisect import bisect_left, insort
from dataclasses import dataclass
import enum

import numpy as np

from regvpr_core.geometry import Array, interpolate, inverse

LATE_S = 1.0
"""A stamp older than the newest by less came late; by more, time jumped back (a bag began
again)."""

CORRECTION_M = 1.0
"""Odometry may be corrected by this much between any two poses without counting as restarted."""

SPEED_LIMIT_MPS = 60.0
"""Odometry that moves faster has restarted, or was corrected from outside."""


class Order(enum.Enum):
    """How a stamp lies to the newest stamp before it."""

    NEXT = 'next'
    LATE = 'late'
    JUMPED_BACK = 'jumped back'


class Clock:
    """Order of the stamps of one stream."""

    def __init__(self, late_s: float = LATE_S) -> None:
        """Begin with no stamp. late_s: an older stamp than this before the newest jumped back."""
        self.newest_ns: int | None = None
        self._late_ns = int(late_s * 1e9)

    def order(self, stamp_ns: int) -> Order:
        """How a stamp lies to the newest one; changes nothing."""
        if self.newest_ns is None or stamp_ns >= self.newest_ns:
            return Order.NEXT
        return Order.LATE if stamp_ns >= self.newest_ns - self._late_ns else Order.JUMPED_BACK

    def see(self, stamp_ns: int) -> Order:
        """The order of a stamp, which is the newest one afterwards unless it is late."""
        order = self.order(stamp_ns)
        if order is not Order.LATE:
            self.newest_ns = stamp_ns
        return order


@dataclass(frozen=True, slots=True, eq=False)
class Moment:
    """What odometry says of a stamp.

    T_odom_base: (4, 4), None where odometry says nothing. part: number of restarts before; poses
    of two parts are in two frames. way_m: driven since the beginning, over all parts, m.
    """

    stamp_ns: int
    T_odom_base: Array | None
    part: int
    way_m: float

    def motion_to(self, later: 'Moment') -> Array | None:
        """Motion (4, 4) of the base from here to there; None where it is not known."""
        if self.T_odom_base is None or later.T_odom_base is None or self.part != later.part:
            return None
        return inverse(self.T_odom_base) @ later.T_odom_base


class Odometry:
    """The motion of one robot. Not to be shared between threads.

    A pose is compared with the last pose that there was, however many images without odometry came
    in between, so that a restart does not hide behind one of them.
    """

    def __init__(self, *, speed_limit_mps: float = SPEED_LIMIT_MPS, horizon_s: float = 10.0,
                 max_gap_s: float = 1.0, late_s: float = LATE_S) -> None:
        """Begin with nothing known.

        Args:
            speed_limit_mps: faster motion is a restart.
            horizon_s: poses are kept this long for `at`.
            max_gap_s: poses further apart are not interpolated, and the newest one serves no
                stamp further ahead.
            late_s: as of `Clock`.
        """
        self._speed_limit_mps = speed_limit_mps
        self._horizon_ns = int(horizon_s * 1e9)
        self._max_gap_ns = int(max_gap_s * 1e9)
        self._late_s = late_s
        self._arrivals = 0
        self.clear()

    def clear(self) -> None:
        """Forget all: time jumped back, or another robot."""
        self.clock = Clock(self._late_s)
        self.part, self.way_m = 0, 0.0
        self._last: tuple[int, Array] | None = None
        # Stamp, arrival, pose: sorted by stamp, equal stamps in the order of arrival.
        self._kept: list[tuple[int, int, Array]] = []

    @property
    def newest_ns(self) -> int | None:
        """Stamp of the newest pose."""
        return None if self._last is None else self._last[0]

    def put(self, stamp_ns: int, T_odom_base: Array | None) -> Moment:
        """Take in the pose (4, 4) of a stamp, None or not finite where there is none.

        A stamp that jumped back forgets all before it. A late pose is kept for `at` and moves
        nothing.
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
            metres = float(np.linalg.norm(T_odom_base[:3, 3] - last[:3, 3]))
            elapsed_s = (stamp_ns - last_ns) / 1e9
            if metres <= CORRECTION_M + self._speed_limit_mps * elapsed_s:
                self.way_m += metres
            else:  # its poses so far are in a frame that is gone
                self.part += 1
                self._kept.clear()
        moment = Moment(stamp_ns, T_odom_base, self.part, self.way_m)
        if order is not Order.LATE:
            self._last = (stamp_ns, T_odom_base)
        self._keep(stamp_ns, T_odom_base)
        return moment

    def at(self, stamp_ns: int) -> Array | None:
        """Pose (4, 4) at a stamp: between two poses near each other, or the newest if near.

        None: not known.
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
