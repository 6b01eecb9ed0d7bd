"""Holds back a fix that contradicts odometry, until it persists.

A fix is compared with where odometry leads from the last fix that was let through: the Mahalanobis
distance of its position, over the covariances of both fixes and the drift of odometry.
"""

from dataclasses import dataclass

import numpy as np

from regvpr_core.geometry import Array, inverse
from regvpr_core.localization.pose_prior import PosePrior


@dataclass(frozen=True, slots=True, eq=False)
class _Fix:
    """A fix with the odometry (4, 4) at its stamp, and the way driven until it, m."""

    prior: PosePrior
    T_odom_base: Array
    way_m: float


class JumpGate:
    """Lets fixes through that agree with odometry, and others when they come again and again."""

    def __init__(self, sigmas: float, fixes: int, drift: float) -> None:
        """Start without a fix.

        Args:
            sigmas: a fix farther than this many standard deviations contradicts; 0: none does.
            fixes: a contradicting place is let through with this many fixes in a row that agree
                with each other.
            drift: standard deviation of odometry as a share of the way.
        """
        self._sigmas, self._fixes, self._drift = sigmas, fixes, drift
        self.held = 0
        self.reset()

    def reset(self) -> None:
        """Forget all fixes: odometry or the map is another one."""
        self._last: _Fix | None = None
        self._pending: _Fix | None = None
        self._count, self._way_m = 0, 0.0
        self._T_odom_base: Array | None = None

    def admit(self, prior: PosePrior, T_odom_base: Array | None) -> str:
        """Empty where a fix is let through, else why it is held back.

        Args:
            prior: the fix.
            T_odom_base: (4, 4) odometry at its stamp; without it every fix is let through.
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
                return (f'the fix is {metres:.1f} m from where odometry leads; fix {self._count} '
                        f'of {self._fixes} there')
        self._last, self._pending, self._count = fix, None, 0
        return ''

    def _compare(self, before: _Fix | None, fix: _Fix) -> tuple[float, bool]:
        """Distance from where odometry leads, m, and whether that is a contradiction."""
        if before is None:
            return 0.0, False
        T = before.prior.T_map_base @ inverse(before.T_odom_base) @ fix.T_odom_base
        step = fix.prior.T_map_base[:3, 3] - T[:3, 3]
        drift_m = self._drift * (fix.way_m - before.way_m)
        # A turn that is not known exactly carries what was driven since to the side.
        lever_m = fix.way_m - before.way_m
        turned = float(np.trace(before.prior.covariance[3:, 3:])) / 3.0 * lever_m ** 2
        both = (before.prior.covariance + fix.prior.covariance)[:3, :3] \
            + (drift_m ** 2 + turned) * np.eye(3)
        far = float(step @ np.linalg.solve(both, step)) ** 0.5 > self._sigmas
        return float(np.linalg.norm(step)), far
