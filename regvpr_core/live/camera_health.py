"""Compares a camera with the images that the map was built from, and tells what to do."""

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
"""Thumbnails of the map that are looked at."""

GRID = (32, 24)
"""Width and height that an image is shrunk to, pixels."""

MEMORY = 30.0
"""Images that brightness, contrast and change are averaged over."""

FAR = 4.0
"""Robust standard deviations of the map's brightness or contrast that count as far."""

LEAST_SPREAD = 12.0
"""And at least so many of 255 levels: thumbnails of one drive are more alike than two days."""

STUCK_LEVELS, STUCK_SHARE, LEAST_CHANGE = 1.5, 0.4, 4.0
"""A pixel of the grid whose mean change from image to image is below the first is stuck; a view
with more than this share of them is blocked, where the others change by the last on average."""

FIELD_SHARE = 0.15
"""Difference of the horizontal field of view, as a share of the map's, that is warned of."""

MOVED_M = 0.2
"""Images nearer than this to each other say nothing of what is stuck."""

Levels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Note:
    """What is wrong with a camera: a stable code, and a line that says what to do."""

    code: str
    text: str


class CameraHealth:
    """Watches one camera. Not to be shared between threads, but for `notes`."""

    def __init__(self, place_map: PlaceMap | None) -> None:
        """Learn brightness and contrast from the map's thumbnails, where it has any."""
        self._of_map = _measures(place_map)
        self._measure: Levels | None = None
        self._last: Levels | None = None
        self._last_T: Array | None = None
        self._change: Levels | None = None
        self._images, self._moves = 0, 0
        self.notes: tuple[Note, ...] = ()

    def look(self, rgb: RGB, T_odom_base: Array | None) -> tuple[Note, ...]:
        """Take in an image (H, W, 3); what is wrong, by all images so far.

        Args:
            rgb: the image.
            T_odom_base: (4, 4) odometry; without it what is stuck is not told.
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
        """Whether the camera sees much more or less of a scene than the map's did."""
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
        if abs(far[0]) > FAR:
            word = 'dark' if far[0] < 0 else 'bright'
            return [Note(f'too_{word}', (
                f"images are {word}: mean level {mean:.0f}, the map's {middle[0]:.0f} of 255: "
                f'check exposure and gain; if it is the hour, add such a drive (regvpr map '
                f'update)'))]
        if far[1] < -FAR / 2:
            return [Note('low_contrast', (
                f"images have little contrast: {contrast:.0f} levels, the map's {middle[1]:.0f}: "
                f'clean the lens, look for fog, glare or a wrong focus'))]
        return []

    def _stuck(self) -> list[Note]:
        if self._change is None or self._moves < MEMORY / 3:
            return []
        stuck = self._change < STUCK_LEVELS
        share = float(stuck.mean())
        moving = self._change[~stuck]
        if share <= STUCK_SHARE or (len(moving) and moving.mean() < LEAST_CHANGE):
            return []
        return [Note('view_blocked', (
            f'{100 * share:.0f} % of the image does not change while the robot drives: uncover or '
            f'clean the lens, or check that the camera still delivers new images'))]


def _grid(rgb: RGB) -> Levels:
    step = max(1, rgb.shape[1] // (4 * GRID[0]))  # every pixel of a large image costs milliseconds
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
