"""Distance that a robot has driven near keyframes of the map without a fix."""

import numpy as np

from regvpr_core.geometry import Array, inverse

STRETCH_M = 30.0
"""A warning is given after this distance near keyframes without a fix, m."""

FOLLOWED_M = 200.0
"""Odometry is trusted up to this distance driven since the last fix, m."""


class LostStretch:
    """Follows odometry from the last fix and sums the distance driven near keyframes."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the last fix."""
        self._T_map_odom: Array | None = None
        self._last: Array | None = None
        self._since_m = 0.0
        self.metres = 0.0

    def see(self, T_map_base: Array | None, T_odom_base: Array | None, positions: Array,
            radius_m: float) -> None:
        """Add an image.

        Args:
            T_map_base: (4, 4) pose of its fix; None while lost.
            T_odom_base: (4, 4) odometry; None if unknown.
            positions: (N, 3) of the map's keyframes.
            radius_m: a keyframe within this distance shows the place.
        """
        if T_odom_base is None:
            return
        if T_map_base is not None:
            self.reset()
            self._T_map_odom, self._last = T_map_base @ inverse(T_odom_base), T_odom_base
        elif self._T_map_odom is not None and self._last is not None:
            step_m = float(np.linalg.norm(T_odom_base[:3, 3] - self._last[:3, 3]))
            self._last = T_odom_base
            self._since_m += step_m
            here = (self._T_map_odom @ T_odom_base)[:3, 3]
            if self._since_m > FOLLOWED_M:
                self._T_map_odom = None
            elif len(positions) and np.square(positions - here).sum(axis=1).min() < radius_m ** 2:
                self.metres += step_m

    @property
    def note(self) -> str:
        """Advice for the operator after `STRETCH_M` near keyframes without a fix; else empty."""
        if self.metres < STRETCH_M:
            return ''
        return (f'lost for {self.metres:.0f} m along places that the map holds: they may have '
                f'changed; add such a drive (regvpr map update), and look at exposure and lens')
