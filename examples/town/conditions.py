"""What the weather, the hour and the season do to the light."""

from dataclasses import dataclass

RGB = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One condition. Colours are RGB factors or values in 0..1, directions in the map frame.

    Attributes:
        ambient: Light that reaches every surface.
        sun: Light added to a surface that faces the sun.
        sun_dir: Direction to the sun (east, north, up), unit length not needed.
        shadow: How much of the ground's light a cast shadow takes away, 0 to 1.
        haze: Colour distant things fade to.
        haze_m: Distance after which 63 % of a thing has faded, in m.
        sky_top: Colour of the sky overhead.
        sky_low: Colour of the sky at the horizon.
        cloud: Colour of the clouds.
        clouds: Share of the sky under clouds, 0 to 1.
        lit: Whether windows, signs, lamps and headlights shine.
        wet: How much the ground mirrors, 0 to 1.
        snow: Whether snow lies and the trees are bare.
        streaks: Strength of falling rain or snow, 0 to 1.
        drops: Blurred drops on the lens.
        noise: Standard deviation of the sensor noise in grey levels.
        contrast: Contrast about mid grey, 1 for none.
    """

    ambient: RGB
    sun: RGB = (0.0, 0.0, 0.0)
    sun_dir: RGB = (-0.5, -0.6, 0.62)
    shadow: float = 0.0
    haze: RGB
    haze_m: float
    sky_top: RGB
    sky_low: RGB
    cloud: RGB
    clouds: float
    lit: bool = False
    wet: float = 0.0
    snow: bool = False
    streaks: float = 0.0
    drops: int = 0
    noise: float = 2.0
    contrast: float = 1.0


LOOKS = {
    'day': Look(
        ambient=(0.72, 0.76, 0.83), sun=(0.52, 0.47, 0.38), shadow=0.36,
        haze=(0.78, 0.84, 0.92), haze_m=420.0,
        sky_top=(0.25, 0.47, 0.82), sky_low=(0.74, 0.85, 0.95), cloud=(0.97, 0.97, 0.97),
        clouds=0.4, contrast=1.05,
    ),
    'dusk': Look(
        ambient=(0.25, 0.28, 0.42), haze=(0.22, 0.24, 0.40), haze_m=230.0,
        sky_top=(0.09, 0.13, 0.33), sky_low=(0.56, 0.37, 0.40), cloud=(0.20, 0.18, 0.30),
        clouds=0.45, lit=True, noise=6.0,
    ),
    'rain': Look(
        ambient=(0.70, 0.73, 0.76), haze=(0.66, 0.69, 0.72), haze_m=95.0,
        sky_top=(0.52, 0.55, 0.59), sky_low=(0.70, 0.72, 0.74), cloud=(0.60, 0.62, 0.65),
        clouds=0.7, wet=0.5, streaks=0.45, drops=9, noise=3.0, contrast=0.85,
    ),
    'winter': Look(
        ambient=(0.72, 0.76, 0.84), sun=(0.20, 0.17, 0.12), sun_dir=(0.75, -0.5, 0.3),
        shadow=0.16, haze=(0.88, 0.90, 0.93), haze_m=170.0,
        sky_top=(0.76, 0.81, 0.88), sky_low=(0.92, 0.92, 0.93), cloud=(0.86, 0.88, 0.91),
        clouds=0.6, snow=True, streaks=0.12, noise=2.5, contrast=0.97,
    ),
}  # fmt: skip
"""The conditions by name."""
