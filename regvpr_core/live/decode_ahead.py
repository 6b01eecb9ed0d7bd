"""Decodes compressed images while the network processes the previous image."""

from collections.abc import Callable
import threading
import time
from typing import Any

from regvpr_core.errors import ImageError
from regvpr_core.images import RGB
from regvpr_core.live.mailbox import Mailbox

SHARE_NEW = 0.1
"""Weight of the newest image in the running mean of the processing time."""

SPARE = 1.1
"""An image is decoded ahead if the worker is expected to be free within this many camera periods
after its arrival."""


class Arrival:
    """A received message, decoded on first use. arrived_s: monotonic clock."""

    __slots__ = ('_lock', '_pixels', 'arrived_s', 'raw')

    def __init__(self, raw: Any, arrived_s: float) -> None:
        self.raw, self.arrived_s = raw, arrived_s
        self._lock = threading.Lock()
        self._pixels: RGB | None = None

    def pixels(self, decode: Callable[[], RGB]) -> RGB:
        """Pixels of the message; decoded by the first caller, later callers wait for it.

        Raises:
            ImageError: raised by `decode`; the next call decodes again.
        """
        with self._lock:
            if self._pixels is None:
                self._pixels = decode()
            return self._pixels


class DecodeAhead:
    """A thread that decodes the image which the worker is expected to take next.

    If processing an image takes longer than a camera's period, most images are replaced before
    they are used. Only an image that arrives shortly before the worker is free is decoded ahead.
    """

    def __init__(self, decode: Callable[[str, Any], RGB],
                 now: Callable[[], float] = time.monotonic) -> None:
        """decode: from camera name and bytes to pixels; may raise ImageError. now: clock, s."""
        self._decode = decode
        self._now = now
        self.decoded = 0
        self._mailbox: Mailbox[Arrival] = Mailbox()
        self._began_s: float | None = None
        self._turn_s: float | None = None
        self._last_s: dict[str, float] = {}
        self._thread = threading.Thread(target=self._work, name='regvpr-decode', daemon=True)
        self._thread.start()

    def began(self) -> None:
        """Record that the worker has started to process images."""
        self._began_s = self._now()

    def ended(self, looked: bool = True) -> None:
        """Record that the worker is done. looked: the network ran; only then the time counts."""
        if self._began_s is None:
            return
        turn_s = self._now() - self._began_s
        self._began_s = None
        if not looked:
            return
        self._turn_s = turn_s if self._turn_s is None else \
            self._turn_s + SHARE_NEW * (turn_s - self._turn_s)

    def offer(self, camera: str, arrival: Arrival) -> bool:
        """Offer an arrived image; True if it will be decoded ahead. Never waits."""
        last_s = self._last_s.get(camera)
        self._last_s[camera] = arrival.arrived_s
        began_s, turn_s = self._began_s, self._turn_s
        if last_s is None or began_s is None or turn_s is None:
            return False
        period_s = arrival.arrived_s - last_s
        wanted = began_s + turn_s - arrival.arrived_s <= SPARE * period_s
        if wanted:
            self._mailbox.put(arrival, camera)
        return wanted

    def close(self) -> None:
        """Stop the thread."""
        self._mailbox.close()
        self._thread.join()

    def _work(self) -> None:
        while (arrivals := self._mailbox.take()) is not None:
            while arrivals:  # taken out one by one, so that the last does not stay in memory
                self._decode_one(*arrivals.popitem())

    def _decode_one(self, camera: str, arrival: Arrival) -> None:
        try:
            arrival.pixels(lambda: self._decode(camera, arrival.raw))
            self.decoded += 1
        except ImageError:
            pass  # the worker will report it
        except Exception:  # noqa: BLE001 - the same
            pass
