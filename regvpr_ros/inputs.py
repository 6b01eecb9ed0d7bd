"""Subscriptions of the active node. Callbacks, called by `Receiver`, only store messages."""

from collections.abc import Callable
import time
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import (
    DurabilityPolicy,
    qos_check_compatible,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
)
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo

from regvpr_core.errors import BagError, ConfigError, ImageError
from regvpr_core.live.decode_ahead import Arrival, DecodeAhead
from regvpr_core.recordings.messages import pose_T, stamp_ns
from regvpr_ros import interfaces
from regvpr_ros.interfaces import of_camera, Topic
from regvpr_ros.node_state import NodeState
from regvpr_ros.receiver import NotExecuted, Receiver

SILENT_PERIOD_S = 10.0
"""Interval of log lines about topics without messages, after image_timeout_s, s."""


class Inputs:
    """Subscriptions to images, intrinsics and odometry."""

    def __init__(self, node: Any, state: NodeState, ahead: DecodeAhead) -> None:
        """Subscribe.

        Args:
            node: the subscribing node.
            state: stores the messages.
            ahead: gets each compressed image.
        """
        self._node, self._state, self._ahead = node, state, ahead
        self._subscriptions: list[Any] = []
        self._group = NotExecuted()
        self._silent: dict[str, tuple[str, Topic]] = {}
        self._tell_at = time.monotonic() + state.config.image_timeout_s
        config = state.config
        for camera in config.cameras:
            # Messages stay serialized, so that images which are replaced are never parsed.
            self._listen(interfaces.COMPRESSED if config.is_compressed(camera)
                         else interfaces.IMAGE, self._image_callback(camera), camera)
            if config.wants_intrinsics:
                self._listen(interfaces.CAMERA_INFO, self._info_callback(camera), camera)
        if config.use_odometry:
            self._listen(interfaces.ODOM, self._on_odometry, raw=False)
        # Logged before the receiver starts: its thread removes each topic at its first message.
        state.log.info('waiting for ' + ', '.join(
            f'{name} ({what})' for name, (what, _) in self._silent.items()))
        self._receiver = Receiver(
            node.context, self._subscriptions,
            lambda error: state.refuse('internal', f'{type(error).__name__}: {error}'))

    def report(self) -> None:
        """Log topics without messages so far, with the likely cause. To be called regularly."""
        now = time.monotonic()
        if not self._silent or now < self._tell_at:
            return
        self._tell_at = now + SILENT_PERIOD_S
        self._state.log.warning('still waiting for ' + '; '.join(
            f'{name} ({what}): {self._known(name, topic)}'
            for name, (what, topic) in tuple(self._silent.items())))

    def _known(self, name: str, topic: Topic) -> str:
        """Publishers of a topic, and why no message arrives."""
        wanted = f'{topic.kind.__module__.split(".")[0]}/msg/{topic.kind.__name__}'
        publishers = self._node.get_publishers_info_by_topic(name)
        if not publishers:
            there = sorted(other for other, kinds in self._node.get_topic_names_and_types()
                           if wanted in kinds and other != name and self._is_of_others(other))
            return 'no publisher' + (f'; {wanted} is published on {", ".join(there[:4])}'
                                     if there else '')
        others = {one.topic_type for one in publishers} - {wanted}
        if others:
            return (f'{len(publishers)} publisher(s) of {", ".join(sorted(others))}, not of '
                    f'{wanted}' + ('; set compressed:=true'
                                   if 'sensor_msgs/msg/CompressedImage' in others else ''))
        for subscription in self._subscriptions:
            if subscription.topic_name == name:
                for one in publishers:
                    verdict, reason = qos_check_compatible(
                        one.qos_profile, subscription.qos_profile)
                    if verdict == QoSCompatibility.ERROR:
                        return (f'the QoS of its publisher {one.node_name} does not fit: '
                                f'{reason.strip()}')
        return f'{len(publishers)} publisher(s), but no message arrived'

    def _is_of_others(self, name: str) -> bool:
        """Whether a topic has a publisher besides this node."""
        own = self._node.get_name(), self._node.get_namespace()
        return any((one.node_name, one.node_namespace) != own
                   for one in self._node.get_publishers_info_by_topic(name))

    def close(self) -> None:
        """Remove the subscriptions."""
        self._receiver.close()
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()

    def _listen(self, topic: Topic, callback: Callable[[Any], None], camera: str = '',
                raw: bool = True) -> None:
        def heard(message: Any) -> None:
            self._silent.pop(name, None)
            callback(message)

        # Handlers of QoS events would wake the executor for every message, since an event and a
        # message share one condition in DDS: it then turns in vain until the message is taken.
        subscription = self._node.create_subscription(
            topic.kind, of_camera(camera, topic), heard, qos(topic), raw=raw,
            callback_group=self._group,
            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            qos_overriding_options=QoSOverridingOptions.with_default_policies())
        self._subscriptions.append(subscription)
        name = subscription.topic_name
        self._silent[name] = (topic.name.partition('/')[0], topic)

    def _image_callback(self, camera: str) -> Callable[[bytes], None]:
        state, compressed = self._state, self._state.config.is_compressed(camera)

        def on_image(raw: bytes) -> None:
            state.health.image_arrived()
            arrival = Arrival(raw, time.monotonic())
            state.mailbox.put(arrival, camera)
            if compressed and state.gate.admits_all:
                self._ahead.offer(camera, arrival)

        return on_image

    def _info_callback(self, camera: str) -> Callable[[bytes], None]:
        state = self._state

        def on_info(raw: bytes) -> None:
            if not state.infos.due(camera):
                return
            try:
                state.infos.put(camera, _camera_info(raw))
            except (ConfigError, ImageError) as error:
                state.refuse('camera_info', f'{camera}: {error}' if camera else str(error))

        return on_info

    def _on_odometry(self, message: Odometry) -> None:
        state = self._state
        try:
            stamp, T_odom_base = stamp_ns(message.header.stamp), pose_T(message.pose.pose)
        except BagError as error:
            state.refuse('odometry', str(error))
            return
        state.health.odometry_at, state.health.odometry_ns = time.monotonic(), stamp
        state.odom_frame = state.config.odom_frame or message.header.frame_id
        state.odometry.put(stamp, T_odom_base)
        state.trail.put(stamp, T_odom_base)


def qos(topic: Topic) -> QoSProfile:
    """Quality of service of a topic."""
    return QoSProfile(
        depth=topic.depth,
        reliability=ReliabilityPolicy.RELIABLE if topic.reliable
        else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if topic.latched
        else DurabilityPolicy.VOLATILE)


def _camera_info(raw: bytes) -> Any:
    try:
        return deserialize_message(raw, CameraInfo)
    except Exception as error:
        raise ImageError(f'a message of {len(raw)} bytes is no CameraInfo: {error}') from error
