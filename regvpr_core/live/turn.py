"""A lock that is fair: a busy holder cannot take it twice in a row while another thread waits."""

import threading


class Turn:
    """A fair lock, used with `with`."""

    def __init__(self) -> None:
        self._door, self._lock = threading.Lock(), threading.Lock()

    def __enter__(self) -> None:
        with self._door:  # held while waiting, so that the last holder queues behind
            self._lock.acquire()

    def __exit__(self, *error: object) -> None:
        self._lock.release()
