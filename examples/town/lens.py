"""From light to image: rain, drops, exposure, contrast and sensor noise."""

import cv2
import numpy as np

from examples.town.camera import Array, Image
from examples.town.conditions import Look

BANK = 48  # spare rows and columns, so that each frame cuts another piece of noise


class Lens:
    """The camera's own part in the image, different on every lap."""

    def __init__(self, look: Look, width: int, height: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 59])
        self._look, self._seed = look, seed
        gain = rng.normal(1.0, 0.06) * rng.normal(1.0, 0.02, 3)
        self._gain = (gain * look.contrast).astype(np.float32)
        self._lift = np.float32(127 * (1 - look.contrast) + rng.normal(0, 2))
        shape = (height + BANK, width + BANK, 3)
        grain = rng.standard_normal(shape, np.float32)
        self._noise = grain * np.float32(look.noise)
        drift = rng.random((height + 4 * BANK, width + BANK), np.float32)
        long = 15 if look.wet else 3
        self._streaks = cv2.blur((drift > 0.992).astype(np.float32), (1, long)) * long
        self._streaks *= np.float32(look.streaks * 50 / (1 + 0.1 * long))
        x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
        self._drops = np.zeros((height, width), np.float32)
        for _ in range(look.drops):
            centre = rng.uniform(0, width), rng.uniform(0, height)
            radius = rng.uniform(0.02, 0.06) * width
            far = np.hypot(x - centre[0], (y - centre[1]) * 0.8) / radius
            self._drops = np.maximum(self._drops, np.clip(1.6 - 1.6 * far, 0, 1))
        across, down = (x / width - 0.5) ** 2, (y / height - 0.5) ** 2
        self._vignette = (1 - 0.35 * (across + down))[..., None].astype(np.float32)

    def expose(self, light: Array, frame: int) -> Image:
        """The image (H, W, 3) uint8 RGB of frame number `frame` from (H, W, 3) float32 light."""
        height, width = light.shape[:2]
        rng = np.random.default_rng([self._seed, 61, frame])
        top, left, fall = (int(v) for v in rng.integers(0, (BANK, BANK, 4 * BANK)))
        if self._look.drops:
            soft = cv2.GaussianBlur(light, (0, 0), 5)
            light = light + self._drops[..., None] * (np.flipud(soft) * 0.3 + soft * 0.7 - light)
        image = light * (self._gain * self._vignette) + self._lift
        if self._look.streaks:
            image += self._streaks[fall : fall + height, left : left + width, None]
        image += self._noise[top : top + height, left : left + width]
        return np.asarray(np.clip(image, 0, 255, out=image).astype(np.uint8))
