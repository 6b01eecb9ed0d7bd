"""Pose messages of a recording as arrays; what makes no sense is left out and counted."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from regvpr_core.errors import BagError
from regvpr_core.geometry import Array
from regvpr_core.recordings.messages import pose_T, stamp_ns
from regvpr_core.recordings.trajectory import make_trajectory, Trajectory

ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'
POSE_TYPES = (ODOMETRY_TYPE, 'geometry_msgs/msg/PoseStamped',
              'geometry_msgs/msg/PoseWithCovarianceStamped')


@dataclass(slots=True)
class PoseTable:
    """Poses in the order of the messages. bad: how many were left out; why: the first of them."""

    stamps_ns: list[int] = field(default_factory=list)
    poses: list[Array] = field(default_factory=list)
    covariances: list[Array] = field(default_factory=list)
    world_frame: str = ''
    body_frame: str = ''
    bad: int = 0
    why: str = ''

    def trajectory(self) -> Trajectory:
        """The poses by time, with the covariances of their positions where any is known."""
        known = any(np.isfinite(c).all() for c in self.covariances)
        return make_trajectory(self.stamps_ns, np.array(self.poses),
                               np.array(self.covariances) if known else None)


def read_poses(messages: Iterable[tuple[int, Any]], *, bag_time: bool) -> PoseTable:
    """Read (bag time in ns, message) of the types in `POSE_TYPES`.

    A stamp of zero counts as the bag's time, and with `bag_time` every stamp does.
    """
    table = PoseTable()
    for time_ns, message in messages:
        pose, covariance = message.pose, None
        if hasattr(pose, 'pose'):
            pose, covariance = pose.pose, pose.covariance
        try:
            table.poses.append(pose_T(pose))
        except BagError as error:
            table.bad += 1
            table.why = table.why or str(error)
            continue
        table.stamps_ns.append(time_ns if bag_time else stamp_ns(message.header.stamp) or time_ns)
        table.covariances.append(position_covariance(covariance))
        table.world_frame = message.header.frame_id.lstrip('/')
        table.body_frame = getattr(message, 'child_frame_id', '').lstrip('/')
    return table


def position_covariance(values: Any) -> Array:
    """The (3, 3) of the position in the 36 numbers of a pose's covariance, m^2.

    All NaN where it is not known: all zeros or -1 first mean so in ROS, and what is no covariance
    says nothing.
    """
    unknown = np.full((3, 3), np.nan)
    if values is None or len(values) not in (9, 36):
        return unknown
    side = 3 if len(values) == 9 else 6
    block = np.array(values, dtype=np.float64).reshape(side, side)[:3, :3]
    block = (block + block.T) / 2.0
    if not np.isfinite(block).all() or not block.any() or np.linalg.eigvalsh(block)[0] < 0.0:
        return unknown
    return block
