"""Executables without their start: forks of a process that has imported what they import.

The fork server of multiprocessing imports rclpy, torch and the node once for a run; each test then
gets a process of its own for a tenth of the price. `program` and `run_program` start the installed
executables themselves.
"""

import importlib
import io
import multiprocessing
from multiprocessing.connection import Connection
import os
import signal
import subprocess
import sys

MODULES = {'localize': 'regvpr_ros.localize_node', 'replay': 'regvpr_ros.replay'}

CONTEXT = multiprocessing.get_context('forkserver')
CONTEXT.set_forkserver_preload([*MODULES.values(), 'regvpr_core.models.encoder'])


class ForkedProcess:
    """The part of `subprocess.Popen` that tests use; `stdout` has both streams."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        reader, writer = CONTEXT.Pipe(duplex=False)
        self._process = CONTEXT.Process(
            target=run, args=(name, arguments, writer, dict(os.environ)))
        self._process.start()
        writer.close()
        self.stdout = io.TextIOWrapper(io.FileIO(os.dup(reader.fileno())), errors='replace')
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self._process.name, timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.exitcode is None:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(name: str, arguments: list[str], output: Connection, environment: dict[str, str]
        ) -> None:
    """In the fork: what scripts/NAME does."""
    os.environ.clear()
    os.environ.update(environment)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    sys.argv = [name, *arguments]
    code = importlib.import_module(MODULES[name]).main()
    sys.stdout.flush()
    sys.exit(code)
