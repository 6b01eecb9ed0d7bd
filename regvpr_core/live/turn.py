"""A fair lock: no thread gets it twice in a row while another thread waits for it."""

import threading


class Turn:
    """A fair lock, used with `with`."""

    def __init__(self) -> None:
        self._door, self._lock = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._door:  # held while waiting, so that waiting threads take turns
            self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()
