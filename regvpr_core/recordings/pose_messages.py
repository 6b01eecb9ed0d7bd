"""Converts pose messages of a recording to arrays; invalid ones are counted and omitted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from regvpr_core.errors import BagError
from regvpr_core.geometry import Array
from regvpr_core.recordings.messages import pose_T, stamp_ns
from regvpr_core.recordings.runs import poses_of, RunPoses
from regvpr_core.recordings.trajectory import Trajectory
from regvpr_core.recordings.transforms import plain

ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'
POSE_TYPES = (ODOMETRY_TYPE, 'geometry_msgs/msg/PoseStamped',
              'geometry_msgs/msg/PoseWithCovarianceStamped')


@dataclass(slots=True)
class PoseTable:
    """Poses of one body in one world, in the order of the messages.

    recorded_ns: times of recording. bad: number of invalid poses; why: reason of the first.
    """

    world_frame: str = ''
    body_frame: str = ''
    stamps_ns: list[int] = field(default_factory=list)
    recorded_ns: list[int] = field(default_factory=list)
    poses: list[Array] = field(default_factory=list)
    covariances: list[Array] = field(default_factory=list)
    bad: int = 0
    why: str = ''

    @property
    def frames(self) -> str:
        """Its two frames, in words."""
        return ' -> '.join(frame for frame in (self.world_frame or 'no frame', self.body_frame)
                           if frame)

    def trajectory(self, name: str) -> Trajectory | RunPoses:
        """The poses of a topic by time, with covariances of positions if any is known."""
        known = any(np.isfinite(c).all() for c in self.covariances)
        return poses_of(self.stamps_ns, self.recorded_ns, np.array(self.poses),
                        np.array(self.covariances) if known else None, name)


def read_poses(messages: Iterable[tuple[int, Any]], *, bag_time: bool) -> list[PoseTable]:
    """Read (bag time in ns, message) of `POSE_TYPES`: a table for each pair of frames.

    A stamp of zero is replaced by the bag's time; with `bag_time` all stamps are.
    """
    tables: dict[tuple[str, str], PoseTable] = {}
    for time_ns, message in messages:
        pose, covariance = message.pose, None
        if hasattr(pose, 'pose'):
            pose, covariance = pose.pose, pose.covariance
        frames = (plain(message.header.frame_id), plain(getattr(message, 'child_frame_id', '')))
        table = tables.setdefault(frames, PoseTable(*frames))
        try:
            table.poses.append(pose_T(pose))
        except (BagError, AttributeError) as error:
            table.bad += 1
            table.why = table.why or str(error)
            continue
        table.stamps_ns.append(time_ns if bag_time else stamp_ns(message.header.stamp) or time_ns)
        table.recorded_ns.append(time_ns)
        table.covariances.append(position_covariance(covariance))
    return list(tables.values())


def one_pair(tables: Sequence[PoseTable], wanted: str | None, topic: str
             ) -> tuple[PoseTable, list[str]]:
    """The table of the requested pair of frames, or the only one; and notes.

    Messages without a frame are omitted if others have one.

    Raises:
        BagError: several pairs (the message lists them with the option that selects one), or the
            requested one does not exist.
    """
    filled = [table for table in tables if table.poses]
    named = [table for table in filled if table.world_frame] or filled
    notes = [f'{len(table.poses)} poses on {topic} name no frame: left out'
             for table in filled if table not in named]
    chosen = [table for table in named if wanted is None or wanted in (
        table.world_frame, f'{table.world_frame}:{table.body_frame}')]
    listed = ', '.join(f'{table.frames} ({len(table.poses)} poses)' for table in named)
    if not chosen and wanted is not None:
        raise BagError(f'{topic} has no poses in frame {wanted!r}; it has: {listed or "none"}')
    if len(chosen) > 1:
        names = [table.world_frame for table in chosen]
        picks = ' or '.join(dict.fromkeys(
            f'--pose-frame {table.world_frame}' if names.count(table.world_frame) == 1 else
            f'--pose-frame {table.world_frame}:{table.body_frame}' for table in chosen))
        raise BagError(f'the poses on {topic} are in several frames: {listed}; choose one with '
                       f'{picks}')
    if wanted is not None and len(named) > 1:
        notes.append(f'{topic} has poses in several frames: {listed}; those in {wanted} are taken')
    return (chosen[0] if chosen else PoseTable()), notes


def position_covariance(values: Any) -> Array:
    """Position part (3, 3) of a pose's covariance of 36 numbers, m^2.

    NaN if unknown: all zeros, a first value of -1 (ROS conventions), or an invalid covariance.
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
