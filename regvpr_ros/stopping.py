"""SIGINT and SIGTERM while the node loads."""

from collections.abc import Iterator
import contextlib
import os
import signal
import threading
from typing import Any

import rclpy
from rclpy.signals import install_signal_handlers, uninstall_signal_handlers

SIGNALS = (signal.SIGINT, signal.SIGTERM)

GRACE_S = 3.0
"""Time after a signal until the process ends itself, s. An import may swallow the exception."""


def noted_interrupts() -> list[int]:
    """List to which each later SIGINT is appended. Call it before `rclpy.init`.

    Python drops a KeyboardInterrupt that is raised in a destructor, and the node would run on.
    """
    found: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        found.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    return found


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Context in which a signal raises KeyboardInterrupt; for the main thread.

    The handlers of rclpy would shut down ROS. Loading would continue, and its logging would fail.
    """
    timers: list[threading.Timer] = []

    def interrupt(number: int, frame: Any) -> None:
        timers.append(threading.Timer(GRACE_S, os._exit, (0,)))
        timers[-1].daemon = True
        timers[-1].start()
        raise KeyboardInterrupt

    uninstall_signal_handlers()
    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        if not rclpy.ok():  # a signal came just before
            raise KeyboardInterrupt
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        install_signal_handlers()
        for timer in timers:
            timer.cancel()
    if timers:
        raise KeyboardInterrupt
