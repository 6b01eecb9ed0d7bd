"""The sky as a panorama, looked up by heading."""

import cv2
import numpy as np

from examples.town.camera import Camera, Image
from examples.town.conditions import Look

COLUMNS, ROWS = 2048, 320  # all round, and from the horizon to 60 degrees up
TOP_RAD = np.pi / 3


class Sky:
    """One sky of clouds; a lap has a sky of its own."""

    def __init__(self, look: Look, seed: int) -> None:
        rng = np.random.default_rng([seed, 31])
        up = np.linspace(0, 1, ROWS)[::-1].astype(np.float32)[:, None, None]
        low, top = np.array(look.sky_low, np.float32), np.array(look.sky_top, np.float32)
        sky = low + (top - low) * up**0.7
        noise = np.zeros((ROWS, COLUMNS), np.float32)
        for cells, weight in ((12, 1.0), (28, 0.6), (64, 0.35), (150, 0.2)):
            rows = max(3, cells // 4)
            small = rng.standard_normal((rows, cells)).astype(np.float32)
            wide = cv2.resize(np.hstack([small] * 3), (3 * COLUMNS, ROWS),
                              interpolation=cv2.INTER_CUBIC)  # fmt: skip
            noise += weight * wide[:, COLUMNS : 2 * COLUMNS]  # the middle one has no seam
        edge = np.quantile(noise, 1 - look.clouds)
        cover = np.clip((noise - edge) * 1.3, 0, 1)[..., None] * 0.85
        sky = sky * (1 - cover) + np.array(look.cloud, np.float32) * cover
        panorama = np.clip(sky * 255, 0, 255).astype(np.uint8)
        self._panorama = np.hstack([panorama, panorama[:, :2]])

    def cast(self, camera: Camera, yaw: float) -> Image:
        """The sky (R, W, 3) uint8 in the rows above the horizon, for a heading in rad."""
        slope = (np.arange(camera.width) - camera.cx) / camera.focal
        rise = (camera.cy - np.arange(int(camera.cy) + 1)) / camera.focal
        up = np.arctan(rise[:, None] / np.sqrt(1 + slope**2)) / TOP_RAD
        turn = (np.arctan(slope) - yaw) / (2 * np.pi) % 1 * COLUMNS
        y = ((1 - np.minimum(up, 1)) * (ROWS - 1)).astype(np.float32)
        x = np.broadcast_to(turn.astype(np.float32), y.shape)
        return np.asarray(cv2.remap(self._panorama, np.ascontiguousarray(x), y, cv2.INTER_LINEAR))
