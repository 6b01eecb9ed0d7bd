"""Lettering nobody can read, and large one-off features of a facade."""

import numpy as np

from examples.town.canvas import Canvas
from examples.town.style import Colour, Style, VIVID


def lettering(
    canvas: Canvas, rng: np.random.Generator, x0: float, z0: float, x1: float, z1: float,
    ink: Colour,
) -> None:  # fmt: skip
    """Write made-up letters from strokes on a 3 x 3 grid, with gaps between words."""
    high = z1 - z0
    wide = high * float(rng.uniform(0.5, 0.85))
    thick = high * float(rng.uniform(0.14, 0.24))
    count = min(int((x1 - x0) / (wide * 1.4)), int(rng.integers(3, 10)))
    x = x0
    for _ in range(count):
        if rng.random() < 0.14:
            x += wide * 0.8
        nodes = rng.choice(9, size=int(rng.integers(3, 6)), replace=False)
        stroke = [(x + wide * (n % 3) / 2, z0 + high * (n // 3) / 2) for n in nodes]
        canvas.line(stroke, thick, ink)
        x += wide * 1.4


def feature(canvas: Canvas, style: Style, rng: np.random.Generator, kind: str) -> None:
    """Add the building's one striking thing, if it has one."""
    if kind:
        _FEATURES[kind](canvas, style, rng)


def _mural(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    width, low = canvas.width_m, style.ground_m
    high = canvas.height_m - 0.8
    for _ in range(int(rng.integers(5, 10))):
        colour = VIVID[int(rng.integers(len(VIVID)))]
        x, z = float(rng.uniform(0, width)), float(rng.uniform(low, max(high, low + 0.5)))
        size = float(rng.uniform(0.5, 1.8))
        if rng.random() < 0.5:
            canvas.ellipse(x, z, size, size, colour)
        else:
            corners = rng.uniform(-1.4, 1.4, (3, 2)) * size
            canvas.polygon([(x + float(a), z + float(b)) for a, b in corners], colour)


def _ivy(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    root = float(rng.uniform(0, canvas.width_m))
    spread, high = canvas.width_m * 0.13, canvas.height_m * 0.38
    for _ in range(260):
        z = abs(float(rng.normal(0, high)))
        x = root + float(rng.normal(0, spread)) * (0.4 + z / canvas.height_m)
        tone = float(rng.uniform(0.6, 1.25))
        green = (int(52 * tone), int(92 * tone), int(40 * tone))
        size = float(rng.uniform(0.08, 0.24))
        canvas.ellipse(x, z, size, size, green)


def _clock(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    x, z = canvas.width_m / 2, min(canvas.height_m - 1.4, style.ground_m + 1.6)
    canvas.ellipse(x, z, 1.0, 1.0, style.accent)
    canvas.ellipse(x, z, 0.85, 0.85, (244, 242, 230))
    canvas.shine(x - 0.6, z - 0.6, x + 0.6, z + 0.6, (200, 190, 150))
    for length in (0.5, 0.75):
        angle = float(rng.uniform(0, 6.28))
        tip = (x + length * float(np.cos(angle)), z + length * float(np.sin(angle)))
        canvas.line([(x, z), tip], 0.09, (30, 30, 34))


def _bands(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    for floor in range(1, style.floors + 1):
        z = style.ground_m + (floor - 1) * style.floor_m
        canvas.fill(0, z - 0.16, canvas.width_m, z + 0.16, style.accent)
    for x in np.linspace(0, canvas.width_m, int(rng.integers(2, 5)) + 1):
        canvas.fill(x - 0.15, 0, x + 0.15, canvas.height_m, style.trim)


def _banner(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    low, high = style.ground_m, canvas.height_m - 0.8
    if high - low < 1.5:
        return
    x = float(rng.uniform(0.6, max(0.7, canvas.width_m - 1.6)))
    other = VIVID[int(rng.integers(len(VIVID)))]
    for i, z in enumerate(np.arange(low, high, (high - low) / int(rng.integers(2, 6)))):
        canvas.fill(x, float(z), x + 1.1, high, style.accent if i % 2 else other)


def _advert(canvas: Canvas, style: Style, rng: np.random.Generator) -> None:
    low, high = style.ground_m + 0.4, canvas.height_m - 0.9
    if high - low < 1.2:
        return
    wide = min(canvas.width_m - 1.0, float(rng.uniform(2.5, 5.0)))
    high = min(high, low + wide * 0.7)
    x = float(rng.uniform(0.4, canvas.width_m - wide - 0.3))
    canvas.fill(x - 0.1, low - 0.1, x + wide + 0.1, high + 0.1, (50, 52, 56))
    canvas.fill(x, low, x + wide, high, VIVID[int(rng.integers(len(VIVID)))])
    canvas.shine(x, low, x + wide, high, (120, 112, 96))
    colour = VIVID[int(rng.integers(len(VIVID)))]
    canvas.ellipse(x + wide * 0.3, (low + high) / 2, wide * 0.16, (high - low) * 0.32, colour)
    lettering(canvas, rng, x + wide * 0.52, low + 0.3 * (high - low), x + wide * 0.95,
              low + 0.65 * (high - low), style.ink)  # fmt: skip


_FEATURES = {
    'mural': _mural, 'ivy': _ivy, 'clock': _clock, 'bands': _bands, 'banner': _banner,
    'advert': _advert,
}  # fmt: skip
