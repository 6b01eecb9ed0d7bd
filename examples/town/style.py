"""What a building looks like, drawn once from its seed."""

from dataclasses import dataclass, replace

import numpy as np

Colour = tuple[int, int, int]

PLASTER: tuple[Colour, ...] = (
    (232, 220, 196), (226, 190, 140), (214, 150, 110), (190, 205, 180), (160, 185, 205),
    (236, 208, 120), (224, 224, 220), (205, 130, 120), (150, 165, 140), (188, 160, 190),
    (120, 150, 170), (240, 232, 216), (180, 110, 90), (110, 140, 120), (222, 170, 165),
)  # fmt: skip
BRICK: tuple[Colour, ...] = (
    (158, 78, 60), (130, 66, 55), (178, 110, 78), (120, 84, 70), (196, 160, 120), (100, 60, 62),
)  # fmt: skip
STONE: tuple[Colour, ...] = ((186, 178, 160), (160, 158, 154), (206, 196, 172), (140, 132, 122))
SIDING: tuple[Colour, ...] = (
    (120, 156, 178), (200, 206, 200), (150, 60, 56), (86, 110, 90), (222, 200, 150), (90, 96, 120),
)  # fmt: skip
PANEL: tuple[Colour, ...] = ((150, 158, 166), (96, 110, 126), (196, 198, 196), (120, 104, 96))
TRIM: tuple[Colour, ...] = (
    (244, 242, 236), (220, 214, 200), (90, 70, 56), (60, 66, 72), (200, 186, 150), (150, 60, 50),
)  # fmt: skip
VIVID: tuple[Colour, ...] = (
    (196, 40, 44), (30, 92, 160), (24, 120, 84), (226, 150, 30), (110, 50, 120), (20, 140, 150),
    (236, 210, 60), (50, 54, 60), (214, 96, 40), (160, 30, 80), (70, 130, 50), (236, 232, 220),
)  # fmt: skip
ROOF: tuple[Colour, ...] = (
    (150, 74, 54), (120, 62, 50), (86, 88, 96), (70, 72, 78), (104, 84, 70), (90, 112, 104),
)  # fmt: skip
WALLS = {'plaster': PLASTER, 'brick': BRICK, 'stone': STONE, 'siding': SIDING, 'panel': PANEL,
         'timber': PLASTER}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """A building's features; lengths in m, colours are RGB in 0..255."""

    material: str
    wall: Colour
    ground_wall: Colour
    trim: Colour
    frame: Colour
    roof_colour: Colour
    door: Colour
    accent: Colour
    ink: Colour
    shutter: Colour | None
    floors: int
    floor_m: float
    ground_m: float
    window_w: float
    window_h: float
    gap_m: float
    arched: bool
    panes: tuple[int, int]
    street_level: str
    awning: bool
    blade: bool
    balcony_floors: tuple[int, ...]
    feature: str
    roof: str
    roof_m: float

    @property
    def height_m(self) -> float:
        """Height of the eaves, with 0.7 m above the last floor."""
        return self.ground_m + (self.floors - 1) * self.floor_m + 0.7

    def window_columns(self, width_m: float) -> list[float]:
        """Centres of the windows of a floor, from the left end, in m."""
        count = max(1, int((width_m - 0.6) / (self.window_w + self.gap_m)))
        return [width_m * (i + 0.5) / count for i in range(count)]

    def sill_m(self, floor: int) -> float:
        """Height in m of the window sills of a floor, which is 1 above the ground floor."""
        base = self.ground_m + (floor - 1) * self.floor_m
        return base + max(0.25, (self.floor_m - self.window_h) * 0.55)


def draw_style(rng: np.random.Generator) -> Style:
    """Draw a style; every building calls this with a generator of its own."""
    material = str(rng.choice(list(WALLS), p=[0.28, 0.26, 0.12, 0.12, 0.1, 0.12]))
    wall = _vary(rng, _pick(rng, WALLS[material]), 14)
    floors = int(rng.choice([1, 2, 3, 4], p=[0.08, 0.37, 0.38, 0.17]))
    floor_m = float(rng.uniform(2.6, 3.3))
    office = material == 'panel'
    window_w = float(rng.uniform(1.5, 2.4) if office else rng.uniform(0.75, 1.6))
    window_h = float(rng.uniform(1.1, min(2.2, floor_m - 0.6)))
    roof = 'flat' if office else str(rng.choice(['flat', 'eaves', 'gable', 'mansard']))
    balconies = tuple(range(1, floors)) if rng.random() < 0.3 else ()
    if balconies and rng.random() < 0.4:
        balconies = (int(rng.integers(1, floors)),)
    accent = _vary(rng, _pick(rng, VIVID), 10)
    bright = sum(accent) > 400
    same_ground = rng.random() < 0.45
    return Style(
        material=material,
        wall=wall,
        ground_wall=wall if same_ground else _vary(rng, _pick(rng, STONE + TRIM), 12),
        trim=_pick(rng, TRIM),
        frame=_pick(rng, TRIM),
        roof_colour=_vary(rng, _pick(rng, ROOF), 12),
        door=_pick(rng, VIVID),
        accent=accent,
        ink=(30, 30, 36) if bright else _pick(rng, ((246, 244, 236), (250, 220, 110))),
        shutter=_pick(rng, VIVID) if material != 'panel' and rng.random() < 0.35 else None,
        floors=floors,
        floor_m=floor_m,
        ground_m=float(rng.uniform(3.0, 3.8)),
        window_w=window_w,
        window_h=window_h,
        gap_m=float(rng.uniform(0.3, 0.7) if office else rng.uniform(0.6, 1.8)),
        arched=not office and rng.random() < 0.25,
        panes=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        street_level=str(rng.choice(['shop', 'door', 'garage', 'arcade'], p=[0.5, 0.3, 0.1, 0.1])),
        awning=rng.random() < 0.55,
        blade=rng.random() < 0.4,
        balcony_floors=balconies,
        feature=str(
            rng.choice(
                ['', 'mural', 'ivy', 'clock', 'bands', 'banner', 'advert'],
                p=[0.34, 0.12, 0.12, 0.06, 0.12, 0.14, 0.1],
            )
        ),
        roof=roof,
        roof_m={'flat': 0.0, 'eaves': 3.2, 'gable': 3.0, 'mansard': 2.2}[roof],
    )


def fence_style(rng: np.random.Generator) -> Style:
    """The style of a garden wall between two houses."""
    style = draw_style(rng)
    material = str(rng.choice(['brick', 'stone', 'siding']))
    return replace(style, material=material, wall=_pick(rng, WALLS[material]), street_level='none',
                   feature='', roof='flat', roof_m=0.0, balcony_floors=())  # fmt: skip


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _vary(rng: np.random.Generator, colour: Colour, by: int) -> Colour:
    shift = rng.integers(-by, by + 1, 3) + rng.integers(-by, by + 1)
    red, green, blue = np.clip(np.array(colour) + shift, 8, 250)
    return int(red), int(green), int(blue)
