"""Takes the messages of some subscriptions in a separate thread.

An executor of rclpy rebuilds its wait set in Python at each turn. This takes a millisecond or
more, in which no image is taken and the worker does not run. A thread that waits for only a few
subscriptions needs a twentieth of that. The executor must not wait for these subscriptions or
their events. Otherwise it spins from the arrival of a message until the thread has taken it.
"""

from collections.abc import Callable
import threading
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy

WAIT_NS = 100_000_000
"""Longest wait for a message, ns; `close` takes effect after it."""


class NotExecuted(CallbackGroup):
    """Callback group of subscriptions whose messages the executor does not take."""

    def can_execute(self, entity: Any) -> bool:
        """False: the executor must not take the messages."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """False: the executor must not call the callbacks."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Ignored: nothing was executed."""


class Receiver:
    """Calls the callbacks of subscriptions that were made in a group of `NotExecuted`."""

    def __init__(self, context: Any, subscriptions: list[Any],
                 on_error: Callable[[Exception], None]) -> None:
        """Start the thread. on_error: called with exceptions of callbacks."""
        self._context, self._subscriptions = context, subscriptions
        self._on_error = on_error
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name='regvpr-receive', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread; the subscriptions are not removed."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        wait_set = _rclpy.WaitSet(len(self._subscriptions), 0, 0, 0, 0, 0, self._context.handle)
        by_pointer = {one.handle.pointer: one for one in self._subscriptions}
        while not self._ended.is_set() and self._context.ok():
            try:
                wait_set.clear_entities()
                for one in self._subscriptions:
                    wait_set.add_subscription(one.handle)
                wait_set.wait(WAIT_NS)
            except Exception:
                if self._context.ok():  # otherwise a signal has shut down ROS meanwhile
                    raise
                return
            for pointer in wait_set.get_ready_entities('subscription'):
                self._take(by_pointer[pointer])

    def _take(self, subscription: Any) -> None:
        try:
            found = subscription.handle.take_message(subscription.msg_type, subscription.raw)
            if found is not None:
                subscription.callback(found[0])
        except Exception as error:  # noqa: BLE001 - one bad message must not end the thread
            self._on_error(error)
