"""Trees as pictures that always face the camera."""

import cv2
import numpy as np

from examples.town.camera import Array, Camera, CAMERA_HEIGHT_M, Floats, Image
from examples.town.conditions import Look
from examples.town.layout import Prop

VARIANTS = 10
ROWS, COLUMNS = 192, 144
REACH_M = 90.0


class Trees:
    """The trees of a district under one condition."""

    def __init__(self, props: list[Prop], look: Look) -> None:
        trees = [p for p in props if p.kind == 'tree']
        self._place = np.array([[p.x, p.y] for p in trees]).reshape(-1, 2)
        draws = [np.random.default_rng(p.seed) for p in trees]
        self._variant = [int(r.integers(VARIANTS)) for r in draws]
        self._height_m = [float(r.uniform(3.6, 6.4)) for r in draws]
        light = np.array(look.ambient) + np.array(look.sun) * 0.6
        self._pictures = [_levels(_paint(v, look, light)) for v in range(VARIANTS)]
        self._look = look

    def draw(
        self, image: Array, nearness: Array, camera: Camera, position: Floats, yaw: float
    ) -> None:
        """Draw the trees from far to near into (H, W, 3) float32, behind what is nearer.

        Args:
            image: Changed in place.
            nearness: (H, W) float32 inverse depth in 1/m.
            camera: The camera, level.
            position: (2,) of the camera in the map frame in m.
            yaw: Heading of the optical axis in rad.
        """
        forward = np.array([np.cos(yaw), np.sin(yaw)])
        offset = self._place - position
        depth = offset @ forward
        side = offset @ np.array([forward[1], -forward[0]])
        seen = (depth > 0.8) & (depth < REACH_M)
        seen &= np.abs(side) < camera.width / 2 / camera.focal * depth + 3
        for i in np.argsort(-depth, kind='stable'):
            if seen[i]:
                self._blit(image, nearness, camera, int(i), float(side[i]), float(depth[i]))

    def _blit(
        self, image: Array, nearness: Array, camera: Camera, i: int, side: float, depth: float
    ) -> None:
        scale = camera.focal / depth * self._height_m[i] / ROWS  # screen pixels per picture pixel
        left = camera.cx + camera.focal * side / depth - COLUMNS / 2 * scale
        top = camera.cy + camera.focal * CAMERA_HEIGHT_M / depth - ROWS * scale
        x0, x1 = max(0, int(left)), min(camera.width, int(left + COLUMNS * scale) + 1)
        y0, y1 = max(0, int(top)), min(camera.height, int(top + ROWS * scale) + 1)
        if x0 >= x1 or y0 >= y1:
            return
        levels = self._pictures[self._variant[i]]
        level = int(np.clip(np.round(-np.log2(scale)), 0, len(levels) - 1))
        step = scale * 2**level
        matrix = np.array([[1 / step, 0, (x0 - left) / step - 0.5],
                           [0, 1 / step, (y0 - top) / step - 0.5]])  # fmt: skip
        patch = cv2.warpAffine(levels[level], matrix, (x1 - x0, y1 - y0),
                               flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)  # fmt: skip
        patch[nearness[y0:y1, x0:x1] > 1 / depth] = 0
        share = patch[..., 3:] * np.float32(1 / 255)
        haze = np.float32(1 - np.exp(-depth / self._look.haze_m))
        part = image[y0:y1, x0:x1]
        part *= 1 - share
        part += patch[..., :3] * (1 - haze)
        part += share * (haze * 255 * np.array(self._look.haze, np.float32))


def _levels(picture: Image) -> list[Image]:
    levels = [picture]
    for _ in range(4):
        half = levels[-1].shape[1] // 2, levels[-1].shape[0] // 2
        levels.append(cv2.resize(levels[-1], half, interpolation=cv2.INTER_AREA))
    return levels


def _paint(variant: int, look: Look, light: Floats) -> Image:
    """A tree, (ROWS, COLUMNS, 4) uint8 with its colour multiplied by its cover."""
    rng = np.random.default_rng([variant, 13])
    colour, cover = np.zeros((ROWS, COLUMNS, 3), np.uint8), np.zeros((ROWS, COLUMNS), np.uint8)
    bark = (86, 66, 50)
    _branch(colour, cover, rng, np.array([COLUMNS / 2, ROWS]), -np.pi / 2, ROWS * 0.36, 7.0, bark)
    if look.snow:
        edge = (cover > 0) & (np.roll(cover, 2, axis=0) == 0)  # snow lies on the upper edges
        colour[edge] = (238, 242, 248)
    else:
        base = np.array([rng.integers(40, 96), rng.integers(92, 140), rng.integers(30, 70)])
        wide = float(rng.uniform(0.2, 0.32)) * COLUMNS
        for _ in range(int(rng.integers(150, 260))):
            angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 1))
            x = COLUMNS / 2 + wide * reach * np.cos(angle) * 1.35
            y = ROWS * 0.34 + ROWS * 0.26 * reach * np.sin(angle)
            tone = 0.62 + 0.5 * (1 - y / (ROWS * 0.62)) + rng.normal(0, 0.1)
            leaf = np.clip(base * tone, 0, 255)
            centre, size = (int(x), int(y)), int(rng.integers(4, 11))
            cv2.circle(colour, centre, size, leaf.tolist(), -1)
            cv2.circle(cover, centre, size, 255, -1)
    lit = np.clip(colour * light * (cover[..., None] / 255), 0, 255)
    return np.dstack([lit.astype(np.uint8), cover])


def _branch(
    colour: Image, cover: Image, rng: np.random.Generator, root: Floats, angle: float,
    length: float, thick: float, bark: tuple[int, int, int],
) -> None:  # fmt: skip
    tip = root + length * np.array([np.cos(angle), np.sin(angle)])
    ends = tuple(int(v) for v in root), tuple(int(v) for v in tip)
    cv2.line(colour, *ends, bark, max(1, round(thick)))
    cv2.line(cover, *ends, 255, max(1, round(thick)))
    if thick > 1.2:
        for turn in (-0.5, 0.1, 0.55):
            _branch(colour, cover, rng, tip, angle + turn + rng.normal(0, 0.16),
                    length * rng.uniform(0.55, 0.75), thick * 0.6, bark)  # fmt: skip
