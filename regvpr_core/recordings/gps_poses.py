"""Poses from the fixes of a GPS receiver in a bag."""

from collections import Counter

import numpy as np

from regvpr_core.errors import BagError
from regvpr_core.recordings.bags import Bag, PoseSource, Topic
from regvpr_core.recordings.geodesy import (
    fill_heights,
    GpsConfig,
    headings,
    on_one_plane,
    Origin,
    valid_fix,
    yaw_poses,
)
from regvpr_core.recordings.messages import stamp_ns
from regvpr_core.recordings.pose_messages import position_covariance
from regvpr_core.recordings.runs import in_runs, refuse_jumping, run_of, split_runs
from regvpr_core.recordings.trajectory import make_trajectory
from regvpr_core.recordings.transforms import plain

NO_FIX = -1
UNKNOWN_COVARIANCE = 0


def gps_poses(
    bag: Bag, topic: Topic, gps: GpsConfig, origin: Origin | None, *, bag_time: bool = False,
    frame: str | None = None,
) -> PoseSource:
    """Poses of the antenna, x ahead and z up, from a NavSatFix topic.

    Messages without a fix, with impossible positions and jumps are omitted; notes have their
    numbers. The heading is that of the motion. If no origin is given, it is the first fix that is
    no jump.

    Raises:
        BagError: there is no valid fix, they are of several receivers, or they are too far apart
            for one map.
        ConfigError: pyproj is not installed.
    """
    fixes, covariances, stamps, recorded_at = [], [], [], []
    frames, total = Counter[str](), 0
    for _, _, time_ns, message in bag.messages(topic):
        of = plain(str(message.header.frame_id))
        if frame is not None and of != plain(frame):
            continue
        total += 1
        if message.status.status <= NO_FIX:
            continue
        frames[of] += 1
        fixes.append((message.latitude, message.longitude, message.altitude))
        known = message.position_covariance_type != UNKNOWN_COVARIANCE
        covariances.append(position_covariance(message.position_covariance if known else None))
        recorded_at.append(time_ns)
        stamps.append(time_ns if bag_time else stamp_ns(message.header.stamp) or time_ns)
    named = [name for name in frames if name]
    if len(named) > 1:
        raise BagError(f'the fixes on {topic.name} are of several frames: '
                       f'{", ".join(f"{name} ({frames[name]} fixes)" for name in named)}; choose '
                       f'one with {" or ".join(f"--pose-frame {name}" for name in named)}')
    places = np.array(fixes, dtype=np.float64).reshape(-1, 3)
    valid = valid_fix(places[:, 0], places[:, 1])
    if not valid.any():
        raise BagError(f'{topic.name} in {bag.path} holds no fix: {total} messages, '
                       f'{total - len(fixes)} of them say that there is none')
    places, spread = places[valid], np.array(covariances)[valid]
    at = np.array(stamps, dtype=np.int64)[valid]
    recorded = np.array(recorded_at, dtype=np.int64)[valid]
    notes: list[str] = []
    runs, jumps, filled, still = [], 0, 0, True
    for which in split_runs(at, recorded):
        # In time order, one fix per stamp, so that a late message does not look like a jump.
        times, first = np.unique(at[which], return_index=True)
        lla = places[which[first]]
        lla[:, 2], without = fill_heights(lla[:, 2], times)
        origin, positions, keep = on_one_plane(lla, origin, gps.max_speed_mps, times)
        yaw = headings(positions, gps.heading_step_m)
        jumps, filled = jumps + int((~keep).sum()), filled + int((without & keep).sum())
        still = still and bool(np.isnan(yaw).any())
        poses = make_trajectory(times[keep], yaw_poses(positions, yaw),
                                spread[which[first]][keep])
        runs.append(run_of(poses, at[which], recorded[which]))
    if left := total - int(valid.sum()):
        notes.append(f'{left} of {total} messages on {topic.name} hold no fix: left out')
    if jumps:
        notes.append(f'{jumps} fixes on {topic.name} are jumps: left out')
    if filled:
        notes.append(f'{filled} fixes on {topic.name} have no altitude: that of their neighbours '
                     f'is taken')
    if still:
        notes.append(f'the receiver on {topic.name} never moves: its heading is taken as east')
    trajectory = in_runs(runs)
    refuse_jumping(trajectory, topic.name)
    return PoseSource(trajectory, '', next(iter(named), ''), topic.name, origin, notes)
