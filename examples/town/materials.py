"""The stuff walls are made of: brick, stone, plaster, siding, panels and timber frames."""

from itertools import pairwise

import cv2
import numpy as np

from examples.town.canvas import Canvas
from examples.town.style import Style


def cover(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    """Paint the bare wall."""
    shape = canvas.albedo.shape[:2]
    tone = 1 + 0.05 * _cloud(rng, shape, 14) + 0.035 * rng.standard_normal(shape, np.float32)
    if style.material == 'brick':
        tone *= _bond(canvas, rng, 0.5, 0.2, 0.13, joint=1.28)
    elif style.material == 'stone':
        tone *= _bond(canvas, rng, 1.0, 0.5, 0.1, joint=0.72)
    elif style.material == 'siding':
        tone *= _bond(canvas, rng, 40.0, 0.3, 0.05, joint=0.66)
    elif style.material == 'panel':
        tone *= _bond(canvas, rng, 1.6, style.floor_m / 2, 0.07, joint=0.7, shifted=False)
    else:
        tone *= 1 + 0.07 * _cloud(rng, shape, 40)
    paint = np.array(style.wall, np.float32) * tone[..., None]
    canvas.albedo[:] = np.clip(paint, 0, 255).astype(np.uint8)
    if style.material == 'timber':
        _beams(canvas, style, rng)


def _cloud(rng: np.random.Generator, shape: tuple[int, ...], cell: int) -> np.ndarray:
    small = rng.standard_normal((shape[0] // cell + 3, shape[1] // cell + 3)).astype(np.float32)
    size = shape[1], shape[0]
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_CUBIC))


def _bond(
    canvas: Canvas, rng: np.random.Generator, length: float, height: float, spread: float,
    *, joint: float, shifted: bool = True,
) -> np.ndarray:  # fmt: skip
    """Factors (H, W) of courses of bricks: a tone each, and joints between them."""
    rows, columns = canvas.albedo.shape[:2]
    v = (np.arange(rows) / canvas.scale_z / height).astype(np.float32)
    u = (np.arange(columns) / canvas.scale_x / length).astype(np.float32)
    course = v.astype(np.int64)
    offset = 0.5 * (course % 2) if shifted else np.zeros(rows)
    place = u[None, :] + offset[:, None].astype(np.float32)
    brick = place.astype(np.int64)
    tones = rng.normal(1.0, spread, (course.max() + 1, brick.max() + 1)).astype(np.float32)
    factor = tones[course[:, None], brick]
    joints = ((v % 1) < 1 / canvas.scale_z / height)[:, None] | (
        (place % 1) < 1 / canvas.scale_x / length
    )
    factor[joints] = joint
    return factor


def _beams(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    dark = (62, 44, 34)
    every = float(rng.uniform(1.2, 2.2))
    levels = [style.ground_m + i * style.floor_m for i in range(style.floors)]
    count = max(2, round(canvas.width_m / every))
    posts = [canvas.width_m * i / count for i in range(count + 1)]
    for low in levels:
        high = low + style.floor_m
        canvas.line([(0, low), (canvas.width_m, low)], 0.22, dark)
        for post in posts:
            canvas.line([(post, low), (post, high)], 0.16, dark)
        for left, right in pairwise(posts):
            if rng.random() < 0.35:
                ends = [(left, low), (right, high)]
                canvas.line(ends if rng.random() < 0.5 else [(left, high), (right, low)], 0.14,
                            dark)  # fmt: skip
