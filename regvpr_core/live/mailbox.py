"""What passes from callbacks to the worker thread: each camera's newest image, and odometry."""

from bisect import bisect_left, insort
from threading import Condition
import time
from typing import Generic, TypeVar

from regvpr_core.geometry import Array, interpolate

Item = TypeVar('Item')

JUMP_NS = 3_000_000_000


class Mailbox(Generic[Item]):
    """One slot a camera. A newer item replaces one that was not taken, and that is counted."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._items: dict[str, Item] = {}
        self._closed = False
        self.dropped = 0

    def put(self, item: Item, slot: str = '') -> None:
        """Leave an item; never waits."""
        with self._condition:
            self.dropped += slot in self._items
            self._items[slot] = item
            self._condition.notify()

    def take(self) -> dict[str, Item] | None:
        """Wait for items; all that are there, by slot. None once the mailbox is closed."""
        with self._condition:
            while not self._items and not self._closed:
                self._condition.wait()
            if self._closed:
                return None
            items, self._items = self._items, {}
            return items

    def close(self) -> None:
        """Let the worker end."""
        with self._condition:
            self._closed = True
            self._items = {}
            self._condition.notify_all()


class OdometryBuffer:
    """The last seconds of odometry, by stamp; written by a callback, read by the worker."""

    def __init__(self, horizon_s: float, max_gap_s: float) -> None:
        """Keep `horizon_s`; poses further apart than `max_gap_s` are not interpolated."""
        self._condition = Condition()
        self._horizon_ns = int(horizon_s * 1e9)
        self._max_gap_ns = int(max_gap_s * 1e9)
        self._poses: list[tuple[int, int, Array]] = []  # stamp, arrival, T_odom_base
        self._arrivals = 0

    def put(self, stamp_ns: int, T_odom_base: Array) -> None:
        """Add a pose (4, 4). A stamp seconds behind the newest starts over: time jumped back."""
        with self._condition:
            if self._poses and stamp_ns < self._poses[-1][0] - JUMP_NS:
                self._poses.clear()
            self._arrivals += 1
            insort(self._poses, (stamp_ns, self._arrivals, T_odom_base))
            oldest = self._poses[-1][0] - self._horizon_ns
            while self._poses[0][0] < oldest:
                self._poses.pop(0)
            self._condition.notify_all()

    def clear(self) -> None:
        """Forget all poses."""
        with self._condition:
            self._poses.clear()

    def at(self, stamp_ns: int, wait_s: float) -> Array | None:
        """Pose (4, 4) at a stamp.

        Waits at most `wait_s` for odometry to catch up with the image; after that the newest pose
        serves if it is no older than the largest gap. None: not known.
        """
        deadline = time.monotonic() + wait_s
        with self._condition:
            while self._poses and self._poses[-1][0] < stamp_ns:
                if not self._condition.wait(deadline - time.monotonic()):
                    break
            return self._lookup(stamp_ns)

    def _lookup(self, stamp_ns: int) -> Array | None:
        if not self._poses:
            return None
        after = bisect_left(self._poses, (stamp_ns, 0))
        if after == len(self._poses):
            newest_ns, _, T = self._poses[-1]
            return T if stamp_ns - newest_ns <= self._max_gap_ns else None
        t_1, _, T_1 = self._poses[after]
        if t_1 == stamp_ns:
            return T_1
        if after == 0:
            return None
        t_0, _, T_0 = self._poses[after - 1]
        if t_1 - t_0 > self._max_gap_ns:
            return None
        return interpolate(T_0, T_1, (stamp_ns - t_0) / (t_1 - t_0))
