"""Closed routes along the streets, with rounded corners, by distance driven."""

from dataclasses import dataclass
import math

import numpy as np

from examples.town.camera import Floats, planar_pose
from examples.town.config import TownConfig

LANE_M = 1.4  # from the centre line of a street to the centre of a lane
MAPPED_NODES = ((0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2))
UNMAPPED_NODES = ((0, 1), (1, 1), (1, 0), (2, 0), (2, 2), (0, 2))
RIGHT_RADIUS_M, LEFT_RADIUS_M = 4.0, 6.5


@dataclass(frozen=True, slots=True)
class Route:
    """A closed path as a fine polyline.

    Attributes:
        points: (N, 2) positions in the map frame in m; the last one is the first one again.
        distance: (N,) distance from the start along the path in m.
    """

    points: Floats
    distance: Floats

    @property
    def length_m(self) -> float:
        """Length of one time round in m."""
        return float(self.distance[-1])

    def pose(self, distance_m: float, left_m: float = 0.0, left_slope: float = 0.0) -> Floats:
        """Pose (4, 4) after a distance along the path.

        Args:
            distance_m: Distance from the start in m, taken modulo the length.
            left_m: Offset to the left of the path in m.
            left_slope: Change of that offset per metre driven, which turns the heading.
        """
        along = distance_m % self.length_m
        x, y = self._at(along)
        ahead, behind = self._at(along + 0.25), self._at(along - 0.25)
        yaw = math.atan2(ahead[1] - behind[1], ahead[0] - behind[0])
        return planar_pose(
            x - left_m * math.sin(yaw), y + left_m * math.cos(yaw), yaw + math.atan(left_slope)
        )

    def _at(self, along: float) -> tuple[float, float]:
        along %= self.length_m
        return (
            float(np.interp(along, self.distance, self.points[:, 0])),
            float(np.interp(along, self.distance, self.points[:, 1])),
        )


def district_offset(config: TownConfig, district: int) -> Floats:
    """Position (2,) in m of the south-west crossing of a district in the map frame."""
    return np.array([district * (config.blocks_x * config.pitch_m + 160.0), 0.0])


def plan(config: TownConfig, route: str, *, reverse: bool = False) -> Route:
    """The path of a route in the right lane.

    Args:
        config: The town.
        route: 'mapped', 'closed-loop' or 'unmapped'.
        reverse: Whether to drive the other way round.
    """
    nodes, district = (UNMAPPED_NODES, 1) if route == 'unmapped' else (MAPPED_NODES, 0)
    corners = np.array(nodes, float) * config.pitch_m + district_offset(config, district)
    if reverse:
        corners = np.roll(corners[::-1], 1, axis=0)
    corners = _shift_right(corners, LANE_M)
    pieces = [_corner(corners[i - 1], corners[i], corners[(i + 1) % len(corners)])
              for i in range(len(corners))]  # fmt: skip
    # Start half way along the first edge, so that a lap does not begin in a bend.
    start = (corners[0] + corners[1]) / 2
    points = np.vstack([start, *pieces[1:], pieces[0], start])
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    return Route(points, np.concatenate([[0.0], np.cumsum(steps)]))


def _shift_right(corners: Floats, by_m: float) -> Floats:
    before = np.roll(corners, 1, axis=0)
    after = np.roll(corners, -1, axis=0)
    coming = (corners - before) / np.linalg.norm(corners - before, axis=1, keepdims=True)
    leaving = (after - corners) / np.linalg.norm(after - corners, axis=1, keepdims=True)
    right = np.stack([coming[:, 1] + leaving[:, 1], -coming[:, 0] - leaving[:, 0]], axis=1)
    return corners + by_m * right


def _corner(before: Floats, corner: Floats, after: Floats) -> Floats:
    """The arc (M, 2) which replaces a right-angled corner."""
    coming = (corner - before) / np.linalg.norm(corner - before)
    leaving = (after - corner) / np.linalg.norm(after - corner)
    left_turn = coming[0] * leaving[1] - coming[1] * leaving[0] > 0
    radius = LEFT_RADIUS_M if left_turn else RIGHT_RADIUS_M
    angle = np.linspace(0, math.pi / 2, 33)[:, None]
    centre = corner - radius * coming + radius * leaving
    return np.asarray(centre - radius * np.cos(angle) * leaving + radius * np.sin(angle) * coming)
