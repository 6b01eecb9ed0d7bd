"""Publishes the images and odometry of a bag, for machines without `ros2 bag`."""

import argparse
from collections.abc import Callable
import importlib
from pathlib import Path
import sys
import time
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from regvpr_core.errors import BagError, RegvprError
from regvpr_core.recordings.bags import Bag, IMAGE_TYPES, ODOMETRY_TYPE

CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
TF_TYPE = 'tf2_msgs/msg/TFMessage'
WAIT_S = 120.0
OTHERS_S = 2.0
DEFAULT_TYPES = (*IMAGE_TYPES, ODOMETRY_TYPE, CAMERA_INFO_TYPE)


class Replay(Node):
    """One publisher per topic; messages keep their stamps."""

    def __init__(self, bag: Bag, topics: list[str]) -> None:
        """Create publishers.

        Args:
            bag: the recording.
            topics: names; none for images, camera infos, odometry and, where its messages are
                installed, /tf_static.

        Raises:
            BagError: a topic is missing, or its message package is not installed.
        """
        super().__init__('replay')
        there = {topic.name: topic for topic in bag.topics()}
        missing = [name for name in topics if name not in there]
        if missing:
            raise BagError(f'{bag.path} has no topic {missing[0]!r}; it has: {", ".join(there)}')
        names = topics or [t.name for t in bag.topics(*DEFAULT_TYPES)]
        if not names:
            raise BagError(f'{bag.path} holds no images and no odometry; name others with '
                           f'--topics')
        static = [t.name for t in bag.topics(TF_TYPE) if not topics and _is_static(t.name)]
        try:
            names += [name for name in static if _type(TF_TYPE)]
        except BagError:
            self.get_logger().info(f'{static[0]} is left out: tf2_msgs is not installed')
        self._senders: dict[str, Any] = {}
        for name in names:
            # Images need no history, since subscribers use the newest; odometry must be complete.
            depth = 1 if there[name].type in IMAGE_TYPES else 200
            # Static transforms are published once, so they are kept for later subscribers.
            qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE,
                             durability=DurabilityPolicy.TRANSIENT_LOCAL
                             if _is_static(name) else DurabilityPolicy.VOLATILE)
            self._senders[name] = self.create_publisher(_type(there[name].type), name, qos)

    def wait_for_subscribers(self, timeout_s: float) -> None:
        """Wait until an image topic has a subscriber.

        Waits a moment longer, because discovery finds the topics of a subscriber one by one.

        Raises:
            BagError: nobody has subscribed within the timeout.
        """
        live = {name: p for name, p in self._senders.items() if not _is_static(name)}
        wanted = {name: p for name, p in live.items()
                  if p.msg_type.__name__.endswith('Image')} or live or self._senders
        names = ', '.join(wanted)
        self.get_logger().info(f'waiting for a subscriber to {names}')
        if not _until(lambda: any(p.get_subscription_count() for p in wanted.values()),
                      timeout_s):
            raise BagError(
                f'nobody has subscribed to {names} within {timeout_s:g} s, so nothing was played; '
                f'start the node with its inputs remapped to these topics and with the same '
                f'ROS_DOMAIN_ID, wait longer with --wait S, or play at once with --wait 0')
        _until(lambda: all(p.get_subscription_count() for p in live.values()), OTHERS_S)

    def play(self, bag: Bag, rate: float, limit: int | None) -> int:
        """Publish at `rate` times the recorded speed; return the number of messages."""
        start, first, sent = time.monotonic(), None, 0
        for topic, _, time_ns, raw in bag.serialized(*self._senders):
            first = time_ns if first is None else first
            delay = start + (time_ns - first) / 1e9 / rate - time.monotonic()
            if delay > 0:
                time.sleep(delay)
            if not rclpy.ok() or sent == limit:
                break
            self._senders[topic].publish(raw)
            sent += 1
        return sent


def main(arguments: list[str] | None = None) -> int:
    """Replay a bag; exit code 1 if it cannot be read, or nobody listens."""
    given = arguments
    arguments = rclpy.utilities.remove_ros_args(sys.argv if given is None else given)[1:]
    parser = argparse.ArgumentParser(prog='replay', description=__doc__)
    parser.add_argument('bag', type=Path, metavar='BAG')
    parser.add_argument('--rate', type=float, default=1.0, help='times the recorded speed')
    parser.add_argument('--topics', nargs='+', default=[], metavar='TOPIC',
                        help='default: images, camera infos, odometry and /tf_static')
    parser.add_argument('--wait', type=float, default=WAIT_S, metavar='S',
                        help='longest wait for a subscriber to the images, in s (default '
                             '%(default)g); without one nothing is played; 0 plays at once')
    parser.add_argument('--limit', type=int, metavar='N', help='stop after N messages')
    options = parser.parse_args(arguments)
    if not options.rate > 0:
        parser.error(f'--rate is {options.rate}; expected a positive number')
    if not options.wait >= 0:
        parser.error(f'--wait is {options.wait}; expected 0 or more seconds')
    rclpy.init(args=sys.argv if given is None else given)
    node = None
    try:
        with Bag(options.bag) as bag:
            node = Replay(bag, options.topics)
            if options.wait:
                node.wait_for_subscribers(options.wait)
            sent = node.play(bag, options.rate, options.limit)
            node.get_logger().info(f'sent {sent} messages')
            time.sleep(0.2)  # time to send the last messages
    except RegvprError as error:
        print(f'replay: {error}', file=sys.stderr)  # noqa: T201
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a condition; False after the timeout. Raises ExternalShutdownException."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if not rclpy.ok():
            raise ExternalShutdownException
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _is_static(topic: str) -> bool:
    """Whether a topic holds static transforms: /tf_static, also in a namespace."""
    return topic.rpartition('/')[2] == 'tf_static'


def _type(name: str) -> Any:
    """Message class of a type name such as sensor_msgs/msg/Image."""
    package, _, message = name.partition('/msg/')
    try:
        return getattr(importlib.import_module(f'{package}.msg'), message)
    except (ImportError, AttributeError) as error:
        raise BagError(f'messages of {package} are not installed, so {name} cannot be sent; '
                       f'choose other topics with --topics') from error


if __name__ == '__main__':
    sys.exit(main())
