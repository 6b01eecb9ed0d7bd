"""Poses over time: TUM and KITTI files, interpolation at an image's stamp."""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
import math
from pathlib import Path
import re

import numpy as np
import numpy.typing as npt

from regvpr_core.errors import BagError
from regvpr_core.geometry import Array, interpolate, MIN_QUATERNION, pose_matrix, quat_xyzw

MAX_TRAJECTORY_BYTES = 2_000_000_000
MAX_STAMP_S = 2**31 - 1
"""Latest valid stamp; nanoseconds of later stamps do not fit into 64 bits."""

NAN_OF_C = re.compile(r'^[-+]?nan(\(\w*\))?$', re.IGNORECASE)
"""NaN as written by printf: -nan, nan(ind), -nan(snan)."""

WRONG_UNIT = 'is it in ms, us or ns?'

OWN_SPACINGS, LONGEST_GAP_S = 2.5, 5.0
"""Largest gap for interpolation: a multiple of the source's median spacing, and a limit, s."""


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """Poses of one frame in one world frame, in time order.

    stamps_ns: (N,) int64, strictly rising. poses: (N, 4, 4) float64, `T_world_body`.
    covariances: (N, 3, 3) m^2 of the positions, NaN where unknown; None where none is known.
    notes: omitted lines of a file, one line each.
    """

    stamps_ns: npt.NDArray[np.int64]
    poses: Array
    covariances: Array | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def spacing_s(self) -> float:
        """Median time between poses, s; 0 for fewer than three poses."""
        return float(np.median(np.diff(self.stamps_ns))) / 1e9 if len(self) > 2 else 0.0

    @property
    def length_m(self) -> float:
        """Length of the path through the poses, m."""
        return float(np.linalg.norm(np.diff(self.poses[:, :3, 3], axis=0), axis=1).sum())

    def at(self, stamp_ns: int, max_gap_s: float, recorded_ns: int | None = None) -> Array | None:
        """Pose (4, 4) at a time, interpolated on SE(3); the time of recording is ignored.

        None if the time is not covered, or if the two poses around it are more than `max_gap_s`
        apart.
        """
        place = self._between(stamp_ns)
        if place is None:
            return None
        after, fraction = place
        if fraction == 1.0:
            return np.array(self.poses[after])
        if self.stamps_ns[after] - self.stamps_ns[after - 1] > max_gap_s * 1e9:
            return None
        return interpolate(self.poses[after - 1], self.poses[after], fraction)

    def covariance_at(self, stamp_ns: int, recorded_ns: int | None = None) -> Array | None:
        """Covariance (3, 3) of the position at a covered time, if known."""
        place = self._between(stamp_ns)
        if self.covariances is None or place is None:
            return None
        after, fraction = place
        covariance = (self.covariances[after] if fraction == 1.0 else
                      (1.0 - fraction) * self.covariances[after - 1]
                      + fraction * self.covariances[after])
        return np.array(covariance) if np.isfinite(covariance).all() else None

    def _between(self, stamp_ns: int) -> tuple[int, float] | None:
        """Index of the pose at or after a time, and the fraction of time from the previous one."""
        after = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if after < len(self) and self.stamps_ns[after] == stamp_ns:
            return after, 1.0
        if after in (0, len(self)):
            return None
        t_0, t_1 = int(self.stamps_ns[after - 1]), int(self.stamps_ns[after])
        return after, (stamp_ns - t_0) / (t_1 - t_0)


def gap_limit_s(spacing_s: float, max_gap_s: float) -> float:
    """The longest gap for interpolation: `max_gap_s`, or more for a source of low rate.

    So a receiver of about one fix per second loses no image. A `max_gap_s` of 0 is not changed.
    """
    return max(max_gap_s, min(OWN_SPACINGS * spacing_s, LONGEST_GAP_S)) if max_gap_s else 0.0


def make_trajectory(
    stamps_ns: npt.ArrayLike, poses: npt.ArrayLike, covariances: npt.ArrayLike | None = None,
    notes: tuple[str, ...] = (),
) -> Trajectory:
    """Sort by time and keep the first of several poses with one stamp."""
    stamps = np.asarray(stamps_ns, dtype=np.int64)
    stamps, first = np.unique(stamps, return_index=True)
    return Trajectory(
        stamps, np.asarray(poses, dtype=np.float64).reshape(-1, 4, 4)[first],
        None if covariances is None else
        np.asarray(covariances, dtype=np.float64).reshape(-1, 3, 3)[first], notes)


def read_tum(path: Path) -> Trajectory:
    """Read `stamp_s x y z qx qy qz qw` lines; `#` starts a comment.

    Stamps are parsed as decimals to keep nanoseconds. Poses that are not finite or have no
    rotation are omitted, with a note in the trajectory.

    Raises:
        BagError: the file cannot be read, a line does not have eight numbers, or there is no
            pose.
    """
    stamps, rows, bad = [], [], []
    for number, line, words in _lines(path):
        try:
            if len(words) != 8:
                raise ValueError(f'{len(words)} columns')
            row = [float(NAN_OF_C.sub('nan', word)) for word in words[1:]]
            if not all(map(math.isfinite, row)) or math.hypot(*row[3:]) < MIN_QUATERNION \
                    or NAN_OF_C.match(words[0]):
                bad.append(number)
                continue
            stamps.append(nanoseconds(words[0]))
            rows.append(row)
        except ValueError as error:
            why = f' ({error})' if WRONG_UNIT in str(error) else ''
            raise BagError(f'{path}, line {number}: expected stamp x y z qx qy qz qw, '
                           f'got {line[:80]!r}{why}') from error
    if not rows:
        raise BagError(f'{path} holds no pose: {len(bad)} are not finite or have no rotation (the '
                       f'first in line {bad[0]})')
    notes = (f'{len(bad)} of {len(bad) + len(rows)} poses in {path} are not finite: left out '
             f'(the first in line {bad[0]})',) if bad else ()
    table = np.array(rows)
    try:
        return make_trajectory(stamps, pose_matrix(table[:, :3], table[:, 3:]), notes=notes)
    except ValueError as error:
        raise BagError(f'{path}: {error}') from error


def read_kitti(path: Path) -> Array:
    """Read KITTI poses (N, 4, 4): 12 numbers per line, the first three rows of `T_world_cam`.

    As in the KITTI odometry benchmark the world is the first camera's optical frame (z ahead,
    y down). The file has no stamps; see `read_times`. A pose that contains NaN becomes all NaN.

    Raises:
        BagError: the file cannot be read, a line does not have twelve numbers, a rotation is
            invalid, or there is no pose.
    """
    poses = []
    for number, line, words in _lines(path):
        try:
            if len(words) != 12:
                raise ValueError(f'{len(words)} columns')
            T = np.eye(4)
            T[:3] = np.array([float(NAN_OF_C.sub('nan', word)) for word in words]).reshape(3, 4)
            R = T[:3, :3]
            if np.isnan(T).any():  # tracking was lost; poses are matched by order
                poses.append(np.full((4, 4), np.nan))
                continue
            if not (np.isfinite(T).all() and np.linalg.det(R) > 0.0
                    and np.abs(R @ R.T - np.eye(3)).max() < 1e-3):
                raise ValueError('not a rotation')
        except ValueError as error:
            raise BagError(f'{path}, line {number}: expected the 12 numbers of a pose [R t], '
                           f'got {line[:80]!r}') from error
        # Numbers have few digits: normalise to an exact rotation.
        poses.append(pose_matrix(T[:3, 3], quat_xyzw(T)))
    return np.array(poses)


def read_times(path: Path) -> npt.NDArray[np.int64]:
    """Read a KITTI times file, one time in seconds per line: (N,) ns.

    Raises:
        BagError: the file cannot be read, a line is not a number, or there is no time.
    """
    stamps = []
    for number, line, words in _lines(path):
        try:
            if len(words) != 1:
                raise ValueError(f'{len(words)} columns')
            stamps.append(nanoseconds(words[0]))
        except ValueError as error:
            raise BagError(f'{path}, line {number}: expected a time in seconds, '
                           f'got {line[:80]!r}') from error
    return np.array(stamps, dtype=np.int64)


def nanoseconds(seconds: str) -> int:
    """Convert a decimal number of seconds to nanoseconds.

    Raises:
        ValueError: the text is not a number, or it is too large.
    """
    try:
        value = Decimal(seconds)
    except InvalidOperation as error:
        raise ValueError(f'{seconds!r} is no number of seconds') from error
    if value.is_finite() and MAX_STAMP_S < abs(value) < 10**20:
        raise ValueError(f'a stamp of {seconds} seconds: {WRONG_UNIT}')
    if not (value.is_finite() and abs(value) <= MAX_STAMP_S):
        raise ValueError(f'stamp {value}')
    return int(value * 1_000_000_000)


def _lines(path: Path) -> Iterator[tuple[int, str, list[str]]]:
    """Number, text and words of the lines of a file, without comments and empty lines."""
    try:
        if path.stat().st_size > MAX_TRAJECTORY_BYTES:
            raise BagError(f'{path} is larger than {MAX_TRAJECTORY_BYTES} bytes')
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BagError(f'cannot read trajectory {path}: {error}') from error
    empty: bool | None = True
    for number, line in enumerate(lines, start=1):
        words = line.split('#')[0].replace(',', ' ').replace(';', ' ').split()
        if words and empty and words[0][0].isalpha() and words[0].lower() not in ('nan', 'inf'):
            empty = None  # only the header with the names of the columns so far
            continue
        if words:
            empty = False
            yield number, line, words
    if empty is not False:
        raise BagError(f'{path} holds no pose')
