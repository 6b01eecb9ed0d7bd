"""The node as its own process, and a listener in this one; between them real DDS."""

import array
from collections.abc import Callable, Iterator
import contextlib
import fcntl
import functools
import os
from pathlib import Path
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed (make test installs it)')

from ament_index_python.packages import get_package_prefix, PackageNotFoundError
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from regvpr_ros.msg import LocalizationStatus, PlaceMatches
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from regvpr_core.cli import main
from regvpr_core.recordings.bags import Bag

sys.path.insert(0, str(Path(__file__).parent))  # for the forks, which import it too
from forked import ForkedProcess

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PYTHONPATH = os.environ.get('PYTHONPATH')
"""A test that changes it starts the executable: a fork has imported its modules already."""

START_S = 100.0
LOST_S = 20.0
ANSWER_S = 5.0
"""A driving camera waits so long for the answer to an image, which may be lost (best effort)."""


def executable(name: str) -> str:
    """Path of an installed executable, as `ros2 run` finds it."""
    try:
        return f'{get_package_prefix("regvpr_ros")}/lib/regvpr_ros/{name}'
    except PackageNotFoundError:
        pytest.fail('regvpr_ros is not built; run the tests with `make test`')


class Process:
    """A process with its output kept."""

    def __init__(self, process: subprocess.Popen[str] | ForkedProcess) -> None:
        self.process = process
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
        self._end = Future(executor=self._executor)
        self._thread = threading.Thread(
            target=self._executor.spin_until_future_complete, args=(self._end,))
        self._thread.start()

    def listen(self, kind: Any, topic: str, qos: Any = 50) -> list[Any]:
        """A list that messages are appended to as they come."""
        messages: list[Any] = []
        self.node.create_subscription(kind, topic, messages.append, qos)
        return messages

    def forget(self, subscription: Any) -> None:
        """Destroy a subscription in the listener's own thread.

        rclpy builds its wait set there; a handle that goes meanwhile ends the executor.
        """
        task = self._executor.create_task(self.node.destroy_subscription, subscription)
        assert until(task.done, START_S), 'the listener is stuck'

    def call(self, kind: Any, name: str, request: Any, timeout_s: float = START_S) -> Any:
        """Response of a service."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name)
        client = self._clients[name]
        assert client.wait_for_service(timeout_s), f'no service {name}'
        future = client.call_async(request)
        assert until(lambda: future.done() or not self._thread.is_alive(), timeout_s), \
            f'{name} does not answer'
        assert future.done(), "the listener's thread has ended"
        return future.result()

    def close(self) -> None:
        self._end.set_result(None)
        self._thread.join()  # a thread that is in rclpy when the interpreter ends aborts it
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)


@contextlib.contextmanager
def free_domain() -> Iterator[int]:
    """A DDS domain (1 to 100), locked while it is used, in which nothing runs yet.

    Domains above 101 have ports that Linux also gives to outgoing connections.
    """
    folder = Path(tempfile.gettempdir()) / f'regvpr_test_domains_{os.getuid()}'
    folder.mkdir(exist_ok=True)
    for number in random.sample(range(1, 101), 100):
        with (folder / str(number)).open('w') as lock, \
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                probe.bind(('', 7400 + 250 * number))  # every participant listens there
            except OSError:
                continue
            probe.close()
            yield number
            return
    raise RuntimeError('all DDS domains from 1 to 100 are in use on this machine')


def until(condition: Callable[[], Any], timeout_s: float = START_S) -> bool:
    """Wait for a condition; False when the time is up."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture(autouse=True, scope='session')
def domain() -> Iterator[None]:
    """A DDS domain that no other test process of this machine uses, and no talk beyond it."""
    with free_domain() as number:
        os.environ['ROS_DOMAIN_ID'] = str(number)
        os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
        yield


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Start `localize` or `replay` as a fork; it is stopped at the end of the test."""
    started: list[Process] = []

    def run(name: str, *arguments: object) -> Process:
        words = [*map(str, arguments)]
        started.append(Process(
            ForkedProcess(name, words) if os.environ.get('PYTHONPATH') == PYTHONPATH
            else subprocess.Popen([executable(name), *words], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True)))
        return started[-1]

    yield run
    for process in started:
        process.stop()


@pytest.fixture
def run_program() -> Iterator[Callable[[list[str]], Process]]:
    """Start any program; it is stopped at the end of the test."""
    started: list[Process] = []

    def run(command: list[str]) -> Process:
        started.append(Process(subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)))
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
def play(listener: Listener, heard: Heard) -> Callable[[Path], None]:
    """Publish a bag in step with the node: an image waits for the answer to the one before.

    So no image is dropped on a busy machine, and nobody waits on an idle one.
    """
    kinds = {f'{kind.__module__.partition(".")[0]}/msg/{kind.__name__}': kind
             for kind in (Image, CompressedImage, CameraInfo, Odometry)}

    def run(path: Path) -> None:
        with Bag(path) as bag:
            topics = {topic.name: topic.type for topic in bag.topics(*kinds)}
            senders = {name: listener.node.create_publisher(kinds[kind], name, 200)
                       for name, kind in topics.items()}
            # The truth of a town's drive is a topic as well, which no node listens to.
            wanted = [sender for name, sender in senders.items()
                      if name == '/odom' or topics[name].endswith('Image')]
            assert until(lambda: all(sender.get_subscription_count() for sender in wanted))
            sent = len(heard.matches)
            for name, _, _, message in bag.serialized(*senders):
                # Odometry of the stamp of an image may follow it, so the next image waits.
                if topics[name].endswith('Image'):
                    answered(sent)
                    sent = len(heard.matches) + 1
                senders[name].publish(message)
            answered(sent)

    def answered(count: int) -> None:
        """Wait for so many answers; an image that is lost (best effort) is passed over."""
        until(lambda: len(heard.matches) >= count, LOST_S)

    return run


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


@pytest.fixture(scope='session')
def made(small_model: Path, make_bag: Callable[..., Path], frames: Callable[..., list[Any]],
         tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], tuple[Path, Path]]:
    """Bag and map of a straight drive of so many metres, made once a worker; not to be changed."""
    @functools.cache
    def make(count: int) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp('drive')
        bag = make_bag(folder / 'bag', frames(count))
        assert main(['map', 'build', str(bag), '--out', str(folder / 'map'),
                     '--model', str(small_model)]) == 0
        return bag, folder / 'map'
    return make


@pytest.fixture
def line(made: Callable[[int], tuple[Path, Path]], tmp_path: Path) -> tuple[Path, Path]:
    """A bag of 30 m with 30 images, and a map of it with the small model."""
    bag, place_map = made(30)
    return bag, shutil.copytree(place_map, tmp_path / 'map')


@pytest.fixture
def place_map(made: Callable[[int], tuple[Path, Path]], tmp_path: Path) -> Path:
    """A map of 12 places with the small model."""
    return shutil.copytree(made(12)[1], tmp_path / 'map')


class Camera:
    """Publishes images and odometry at a rate, with rising stamps, from a thread of its own."""

    def __init__(self, listener: Listener, topic: str = '/camera/image_raw') -> None:
        self.images = listener.node.create_publisher(Image, topic, 1)
        self.odometry = listener.node.create_publisher(Odometry, '/odom', 10)
        self.stamp_s = 1000.0
        self.period_s = 0.1
        self.step_s = 1.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def drive(self, frames: list[Any], period_s: float = 0.1,
              answers: list[Any] | None = None) -> None:
        """Drive over the frames again and again, there and back, until `stop`.

        With the node's answers an image waits for the one before, so that a busy machine, which
        would drop some, gets the same sequence.
        """
        self.period_s = period_s
        there_and_back = [*frames, *frames[-2:0:-1]]
        self._stop.clear()
        self._thread = threading.Thread(
            target=self._run, args=(there_and_back, answers), daemon=True)
        self._thread.start()

    def _run(self, frames: list[Any], answers: list[Any] | None) -> None:
        number = 0
        if answers is not None:
            until(lambda: self._stop.is_set() or self.images.get_subscription_count())
        due = time.monotonic()
        while not self._stop.is_set():
            frame = frames[number % len(frames)]
            number += 1
            self.stamp_s += self.step_s
            sent = len(answers or ())
            self.send(frame)
            if answers is not None:
                until(lambda sent=sent: self._stop.is_set() or len(answers) > sent, ANSWER_S)
            due += self.period_s
            time.sleep(max(0.0, due - time.monotonic()))

    def send(self, frame: Any) -> None:
        """One image, with odometry a moment before it."""
        odometry = Odometry(child_frame_id='base_link')
        odometry.header.frame_id = 'odom'
        self._stamp(odometry.header)
        odometry.pose.pose.position.x = float(frame.T_map_base[0, 3])
        odometry.pose.pose.orientation.w = 1.0
        self.odometry.publish(odometry)
        self.images.publish(self.message(frame.rgb))

    def message(self, rgb: Any) -> Image:
        """An rgb8 image of now."""
        message = Image(height=rgb.shape[0], width=rgb.shape[1], encoding='rgb8',
                        step=rgb.shape[1] * 3, data=array.array('B', rgb.tobytes()))
        self._stamp(message.header)
        message.header.frame_id = 'camera_optical'
        return message

    def _stamp(self, header: Any) -> None:
        header.stamp.sec, header.stamp.nanosec = divmod(round(self.stamp_s * 1e9), 1_000_000_000)

    def stop(self) -> None:
        """No more images."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


@pytest.fixture
def camera(listener: Listener) -> Iterator[Camera]:
    """A camera on /camera/image_raw and odometry on /odom."""
    one = Camera(listener)
    yield one
    one.stop()


@pytest.fixture
def wait_until() -> Callable[..., bool]:
    """`until`, for tests."""
    return until


@pytest.fixture
def program() -> Callable[[str], str]:
    """`executable`, for tests."""
    return executable
