"""Compares live images with the map's thumbnails and reports camera faults."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from regvpr_core.errors import ImageError, MapError
from regvpr_core.geometry import Array
from regvpr_core.images import RGB
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.verification.camera_rays import Intrinsics

SAMPLE = 48
"""Number of the map's thumbnails that are compared."""

GRID = (32, 24)
"""Width and height that images are scaled down to, pixels."""

MEMORY = 30.0
"""Number of images over which brightness, contrast and change are averaged."""

FAR = 4.0
"""A larger deviation from the map's brightness or contrast is reported, in robust standard
deviations."""

LEAST_SPREAD = 12.0
"""Lower bound of the robust standard deviation, grey levels of 255: images of two days differ more
than those of the map's drive."""

STUCK_LEVELS, STUCK_SHARE, LEAST_CHANGE = 1.5, 0.4, 4.0
"""A pixel of the grid is stuck if it changes by less than `STUCK_LEVELS` grey levels on average.
The view is blocked if more than `STUCK_SHARE` of the pixels are stuck and the others change by at
least `LEAST_CHANGE` grey levels."""

SATURATED = 250.0
MIDDLE = (40.0, 215.0)
"""An image of low contrast is reported as such if its mean level is between these values, else as
wrongly exposed."""

FIELD_SHARE = 0.15
"""A warning is given if the horizontal field of view differs from that of the map's camera by more
than this share."""

MOVED_M = 0.2
"""Least distance between images that are compared for stuck pixels, m."""

Levels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Note:
    """A camera fault: a stable code, and a line for the operator."""

    code: str
    text: str


class CameraHealth:
    """Watches one camera. Only `notes` may be read by other threads."""

    def __init__(self, place_map: PlaceMap | None) -> None:
        """Measure brightness and contrast of the map's thumbnails, if it has any."""
        self._of_map = _measures(place_map)
        self._measure: Levels | None = None
        self._last: Levels | None = None
        self._last_T: Array | None = None
        self._change: Levels | None = None
        self._images, self._moves = 0, 0
        self.notes: tuple[Note, ...] = ()

    def look(self, rgb: RGB, T_odom_base: Array | None) -> tuple[Note, ...]:
        """Add an image (H, W, 3) and return the faults found in all images so far.

        Args:
            rgb: the image.
            T_odom_base: (4, 4) odometry; None disables the test for stuck pixels.
        """
        grey = _grid(rgb)
        self._images += 1
        measure = np.array([grey.mean(), grey.std()], np.float32)
        self._measure = measure if self._measure is None else \
            self._measure + (measure - self._measure) / min(self._images, MEMORY)
        if T_odom_base is not None:
            self._see_change(grey, T_odom_base)
        self.notes = tuple(self._exposure() + self._stuck())
        return self.notes

    def field_of_view(self, camera: Intrinsics, of_map: Intrinsics) -> Note | None:
        """Compare the camera's horizontal field of view with that of the map's camera."""
        here, there = (np.degrees(2.0 * np.arctan(one.width / 2.0 / one.K[0, 0]))
                       for one in (camera, of_map))
        if abs(here - there) <= FIELD_SHARE * there:
            return None
        return Note('field_of_view', (
            f'the camera sees {here:.0f} deg, that of the map saw {there:.0f} deg: crop or '
            f'rectify its images alike, or build the map with this camera'))

    def _see_change(self, grey: Levels, T_odom_base: Array) -> None:
        if self._last is not None and self._last_T is not None:
            if np.linalg.norm(T_odom_base[:3, 3] - self._last_T[:3, 3]) < MOVED_M:
                return
            change = np.abs(grey - self._last)
            self._moves += 1
            self._change = change if self._change is None else \
                self._change + (change - self._change) / min(self._moves, MEMORY)
        self._last, self._last_T = grey, T_odom_base

    def _exposure(self) -> list[Note]:
        if self._of_map is None or self._measure is None or self._images < MEMORY / 3:
            return []
        middle, spread = self._of_map
        far = (self._measure - middle) / spread
        mean, contrast = self._measure
        flat = far[1] < -FAR / 2
        if abs(far[0]) > FAR and not (flat and MIDDLE[0] < mean < MIDDLE[1]):
            word = 'dark' if far[0] < 0 else 'bright'
            return [Note(f'too_{word}', (
                f"images are {word}: mean level {mean:.0f}, the map's {middle[0]:.0f} of 255: "
                f'check exposure and gain; if it is the hour, add such a drive (regvpr map '
                f'update)'))]
        if flat:
            return [Note('low_contrast', (
                f"images have little contrast: {contrast:.0f} levels, the map's {middle[1]:.0f}: "
                f'clean the lens, look for fog, glare or a wrong focus'))]
        return []

    def _stuck(self) -> list[Note]:
        if self._change is None or self._last is None or self._moves < MEMORY / 3:
            return []
        # In dark or foggy images all changes are smaller.
        scale = 1.0
        if self._of_map is not None and self._measure is not None:
            scale = min(1.0, float(self._measure[1] / max(self._of_map[0][1], 1.0)))
        # Overexposed pixels do not change either; they are reported as a wrong exposure.
        stuck = (self._change < scale * STUCK_LEVELS) & (self._last < SATURATED)
        share = float(stuck.mean())
        moving = self._change[~stuck]
        if share <= STUCK_SHARE or (len(moving) and moving.mean() < scale * LEAST_CHANGE):
            return []
        return [Note('view_blocked', (
            f'{100 * share:.0f} % of the image does not change while the robot drives: uncover or '
            f'clean the lens, or check that the camera still delivers new images'))]


def _grid(rgb: RGB) -> Levels:
    step = max(1, rgb.shape[1] // (4 * GRID[0]))  # reading all pixels is slow
    grey = cv2.cvtColor(np.ascontiguousarray(rgb[::step, ::step]), cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, GRID, interpolation=cv2.INTER_AREA), np.float32)


def _measures(place_map: PlaceMap | None) -> tuple[Levels, Levels] | None:
    """Median and robust spread of (mean, contrast) of the map's thumbnails."""
    if place_map is None or not len(place_map):
        return None
    found = []
    for k in np.unique(np.linspace(0, len(place_map) - 1, SAMPLE).astype(np.int64)):
        try:
            thumbnail = place_map.thumbnail(int(k))
        except (MapError, ImageError):
            continue
        if thumbnail is not None:
            grey = _grid(thumbnail)
            found.append([grey.mean(), grey.std()])
    if not found:
        return None
    table = np.array(found, np.float32)
    middle = np.median(table, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(table - middle), axis=0), LEAST_SPREAD)
    return middle, np.asarray(spread, np.float32)
