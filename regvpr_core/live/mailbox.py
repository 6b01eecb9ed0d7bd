"""Passes each camera's newest image and odometry from callbacks to the worker thread."""

from threading import Condition
import time
from typing import Generic, TypeVar

from regvpr_core.geometry import Array
from regvpr_core.localization.odometry import Odometry

Item = TypeVar('Item')

LATE_S = 3.0
"""Odometry older than the newest by more than this means that time jumped back, s."""


class Mailbox(Generic[Item]):
    """One slot per camera. A new item replaces one not yet taken.

    dropped: number of items that were replaced.
    """

    def __init__(self) -> None:
        self._condition = Condition()
        self._items: dict[str, Item] = {}
        self._closed = False
        self.dropped = 0

    def put(self, item: Item, slot: str = '') -> None:
        """Put an item into a slot; never waits."""
        with self._condition:
            self.dropped += slot in self._items
            self._items[slot] = item
            self._condition.notify()

    def take(self) -> dict[str, Item] | None:
        """Wait for items and take all of them, by slot; None once the mailbox is closed."""
        with self._condition:
            while not self._items and not self._closed:
                self._condition.wait()
            if self._closed:
                return None
            items, self._items = self._items, {}
            return items

    def close(self) -> None:
        """Close the mailbox: `take` returns None from now on."""
        with self._condition:
            self._closed = True
            self._items = {}
            self._condition.notify_all()


class OdometryBuffer:
    """The last seconds of odometry; written by a callback, read by the worker."""

    def __init__(self, horizon_s: float, max_gap_s: float) -> None:
        """Keep `horizon_s` seconds; poses further apart than `max_gap_s` are not interpolated."""
        self._condition = Condition()
        self._odometry = Odometry(horizon_s=horizon_s, max_gap_s=max_gap_s, late_s=LATE_S)

    def put(self, stamp_ns: int, T_odom_base: Array) -> None:
        """Add a pose (4, 4). After a jump of time or pose, earlier poses are forgotten."""
        with self._condition:
            self._odometry.put(stamp_ns, T_odom_base)
            self._condition.notify_all()

    def clear(self) -> None:
        """Forget all poses."""
        with self._condition:
            self._odometry.clear()

    def at(self, stamp_ns: int, wait_s: float) -> Array | None:
        """Pose (4, 4) at a stamp.

        Waits at most `wait_s` for a pose at or after the stamp; after that returns the newest
        pose if it is at most the largest gap older. None: unknown.
        """
        deadline = time.monotonic() + wait_s
        with self._condition:
            while (newest_ns := self._odometry.newest_ns) is not None and newest_ns < stamp_ns:
                if not self._condition.wait(deadline - time.monotonic()):
                    break
            return self._odometry.at(stamp_ns)
