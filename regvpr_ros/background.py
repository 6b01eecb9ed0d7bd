"""Runs slow work in a thread, so that callbacks continue while a map is read."""

from collections.abc import Callable
import threading
from typing import Any


class Background:
    """Runs one piece of work at a time in a separate thread."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._threads: set[threading.Thread] = set()

    async def run(self, future: Any, wake: Callable[[], None], work: Callable[[], Any]) -> Any:
        """Await the result of `work`, or its exception; the executor continues meanwhile.

        Args:
            future: a new rclpy Future of the awaiting executor.
            wake: wakes that executor, which newer versions of rclpy do themselves.
            work: called without arguments.
        """
        def job() -> None:
            try:
                with self._turn:
                    result = work()
            except Exception as error:  # noqa: BLE001 - handed to whoever awaits it
                future.set_exception(error)
            else:
                future.set_result(result)
            self._threads.discard(threading.current_thread())
            wake()

        thread = threading.Thread(target=job, name='regvpr-slow', daemon=True)
        self._threads.add(thread)
        thread.start()
        return await future

    def start(self, work: Callable[[], None]) -> None:
        """Run work without a result; it must not raise."""
        def job() -> None:
            with self._turn:
                work()
            self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=job, name='regvpr-slow', daemon=True)
        self._threads.add(thread)
        thread.start()

    def join(self) -> None:
        """Wait for the running work."""
        for thread in tuple(self._threads):
            thread.join()
