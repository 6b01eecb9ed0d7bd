"""Holds back a fix that contradicts odometry, until it persists.

A fix is compared with the last accepted fix moved by odometry, by the Mahalanobis distance of the
positions under the covariances of both fixes and the drift of odometry.
"""

from dataclasses import dataclass

import numpy as np

from regvpr_core.geometry import Array, inverse
from regvpr_core.localization.pose_prior import PosePrior


@dataclass(frozen=True, slots=True, eq=False)
class _Fix:
    """A fix, the odometry (4, 4) at its stamp, and the distance driven until then, m."""

    prior: PosePrior
    T_odom_base: Array
    way_m: float


class JumpGate:
    """Accepts fixes that agree with odometry, and others once they are repeated."""

    def __init__(self, sigmas: float, fixes: int, drift: float) -> None:
        """Start without a fix.

        Args:
            sigmas: a fix more than this many standard deviations away contradicts; 0: none does.
            fixes: number of successive fixes, agreeing with each other, after which a
                contradicting place is accepted.
            drift: standard deviation of odometry as a share of the distance.
        """
        self._sigmas, self._fixes, self._drift = sigmas, fixes, drift
        self.held = 0
        self.reset()

    def reset(self) -> None:
        """Forget all fixes, after a change of the odometry frame or of the map."""
        self._last: _Fix | None = None
        self._pending: _Fix | None = None
        self._count, self._way_m = 0, 0.0
        self._T_odom_base: Array | None = None

    def admit(self, prior: PosePrior, T_odom_base: Array | None) -> str:
        """Empty if the fix is accepted, else the reason for holding it back.

        Args:
            prior: the fix.
            T_odom_base: (4, 4) odometry at its stamp; None: every fix is accepted.
        """
        if T_odom_base is None or not self._sigmas:
            return ''
        if self._T_odom_base is not None:
            self._way_m += float(np.linalg.norm(
                T_odom_base[:3, 3] - self._T_odom_base[:3, 3]))
        self._T_odom_base = T_odom_base
        fix = _Fix(prior, T_odom_base, self._way_m)
        metres, contradicts = self._compare(self._last, fix)
        if contradicts:
            agrees = self._pending is not None and not self._compare(self._pending, fix)[1]
            self._count = self._count + 1 if agrees else 1
            self._pending = fix
            if self._count < self._fixes:
                self.held += 1
                return (f'the fix is {metres:.1f} m from the position by odometry; fix '
                        f'{self._count} of {self._fixes} there')
        self._last, self._pending, self._count = fix, None, 0
        return ''

    def _compare(self, before: _Fix | None, fix: _Fix) -> tuple[float, bool]:
        """Distance from the pose predicted by odometry, m, and whether it is a contradiction."""
        if before is None:
            return 0.0, False
        T = before.prior.T_map_base @ inverse(before.T_odom_base) @ fix.T_odom_base
        step = fix.prior.T_map_base[:3, 3] - T[:3, 3]
        drift_m = self._drift * (fix.way_m - before.way_m)
        # The position error of the earlier fix, and its rotation error times the way since.
        ahead = T[:3, 3] - before.prior.T_map_base[:3, 3]
        errors = np.hstack([np.eye(3), np.cross(ahead, np.eye(3))])
        both = errors @ before.prior.covariance @ errors.T \
            + fix.prior.covariance[:3, :3] + drift_m ** 2 * np.eye(3)
        far = float(step @ np.linalg.solve(both, step)) ** 0.5 > self._sigmas
        return float(np.linalg.norm(step)), far
