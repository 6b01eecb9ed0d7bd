"""Which walls each image column sees: rays against vertical segments, seen from above."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from examples.town.camera import Camera, CAMERA_HEIGHT_M, Floats

LAYERS = 6
NEAR_M = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """Vertical rectangles that stand on the ground, seen from the right of start to end.

    Attributes:
        start: (N, 2) left end as seen from outside, map frame, m.
        end: (N, 2) right end.
        top: (N,) height in m, more than the camera's.
        crest: (N,) height in m of the roof above, at least `top`.
        owner: (N,) index of the building.
    """

    start: Floats
    end: Floats
    top: Floats
    crest: Floats
    owner: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns see, K layers from near to far, each higher in the image than the last.

    Attributes:
        count: (W,) number of layers of the column.
        wall: (K, W) index of the wall, 0 where there is none.
        depth: (K, W) distance along the optical axis in m.
        along: (K, W) position on the wall from its left end, 0 to 1.
        stretch: (K, W) metres of wall that one column covers.
        top_row: (K, W) row of the wall's upper edge, -inf where there is none.
        bottom_row: (W,) row where the nearest wall meets the ground, or the horizon.
        owners: Buildings of which any part may be in sight.
    """

    count: NDArray[np.int64]
    wall: NDArray[np.int64]
    depth: Floats
    along: Floats
    stretch: Floats
    top_row: Floats
    bottom_row: Floats
    owners: NDArray[np.int64]


def cast(walls: Walls, camera: Camera, position: Floats, yaw: float, far_m: float) -> Columns:
    """Find the walls in every column.

    Args:
        walls: The walls of the district.
        camera: The camera, level.
        position: (2,) of the camera in the map frame in m.
        yaw: Heading of the optical axis in rad.
        far_m: Depth beyond which nothing is seen, in m.
    """
    forward = np.array([np.cos(yaw), np.sin(yaw)])
    right = np.array([forward[1], -forward[0]])
    frame = np.stack([right, forward], axis=1)
    start, end = (walls.start - position) @ frame, (walls.end - position) @ frame  # (x, z)
    half = camera.width / 2 / camera.focal

    # Keep walls that face us and reach into the wedge of sight.
    faces = start[:, 0] * end[:, 1] - start[:, 1] * end[:, 0] < 0
    ahead = (np.maximum(start[:, 1], end[:, 1]) > NEAR_M) & (
        np.minimum(start[:, 1], end[:, 1]) < far_m
    )
    left_out = (start[:, 0] < -half * start[:, 1]) & (end[:, 0] < -half * end[:, 1])
    right_out = (start[:, 0] > half * start[:, 1]) & (end[:, 0] > half * end[:, 1])
    index = np.flatnonzero(faces & ahead & ~left_out & ~right_out)
    a, e = start[index], end[index] - start[index]

    # Intersect every ray x = slope * z with every wall a + s * e.
    slope = (np.arange(camera.width) - camera.cx) / camera.focal
    turn = e[:, :1] - slope * e[:, 1:]  # (S, W)
    with np.errstate(divide='ignore', invalid='ignore'):
        along = (slope * a[:, 1:] - a[:, :1]) / turn
        depth = a[:, 1:] + along * e[:, 1:]
        hit = (along >= 0) & (along <= 1) & (depth > NEAR_M) & (depth < far_m)
    depth = np.where(hit, depth, np.inf)
    order = np.argsort(depth, axis=0, kind='stable')
    depth = np.take_along_axis(depth, order, 0)

    # A wall shows where it is higher in the image than all that stand before it.
    rise = (walls.top[index][order] - CAMERA_HEIGHT_M) / depth
    crest = (walls.crest[index][order] - CAMERA_HEIGHT_M) / depth
    highest = np.maximum.accumulate(rise, axis=0)
    before = np.vstack([np.full((1, camera.width), -np.inf), highest[:-1]])
    finite = np.isfinite(depth)
    owners = np.unique(walls.owner[index][order[finite & (crest > before)]])
    seen = finite & (rise > before)
    layer = np.cumsum(seen, axis=0) - 1
    rank, column = np.nonzero(seen & (layer < LAYERS))
    layer = layer[rank, column]
    picked = order[rank, column]

    shape = (LAYERS, camera.width)
    wall, top_row = np.zeros(shape, np.int64), np.full(shape, -np.inf)
    depths, alongs, stretch = np.full(shape, far_m), np.zeros(shape), np.ones(shape)
    wall[layer, column] = index[picked]
    depths[layer, column] = depth[rank, column]
    alongs[layer, column] = along[picked, column]
    top_row[layer, column] = camera.cy - camera.focal * rise[rank, column]
    area = np.abs(a[picked, 1] * e[picked, 0] - a[picked, 0] * e[picked, 1])
    length = np.linalg.norm(e[picked], axis=1)
    stretch[layer, column] = area * length / turn[picked, column] ** 2 / camera.focal
    count = np.zeros(camera.width, np.int64)
    np.add.at(count, column, 1)
    bottom = camera.cy + camera.focal * CAMERA_HEIGHT_M / depths[0]
    bottom_row = np.where(count > 0, bottom, camera.cy)
    return Columns(count, wall, depths, alongs, stretch, top_row, bottom_row, owners)
