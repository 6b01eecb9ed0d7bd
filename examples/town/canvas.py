"""A wall to paint on, measured in metres."""

import cv2
import numpy as np

from examples.town.camera import Image
from examples.town.style import Colour


class Canvas:
    """A texture in metres: x from the left end of the wall, z up from the ground.

    Attributes:
        albedo: (H, W, 3) uint8, the paint.
        glow: (H, W, 3) uint8, the light it gives off by itself after dark.
    """

    def __init__(self, width_m: float, height_m: float, pixels_per_m: float) -> None:
        # Sizes in whole eights keep the coarser copies of the texture exact.
        columns = max(8, round(width_m * pixels_per_m / 8) * 8)
        rows = max(8, round(height_m * pixels_per_m / 8) * 8)
        self.width_m, self.height_m = width_m, height_m
        self.scale_x, self.scale_z = columns / width_m, rows / height_m
        self.albedo: Image = np.zeros((rows, columns, 3), np.uint8)
        self.glow: Image = np.zeros((rows, columns, 3), np.uint8)

    def column(self, x: float) -> int:
        """Column of the pixel edge at x."""
        return round(x * self.scale_x)

    def row(self, z: float) -> int:
        """Row of the pixel edge at z."""
        return round((self.height_m - z) * self.scale_z)

    def box(self, x0: float, z0: float, x1: float, z1: float) -> Image | None:
        """A view of the paint in a rectangle, None if it is empty."""
        rows, columns = self._span(x0, z0, x1, z1)
        view = self.albedo[rows, columns]
        return view if view.size else None

    def fill(self, x0: float, z0: float, x1: float, z1: float, colour: Colour) -> None:
        """Paint a rectangle and put out what glowed there."""
        rows, columns = self._span(x0, z0, x1, z1)
        self.albedo[rows, columns] = colour
        self.glow[rows, columns] = 0

    def shine(self, x0: float, z0: float, x1: float, z1: float, colour: Colour) -> None:
        """Let a rectangle glow."""
        rows, columns = self._span(x0, z0, x1, z1)
        self.glow[rows, columns] = colour

    def shade(self, x0: float, z0: float, x1: float, z1: float, factor: float) -> None:
        """Multiply the paint of a rectangle."""
        view = self.box(x0, z0, x1, z1)
        if view is not None:
            view[:] = np.clip(view * factor, 0, 255).astype(np.uint8)

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        """Paint a polygon of (x, z) points and put out what glowed there."""
        cv2.fillPoly(self.albedo, [self._pixels(points)], colour, cv2.LINE_AA)
        cv2.fillPoly(self.glow, [self._pixels(points)], (0, 0, 0))

    def line(self, points: list[tuple[float, float]], width_m: float, colour: Colour) -> None:
        """Paint a line through (x, z) points, at least one pixel wide."""
        thick = max(1, round(width_m * self.scale_x))
        cv2.polylines(self.albedo, [self._pixels(points)], False, colour, thick, cv2.LINE_AA)

    def ellipse(
        self,
        x: float,
        z: float,
        half_x: float,
        half_z: float,
        colour: Colour,
        *,
        top: bool = False,
    ) -> None:
        """Paint an ellipse, or its upper half, and put out what glowed there."""
        axes = (max(1, round(half_x * self.scale_x)), max(1, round(half_z * self.scale_z)))
        centre = (self.column(x), self.row(z))
        start = 180 if top else 0
        cv2.ellipse(self.albedo, centre, axes, 0, start, 360, colour, -1, cv2.LINE_AA)
        cv2.ellipse(self.glow, centre, axes, 0, start, 360, (0, 0, 0), -1)

    def _pixels(self, points: list[tuple[float, float]]) -> np.ndarray:
        return np.array([[self.column(x), self.row(z)] for x, z in points], np.int32)

    def _span(self, x0: float, z0: float, x1: float, z1: float) -> tuple[slice, slice]:
        top, bottom = max(0, self.row(z1)), max(0, self.row(z0))
        left, right = max(0, self.column(x0)), max(0, self.column(x1))
        return slice(top, max(bottom, top)), slice(left, max(right, left))
