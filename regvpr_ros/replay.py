"""Publishes the images and odometry of a bag, for machines without `ros2 bag`."""

import argparse
import importlib
from pathlib import Path
import sys
import time
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy

from regvpr_core.errors import BagError, RegvprError
from regvpr_core.recordings.bags import Bag, IMAGE_TYPES, ODOMETRY_TYPE

CAMERA_INFO_TYPE = 'sensor_msgs/msg/CameraInfo'
OTHERS_S = 2.0
DEFAULT_TYPES = (*IMAGE_TYPES, ODOMETRY_TYPE, CAMERA_INFO_TYPE)


class Replay(Node):
    """One publisher per topic; messages keep their stamps."""

    def __init__(self, bag: Bag, topics: list[str]) -> None:
        """Create publishers for the named topics, by default images, camera infos and odometry.

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
        self._senders: dict[str, Any] = {}
        for name in names:
            # Images need no history, since subscribers use the newest; odometry must be complete.
            depth = 1 if there[name].type in IMAGE_TYPES else 200
            qos = QoSProfile(depth=depth, reliability=ReliabilityPolicy.RELIABLE)
            self._senders[name] = self.create_publisher(_type(there[name].type), name, qos)

    def wait_for_subscribers(self, timeout_s: float) -> bool:
        """Wait until an image topic has a subscriber; False after the timeout.

        Waits a moment longer, because discovery finds the topics of a subscriber one by one.
        """
        deadline = time.monotonic() + timeout_s
        images = [p for p in self._senders.values() if p.msg_type.__name__.endswith('Image')]
        while not any(p.get_subscription_count() for p in images or self._senders.values()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        deadline = time.monotonic() + OTHERS_S
        while not all(p.get_subscription_count() for p in self._senders.values()):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return True

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
    """Replay a bag; exit code 1 if it cannot be read."""
    given = arguments
    arguments = rclpy.utilities.remove_ros_args(sys.argv if given is None else given)[1:]
    parser = argparse.ArgumentParser(prog='replay', description=__doc__)
    parser.add_argument('bag', type=Path, metavar='BAG')
    parser.add_argument('--rate', type=float, default=1.0, help='times the recorded speed')
    parser.add_argument('--topics', nargs='+', default=[], metavar='TOPIC',
                        help='default: images, camera infos and odometry')
    parser.add_argument('--wait', type=float, default=10.0, metavar='S',
                        help='for a subscriber to the images, s')
    parser.add_argument('--limit', type=int, metavar='N', help='stop after N messages')
    options = parser.parse_args(arguments)
    if not options.rate > 0:
        parser.error(f'--rate is {options.rate}; expected a positive number')
    rclpy.init(args=sys.argv if given is None else given)
    node = None
    try:
        with Bag(options.bag) as bag:
            node = Replay(bag, options.topics)
            if not node.wait_for_subscribers(options.wait):
                node.get_logger().warning(
                    f'nobody listens after {options.wait:g} s; playing anyway')
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
