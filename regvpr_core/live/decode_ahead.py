"""Compressed images are decoded while the network is still busy with the one before."""

from collections.abc import Callable
import threading
import time
from typing import Any

from regvpr_core.errors import ImageError
from regvpr_core.images import RGB
from regvpr_core.live.mailbox import Mailbox

SHARE_NEW = 0.1
"""Weight of the newest turn in the mean of how long the worker's turns take."""

SPARE = 1.1
"""Periods of a camera before the end of the worker's turn from which on its image is the one."""


class Arrival:
    """A message as it came: bytes until somebody wants its pixels. arrived_s: monotonic."""

    __slots__ = ('_lock', '_pixels', 'arrived_s', 'raw')

    def __init__(self, raw: Any, arrived_s: float) -> None:
        self.raw, self.arrived_s = raw, arrived_s
        self._lock = threading.Lock()
        self._pixels: RGB | None = None

    def pixels(self, decode: Callable[[], RGB]) -> RGB:
        """Decoded by whoever comes first; a second one waits for the first.

        Raises:
            ImageError: what `decode` raises; the next one tries again.
        """
        with self._lock:
            if self._pixels is None:
                self._pixels = decode()
            return self._pixels


class DecodeAhead:
    """A thread that decodes the image which the worker will take next.

    While the worker's turns are longer than a camera's period, most images are never looked at:
    only one that comes within a period of the expected end of a turn is decoded.
    """

    def __init__(self, decode: Callable[[str, Any], RGB],
                 now: Callable[[], float] = time.monotonic) -> None:
        """decode: camera and bytes to pixels; may raise ImageError. now: a clock, s."""
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
        """The worker took what was there."""
        self._began_s = self._now()

    def ended(self, looked: bool = True) -> None:
        """The worker is done with it. looked: the network ran; other turns tell nothing."""
        if self._began_s is None:
            return
        turn_s = self._now() - self._began_s
        self._began_s = None
        if not looked:
            return
        self._turn_s = turn_s if self._turn_s is None else \
            self._turn_s + SHARE_NEW * (turn_s - self._turn_s)

    def offer(self, camera: str, arrival: Arrival) -> bool:
        """An image came; whether it will be decoded. Never waits."""
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
        """Let the thread end."""
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
