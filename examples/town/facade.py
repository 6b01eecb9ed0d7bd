"""Facades: windows, doors, shops, signs and whatever makes a house unlike the next."""

import math

import numpy as np

from examples.town.canvas import Canvas
from examples.town.materials import cover
from examples.town.signs import feature, lettering
from examples.town.style import Colour, Style, VIVID

GLASS: Colour = (62, 76, 92)
SNOW: Colour = (244, 247, 252)
WARM: tuple[Colour, ...] = ((255, 206, 120), (255, 226, 170), (240, 180, 90), (210, 226, 255))


def paint(
    style: Style, width_m: float, height_m: float, seed: tuple[int, ...], side: int, *,
    fence: bool, snow: bool, pixels_per_m: float,
) -> Canvas:  # fmt: skip
    """Paint one wall of a building.

    Args:
        style: The building's style.
        width_m: Width of the wall in m.
        height_m: Height of the wall in m.
        seed: Seed of the building.
        side: 0 for the front, else a side or the back, which is plainer.
        fence: Whether it is a garden wall, bare but for its coping.
        snow: Whether snow lies on the ledges.
        pixels_per_m: Size of the texture.
    """
    rng = np.random.default_rng([*seed, 50 + side])
    canvas = Canvas(width_m, height_m, pixels_per_m)
    cover(canvas, style, rng)
    if fence:
        canvas.fill(0, height_m - 0.15, width_m, height_m, SNOW if snow else style.trim)
        return canvas
    _plinth(canvas, style, width_m)
    blank = side != 0 and rng.random() < 0.3
    for floor in range(1, style.floors):
        if not blank:
            _storey(canvas, style, rng, floor, snow=snow)
    if side == 0:
        _street_level(canvas, style, rng, snow=snow)
    elif not blank:
        for x in style.window_columns(width_m):
            _window(canvas, style, rng, x, 1.0, min(style.window_h, 1.8), snow=snow)
    feature(canvas, style, rng, 'mural' if blank and rng.random() < 0.5 else style.feature)
    _edges(canvas, style, rng, snow=snow)
    return canvas


def _plinth(canvas: Canvas, style: Style, width_m: float) -> None:
    if style.ground_wall != style.wall:
        view = canvas.box(0, 0, width_m, style.ground_m)
        if view is not None:
            tone = view.mean(axis=2, keepdims=True) / max(1.0, sum(style.wall) / 3)
            view[:] = np.clip(np.array(style.ground_wall) * tone, 0, 255).astype(np.uint8)
        canvas.fill(0, style.ground_m - 0.1, width_m, style.ground_m + 0.1, style.trim)
    canvas.shade(0, 0, width_m, 0.5, 0.72)


def _storey(
    canvas: Canvas, style: Style, rng: np.random.Generator, floor: int, *, snow: bool
) -> None:
    columns = style.window_columns(canvas.width_m)
    skip = int(rng.integers(len(columns))) if len(columns) > 2 and rng.random() < 0.2 else -1
    for i, x in enumerate(columns):
        if i != skip:
            _window(canvas, style, rng, x, style.sill_m(floor), style.window_h, snow=snow)


def _window(
    canvas: Canvas, style: Style, rng: np.random.Generator, x: float, sill: float, high: float,
    *, snow: bool,
) -> None:  # fmt: skip
    half = min(style.window_w, canvas.width_m - 0.4) / 2
    left, right, top = x - half, x + half, sill + high
    if style.shutter:
        wide = min(0.45, style.gap_m / 2)
        for edge in (left - wide, right):
            canvas.fill(edge, sill, edge + wide, top, style.shutter)
            for z in np.arange(sill + 0.2, top, 0.3):
                canvas.shade(edge, z, edge + wide, z + 0.08, 0.75)
    canvas.fill(left - 0.1, sill - 0.06, right + 0.1, top + 0.12, style.trim)
    glass = tuple(int(c) for c in np.array(GLASS) * rng.uniform(0.6, 1.35))
    canvas.fill(left, sill, right, top, (glass[0], glass[1], glass[2]))
    canvas.shade(left, (sill + top) / 2, right, top, 1.25)
    canvas.shade(left, top - 0.12, right, top, 0.55)
    lit = rng.random() < 0.45
    colour = WARM[int(rng.integers(len(WARM)))]
    level = rng.uniform(0.55, 1.0)
    if lit:
        shine = tuple(int(c * level) for c in colour)
        canvas.shine(left, sill, right, top, (shine[0], shine[1], shine[2]))
    _curtain(canvas, rng, left, sill, right, top, lit=lit)
    columns, rows = style.panes
    for i in range(columns + 1):
        at = left + (right - left) * i / columns
        canvas.fill(at - 0.03, sill, at + 0.04, top, style.frame)
    for i in range(rows + 1):
        at = sill + high * i / rows
        canvas.fill(left, at - 0.03, right, at + 0.04, style.frame)
    if style.arched:
        canvas.ellipse(x, top, half + 0.1, 0.45, style.trim, top=True)
        canvas.ellipse(x, top, half, 0.33, GLASS, top=True)
    canvas.fill(left - 0.15, sill - 0.12, right + 0.15, sill, SNOW if snow else style.trim)
    canvas.shade(left - 0.15, sill - 0.22, right + 0.15, sill - 0.12, 0.7)


def _curtain(
    canvas: Canvas, rng: np.random.Generator, left: float, sill: float, right: float, top: float,
    *, lit: bool,
) -> None:  # fmt: skip
    kind = rng.random()
    colour = (226, 222, 210) if rng.random() < 0.6 else VIVID[int(rng.integers(len(VIVID)))]
    if kind < 0.25:
        drop = top - (top - sill) * rng.uniform(0.2, 0.8)
        parts = [(left, drop, right, top)]
    elif kind < 0.6:
        wide = (right - left) * rng.uniform(0.15, 0.32)
        parts = [(left, sill, left + wide, top), (right - wide, sill, right, top)]
    else:
        return
    for part in parts:
        canvas.fill(*part, colour)
        if lit:
            dim = np.array(colour) * (0.45, 0.36, 0.22)
            canvas.shine(*part, (int(dim[0]), int(dim[1]), int(dim[2])))


def _street_level(canvas: Canvas, style: Style, rng: np.random.Generator, *, snow: bool) -> None:
    width, door_at = canvas.width_m, float(rng.uniform(0.12, 0.88))
    door_x = min(max(door_at * width, 0.9), width - 0.9)
    high = style.ground_m - 0.75
    if style.street_level == 'shop':
        _shop(canvas, style, rng, high, snow=snow)
    elif style.street_level == 'garage':
        canvas.fill(0.5, 0, width - 2.2, high, style.accent)
        for z in np.arange(0.3, high, 0.4):
            canvas.shade(0.5, z, width - 2.2, z + 0.06, 0.7)
        door_x = width - 1.2
    elif style.street_level == 'arcade':
        count = max(2, int(width / 2.6))
        for i in range(count):
            x, half = width * (i + 0.5) / count, width / count / 2 - 0.35
            canvas.fill(x - half, 0, x + half, high - half / 2, (40, 38, 40))
            canvas.ellipse(x, high - half / 2, half, half * 0.7, (40, 38, 40), top=True)
            canvas.shine(x - half, 0.3, x + half, high * 0.7, (90, 70, 40))
        return
    else:
        for x in style.window_columns(width):
            if abs(x - door_x) > style.window_w / 2 + 0.75:
                _window(canvas, style, rng, x, 0.95, min(style.window_h, 1.9), snow=snow)
    canvas.fill(door_x - 0.65, 0, door_x + 0.65, 2.5, style.trim)
    canvas.fill(door_x - 0.5, 0, door_x + 0.5, 2.3, style.door)
    canvas.fill(door_x - 0.3, 1.3, door_x + 0.3, 2.1, GLASS)
    canvas.shine(door_x - 0.3, 1.3, door_x + 0.3, 2.1, (190, 150, 90))


def _shop(
    canvas: Canvas, style: Style, rng: np.random.Generator, high: float, *, snow: bool
) -> None:
    width = canvas.width_m
    canvas.fill(0.15, 0, width - 0.15, high, style.accent)
    canvas.shade(0.15, 0, width - 0.15, 0.45, 0.6)
    count = max(1, round((width - 0.6) / float(rng.uniform(1.6, 3.2))))
    step = (width - 0.6) / count
    shine = WARM[int(rng.integers(len(WARM)))]
    for i in range(count):
        left, right = 0.3 + i * step + 0.1, 0.3 + (i + 1) * step - 0.1
        canvas.fill(left, 0.5, right, high - 0.15, (84, 92, 100))
        canvas.shine(left, 0.5, right, high - 0.15, shine)
        for _ in range(int(rng.integers(3, 8))):
            x, wide = float(rng.uniform(left, right - 0.3)), float(rng.uniform(0.2, 0.7))
            low, tall = float(rng.choice([0.5, 1.2])), float(rng.uniform(0.3, 0.8))
            goods = VIVID[int(rng.integers(len(VIVID)))]
            canvas.fill(x, low, min(x + wide, right), low + tall, goods)
            canvas.shine(x, low, min(x + wide, right), low + tall,
                         (goods[0] * 3 // 4, goods[1] * 3 // 4, goods[2] * 3 // 4))  # fmt: skip
    low, top = high + 0.02, style.ground_m - 0.08
    canvas.fill(0.1, low, width - 0.1, top, style.accent)
    canvas.shine(0.1, low, width - 0.1, top, (style.accent[0] // 2, style.accent[1] // 2,
                                              style.accent[2] // 2))  # fmt: skip
    start = float(rng.uniform(0.05, 0.25)) * width
    lettering(canvas, rng, start, low + 0.1, width - start, top - 0.1, style.ink)
    if snow:
        canvas.fill(0.1, top, width - 0.1, top + 0.1, SNOW)


def _edges(canvas: Canvas, style: Style, rng: np.random.Generator, *, snow: bool) -> None:
    """Cornice, down pipe and the shade between neighbours."""
    width, height = canvas.width_m, canvas.height_m
    deep = float(rng.uniform(0.25, 0.5))
    canvas.fill(0, height - deep, width, height, style.trim)
    canvas.shade(0, height - deep - 0.15, width, height - deep, 0.65)
    if rng.random() < 0.4:
        for i in range(math.ceil(width / 0.5)):
            canvas.shade(i * 0.5, height - deep, i * 0.5 + 0.22, height - 0.1, 0.7)
    if rng.random() < 0.5:
        x = 0.25 if rng.random() < 0.5 else width - 0.35
        canvas.fill(x, 0, x + 0.12, height, (78, 80, 82))
    canvas.shade(0, 0, 0.1, height, 0.7)
    if snow:
        canvas.fill(0, height - 0.18, width, height, SNOW)
