"""The motion of one lap: poses, stamps and odometry, before anything is rendered."""

import math

import numpy as np

from examples.town.camera import Floats
from examples.town.config import LapConfig, TownConfig
from examples.town.errors import TownError
from examples.town.odometry import drifting
from examples.town.route import plan, Route

TICKS = 4  # odometry messages for each image


class Drive:
    """All odometry ticks of a lap; every fourth is an image, and the last image is bracketed.

    Attributes:
        frames: Number of images.
        stamp_ns: Stamps of the ticks.
        route: Route of each tick; another one after a kidnap to another route.
        district: District of each tick.
        along_m: Distance from the start of its route of each tick.
        T_map_base: True poses (4, 4).
        T_odom_base: Drifting poses (4, 4); they know nothing of a kidnap.
        twist: Forward speed in m/s and yaw rate in rad/s of each tick, as odometry has them.
    """

    def __init__(self, config: TownConfig, lap: LapConfig, start_ns: int) -> None:
        own = plan(config, lap.route, reverse=lap.reverse)
        step_m = lap.speed_mps / lap.rate_hz
        self.frames = lap.frames or max(1, math.ceil(own.length_m * lap.turns / step_m))
        if lap.kidnap_at is not None and lap.kidnap_at >= self.frames:
            raise TownError(
                f'kidnap_at must be below the number of frames {self.frames}, got {lap.kidnap_at}'
            )
        count = self.frames * TICKS
        period_ns = 1e9 / (TICKS * lap.rate_hz)
        self.stamp_ns = [start_ns + round(i * period_ns) for i in range(count)]
        jump = count if lap.kidnap_at is None else lap.kidnap_at * TICKS
        other, ahead_m = _elsewhere(config, lap, own)
        distance = lap.start_m + np.arange(count) * step_m / TICKS
        sway = _Sway(lap, own.length_m)
        unmoved = [sway.pose(own, float(s)) for s in distance]
        carried = [sway.pose(other, float(s) + ahead_m) for s in distance[jump:]]
        self.T_map_base = unmoved[:jump] + carried
        self.route = [own if i < jump else other for i in range(count)]
        away = lap.kidnap_route or lap.route
        self.district = [
            int((lap.route if i < jump else away) == 'unmapped') for i in range(count)
        ]
        self.along_m = [float(s) + (ahead_m if i >= jump else 0) for i, s in enumerate(distance)]
        # The wheels turn on while the vehicle is carried: at the jump the last step repeats.
        steps = [np.linalg.inv(a) @ b for a, b in zip(self.T_map_base, self.T_map_base[1:],
                                                      strict=False)]  # fmt: skip
        if jump < count:
            steps[jump - 1] = steps[jump - 2]
        self.T_odom_base = drifting(steps, lap)
        moved = [np.linalg.inv(a) @ b for a, b in zip(self.T_odom_base, self.T_odom_base[1:],
                                                      strict=False)]  # fmt: skip
        per_s = TICKS * lap.rate_hz
        twist = [(s[0, 3] * per_s, math.atan2(s[1, 0], s[0, 0]) * per_s) for s in moved]
        self.twist = [*twist, twist[-1]]

    def tick_of_frame(self, frame: int) -> int:
        """The tick at which an image is taken."""
        return frame * TICKS


class _Sway:
    """A driver never keeps the line: a smooth, closed, seeded offset to the left."""

    def __init__(self, lap: LapConfig, length_m: float) -> None:
        rng = np.random.default_rng([lap.seed, 83])
        self._constant = lap.lateral_m
        waves = np.array([3, 5, 8])
        self._rate = 2 * np.pi * waves / length_m
        self._size = lap.wander_m * np.array([0.55, 0.3, 0.15])
        self._phase = rng.uniform(0, 2 * np.pi, 3)

    def pose(self, route: Route, distance_m: float) -> Floats:
        angle = self._rate * distance_m + self._phase
        left = self._constant + float(np.sum(self._size * np.sin(angle)))
        slope = float(np.sum(self._size * self._rate * np.cos(angle)))
        return route.pose(distance_m, left, slope)


def _elsewhere(config: TownConfig, lap: LapConfig, own: Route) -> tuple[Route, float]:
    """The route after a kidnap and how far ahead on it the vehicle is put down."""
    route = lap.kidnap_route or lap.route
    other = own if route == lap.route else plan(config, route, reverse=lap.reverse)
    rng = np.random.default_rng([lap.seed, 89])
    ahead = float(rng.uniform(0.35, 0.65)) * other.length_m
    return other, ahead if lap.kidnap_m is None else lap.kidnap_m
