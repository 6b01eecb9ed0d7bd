"""One district under one condition, drawn from any pose."""

from dataclasses import dataclass

import cv2
import numpy as np

from examples.town.atlas import Atlas, LEVELS_X, LEVELS_Z
from examples.town.camera import (
    Array,
    Camera,
    CAMERA_HEIGHT_M,
    Floats,
    Image,
    T_BASE_CAM,
    yaw_of,
)
from examples.town.conditions import Look
from examples.town.config import TownConfig
from examples.town.facade import paint
from examples.town.faces import draw, Faces, gather
from examples.town.ground import Ground
from examples.town.layout import District
from examples.town.raycast import cast, Columns, LAYERS
from examples.town.sky import Sky
from examples.town.solids import building_faces, lamp_head, LAMP_HEIGHT_M, prop_faces
from examples.town.trees import Trees

FRONT_PIXELS_PER_M, SIDE_PIXELS_PER_M = 20.0, 12.0
FAR_M = 260.0
STEPS = 32


@dataclass(frozen=True, slots=True)
class Buffers:
    """What each pixel sees of ground and walls alone, before trees, cars and roofs.

    Attributes:
        depth: (H, W) float32 distance along the optical axis in m, inf in the sky.
        wall: (H, W) int64 index of the wall, -1 on the ground and in the sky.
    """

    depth: Array
    wall: Array


class Scene:
    """A district, painted for a condition while it is being looked at."""

    def __init__(self, config: TownConfig, district: District, look: Look) -> None:
        self._district, self._look = district, look
        self._camera = Camera.from_hfov(config.width, config.height, config.hfov_rad)
        self._atlas = Atlas(len(district.walls.top), self._paint_wall)
        self._ground = Ground(config, district, look)
        buildings = [building_faces(b).owned_by(i) for i, b in enumerate(district.buildings)]
        self._faces = gather([*buildings, *(prop_faces(p) for p in district.props)])
        self._trees = Trees(district.props, look)
        lamps = [lamp_head(p) for p in district.props if p.kind == 'lamp']
        self._lamps = np.array(lamps).reshape(-1, 3)
        self._beam = _headlights(self._camera)

    def render(self, T_map_base: Floats, sky: Sky, cars: list[Faces]) -> tuple[Array, Array]:
        """The scene as the eye sees it, before the lens and the sensor.

        Args:
            T_map_base: (4, 4) pose of the vehicle.
            sky: The sky of the lap.
            cars: The cars in the map frame.

        Returns:
            The picture (H, W, 3) float32 in 0..255, and the inverse depth (H, W) in 1/m.
        """
        position, yaw = self._eye(T_map_base)
        columns = cast(self._district.walls, self._camera, position, yaw, FAR_M)
        layer, is_wall = self._layers(columns)
        first, ground, ground_depth = self._ground.cast(self._camera, position, yaw)
        picture = np.vstack([sky.cast(self._camera, yaw)[:first], ground])
        walls, wall_depth = self._walls(columns, layer)
        cv2.copyTo(walls, is_wall.view(np.uint8), picture)
        if self._look.wet:
            self._mirror(picture, columns, first, is_wall)

        nearness = np.zeros(layer.shape, np.float32)
        nearness[first:] = (1 / ground_depth)[:, None] * 0.995
        np.copyto(nearness, 1 / wall_depth, where=is_wall)
        image = picture.astype(np.float32)
        self._haze(image, nearness)
        owners = np.zeros(len(self._district.buildings) + 1, bool)
        owners[columns.owners] = True
        owners[-1] = True  # owner -1: cars and the things of the pavement
        draw(image, nearness, [self._faces, *cars], owners, self._camera, position, yaw,
             self._look)  # fmt: skip
        self._trees.draw(image, nearness, self._camera, position, yaw)
        if self._look.lit:
            self._shine(image, nearness, position, yaw)
        return image, nearness

    def buffers(self, T_map_base: Floats) -> Buffers:
        """Exact depth and wall of each pixel, without anything that stands before the walls."""
        position, yaw = self._eye(T_map_base)
        columns = cast(self._district.walls, self._camera, position, yaw, FAR_M)
        layer, is_wall = self._layers(columns)
        depth = np.full(layer.shape, np.inf, np.float32)
        first = int(self._camera.cy) + 1
        rows = np.arange(first, self._camera.height)
        depth[first:] = (self._camera.focal * CAMERA_HEIGHT_M / (rows - self._camera.cy))[:, None]
        column = np.broadcast_to(np.arange(self._camera.width), layer.shape)
        depth = np.where(is_wall, columns.depth[layer, column].astype(np.float32), depth)
        return Buffers(depth, np.where(is_wall, columns.wall[layer, column], -1))

    def _eye(self, T_map_base: Floats) -> tuple[Floats, float]:
        return (T_map_base @ T_BASE_CAM)[:2, 3], yaw_of(T_map_base)

    def _layers(self, columns: Columns) -> tuple[Array, Array]:
        """The layer (H, W) each pixel sees, and whether it sees a wall at all."""
        rows = np.arange(self._camera.height)[:, None]
        layer = np.zeros((self._camera.height, self._camera.width), np.int64)
        for k in range(int(columns.count.max(initial=0))):
            layer += rows < columns.top_row[k]
        is_wall = (layer < columns.count) & (rows <= columns.bottom_row)
        return np.minimum(layer, LAYERS - 1), is_wall

    def _walls(self, columns: Columns, layer: Array) -> tuple[Image, Array]:
        """Texture of the walls (H, W, 3) and their depth (H, W); nonsense where there is none."""
        focal, walls = self._camera.focal, self._district.walls
        seen = np.arange(LAYERS)[:, None] < columns.count
        wall = np.where(seen, columns.wall, columns.wall[seen][0] if seen.any() else 0)
        size = self._atlas.size(wall)
        length = np.linalg.norm(walls.end[wall] - walls.start[wall], axis=-1)
        top = walls.top[wall]
        # The copy whose texels are about as large as the pixels, across and up.
        across = columns.stretch * size[..., 0] / length
        upright = columns.depth / focal * size[..., 1] / top
        level_x = np.clip(np.round(np.log2(across + 1e-9)), 0, LEVELS_X - 1).astype(np.int64)
        level_z = np.clip(np.round(np.log2(upright + 1e-9)), 0, LEVELS_Z - 1).astype(np.int64)
        level_z = np.minimum(level_z, level_x)
        corner = self._atlas.corner(wall, level_x, level_z)
        u = columns.along * size[..., 0] / 2.0**level_x - 0.5
        # Along a column the texture's row is linear in the image's row.
        rise = columns.depth / focal / top * size[..., 1] / 2.0**level_z
        foot = (top - CAMERA_HEIGHT_M) / top * size[..., 1] / 2.0**level_z
        v = foot - rise * self._camera.cy - 0.5
        # Whole steps of 1/32 texel, as cv2.remap takes them: where a texture lies in the page,
        # which depends on the frames before, then makes no difference.
        left = corner[..., 0] + np.round(u * STEPS) / STEPS
        flat = layer * self._camera.width + np.arange(self._camera.width)
        parts = [left, v * STEPS, rise * STEPS, corner[..., 1], columns.depth]
        table = np.stack([p.ravel() for p in parts], axis=1).astype(np.float32)
        picked = np.take(table, flat, axis=0)
        rows = np.arange(self._camera.height, dtype=np.float32)[:, None]
        map_y = np.rint(picked[..., 1] + picked[..., 2] * rows)
        map_y *= np.float32(1 / STEPS)
        map_y += picked[..., 3]
        texture = cv2.remap(self._atlas.page, np.ascontiguousarray(picked[..., 0]), map_y,
                            cv2.INTER_LINEAR)  # fmt: skip
        return np.asarray(texture), picked[..., 4]

    def _mirror(self, picture: Image, columns: Columns, first: int, is_wall: Array) -> None:
        """Reflect what stands above the wet ground about the foot of the nearest wall."""
        height, width = is_wall.shape
        rows = np.arange(first, height, dtype=np.float32)[:, None]
        map_y = (2 * columns.bottom_row[None, :] - rows).astype(np.float32)
        map_x = np.broadcast_to(np.arange(width, dtype=np.float32), map_y.shape)
        image = cv2.remap(picture, np.ascontiguousarray(map_x), map_y, cv2.INTER_LINEAR,
                          borderMode=cv2.BORDER_REPLICATE)  # fmt: skip
        image = cv2.blur(image, (3, 11))
        grazing = np.exp(-(rows - first) / height * 3.0)
        share = (self._look.wet * (0.25 + 0.6 * grazing))[..., None] * ~is_wall[first:, :, None]
        floor = picture[first:]
        floor[:] = (floor + share * (image.astype(np.float32) - floor)).astype(np.uint8)

    def _haze(self, image: Array, nearness: Array) -> None:
        with np.errstate(divide='ignore'):
            keep = np.exp(-1 / (nearness * np.float32(self._look.haze_m)))
        keep[nearness == 0] = 1  # the sky has its own colour
        haze = np.array(self._look.haze, np.float32) * 255
        image *= keep[..., None]
        image += (1 - keep)[..., None] * haze

    def _shine(self, image: Array, nearness: Array, position: Floats, yaw: float) -> None:
        """Halos round the lamps, and the vehicle's own headlights."""
        camera = self._camera
        forward = np.array([np.cos(yaw), np.sin(yaw)])
        offset = self._lamps[:, :2] - position
        depth = offset @ forward
        side = offset @ np.array([forward[1], -forward[0]])
        height, width = nearness.shape
        wedge = np.abs(side) < width / 2 / camera.focal * depth + 1
        for i in np.flatnonzero((depth > 1.5) & (depth < 70) & wedge):
            x = camera.cx + camera.focal * side[i] / depth[i]
            y = camera.cy - camera.focal * (LAMP_HEIGHT_M - 0.2 - CAMERA_HEIGHT_M) / depth[i]
            radius = camera.focal * 0.8 / depth[i] + 2
            x0, x1 = int(max(0, x - radius)), int(min(width, x + radius + 1))
            y0, y1 = int(max(0, y - radius)), int(min(height, y + radius + 1))
            if x0 >= x1 or y0 >= y1:
                continue
            far = np.hypot(np.arange(x0, x1) - x, (np.arange(y0, y1) - y)[:, None]) / radius
            clear = nearness[y0:y1, x0:x1] < 1.05 / depth[i]
            glow = (np.maximum(0, 1 - far) ** 2 * clear).astype(np.float32)
            image[y0:y1, x0:x1] += glow[..., None] * np.array([200, 165, 105], np.float32)
        gain = np.minimum(nearness * 7, 1)
        gain *= self._beam
        gain += 1
        image *= gain[..., None]

    def _paint_wall(self, wall: int) -> Image:
        """The lit texture of one wall."""
        look, building = self._look, self._district.buildings[wall // 4]
        walls, side = self._district.walls, wall % 4
        along = walls.end[wall] - walls.start[wall]
        length = float(np.linalg.norm(along))
        front = side == 0 or self._open(wall)
        canvas = paint(
            building.style, length, building.height_m, building.seed, side, fence=building.fence,
            snow=look.snow, pixels_per_m=FRONT_PIXELS_PER_M if front else SIDE_PIXELS_PER_M,
        )  # fmt: skip
        sun = np.array(look.sun_dir) / np.linalg.norm(look.sun_dir)
        normal = np.array([along[1], -along[0]]) / length
        light = np.array(look.ambient) + np.array(look.sun) * max(0.0, float(normal @ sun[:2]))
        rows = np.linspace(1.06, 0.86, canvas.albedo.shape[0], dtype=np.float32)[:, None, None]
        lit = canvas.albedo * (light.astype(np.float32) * rows)
        if look.lit:
            lit += canvas.albedo * self._lamplight(wall, canvas.albedo.shape[:2])
            lit += canvas.glow
        return np.clip(lit, 0, 255).astype(np.uint8)

    def _open(self, wall: int) -> bool:
        """Whether a side wall stands free at the end of a row, seen from a street."""
        walls = self._district.walls
        middle = (walls.start[wall] + walls.end[wall]) / 2
        along = walls.end[wall] - walls.start[wall]
        outside = middle + np.array([along[1], -along[0]]) / np.linalg.norm(along) * 4.0
        corners = np.array([b.corners for b in self._district.buildings])
        low, high = corners.min(axis=1), corners.max(axis=1)
        return not bool(np.any(np.all((outside > low) & (outside < high), axis=1)))

    def _lamplight(self, wall: int, shape: tuple[int, ...]) -> Array:
        """Light (H, W, 3) of the street lamps on a wall."""
        walls = self._district.walls
        start, along = walls.start[wall], walls.end[wall] - walls.start[wall]
        length = float(np.linalg.norm(along))
        unit = along / length
        x = (np.arange(shape[1]) + 0.5) / shape[1] * length
        z = (1 - (np.arange(shape[0]) + 0.5) / shape[0]) * walls.top[wall]
        light = np.zeros(shape, np.float32)
        for lamp in self._lamps:
            offset = lamp[:2] - start
            at, out = float(offset @ unit), float(offset @ [unit[1], -unit[0]])
            if 0 < out < 9 and -8 < at < length + 8:
                spread = (x - at) ** 2 + ((z - lamp[2] + 1.5)[:, None]) ** 2 * 0.6
                light += np.exp(-spread / (2 * 3.0**2)).astype(np.float32) / (1 + out / 3)
        return light[..., None] * np.array([0.85, 0.62, 0.34], np.float32)


def _headlights(camera: Camera) -> Array:
    """How much light (H, W) the vehicle's own headlights add to what is near."""
    across = (np.arange(camera.width, dtype=np.float32) - camera.cx) / camera.focal
    down = (np.arange(camera.height, dtype=np.float32) - camera.cy)[:, None] / camera.focal
    beam = 1.1 * np.exp(-((across / 0.45) ** 2) - ((down - 0.1) / 0.16) ** 2)
    return np.asarray(beam, np.float32)
