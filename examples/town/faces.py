"""Flat four-sided faces in space: everything solid that is not a wall."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from examples.town.camera import Array, Camera, CAMERA_HEIGHT_M, Floats
from examples.town.conditions import Look
from examples.town.style import Colour

NEAR_M = 0.25
FAR_OUT = 2.0**16  # pixels
DARK: Colour = (0, 0, 0)


@dataclass(frozen=True)
class Faces:
    """Quadrilaterals, counter-clockwise as seen from outside; a triangle repeats a corner.

    Attributes:
        corners: (F, 4, 3) in m.
        colour: (F, 3) paint, 0..255.
        glow: (F, 3) own light after dark, 0..255.
        reach_m: (F,) depth beyond which a face is left out.
        owner: (F,) building in whose sight it is, -1 for none.
    """

    corners: Floats
    colour: Floats
    glow: Floats
    reach_m: Floats
    owner: Array

    def __len__(self) -> int:
        return len(self.corners)

    @cached_property
    def middle(self) -> Floats:
        """(F, 3) mean of the corners in m."""
        return np.asarray(self.corners.mean(axis=1))

    @cached_property
    def size_m(self) -> Floats:
        """(F,) greatest distance of a corner from the middle in m."""
        return np.asarray(np.linalg.norm(self.corners - self.middle[:, None], axis=2).max(axis=1))

    def picked(self, index: Array) -> 'Faces':
        """Some of the faces."""
        return Faces(self.corners[index], self.colour[index], self.glow[index],
                     self.reach_m[index], self.owner[index])  # fmt: skip

    def placed(self, x: float, y: float, yaw: float) -> 'Faces':
        """The same faces, turned by yaw in rad about z and moved to x, y in m."""
        cos, sin = np.cos(yaw), np.sin(yaw)
        turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1.0]])
        corners = self.corners @ turn + [x, y, 0]
        return Faces(corners, self.colour, self.glow, self.reach_m, self.owner)

    def owned_by(self, owner: int) -> 'Faces':
        """The same faces, in sight with a building."""
        owners = np.full(len(self), owner)
        return Faces(self.corners, self.colour, self.glow, self.reach_m, owners)


def gather(parts: list[Faces]) -> Faces:
    """All faces of several sets."""
    if not parts:
        empty = np.zeros((0, 3))
        return Faces(np.zeros((0, 4, 3)), empty, empty, np.zeros(0), np.zeros(0, int))
    return Faces(
        np.concatenate([p.corners for p in parts]),
        np.concatenate([p.colour for p in parts]),
        np.concatenate([p.glow for p in parts]),
        np.concatenate([p.reach_m for p in parts]),
        np.concatenate([p.owner for p in parts]),
    )


def quad(
    corners: list[tuple[float, float, float]] | Floats, colour: Colour, *,
    glow: Colour = DARK, reach_m: float = 60.0,
) -> Faces:  # fmt: skip
    """One face from three or four corners."""
    points = np.array(corners, float)
    if len(points) == 3:
        points = np.vstack([points, points[2:]])
    return Faces(points[None], np.array([colour], float), np.array([glow], float),
                 np.array([reach_m]), np.array([-1]))  # fmt: skip


def box(
    low: tuple[float, float, float], high: tuple[float, float, float], colour: Colour, *,
    top: Colour | None = None, glow: Colour = DARK, reach_m: float = 60.0, taper: float = 0.0,
) -> Faces:  # fmt: skip
    """The six sides of a box between two corners.

    Args:
        low: Least x, y, z in m.
        high: Greatest x, y, z.
        colour: Paint of the sides.
        top: Paint of the upper side, if another.
        glow: Own light of all sides.
        reach_m: Depth beyond which it is left out.
        taper: How much each upper edge is drawn in, in m.
    """
    (x0, y0, z0), (x1, y1, z1) = low, high
    t = taper
    b = [(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)]
    u = [(x0 + t, y0 + t, z1), (x1 - t, y0 + t, z1), (x1 - t, y1 - t, z1), (x0 + t, y1 - t, z1)]
    sides = [[b[i], b[(i + 1) % 4], u[(i + 1) % 4], u[i]] for i in range(4)]
    corners = np.array([*sides, u, b[::-1]])
    colours = np.array([colour] * 4 + [top or colour, colour], float)
    return Faces(corners, colours, np.tile(np.array(glow, float), (6, 1)), np.full(6, reach_m),
                 np.full(6, -1))  # fmt: skip


def draw(
    image: Array, nearness: Array, sets: list[Faces], owners: Array, camera: Camera,
    position: Floats, yaw: float, look: Look,
) -> None:  # fmt: skip
    """Draw faces into a picture, hidden by what is nearer.

    Args:
        image: (H, W, 3) float32, changed in place.
        nearness: (H, W) float32 inverse depth in 1/m, changed in place.
        sets: The faces in the map frame.
        owners: (B + 1,) whether each building is in sight; the last one is for owner -1.
        camera: The camera, level.
        position: (2,) of the camera in the map frame in m.
        yaw: Heading of the optical axis in rad.
        look: The condition, for the light.
    """
    cos, sin = np.cos(yaw), np.sin(yaw)
    eye = np.array([position[0], position[1], CAMERA_HEIGHT_M])
    turn = np.array([[sin, 0, cos], [-cos, 0, sin], [0, -1.0, 0]])  # map to right, down, forward
    faces = gather([f.picked(_in_wedge(f, owners, camera, eye, turn)) for f in sets])
    local = (faces.corners - eye) @ turn
    middle = local.mean(axis=1)
    normal = np.cross(local[:, 2] - local[:, 0], local[:, 3] - local[:, 1])
    normal[:] /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    offset = np.einsum('fi,fi->f', normal, local[:, 0])
    shown = np.flatnonzero(offset < -1e-3)
    shown = shown[_peeks_out(local[shown], nearness, camera)]
    local, middle, normal = local[shown], middle[shown], normal[shown]
    colours = _shade(faces, shown, normal @ turn.T, middle[:, 2], look)
    plane = (normal / offset[shown, None]).astype(np.float32)
    slope_x = ((np.arange(camera.width) - camera.cx) / camera.focal).astype(np.float32)
    slope_y = ((np.arange(camera.height)[:, None] - camera.cy) / camera.focal).astype(np.float32)
    outlines, bounds = _outlines(local, camera)
    drawn = (bounds[:, 0] < bounds[:, 2]) & (bounds[:, 1] < bounds[:, 3])
    limits = bounds.tolist()
    for i in np.argsort(-middle[:, 2], kind='stable'):
        if drawn[i]:
            near_x = slope_x * plane[i, 0]
            near_y = slope_y * plane[i, 1] + plane[i, 2]
            _fill(image, nearness, outlines[i], limits[i], near_x, near_y, colours[i])


def _in_wedge(faces: Faces, owners: Array, camera: Camera, eye: Floats, turn: Floats) -> Array:
    """Faces large enough, near enough and wholly or partly between the sides of the picture."""
    middle = (faces.middle - eye) @ turn
    half, depth, size = camera.width / 2 / camera.focal, middle[:, 2], faces.size_m
    kept = (depth > NEAR_M - size) & (depth < faces.reach_m) & owners[faces.owner]
    kept &= np.abs(middle[:, 0]) < half * depth + size * np.hypot(1, half)
    kept &= size * camera.focal > 0.8 * depth
    return np.flatnonzero(kept)


def _peeks_out(local: Floats, nearness: Array, camera: Camera) -> Array:
    """Which faces (F, 4, 3) show at one of nine points, or reach out of the picture."""
    middle = local.mean(axis=1, keepdims=True)
    halves = (local + np.roll(local, -1, axis=1)) / 2
    points = np.concatenate([local, halves, middle], axis=1)
    depth = np.maximum(points[..., 2], NEAR_M)
    x = np.round(points[..., 0] / depth * camera.focal + camera.cx)
    y = np.round(points[..., 1] / depth * camera.focal + camera.cy)
    height, width = nearness.shape
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = np.clip(x, 0, width - 1).astype(int), np.clip(y, 0, height - 1).astype(int)
    clear = 1.02 / depth > nearness[y, x]
    near = (points[:, :4, 2] < NEAR_M).any(axis=1)
    return np.asarray(near | (clear & inside).any(axis=1) | (~inside).all(axis=1))


def _shade(faces: Faces, index: Array, normal: Floats, depth: Floats, look: Look) -> Array:
    sun = np.array(look.sun_dir) / np.linalg.norm(look.sun_dir)
    facing = np.maximum(normal @ sun, 0)[:, None]
    light = np.array(look.ambient) * (0.82 + 0.18 * normal[:, 2:]) + np.array(look.sun) * facing
    colours = faces.colour[index]
    if look.snow:
        colours = np.where(normal[:, 2:] > 0.4, np.array([[240.0, 243, 249]]), colours)
    colours = colours * light
    if look.lit:
        colours = colours + faces.glow[index]
    haze = 1 - np.exp(-depth / look.haze_m)[:, None]
    colours = colours + (np.array(look.haze) * 255 - colours) * haze
    return np.asarray(np.clip(colours, 0, 255).astype(np.float32))


def _outlines(local: Floats, camera: Camera) -> tuple[list[Array], Array]:
    """The polygons in pixels, cut at the near plane, and their bounds x0, y0, x1, y1 (F, 4)."""
    with np.errstate(divide='ignore', invalid='ignore'):
        pixels = local[..., :2] / local[..., 2:] * camera.focal + [camera.cx, camera.cy]
    # Far outside the picture fixed-point pixels would overflow.
    pixels = np.clip(np.nan_to_num(pixels), -FAR_OUT, FAR_OUT)
    low, high = pixels.min(axis=1, initial=FAR_OUT), pixels.max(axis=1, initial=-FAR_OUT)
    outlines: list[Array] = list(pixels)
    for i in np.flatnonzero(local[..., 2].min(axis=1, initial=np.inf) < NEAR_M):
        cut = _clip(local[i])
        whole = cut[:, :2] / cut[:, 2:] * camera.focal + [camera.cx, camera.cy]
        outlines[i] = np.clip(whole, -FAR_OUT, FAR_OUT)
        low[i] = outlines[i].min(axis=0, initial=FAR_OUT)
        high[i] = outlines[i].max(axis=0, initial=-FAR_OUT)
    size = [camera.width, camera.height]
    bounds = np.hstack([np.maximum(low - 1, 0), np.minimum(high + 3, size)])
    return outlines, bounds.astype(int)


def _fill(
    image: Array, nearness: Array, outline: Array, bounds: list[int], near_x: Array,
    near_y: Array, colour: Array,
) -> None:  # fmt: skip
    x0, y0, x1, y1 = bounds
    near = near_x[x0:x1] + near_y[y0:y1]
    behind = nearness[y0:y1, x0:x1]
    cover = np.zeros(near.shape, np.uint8)
    fixed = np.rint((outline - (x0, y0)) * 16).astype(np.int32)
    cv2.fillConvexPoly(cover, fixed, 255, cv2.LINE_AA, 4)
    cover *= near >= behind
    share = cover * np.float32(1 / 255)
    part = image[y0:y1, x0:x1]
    part += share[..., None] * (colour - part)
    np.copyto(behind, near, where=cover > 127)


def _clip(corners: Floats) -> Floats:
    """The part of a polygon in front of the near plane."""
    kept = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if a[2] >= NEAR_M:
            kept.append(a)
        if (a[2] >= NEAR_M) != (b[2] >= NEAR_M):
            kept.append(a + (b - a) * (NEAR_M - a[2]) / (b[2] - a[2]))
    return np.array(kept).reshape(-1, 3)
