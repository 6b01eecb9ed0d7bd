"""Solid things of the street: roofs, awnings, balconies, signs, lamps and furniture."""

import numpy as np

from examples.town.faces import box, Faces, gather, quad
from examples.town.layout import Building, DEPTH_M, Prop
from examples.town.style import Colour, VIVID

METAL: Colour = (70, 74, 78)
LAMP_HEIGHT_M = 4.6
LAMP_ARM_M = 0.9


def building_faces(building: Building) -> Faces:
    """What sticks out of a building, in the map frame."""
    if building.fence:
        return gather([])
    rng = np.random.default_rng([*building.seed, 7])
    style, width, height = building.style, building.width_m, building.height_m
    parts = [_roof(building, rng)]
    if style.street_level == 'shop' and style.awning:
        low, high = style.ground_m - 0.85, style.ground_m - 0.35
        left, right = 0.3, width - 0.3
        count = max(2, int((right - left) / 1.0))
        edges = np.linspace(left, right, count + 1)
        for i in range(count):
            colour: Colour = style.accent if i % 2 else (240, 236, 226)
            a, b = float(edges[i]), float(edges[i + 1])
            top = [(a, -1.2, low), (b, -1.2, low), (b, 0, high), (a, 0, high)]
            parts.append(quad(top, colour, reach_m=45))
        flap = [(left, -1.2, low - 0.2), (right, -1.2, low - 0.2), (right, -1.2, low),
                (left, -1.2, low)]  # fmt: skip
        under = [(left, 0, high), (right, 0, high), (right, -1.2, low), (left, -1.2, low)]
        parts += [quad(flap, style.accent, reach_m=45), quad(under, style.accent, reach_m=45)]
    for floor in style.balcony_floors:
        z = style.sill_m(floor) - 0.45
        for x in style.window_columns(width)[:: int(rng.integers(1, 3))]:
            half = style.window_w / 2 + 0.3
            parts.append(box((x - half, -0.8, z - 0.15), (x + half, 0, z), style.trim,
                             reach_m=40))  # fmt: skip
            rail = style.accent if sum(style.accent) < 420 else METAL
            parts.append(box((x - half, -0.8, z), (x + half, -0.74, z + 0.75), rail))
    if style.blade:
        z, x = style.ground_m + 0.2, float(rng.choice([0.5, width - 0.5]))
        high = float(rng.uniform(0.7, 2.0))
        glow = (style.accent[0] * 2 // 3, style.accent[1] * 2 // 3, style.accent[2] * 2 // 3)
        parts.append(box((x - 0.06, -0.95, z), (x + 0.06, -0.15, z + high), style.accent,
                         glow=glow))  # fmt: skip
        parts.append(box((x - 0.07, -0.8, z + high * 0.3), (x + 0.07, -0.3, z + high * 0.7),
                         style.ink, glow=glow))  # fmt: skip
    for _ in range(int(rng.integers(0, 3)) if style.roof != 'flat' else 0):
        x, y = float(rng.uniform(0.8, width - 1.2)), float(rng.uniform(3, 8))
        parts.append(box((x, y, height), (x + 0.7, y + 0.7, height + style.roof_m + 0.6),
                         (140, 92, 76), reach_m=90))  # fmt: skip
    faces = gather(parts)
    along = building.corners[1] - building.corners[0]
    yaw = float(np.arctan2(along[1], along[0]))
    return faces.placed(float(building.corners[0, 0]), float(building.corners[0, 1]), yaw)


def _roof(building: Building, rng: np.random.Generator) -> Faces:
    """The roof in the building's frame: x along the front, y inwards, z up."""
    style, w, h = building.style, building.width_m, building.height_m
    d = DEPTH_M - (0.8 if rng.random() < 0.5 else 0.3)
    top, e = h + style.roof_m, 0.3
    colour = style.roof_colour
    if style.roof == 'eaves':
        left = [(-0.0, d + e, h), (0.0, -e, h), (0.0, d / 2, top)]
        right = [(w, -e, h), (w, d + e, h), (w, d / 2, top)]
        front = [(0.0, -e, h - 0.1), (w, -e, h - 0.1), (w, d / 2, top), (0.0, d / 2, top)]
        back = [(w, d + e, h), (0.0, d + e, h), (0.0, d / 2, top), (w, d / 2, top)]
        return gather([quad(front, colour, reach_m=130), quad(back, colour, reach_m=130),
                       quad(left, style.wall, reach_m=130),
                       quad(right, style.wall, reach_m=130)])  # fmt: skip
    if style.roof == 'gable':
        gable = [(0.0, -0.02, h), (w, -0.02, h), (w / 2, -0.02, top)]
        left = [(-e, d, h - 0.1), (-e, -e, h - 0.1), (w / 2, -e, top), (w / 2, d, top)]
        right = [(w + e, -e, h - 0.1), (w + e, d, h - 0.1), (w / 2, d, top), (w / 2, -e, top)]
        s = min(0.55, w * 0.08)
        z = h + style.roof_m * 0.3
        window = [(w / 2 - s, -0.05, z), (w / 2 + s, -0.05, z), (w / 2 + s, -0.05, z + 2 * s),
                  (w / 2 - s, -0.05, z + 2 * s)]  # fmt: skip
        back = [(w, d, h), (0.0, d, h), (w / 2, d, top)]
        return gather([quad(gable, style.wall, reach_m=130), quad(left, colour, reach_m=130),
                       quad(right, colour, reach_m=130), quad(back, style.wall, reach_m=130),
                       quad(window, (60, 70, 84), glow=(190, 140, 70))])  # fmt: skip
    if style.roof == 'mansard':
        body = box((0, 0, h), (w, d, top), colour, reach_m=130, taper=0.8)
        dormers = []
        for x in style.window_columns(w)[::2]:
            dormers.append(box((x - 0.6, 0.15, h + 0.2), (x + 0.6, 1.6, h + 1.6), style.trim))
            dormers.append(box((x - 0.4, 0.1, h + 0.4), (x + 0.4, 0.2, h + 1.4), (62, 72, 88),
                               glow=(170, 130, 60)))  # fmt: skip
        return gather([body, *dormers])
    return gather([])


def lamp_head(prop: Prop) -> tuple[float, float, float]:
    """Position of a lamp's light in the map frame in m."""
    return (prop.x + LAMP_ARM_M * float(np.cos(prop.yaw)),
            prop.y + LAMP_ARM_M * float(np.sin(prop.yaw)), LAMP_HEIGHT_M - 0.1)  # fmt: skip


def prop_faces(prop: Prop) -> Faces:
    """A lamp or a piece of furniture in the map frame; nothing for a tree."""
    rng = np.random.default_rng(prop.seed)
    if prop.kind == 'tree':
        return gather([])
    colour = VIVID[int(rng.integers(len(VIVID)))]
    faces = gather(_PARTS[prop.kind](rng, colour))
    return faces.placed(prop.x, prop.y, prop.yaw)


def _lamp(rng: np.random.Generator, colour: Colour) -> list[Faces]:
    top = LAMP_HEIGHT_M
    return [
        box((-0.06, -0.06, 0), (0.06, 0.06, top), METAL, reach_m=50),
        box((0, -0.04, top - 0.06), (LAMP_ARM_M, 0.04, top + 0.02), METAL, reach_m=30),
        box((LAMP_ARM_M - 0.3, -0.12, top - 0.16), (LAMP_ARM_M + 0.2, 0.12, top - 0.04),
            (210, 208, 196), glow=(255, 226, 170), reach_m=60),
    ]  # fmt: skip


def _bin(rng: np.random.Generator, colour: Colour) -> list[Faces]:
    return [box((-0.25, -0.3, 0), (0.25, 0.3, 0.95), colour, top=METAL, reach_m=35)]


def _postbox(rng: np.random.Generator, colour: Colour) -> list[Faces]:
    return [box((-0.22, -0.22, 0), (0.22, 0.22, 0.25), METAL, reach_m=35),
            box((-0.25, -0.25, 0.25), (0.25, 0.25, 1.5), colour, reach_m=45)]  # fmt: skip


def _bench(rng: np.random.Generator, colour: Colour) -> list[Faces]:
    wood = (140, 96, 60)
    return [box((-0.25, -0.9, 0.38), (0.25, 0.9, 0.48), wood, reach_m=35),
            box((-0.28, -0.9, 0.5), (-0.22, 0.9, 0.95), wood, reach_m=35),
            box((-0.2, -0.75, 0), (0.2, -0.65, 0.38), METAL, reach_m=20),
            box((-0.2, 0.65, 0), (0.2, 0.75, 0.38), METAL, reach_m=20)]  # fmt: skip


def _planter(rng: np.random.Generator, colour: Colour) -> list[Faces]:
    long = float(rng.uniform(0.4, 0.9))
    bloom = VIVID[int(rng.integers(len(VIVID)))]
    return [box((-0.3, -long, 0), (0.3, long, 0.55), (150, 120, 100), reach_m=35),
            box((-0.28, -long + 0.05, 0.55), (0.28, long - 0.05, 0.9), (60, 112, 50), top=bloom,
                reach_m=35, taper=0.1)]  # fmt: skip


def _kiosk(rng: np.random.Generator, colour: Colour) -> list[Faces]:
    return [box((-0.6, -0.9, 0), (0.45, 0.9, 2.3), colour, reach_m=60),
            box((0.45, -0.7, 1.0), (0.47, 0.7, 1.8), (210, 214, 210), glow=(230, 210, 150)),
            box((-0.7, -1.0, 2.3), (0.6, 1.0, 2.5), (236, 232, 220), reach_m=60)]  # fmt: skip


def _bollards(rng: np.random.Generator, colour: Colour) -> list[Faces]:
    return [box((0.5, y - 0.08, 0), (0.66, y + 0.08, 0.85), colour, reach_m=30)
            for y in (-1.6, -0.8, 0.0, 0.8, 1.6)]  # fmt: skip


def _shelter(rng: np.random.Generator, colour: Colour) -> list[Faces]:
    return [box((-0.5, -1.5, 2.2), (0.7, 1.5, 2.35), colour, reach_m=60),
            box((-0.5, -1.5, 0), (-0.45, 1.5, 2.2), (150, 176, 184), glow=(60, 60, 56)),
            box((-0.4, 1.42, 0.3), (0.6, 1.5, 2.0), VIVID[int(rng.integers(len(VIVID)))],
                glow=(110, 110, 100)),
            box((0.6, -1.5, 0), (0.7, -1.4, 2.2), METAL, reach_m=35)]  # fmt: skip


def _cabinet(rng: np.random.Generator, colour: Colour) -> list[Faces]:
    return [box((-0.55, -0.5, 0), (-0.15, 0.5, 1.2), (136, 146, 138), reach_m=35)]


def _board(rng: np.random.Generator, colour: Colour) -> list[Faces]:
    other = VIVID[int(rng.integers(len(VIVID)))]
    return [box((-0.05, -0.05, 0), (0.05, 0.05, 2.0), METAL, reach_m=35),
            box((-0.05, -0.35, 2.0), (0.05, 0.35, 2.7), colour),
            box((-0.07, -0.22, 2.15), (0.07, 0.22, 2.5), other)]  # fmt: skip


def _hedge(rng: np.random.Generator, colour: Colour) -> list[Faces]:
    long, high = float(rng.uniform(0.8, 1.8)), float(rng.uniform(0.8, 1.3))
    return [box((-0.6, -long, 0), (-0.1, long, high), (52, 92, 46), top=(72, 118, 60),
                taper=0.06)]  # fmt: skip


_PARTS = {
    'lamp': _lamp, 'bin': _bin, 'postbox': _postbox, 'bench': _bench, 'planter': _planter,
    'kiosk': _kiosk, 'bollards': _bollards, 'shelter': _shelter, 'cabinet': _cabinet,
    'board': _board, 'hedge': _hedge,
}  # fmt: skip
