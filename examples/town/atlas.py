"""All wall textures in one image, each in coarser copies so that far walls do not shimmer."""

from collections.abc import Callable

import cv2
import numpy as np

from examples.town.camera import Floats, Image
from examples.town.errors import TownError

LEVELS_X, LEVELS_Z = 5, 4
MARGIN = 2
PAGE = (16384, 4096)  # cv2.remap takes no image with a side above 32767


class Atlas:
    """Textures of walls, painted when a wall is first seen.

    A wall is seen under a flat angle far more often across than along, so its copies shrink in
    x and in z independently (a rip map).

    Attributes:
        page: (H, W, 3) uint8, every copy with a margin of its own edge pixels.
    """

    def __init__(self, walls: int, painter: Callable[[int], Image]) -> None:
        self.page: Image = np.zeros((*PAGE, 3), np.uint8)
        self._painter = painter
        self._known = np.zeros(walls, bool)
        self._corner = np.zeros((walls, LEVELS_X, LEVELS_Z, 2), np.float32)
        self._size = np.zeros((walls, 2), np.float32)
        self._x = self._y = self._shelf = 0

    def size(self, wall: np.ndarray) -> Floats:
        """Width and height (..., 2) in pixels of the finest copy, painting what is missing."""
        for index in np.unique(wall[~self._known[wall]]):
            self._add(int(index))
        return np.asarray(self._size[wall])

    def corner(self, wall: np.ndarray, level_x: np.ndarray, level_z: np.ndarray) -> Floats:
        """Column and row (..., 2) in the page of the first pixel of the copies."""
        return np.asarray(self._corner[wall, level_x, level_z])

    def _add(self, wall: int) -> None:
        texture = self._painter(wall)
        self._size[wall] = texture.shape[1], texture.shape[0]
        for level_x in range(LEVELS_X):
            for level_z in range(LEVELS_Z):
                if level_z > level_x:  # never asked for: walls are foreshortened in x only
                    self._corner[wall, level_x, level_z] = self._corner[wall, level_x, level_x]
                    continue
                width = max(1, texture.shape[1] >> level_x)
                height = max(1, texture.shape[0] >> level_z)
                copy = cv2.resize(texture, (width, height), interpolation=cv2.INTER_AREA)
                self._corner[wall, level_x, level_z] = self._place(copy)
        self._known[wall] = True

    def _place(self, copy: np.ndarray) -> tuple[int, int]:
        height, width = copy.shape[0] + 2 * MARGIN, copy.shape[1] + 2 * MARGIN
        if self._x + width > self.page.shape[1]:
            self._x, self._y, self._shelf = 0, self._y + self._shelf, 0
        x, y = self._x, self._y
        if width > self.page.shape[1] or y + height > self.page.shape[0]:
            raise TownError(f'no room for another facade of {width} x {height} pixels')
        framed = cv2.copyMakeBorder(copy, MARGIN, MARGIN, MARGIN, MARGIN, cv2.BORDER_REPLICATE)
        self.page[y : y + height, x : x + width] = framed
        self._x, self._shelf = x + width, max(self._shelf, height)
        return x + MARGIN, y + MARGIN
