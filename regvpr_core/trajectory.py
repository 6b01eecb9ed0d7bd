"""Poses over time: reading TUM files, interpolation at an image's stamp."""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
import numpy.typing as npt

from regvpr_core.errors import BagError
from regvpr_core.geometry import Array, interpolate, pose_matrix, quat_xyzw

MAX_TRAJECTORY_BYTES = 2_000_000_000
MAX_STAMP_S = 2**31 - 1
"""Nanoseconds of later stamps do not fit into 64 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """Poses of one frame in one world frame, in time order.

    stamps_ns: (N,) int64, strictly rising. poses: (N, 4, 4) float64, `T_world_body`.
    """

    stamps_ns: npt.NDArray[np.int64]
    poses: Array

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def length_m(self) -> float:
        """Metres along the straight lines between the poses."""
        return float(np.linalg.norm(np.diff(self.poses[:, :3, 3], axis=0), axis=1).sum())

    def at(self, stamp_ns: int, max_gap_s: float) -> Array | None:
        """Pose (4, 4) at a time, interpolated on SE(3).

        None where the time is not covered, or the two poses around it are more than `max_gap_s`
        apart: what lies between them is then not known.
        """
        after = int(np.searchsorted(self.stamps_ns, stamp_ns))
        if after < len(self) and self.stamps_ns[after] == stamp_ns:
            return np.array(self.poses[after])
        if after in (0, len(self)):
            return None
        t_0, t_1 = self.stamps_ns[after - 1], self.stamps_ns[after]
        if t_1 - t_0 > max_gap_s * 1e9:
            return None
        fraction = float(stamp_ns - t_0) / float(t_1 - t_0)
        return interpolate(self.poses[after - 1], self.poses[after], fraction)


def make_trajectory(stamps_ns: npt.ArrayLike, poses: npt.ArrayLike) -> Trajectory:
    """Sort by time and keep the first of several poses with one stamp."""
    stamps = np.asarray(stamps_ns, dtype=np.int64)
    stamps, first = np.unique(stamps, return_index=True)
    return Trajectory(stamps, np.asarray(poses, dtype=np.float64).reshape(-1, 4, 4)[first])


def read_tum(path: Path) -> Trajectory:
    """Read `stamp_s x y z qx qy qz qw` lines; `#` starts a comment.

    Stamps are read as decimals, so nanoseconds survive.

    Raises:
        BagError: the file cannot be read, a line has no eight numbers, or there is no pose.
    """
    try:
        if path.stat().st_size > MAX_TRAJECTORY_BYTES:
            raise BagError(f'{path} is larger than {MAX_TRAJECTORY_BYTES} bytes')
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BagError(f'cannot read trajectory {path}: {error}') from error
    stamps, rows = [], []
    for number, line in enumerate(lines, start=1):
        words = line.split('#')[0].replace(',', ' ').split()
        if not words:
            continue
        try:
            if len(words) != 8:
                raise ValueError(f'{len(words)} columns')
            seconds = Decimal(words[0])
            if not abs(seconds) <= MAX_STAMP_S:
                raise ValueError(f'stamp {seconds}')
            stamps.append(int(seconds * 1_000_000_000))
            rows.append([float(word) for word in words[1:]])
        except (ValueError, InvalidOperation) as error:
            raise BagError(f'{path}, line {number}: expected stamp x y z qx qy qz qw, '
                           f'got {line[:80]!r}') from error
    if not rows:
        raise BagError(f'{path} holds no pose')
    table = np.array(rows)
    try:
        return make_trajectory(stamps, pose_matrix(table[:, :3], table[:, 3:]))
    except ValueError as error:
        raise BagError(f'{path}: {error}') from error


def write_tum(path: Path, trajectory: Trajectory) -> None:
    """Write a TUM file with stamps to the nanosecond."""
    rows = np.concatenate([trajectory.poses[:, :3, 3], quat_xyzw(trajectory.poses)], axis=1)
    with path.open('w', encoding='utf-8') as file:
        for stamp_ns, row in zip(trajectory.stamps_ns.tolist(), rows.tolist(), strict=True):
            stamp_s = Decimal(stamp_ns).scaleb(-9)
            values = ' '.join(f'{value:.9f}' for value in row)
            file.write(f'{stamp_s:.9f} {values}\n')
