"""Records live topics to a bag, for `regvpr quickstart --record-s`."""

from collections.abc import Callable
import importlib
import importlib.util
from pathlib import Path
import time

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, qos_profile_sensor_data, QoSProfile

from regvpr_core.errors import BagError
from regvpr_core.recordings.bag_writer import BagWriter

DISCOVERY_S = 5.0
"""Timeout for the publishers of the recorded topics, s."""

LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
TRANSFORMS = {'/tf': 'tf2_msgs/msg/TFMessage', '/tf_static': 'tf2_msgs/msg/TFMessage'}
"""Also recorded if tf2_msgs is installed, because they contain the extrinsics."""


def record(
    out: Path, image_topic: str, pose_topic: str, seconds: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Record images, poses and TF.

    Args:
        out: folder of the bag to create.
        image_topic, pose_topic: full names of the topics.
        seconds: duration.
        progress: called with seconds recorded and in total.

    Returns:
        The folder of the bag.

    Raises:
        BagError: a topic has no publisher, or sent nothing.
    """
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('regvpr_recorder', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    counts = {image_topic: 0, pose_topic: 0}
    try:
        types = _types(node, (image_topic, pose_topic))
        if importlib.util.find_spec('tf2_msgs'):
            types |= TRANSFORMS
        with BagWriter(out) as bag:
            def keep(topic: str, kind: str) -> Callable[[bytes], None]:
                def write(cdr: bytes) -> None:
                    counts[topic] = counts.get(topic, 0) + 1
                    bag.write(topic, kind, time.time_ns(), cdr)
                return write

            for topic, kind in types.items():
                quality = LATCHED if topic == '/tf_static' else qos_profile_sensor_data
                node.create_subscription(_class(kind), topic, keep(topic, kind), quality, raw=True)
            end = time.monotonic() + seconds
            while (left := end - time.monotonic()) > 0.0:
                executor.spin_once(timeout_sec=min(left, 0.5))
                progress(int(seconds - left), int(seconds))
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)
    silent = [topic for topic in (image_topic, pose_topic) if not counts[topic]]
    if silent:
        raise BagError(f'no message on {", ".join(silent)} within {seconds:g} s; does its '
                       f'publisher run, with a QoS that a sensor-data subscription can hear?')
    return out


def _types(node: Node, topics: tuple[str, ...]) -> dict[str, str]:
    """Wait for publishers; return the type of each topic."""
    end = time.monotonic() + DISCOVERY_S
    while True:
        there = dict(node.get_topic_names_and_types())
        missing = [topic for topic in topics if topic not in there]
        if not missing:
            return {topic: there[topic][0] for topic in topics}
        if time.monotonic() > end:
            images = [name for name, kinds in there.items() if kinds[0] in IMAGE_TYPES]
            raise BagError(f'nobody publishes {", ".join(missing)}; published image topics: '
                           f'{", ".join(sorted(images)) or "none"}')
        time.sleep(0.1)


def _class(kind: str) -> type:
    """The message class of a type such as nav_msgs/msg/Odometry."""
    package, _, name = kind.split('/')
    found: type = getattr(importlib.import_module(f'{package}.msg'), name)
    return found
