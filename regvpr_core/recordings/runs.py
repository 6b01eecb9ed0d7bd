"""Recordings whose clock was set back, so that a stamp occurs in several runs.

If simulated time restarts or a clock is set back, stamps fall while the time of recording rises.
Poses of different runs are never mixed: the time of recording selects the run.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Int64
from regvpr_core.errors import BagError
from regvpr_core.geometry import Array
from regvpr_core.recordings.trajectory import make_trajectory, Trajectory

RESET_NS = 1_000_000_000
"""If stamps fall by more than this, the clock was reset, else a message is late, ns."""

LEAST_RUN = 3
"""Least number of poses of a run; fewer are stray stamps."""

FASTEST_MPS, LEAST_STEPS = 100.0, 6
"""Largest plausible median speed, m/s, and the least number of steps for this test."""

THERE_AND_BACK_M, THERE_AND_BACK_MPS, THERE_AND_BACK_SHARE = 0.5, 5.0, 0.12
"""Poses that alternate between two places (two publishers): least distance, speed and share of
poses for which they are refused."""


class Poses(Protocol):
    """Poses of one body in one world over time."""

    @property
    def stamps_ns(self) -> Int64:
        """Times between the first and the last of which poses are known."""

    @property
    def spacing_s(self) -> float:
        """Median time between poses, s."""

    def at(self, stamp_ns: int, max_gap_s: float, recorded_ns: int | None = None) -> Array | None:
        """Pose (4, 4) at a time, None if unknown."""

    def covariance_at(self, stamp_ns: int, recorded_ns: int | None = None) -> Array | None:
        """Covariance (3, 3) of the position, if known."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Poses between two resets of the clock, and their times of recording."""

    poses: Trajectory
    first_ns: int
    last_ns: int
    offset_ns: int

    def distance_ns(self, recorded_ns: int) -> int:
        """Distance of a time of recording from the run."""
        return max(self.first_ns - recorded_ns, recorded_ns - self.last_ns, 0)


@dataclass(frozen=True, slots=True, eq=False)
class RunPoses:
    """Poses in two or more runs of one clock."""

    runs: tuple[Run, ...]

    @property
    def stamps_ns(self) -> Int64:
        """The stamps of all runs, sorted."""
        return np.sort(np.concatenate([run.poses.stamps_ns for run in self.runs]))

    @property
    def spacing_s(self) -> float:
        """Median time between poses of the longest run, s."""
        return max((run.poses for run in self.runs), key=len).spacing_s

    def at(self, stamp_ns: int, max_gap_s: float, recorded_ns: int | None = None) -> Array | None:
        """Pose (4, 4) at a time in the run in which it was recorded."""
        return next((T for run in self._runs(stamp_ns, recorded_ns)
                     if (T := run.poses.at(stamp_ns, max_gap_s)) is not None), None)

    def covariance_at(self, stamp_ns: int, recorded_ns: int | None = None) -> Array | None:
        """Covariance (3, 3) of the position in that run."""
        return next((C for run in self._runs(stamp_ns, recorded_ns)
                     if (C := run.poses.covariance_at(stamp_ns)) is not None), None)

    def _runs(self, stamp_ns: int, recorded_ns: int | None) -> list[Run]:
        """The runs that may contain a stamp, the most probable first."""
        if recorded_ns is None:
            return []
        nearest = min(run.distance_ns(recorded_ns) for run in self.runs)
        near = [run for run in self.runs if run.distance_ns(recorded_ns) <= nearest + RESET_NS]
        return sorted(near, key=lambda run: abs(recorded_ns - stamp_ns - run.offset_ns))


def poses_of(stamps_ns: npt.ArrayLike, recorded_ns: npt.ArrayLike, poses: Array,
             covariances: Array | None = None, name: str = '') -> Trajectory | RunPoses:
    """Poses (N, 4, 4) by their stamps, split into runs if the clock was set back.

    Args:
        stamps_ns: (N,) of the messages.
        recorded_ns: (N,) times of recording.
        poses: (N, 4, 4).
        covariances: (N, 3, 3) of the positions, if any is known.
        name: of the source, for messages.

    Raises:
        BagError: many stamps have two different poses.
    """
    stamps, recorded = np.asarray(stamps_ns, np.int64), np.asarray(recorded_ns, np.int64)
    _refuse_two_at_once(stamps, recorded, poses, name)
    return in_runs([
        run_of(make_trajectory(stamps[which], poses[which],
                               None if covariances is None else covariances[which]),
               stamps[which], recorded[which]) for which in split_runs(stamps, recorded)])


def run_of(poses: Trajectory, stamps_ns: Int64, recorded_ns: Int64) -> Run:
    """One run: its poses, and the stamps (N,) and times of recording (N,) of its messages."""
    return Run(poses, int(recorded_ns.min()), int(recorded_ns.max()),
               int(np.median(recorded_ns - stamps_ns)))


def in_runs(runs: list[Run]) -> Trajectory | RunPoses:
    """The poses of all runs; a single trajectory if there is one run."""
    return runs[0].poses if len(runs) == 1 else RunPoses(tuple(runs))


def split_runs(stamps: Int64, recorded: Int64) -> list[Int64]:
    """Indices of the messages of each run, in the order of recording."""
    order = np.argsort(recorded, kind='stable')
    back = np.flatnonzero((np.diff(stamps[order]) < -RESET_NS)
                          & (np.diff(recorded[order]) > 0)) + 1
    parts = [part for part in np.split(order, back) if len(part) >= LEAST_RUN]
    if not len(back) or len(parts) < 2:
        return [order if not len(back) or not parts else parts[0]]
    runs: list[Int64] = []
    offsets: list[float] = []
    for part in parts:
        offset = float(np.median(recorded[part] - stamps[part]))
        if runs and abs(offset - offsets[-1]) <= RESET_NS:  # a late message, no reset
            runs[-1] = np.concatenate([runs[-1], part])
        else:
            runs.append(part)
            offsets.append(offset)
    return runs


def refuse_jumping(poses: Trajectory | RunPoses, name: str) -> None:
    """Refuse implausible poses.

    Raises:
        BagError: the median speed is above `FASTEST_MPS`, or poses alternate between two places:
            two publishers on one topic, or a wrong unit.
    """
    for each in [run.poses for run in poses.runs] if isinstance(poses, RunPoses) else [poses]:
        positions = each.poses[:, :3, 3]
        step = np.linalg.norm(np.diff(positions, axis=0), axis=1)
        back = _there_and_back(positions, each.stamps_ns)
        if back >= max(LEAST_STEPS, THERE_AND_BACK_SHARE * len(each)):
            raise BagError(f'the poses of {name} jump to another place and back, {back} times in '
                           f'{len(each)} poses: do two sources publish there? record them on '
                           f'topics of their own, or give poses by --tum FILE')
        moves = step > 0.01
        if moves.sum() < LEAST_STEPS:
            continue
        seconds = np.maximum(np.diff(each.stamps_ns) / 1e9, 1e-3)[moves]
        speed = float(np.median(step[moves] / seconds))
        if speed <= FASTEST_MPS:
            continue
        extent = float(np.ptp(each.poses[:, :3, 3], axis=0).max())
        if step.sum() > 8.0 * extent:
            raise BagError(f'the poses of {name} jump to and fro at {speed:.0f} m/s: do two '
                           f'sources publish there? record them on topics of their own, or give '
                           f'poses by --tum FILE')
        raise BagError(f'the poses of {name} move at {speed:.0f} m/s: are the positions in '
                       f'millimetres, or the stamps in another unit than they should be? '
                       f'expected metres and seconds')


def _there_and_back(positions: Array, stamps_ns: Int64) -> int:
    """Number of poses that differ from the previous and the next one, which agree."""
    step = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    fast = step > THERE_AND_BACK_MPS * np.diff(stamps_ns) / 1e9
    least = np.minimum(step[:-1], step[1:])
    net = np.linalg.norm(positions[2:] - positions[:-2], axis=1)
    return int((fast[:-1] & fast[1:] & (least > THERE_AND_BACK_M) & (net < 0.3 * least)).sum())


def _refuse_two_at_once(stamps: Int64, recorded: Int64, poses: Array, name: str) -> None:
    """Refuse poses if many share a stamp with a different pose."""
    order = np.lexsort((recorded, stamps))
    same = (np.diff(stamps[order]) == 0) & (np.diff(recorded[order]) < RESET_NS)
    apart = np.linalg.norm(np.diff(poses[order][:, :3, 3], axis=0), axis=1) > THERE_AND_BACK_M
    count = int((same & apart).sum())
    if count >= max(LEAST_STEPS, THERE_AND_BACK_SHARE * len(stamps)):
        raise BagError(f'{count} of {len(stamps)} poses of {name} have the stamp of another one '
                       f'that lies elsewhere: do two sources publish there? record them on topics '
                       f'of their own, or give poses by --tum FILE')
