"""Broadcasts map -> odom on /tf, for stacks without another source of it."""

import importlib
from typing import Any

from regvpr_core.errors import ConfigError
from regvpr_core.geometry import Array, quat_xyzw

AHEAD_NS = 200_000_000
"""Stamps are this far in the future, as with AMCL, so that a current look-up succeeds."""


class TransformBroadcast:
    """Repeats the last transform, so that it does not expire between fixes."""

    PERIOD_S = 0.1

    def __init__(self, node: Any) -> None:
        """Create the broadcaster.

        Raises:
            ConfigError: tf2_ros is not installed.
        """
        try:
            tf2_ros = importlib.import_module('tf2_ros')
        except ImportError as error:
            raise ConfigError("parameter 'broadcast_tf' needs tf2_ros, which cannot be imported; "
                              "install ros-$ROS_DISTRO-tf2-ros or set it to false") from error
        from geometry_msgs.msg import TransformStamped

        self._kind = TransformStamped
        self._clock = node.get_clock()
        self._ahead = importlib.import_module('rclpy.duration').Duration(nanoseconds=AHEAD_NS)
        self._broadcaster = tf2_ros.TransformBroadcaster(node)
        self._last: Any = None

    def send(self, T_map_odom: Array, map_frame: str, odom_frame: str) -> None:
        """Set a new fix (4, 4). Nothing is sent if the odometry frame is unknown."""
        if not odom_frame or odom_frame == map_frame:
            return
        message = self._kind(child_frame_id=odom_frame)
        message.header.frame_id = map_frame
        move, turn = message.transform.translation, message.transform.rotation
        move.x, move.y, move.z = map(float, T_map_odom[:3, 3])
        turn.x, turn.y, turn.z, turn.w = map(float, quat_xyzw(T_map_odom))
        self._last = message
        self.repeat()

    def repeat(self) -> None:
        """Send the last transform again, with a new stamp."""
        if self._last is not None:
            self._last.header.stamp = (self._clock.now() + self._ahead).to_msg()
            self._broadcaster.sendTransform(self._last)

    def forget(self) -> None:
        """Send nothing until the next fix."""
        self._last = None
