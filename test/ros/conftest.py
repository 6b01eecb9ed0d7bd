"""The node as its own process, and a listener in this one; between them real DDS."""

from collections.abc import Callable, Iterator
import os
from pathlib import Path
import signal
import subprocess
import threading
import time
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed (make test installs it)')

from ament_index_python.packages import get_package_prefix, PackageNotFoundError
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from regvpr_ros.msg import LocalizationStatus, PlaceMatches

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
START_S = 60.0


def executable(name: str) -> str:
    """Path of an installed executable, as `ros2 run` finds it."""
    try:
        return f'{get_package_prefix("regvpr_ros")}/lib/regvpr_ros/{name}'
    except PackageNotFoundError:
        pytest.fail('regvpr_ros is not built; run the tests with `make test`')


class Process:
    """A program with its output kept."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ''))

    @property
    def output(self) -> str:
        return ''.join(self.lines)

    def wait(self, timeout_s: float = START_S) -> int:
        """Exit code, once it has ended by itself."""
        code = self.process.wait(timeout_s)
        self._reader.join(5.0)
        return code

    def stop(self, number: int = signal.SIGINT) -> int:
        """Exit code after a signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.wait(45.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


class Listener:
    """An rclpy node of the test, spun in a thread of its own."""

    def __init__(self) -> None:
        self._context = Context()
        rclpy.init(context=self._context)
        self.node = rclpy.create_node('listener', context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._clients: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def listen(self, kind: Any, topic: str, qos: Any = 50) -> list[Any]:
        """A list that messages are appended to as they come."""
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def call(self, kind: Any, name: str, request: Any, timeout_s: float = START_S) -> Any:
        """Response of a service."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        client = self._clients[name]
        assert client.wait_for_service(timeout_s), f'no service {name}'
        future = client.call_async(request)
        assert until(future.done, timeout_s), f'{name} does not answer'
        return future.result()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)


def until(condition: Callable[[], Any], timeout_s: float = START_S) -> bool:
    """Wait for a condition; False when the time is up."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(autouse=True, scope='session')
def domain() -> None:
    """A DDS domain of this run's own, and no talk beyond this machine."""
    os.environ['ROS_DOMAIN_ID'] = str(os.getpid() % 100 + 101)
    os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Start an installed executable; it is stopped at the end of the test."""
    started: list[Process] = []

    def run(name: str, *arguments: object) -> Process:
        started.append(Process([executable(name), *map(str, arguments)]))
        return started[-1]

    yield run
    for process in started:
        process.stop()


@pytest.fixture
def run_program() -> Iterator[Callable[[list[str]], Process]]:
    """Start any program; it is stopped at the end of the test."""
    started: list[Process] = []

    def run(command: list[str]) -> Process:
        started.append(Process(command))
        return started[-1]

    yield run
    for process in started:
        process.stop()


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A node of the test."""
    one = Listener()
    yield one
    one.close()


class Heard:
    """Everything that the localize node says."""

    def __init__(self, listener: Listener) -> None:
        self.matches: list[PlaceMatches] = listener.listen(PlaceMatches, '/regvpr/matches')
        self.priors = listener.listen(PoseWithCovarianceStamped, '/regvpr/pose_prior')
        self.status = listener.listen(LocalizationStatus, '/regvpr/status', LATCHED)
        self.diagnostics = listener.listen(DiagnosticArray, '/diagnostics')

    def count(self, key: str) -> int:
        """A counter of the newest diagnostics; -1 before the first."""
        if not self.diagnostics:
            return -1
        values = {pair.key: pair.value for pair in self.diagnostics[-1].status[0].values}
        return int(values.get(key, -1))


@pytest.fixture
def heard(listener: Listener) -> Heard:
    """What the node says, collected."""
    return Heard(listener)


@pytest.fixture
def node(start: Callable[..., Process]) -> Callable[..., Process]:
    """Start the localize node on a map."""
    def run(place_map: Path, *more: str, compressed: bool = False) -> Process:
        topic = 'image/compressed' if compressed else 'image'
        source = '/camera/image_raw/compressed' if compressed else '/camera/image_raw'
        return start('localize', '--ros-args', '-p', f'map:={place_map}',
                     '-p', f'compressed:={str(compressed).lower()}', '-r', f'{topic}:={source}',
                     '-r', 'odom:=/odom', *more)
    return run


@pytest.fixture
def wait_until() -> Callable[..., bool]:
    """`until`, for tests."""
    return until


@pytest.fixture
def program() -> Callable[[str], str]:
    """`executable`, for tests."""
    return executable
