"""Where the buildings, trees and lamps of a district stand."""

from dataclasses import dataclass
import math

import numpy as np

from examples.town.camera import Floats
from examples.town.config import TownConfig
from examples.town.raycast import Walls
from examples.town.route import district_offset
from examples.town.style import draw_style, fence_style, Style

DEPTH_M = 12.0
KERB_M = 2.0  # from the facades to the kerb; parked cars and trees share this strip
FURNITURE = ('bin', 'postbox', 'bench', 'planter', 'kiosk', 'bollards', 'shelter', 'cabinet',
             'board', 'hedge')  # fmt: skip
Place = tuple[Floats, Floats, float]
"""South-west end, unit direction to the right as seen from outside, and length of a row, in m."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """A box with a style.

    Attributes:
        corners: (4, 2) counter-clockwise in the map frame in m; the front is from 0 to 1.
        height_m: Height of the walls.
        style: What it looks like.
        seed: Seed of what is painted on its walls.
        fence: Whether it is only a garden wall.
    """

    corners: Floats
    height_m: float
    style: Style
    seed: tuple[int, ...]
    fence: bool = False

    @property
    def width_m(self) -> float:
        """Width of the front."""
        return float(np.linalg.norm(self.corners[1] - self.corners[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prop:
    """A thing on the pavement: a tree, a lamp or a piece of furniture.

    Attributes:
        kind: 'tree', 'lamp' or one of ``FURNITURE``.
        x: Position in the map frame in m.
        y: Position in the map frame in m.
        yaw: Direction in rad from it towards the road.
        seed: Seed of its looks.
    """

    kind: str
    x: float
    y: float
    yaw: float
    seed: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class District:
    """All that never moves in one part of the town."""

    origin: Floats
    buildings: list[Building]
    props: list[Prop]
    walls: Walls


def build_district(config: TownConfig, district: int) -> District:
    """Lay out a district: blocks between the streets, and a closed row of houses round them."""
    origin = district_offset(config, district)
    half, pitch = config.street_m / 2, config.pitch_m
    buildings: list[Building] = []
    props: list[Prop] = []
    for i in range(config.blocks_x):
        for j in range(config.blocks_y):
            key = (config.seed, district, *_copied(config, i, j))
            corner = origin + np.array([i * pitch + half, j * pitch + half])
            _block(corner, config.block_m, key, buildings, props)
    width, height = config.blocks_x * pitch + 2 * half, config.blocks_y * pitch + 2 * half
    west, south = origin - half
    east, north = west + width, south + height
    ring: list[Place] = [
        (np.array([east, south]), np.array([-1.0, 0.0]), width),
        (np.array([east, north]), np.array([0.0, -1.0]), height),
        (np.array([west, north]), np.array([1.0, 0.0]), width),
        (np.array([west, south]), np.array([0.0, 1.0]), height),
    ]
    for side, place in enumerate(ring):
        _row(place, (config.seed, district, 100 + side, 0), buildings, props)
    return District(origin=origin, buildings=buildings, props=props, walls=_walls(buildings))


def _copied(config: TownConfig, i: int, j: int) -> tuple[int, int]:
    """The block whose houses stand at block i, j: the blocks on both sides of one street are
    those of the parallel street that the mapped route also drives from east to west.
    """
    if config.aliased:
        return {(0, 1): (1, 0), (0, 2): (1, 1)}.get((i, j), (i, j))
    return i, j


def _block(
    corner: Floats, size: float, key: tuple[int, ...], buildings: list[Building], props: list[Prop]
) -> None:
    x, y = corner
    inner = size - 2 * DEPTH_M
    rows: list[Place] = [
        (np.array([x, y]), np.array([1.0, 0.0]), size),
        (np.array([x + size, y + DEPTH_M]), np.array([0.0, 1.0]), inner),
        (np.array([x + size, y + size]), np.array([-1.0, 0.0]), size),
        (np.array([x, y + size - DEPTH_M]), np.array([0.0, -1.0]), inner),
    ]
    for side, place in enumerate(rows):
        _row(place, (*key, side), buildings, props)


def _row(place: Place, key: tuple[int, ...], buildings: list[Building], props: list[Prop]) -> None:
    """Fill a row with houses and its pavement with things; the street is on its right."""
    start, along, length = place
    inward = np.array([-along[1], along[0]])
    rng = np.random.default_rng([*key, 1])
    position, lot = 0.0, 0
    while position < length:
        seed = (*key, 2, lot)
        own = np.random.default_rng(seed)
        left = length - position
        gap = float(own.uniform(1.4, 3.2)) if lot and left > 12 and own.random() < 0.28 else 0.0
        width = float(own.uniform(6.0, 12.5))
        if left - gap - width < 6.0:
            width = left - gap if left - gap <= 13.0 else (left - gap) / 2
        if gap:
            fence = fence_style(own)
            a = start + position * along + 0.8 * inward
            corners = np.array([a, a + gap * along, a + gap * along + 0.2 * inward,
                                a + 0.2 * inward])  # fmt: skip
            buildings.append(
                Building(corners=corners, height_m=float(own.uniform(1.6, 2.3)), style=fence,
                         seed=(*seed, 9), fence=True)
            )  # fmt: skip
        position += gap
        setback = float(own.choice([0.0, 0.0, 0.35, 0.8]))
        a = start + position * along
        corners = np.array([a + setback * inward, a + width * along + setback * inward,
                            a + width * along + DEPTH_M * inward,
                            a + DEPTH_M * inward])  # fmt: skip
        style = draw_style(own)
        buildings.append(
            Building(corners=corners, height_m=style.height_m, style=style, seed=seed)
        )
        position += width
        lot += 1
    _pavement(place, rng, key, props)


def _pavement(
    place: Place, rng: np.random.Generator, key: tuple[int, ...], props: list[Prop]
) -> None:
    start, along, length = place
    outward = np.array([along[1], -along[0]])
    yaw = math.atan2(outward[1], outward[0])
    first = len(props)

    def put(kind: str, s: float, off: float) -> None:
        x, y = start + s * along + off * outward
        seed = (*key, 3, len(props) - first)
        props.append(Prop(kind=kind, x=float(x), y=float(y), yaw=yaw, seed=seed))

    for s in np.arange(rng.uniform(3, 8), length - 2, rng.uniform(15, 20)):
        put('lamp', float(s), KERB_M - 0.2)
    wooded = rng.random() < 0.6
    for s in np.arange(rng.uniform(4, 12), length - 3, rng.uniform(8, 15)):
        if wooded and rng.random() < 0.7:
            put('tree', float(s + rng.uniform(-1, 1)), KERB_M - 0.5)
    for s in np.arange(rng.uniform(2, 6), length - 2, rng.uniform(5, 9)):
        put(str(rng.choice(FURNITURE)), float(s + rng.uniform(-1, 1)), 0.75)


def _walls(buildings: list[Building]) -> Walls:
    """Wall i is side i % 4 of building i // 4; side 0 is the front."""
    corners = np.array([b.corners for b in buildings])
    top = np.array([b.height_m for b in buildings])
    crest = top + [b.style.roof_m + 1.0 for b in buildings]
    return Walls(
        start=corners.reshape(-1, 2),
        end=np.roll(corners, -1, axis=1).reshape(-1, 2),
        top=np.repeat(top, 4),
        crest=np.repeat(crest, 4),
        owner=np.repeat(np.arange(len(buildings)), 4),
    )
