"""What a town is made of and how a lap through it is driven."""

from dataclasses import dataclass
import math

from examples.town.conditions import LOOKS
from examples.town.errors import TownError

ROUTE_LAPS = {'mapped': 1.0, 'closed-loop': 1.5, 'unmapped': 1.0}
"""The routes, and how often each is driven round when the lap does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TownConfig:
    """The world and the camera that looks at it.

    Attributes:
        seed: Seed of every house, tree and lamp post, >= 0.
        width: Image width in pixels, 32 to 1920.
        height: Image height in pixels, 32 to 1080.
        hfov_rad: Horizontal field of view in rad, 0.3 to 2.4.
        blocks_x: Blocks along east of each of the two districts, 2 to 8.
        blocks_y: Blocks along north of each district, 2 to 8.
        block_m: Side of a block in m, 30 to 80.
        street_m: Distance between the facades of a street in m, 9 to 20.
        aliased: Whether the houses, trees and lamps of one street of the mapped route are copied
            from another one; what is seen beyond the crossings still differs.
    """

    seed: int = 1
    width: int = 320
    height: int = 240
    hfov_rad: float = 1.3
    blocks_x: int = 4
    blocks_y: int = 3
    block_m: float = 40.0
    street_m: float = 10.0
    aliased: bool = False

    def __post_init__(self) -> None:
        _check('seed', self.seed, 0, 2**31)
        _check('width', self.width, 32, 1920)
        _check('height', self.height, 32, 1080)
        _check('hfov_rad', self.hfov_rad, 0.3, 2.4)
        _check('blocks_x', self.blocks_x, 2, 8)
        _check('blocks_y', self.blocks_y, 2, 8)
        _check('block_m', self.block_m, 30, 80)
        _check('street_m', self.street_m, 9, 20)
        if self.aliased and self.blocks_y < 3:
            raise TownError(f'aliased needs blocks_y >= 3, got blocks_y {self.blocks_y}')

    @property
    def pitch_m(self) -> float:
        """Distance between the centre lines of two neighbouring streets in m."""
        return self.block_m + self.street_m


@dataclass(frozen=True, slots=True, kw_only=True)
class LapConfig:
    """One drive: where, in what weather, among which cars.

    Attributes:
        condition: One of ``LOOKS``: day, dusk, rain, winter.
        seed: Seed of the cars, the exposure, the noise and the odometry, >= 0.
        route: 'mapped'; 'closed-loop', the mapped streets 1.5 times; or 'unmapped', streets of
            another district, never nearer than 100 m to the mapped route.
        speed_mps: Speed along the route in m/s, above 0, at most 30.
        rate_hz: Image rate in Hz, above 0, at most 60. Odometry comes at four times the rate.
        laps: How often to drive round; None takes the route's own number in ``ROUTE_LAPS``.
        frames: Number of images; None takes what `laps` gives.
        start_m: Distance from the start of the route at which the drive begins, in m.
        lateral_m: Constant offset of the driven path to the left in m, -1 to 1.
        wander_m: Amplitude of the seeded swaying about the path in m, 0 to 0.5.
        reverse: Whether to drive the route the other way round, in the other lane.
        cars: Share of the parking places that are taken, 0 to 1; 0 also means no moving car.
        kidnap_at: Image from which on the camera is somewhere else; None for never.
        kidnap_m: How far ahead along the route it then is; None for a seeded 35 to 65 % of it.
        kidnap_route: Route it is carried to; None for the same one.
        odom_scale_std: Standard deviation of the lap's odometry scale error, 0 to 0.1.
        odom_yaw_bias: Magnitude of the lap's yaw drift in rad/m, 0 to 0.01; the sign is seeded.
    """

    condition: str = 'day'
    seed: int = 1
    route: str = 'mapped'
    speed_mps: float = 5.0
    rate_hz: float = 5.0
    laps: float | None = None
    frames: int | None = None
    start_m: float = 0.0
    lateral_m: float = 0.0
    wander_m: float = 0.15
    reverse: bool = False
    cars: float = 0.4
    kidnap_at: int | None = None
    kidnap_m: float | None = None
    kidnap_route: str | None = None
    odom_scale_std: float = 0.012
    odom_yaw_bias: float = 2.5e-4

    def __post_init__(self) -> None:
        _choice('condition', self.condition, tuple(LOOKS))
        _choice('route', self.route, tuple(ROUTE_LAPS))
        if self.kidnap_route is not None:
            _choice('kidnap_route', self.kidnap_route, tuple(ROUTE_LAPS))
        _check('seed', self.seed, 0, 2**31)
        _check('speed_mps', self.speed_mps, 0.1, 30)
        _check('rate_hz', self.rate_hz, 0.1, 60)
        _check('lateral_m', self.lateral_m, -1, 1)
        _check('wander_m', self.wander_m, 0, 0.5)
        _check('cars', self.cars, 0, 1)
        _check('odom_scale_std', self.odom_scale_std, 0, 0.1)
        _check('odom_yaw_bias', self.odom_yaw_bias, 0, 0.01)
        _check('start_m', self.start_m, -1e4, 1e4)
        if self.laps is not None:
            _check('laps', self.laps, 0.01, 20)
        if self.frames is not None:
            _check('frames', self.frames, 1, 10**6)
        if self.kidnap_at is not None:
            _check('kidnap_at', self.kidnap_at, 1, 10**6)
        if self.kidnap_m is not None:
            _check('kidnap_m', self.kidnap_m, -1e4, 1e4)

    @property
    def turns(self) -> float:
        """How often the route is driven round."""
        return ROUTE_LAPS[self.route] if self.laps is None else self.laps


def _check(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise TownError(f'{name} must be between {low:g} and {high:g}, got {value!r}')


def _choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise TownError(f'{name} must be one of {", ".join(choices)}, got {value!r}')
