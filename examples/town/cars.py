"""Cars: parked along the kerbs and moving, other ones on every lap."""

from dataclasses import dataclass

import numpy as np

from examples.town.camera import Floats, yaw_of
from examples.town.config import TownConfig
from examples.town.faces import box, DARK, Faces, gather, quad
from examples.town.layout import District
from examples.town.route import LANE_M, Route
from examples.town.style import Colour

PAINTS: tuple[Colour, ...] = (
    (200, 202, 206), (40, 42, 46), (150, 24, 28), (28, 60, 120), (236, 236, 232), (96, 100, 104),
    (30, 84, 60), (206, 160, 40), (120, 64, 36), (70, 110, 150), (220, 96, 30),
)  # fmt: skip
WINDOW: Colour = (44, 52, 60)
SHAPES = {  # length, width, waist, height, start and end of the cabin along the length
    'hatch': (3.9, 1.66, 0.86, 1.44, -0.98, 0.30),
    'saloon': (4.5, 1.72, 0.84, 1.40, -0.62, 0.42),
    'estate': (4.6, 1.74, 0.88, 1.48, -0.99, 0.40),
    'suv': (4.4, 1.78, 1.02, 1.66, -0.98, 0.36),
    'van': (5.0, 1.84, 1.15, 2.10, -0.99, 0.72),
}


def car_faces(shape: str, paint: Colour, *, lights: bool) -> Faces:
    """A car about its own origin: x forward, y left, z up, on the ground.

    Args:
        shape: One of ``SHAPES``.
        paint: Its colour.
        lights: Whether head and tail lights are on.
    """
    length, width, waist, height, start, end = SHAPES[shape]
    half, side = length / 2, width / 2
    back, front = start * half, end * half
    inner, window_top = side - 0.06, height - 0.1
    parts = [
        box((-half, -side, 0.22), (half, side, waist), paint, reach_m=110),
        box((back, -inner, waist), (front, inner, height), paint, reach_m=110, taper=0.16),
    ]
    for sign in (-1.0, 1.0):  # side windows lean in with the cabin
        y0, y1 = sign * (inner - 0.02), sign * (inner - 0.15)
        pane = [(back + 0.3, y0, waist + 0.04), (front - 0.3, y0, waist + 0.04),
                (front - 0.5, y1 + sign * 0.02, window_top),
                (back + 0.45, y1 + sign * 0.02, window_top)]  # fmt: skip
        parts.append(quad(pane if sign < 0 else pane[::-1], WINDOW, reach_m=60))
        for x in (-half * 0.62, half * 0.62):
            for turn in (0.0, np.pi / 6, np.pi / 3):
                angle = turn + np.arange(4) * np.pi / 2 + np.pi / 4
                wheel = np.stack([x + 0.34 * np.cos(angle), np.full(4, sign * (side + 0.02)),
                                  0.33 + 0.34 * np.sin(angle)], axis=1)  # fmt: skip
                parts.append(quad(wheel if sign < 0 else wheel[::-1], (26, 26, 28), reach_m=45))
    for x, lean, sign in ((front + 0.015, 0.16, 1.0), (back - 0.015, -0.16, -1.0)):
        wind = [(x, -inner + 0.1, waist + 0.04), (x, inner - 0.1, waist + 0.04),
                (x - lean * 0.85, inner - 0.22, window_top),
                (x - lean * 0.85, -inner + 0.22, window_top)]  # fmt: skip
        parts.append(quad(wind if sign > 0 else wind[::-1], WINDOW, reach_m=70))
    for sign in (-1.0, 1.0):
        y0, y1 = sorted((sign * (side - 0.4), sign * (side - 0.08)))
        head = [(half + 0.015, y0, 0.55), (half + 0.015, y1, 0.55), (half + 0.015, y1, 0.72),
                (half + 0.015, y0, 0.72)]  # fmt: skip
        tail = [(-half - 0.015, y1, 0.58), (-half - 0.015, y0, 0.58), (-half - 0.015, y0, 0.76),
                (-half - 0.015, y1, 0.76)]  # fmt: skip
        parts.append(quad(head, (226, 226, 214), glow=(255, 250, 220) if lights else DARK))
        parts.append(quad(tail, (150, 20, 20), glow=(230, 20, 16) if lights else DARK))
    parts.append(box((-half + 0.1, -side + 0.05, 0.01), (half - 0.1, side - 0.05, 0.2),
                     (18, 18, 20), reach_m=40))  # fmt: skip
    return gather(parts)


@dataclass(frozen=True, slots=True)
class Mover:
    """A car that runs along a street: at `origin` when it starts a run of `length_m`."""

    faces: Faces
    origin: Floats
    yaw: float
    length_m: float
    start_m: float
    speed_mps: float

    def place(self, time_s: float) -> tuple[float, float, float]:
        """Its x, y and yaw at a time since the start of the lap."""
        run = (self.start_m + self.speed_mps * time_s) % self.length_m
        x, y = self.origin + run * np.array([np.cos(self.yaw), np.sin(self.yaw)])
        return float(x), float(y), self.yaw


class Traffic:
    """The cars of one lap in one district."""

    def __init__(self, config: TownConfig, district: District, seed: int, share: float) -> None:
        self._rng = np.random.default_rng([seed, 41, int(district.origin[0])])
        self.parked = gather(self._park(config, district, share))
        self._movers = self._move(config, district) if share > 0 else []
        self._leader = self._car(lights=True) if share > 0 and self._rng.random() < 0.55 else None
        self._gap_m = float(self._rng.uniform(10, 18))

    def faces(self, time_s: float, position: Floats, route: Route, along_m: float) -> list[Faces]:
        """All cars at a time; a moving one makes way for the camera.

        Args:
            time_s: Time since the start of the lap.
            position: (2,) of the camera in the map frame in m.
            route: The route of the lap, for the car that drives ahead.
            along_m: Distance of the vehicle from the start of the route.
        """
        parts = [self.parked]
        for mover in self._movers:
            x, y, yaw = mover.place(time_s)
            if np.hypot(x - position[0], y - position[1]) > 4.8:
                parts.append(mover.faces.placed(x, y, yaw))
        if self._leader is not None:
            gap = self._gap_m + 3.0 * np.sin(time_s / 9.0)
            pose = route.pose(along_m + gap)
            parts.append(self._leader.placed(pose[0, 3], pose[1, 3], yaw_of(pose)))
        return parts

    def _car(self, *, lights: bool) -> Faces:
        shape = str(self._rng.choice(list(SHAPES), p=[0.3, 0.25, 0.18, 0.17, 0.1]))
        return car_faces(shape, PAINTS[int(self._rng.integers(len(PAINTS)))], lights=lights)

    def _park(self, config: TownConfig, district: District, share: float) -> list[Faces]:
        standing = np.array([[p.x, p.y] for p in district.props if p.kind in ('tree', 'lamp')])
        half, parts = config.street_m / 2, []
        for origin, direction, _ in _streets(config, district):
            yaw = float(np.arctan2(direction[1], direction[0]))
            across = np.array([-direction[1], direction[0]])
            for block in range(config.blocks_y if abs(direction[1]) > 0.5 else config.blocks_x):
                first = block * config.pitch_m + half + 3.5
                for s in np.arange(first, first + config.block_m - 5, 5.6):
                    for sign in (-1.0, 1.0):
                        spot = origin + s * direction + sign * (half - 1.15) * across
                        taken = self._rng.random() < share
                        offset = (standing - spot) @ np.stack([direction, across], axis=1)
                        free = np.all((np.abs(offset[:, 0]) > 2.7) | (np.abs(offset[:, 1]) > 1.3))
                        if taken and free:
                            facing = yaw if sign < 0 else yaw + np.pi
                            shift = self._rng.uniform(-0.3, 0.3) * direction
                            car = self._car(lights=False)
                            x, y = (spot + shift).tolist()
                            parts.append(car.placed(x, y, facing))
        return parts

    def _move(self, config: TownConfig, district: District) -> list[Mover]:
        movers = []
        for origin, direction, length in _streets(config, district):
            for sign in (-1.0, 1.0):
                if self._rng.random() < 0.6:
                    heading = sign * direction
                    right = np.array([heading[1], -heading[0]])
                    begin = origin + (length * direction if sign < 0 else 0) + LANE_M * right
                    movers.append(
                        Mover(self._car(lights=True), begin,
                              float(np.arctan2(heading[1], heading[0])), length,
                              float(self._rng.uniform(0, length)),
                              float(self._rng.uniform(4, 9)))
                    )  # fmt: skip
        return movers


def _streets(config: TownConfig, district: District) -> list[tuple[Floats, Floats, float]]:
    """Start, direction and length in m of every street of a district."""
    pitch, nx, ny = config.pitch_m, config.blocks_x, config.blocks_y
    east, north = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    lines = [(district.origin + i * pitch * east, north, ny * pitch) for i in range(nx + 1)]
    lines += [(district.origin + j * pitch * north, east, nx * pitch) for j in range(ny + 1)]
    return lines
