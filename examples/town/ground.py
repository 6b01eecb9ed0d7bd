"""The ground from above: roads with their marks, pavements, courts, shadows and lamp light."""

import cv2
import numpy as np

from examples.town.camera import Array, Camera, CAMERA_HEIGHT_M, Floats, Image
from examples.town.conditions import Look
from examples.town.config import TownConfig
from examples.town.layout import District, KERB_M

PIXELS_PER_M = 10.0
BORDER_M = 24.0
LEVELS = 4


class Ground:
    """The painted ground of a district, looked up from the camera's floor rays."""

    def __init__(self, config: TownConfig, district: District, look: Look) -> None:
        self._corner = district.origin - BORDER_M
        span = np.array([config.blocks_x, config.blocks_y]) * config.pitch_m + 2 * BORDER_M
        self._columns, self._rows = (span * PIXELS_PER_M).astype(int)
        picture = self._paint(config, district, look)
        self._levels = [picture]
        for _ in range(LEVELS - 1):
            half = self._levels[-1].shape[1] // 2, self._levels[-1].shape[0] // 2
            self._levels.append(cv2.resize(self._levels[-1], half, interpolation=cv2.INTER_AREA))
        rng = np.random.default_rng([config.seed, 77])
        grain = cv2.GaussianBlur(rng.standard_normal((256, 256)).astype(np.float32), (0, 0), 0.7)
        grain = np.hstack([np.vstack([grain, grain])] * 2)[:320, :320]
        self._grain = np.clip(128 + 13 * grain, 0, 255).astype(np.uint8)

    def cast(self, camera: Camera, position: Floats, yaw: float) -> tuple[int, Image, Floats]:
        """The ground below the horizon as if nothing stood on it.

        Args:
            camera: The camera, level.
            position: (2,) of the camera in the map frame in m.
            yaw: Heading of the optical axis in rad.

        Returns:
            The first row below the horizon, the picture (R, W, 3) uint8 from there on, and the
            depth (R,) of its rows in m.
        """
        first = int(camera.cy) + 1
        rows = np.arange(first, camera.height)
        depth = camera.focal * CAMERA_HEIGHT_M / (rows - camera.cy)
        slope = (np.arange(camera.width) - camera.cx) / camera.focal
        cos, sin = np.cos(yaw), np.sin(yaw)
        east = (cos + sin * slope).astype(np.float32) * depth[:, None].astype(np.float32)
        north = (sin - cos * slope).astype(np.float32) * depth[:, None].astype(np.float32)
        x = (east + np.float32(position[0] - self._corner[0])) * np.float32(PIXELS_PER_M)
        y = (north + np.float32(position[1] - self._corner[1])) * np.float32(PIXELS_PER_M)
        picture = np.empty((len(rows), camera.width, 3), np.uint8)
        # One copy of the ground for each range of depth, coarser the further away.
        across = depth / camera.focal * PIXELS_PER_M
        footprint = across * np.sqrt(depth / CAMERA_HEIGHT_M)
        level = np.clip(np.round(np.log2(np.maximum(footprint, 1e-3))), 0, LEVELS - 1)
        for k in range(LEVELS):
            band = np.flatnonzero(level == k)
            if len(band):
                part = slice(band[0], band[-1] + 1)
                size = np.float32(0.5**k)
                picture[part] = cv2.remap(
                    self._levels[k], (x[part] + 0.5) * size - 0.5, (y[part] + 0.5) * size - 0.5,
                    cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
                )  # fmt: skip
        near = int(np.searchsorted(-depth, -9.0))
        u, v = (x[near:] * 4) % 256, (y[near:] * 4) % 256
        grain = cv2.remap(self._grain, u, v, cv2.INTER_LINEAR)
        picture[near:] = cv2.multiply(
            picture[near:], cv2.cvtColor(grain, cv2.COLOR_GRAY2RGB), scale=1 / 128
        )
        return first, picture, np.asarray(depth, np.float64)

    def _paint(self, config: TownConfig, district: District, look: Look) -> Image:
        rng = np.random.default_rng([config.seed, int(district.origin[0]), 5])
        shape = (self._rows, self._columns)
        coarse = cv2.resize(
            rng.standard_normal((shape[0] // 30, shape[1] // 30)).astype(np.float32),
            shape[::-1], interpolation=cv2.INTER_CUBIC,
        )  # fmt: skip
        picture = np.zeros((*shape, 3), np.uint8)
        picture[:] = (170, 164, 152)
        self._streets(picture, config, rng, look)
        tone = 1 + 0.05 * coarse + 0.018 * rng.standard_normal(shape, np.float32)
        light = np.array(look.ambient, np.float32) + np.array(look.sun, np.float32) * 0.7
        shaded = picture * tone[..., None] * light
        if look.wet:
            shaded *= 0.62
        if look.shadow:
            shaded *= 1 - look.shadow * self._shadows(district, look)[..., None]
        if look.lit:
            shaded += self._lamplight(district)[..., None] * np.array([105, 79, 44], np.float32)
        return np.asarray(np.clip(shaded, 0, 255).astype(np.uint8))

    def _streets(
        self, picture: Image, config: TownConfig, rng: np.random.Generator, look: Look
    ) -> None:
        road = (196, 198, 204) if look.snow else (92, 92, 96)
        white = (214, 214, 216) if look.snow else (228, 226, 216)
        kerb = (228, 230, 234) if look.snow else (196, 192, 182)
        if look.snow:
            picture[:] = (238, 241, 246)
        half = config.street_m / 2 - KERB_M
        pitch, nx, ny = config.pitch_m, config.blocks_x, config.blocks_y
        lines = [(0, i * pitch, ny * pitch) for i in range(nx + 1)]
        lines += [(1, j * pitch, nx * pitch) for j in range(ny + 1)]
        for widen, colour in ((0.2, kerb), (0.0, road)):
            for axis, at, length in lines:
                self._strip(picture, axis, at, -half - widen, half + widen, -half, length + half,
                            colour)  # fmt: skip
        for axis, at, length in lines:
            for _ in range(int(length / 6)):  # patched asphalt and manhole covers
                s, off = float(rng.uniform(0, length)), float(rng.uniform(-half, half - 1))
                tone = int(rng.integers(-22, 24))
                patch = (road[0] + tone, road[1] + tone, road[2] + tone)
                self._strip(picture, axis, at, off, off + float(rng.uniform(0.6, 1.8)), s,
                            s + float(rng.uniform(0.6, 4.0)), patch)  # fmt: skip
            if look.snow:
                for track in (-2.1, -0.7, 0.7, 2.1):
                    self._strip(picture, axis, at, track - 0.2, track + 0.2, 0, length,
                                (136, 136, 140))  # fmt: skip
            for start in np.arange(0, length - 1, pitch):
                self._marks(picture, axis, at, float(start), pitch, half, rng, white)

    def _marks(
        self, picture: Image, axis: int, at: float, start: float, pitch: float, half: float,
        rng: np.random.Generator, white: tuple[int, int, int],
    ) -> None:  # fmt: skip
        for s in np.arange(start + half + 3, start + pitch - half - 3, 4.0):
            self._strip(picture, axis, at, -0.07, 0.07, float(s), float(s) + 2.0, white)
        for near in (start + half + 1.2, start + pitch - half - 3.2):
            if rng.random() < 0.5:  # a crossing
                for off in np.arange(-half + 0.3, half - 0.3, 1.0):
                    self._strip(picture, axis, at, off, off + 0.5, near, near + 2.0, white)
            else:
                self._strip(picture, axis, at, -half, half, near + 0.8, near + 1.1, white)
        for s in np.arange(start + half + 5, start + pitch - half - 6, 5.5):  # parking bays
            if rng.random() < 0.5:
                self._strip(picture, axis, at, half - 0.1, half, float(s), float(s) + 4.5, white)

    def _strip(
        self, picture: Image, axis: int, at: float, low: float, high: float, start: float,
        end: float, colour: tuple[int, int, int],
    ) -> None:  # fmt: skip
        """A rectangle along a street: axis 0 runs north at east `at`, axis 1 runs east."""
        across = slice(*((np.array([at + low, at + high]) + BORDER_M) * PIXELS_PER_M).astype(int))
        along = slice(*((np.array([start, end]) + BORDER_M) * PIXELS_PER_M).astype(int))
        picture[(along, across) if axis == 0 else (across, along)] = colour

    def _pixels(self, points: Array) -> Array:
        return np.asarray(((points - self._corner) * PIXELS_PER_M).astype(np.int32))

    def _shadows(self, district: District, look: Look) -> np.ndarray:
        mask = np.zeros((self._rows, self._columns), np.float32)
        east, north, up = look.sun_dir
        for building in district.buildings:
            cast = -np.array([east, north]) / up * building.height_m
            outline = np.vstack([building.corners, building.corners + cast])
            hull = cv2.convexHull(self._pixels(outline))
            cv2.fillConvexPoly(mask, hull, 1.0)
        for prop in district.props:
            if prop.kind == 'tree':
                spot = np.array([prop.x, prop.y]) - np.array([east, north]) / up * 3.5
                x, y = self._pixels(spot)
                cv2.circle(mask, (int(x), int(y)), int(1.8 * PIXELS_PER_M), 0.9, -1)
        return np.asarray(cv2.GaussianBlur(mask, (0, 0), 2.0))

    def _lamplight(self, district: District) -> np.ndarray:
        light = np.zeros((self._rows, self._columns), np.float32)
        radius = int(9 * PIXELS_PER_M)
        axis = np.arange(-radius, radius + 1) / PIXELS_PER_M
        pool = np.exp(-(axis[:, None] ** 2 + axis[None, :] ** 2) / (2 * 2.6**2))
        for prop in district.props:
            if prop.kind == 'lamp':
                x, y = self._pixels(np.array([prop.x, prop.y]))
                if radius <= x < self._columns - radius and radius <= y < self._rows - radius:
                    light[y - radius : y + radius + 1, x - radius : x + radius + 1] += pool
        return np.minimum(light, 1.3)
