"""Maps stamps of images to the numbers that a SLAM program assigned to them."""

from bisect import bisect_left, insort


class StampIds:
    """Numbers of a SLAM program by image stamp; only the newest `capacity` are kept."""

    def __init__(self, capacity: int = 200_000) -> None:
        self._capacity = capacity
        self._entries: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def newest_ns(self) -> int:
        """The newest stamp; -2^63 without entries."""
        return self._entries[-1][0] if self._entries else -2**63

    def put(self, stamp_ns: int, number: int) -> None:
        """Add the number of an image, unless it is known already."""
        at = bisect_left(self._entries, (stamp_ns, number))
        if at < len(self._entries) and self._entries[at] == (stamp_ns, number):
            return
        insort(self._entries, (stamp_ns, number))
        if len(self._entries) > self._capacity:
            del self._entries[0]

    def nearest(self, stamp_ns: int, tolerance_ns: int) -> tuple[int, int] | None:
        """Stamp and number of the entry nearest in time; None beyond the tolerance."""
        at = bisect_left(self._entries, (stamp_ns, -2**63))
        near = self._entries[max(at - 1, 0):at + 1]
        best = min(near, key=lambda entry: abs(entry[0] - stamp_ns), default=None)
        return best if best is not None and abs(best[0] - stamp_ns) <= tolerance_ns else None

    def clear(self) -> None:
        """Remove all entries."""
        self._entries.clear()
