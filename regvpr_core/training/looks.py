"""Simulated sessions: appearances that a session shares, which descriptors must ignore.

A session has one camera, one light and one season. `draw_look` draws such a session,
`Look.change` shows images in it: hour, snow, tone curve, colours, resolution, noise, and the
appearance of another image by its low frequencies (Yang and Soatto, FDA, CVPR 2020,
arXiv:2004.05498) and by the colours of its upper, middle and lower part. Every image of a session
gets the same look with a small individual change. The simulation is deliberately rough.
"""

from dataclasses import dataclass
import math

import torch
from torch import Tensor
import torch.nn.functional as F

from regvpr_core.training.weather import at_night, uniform

KINDS = ('camera', 'transfer', 'night', 'snow', 'sun')
"""Kinds of sessions: another camera, the appearance of another image, night, snow, or light from
another side."""

BANDS = 3
OWN = 0.15
"""Relative deviation of an image from its session's look."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Look:
    """Appearance of one session.

    kind: one of `KINDS`. gamma, gain: of the tone curve; cast: (3) gain of each channel.
    saturation: 0 grey, 1 unchanged. contrast: about the image's mean. width: pixels of a row that
    the camera resolves. noise: deviation, of 0..1. vignette: share of light lost in the corners.
    share: of the other image's appearance, 0 to 1. radius: of the frequencies it gives, as a share
    of the lowest 0.5 cycles per pixel. light: (2) direction of the sun. snow: 0 to 1.
    """

    kind: str
    gamma: float
    gain: float
    cast: Tensor
    saturation: float
    contrast: float
    width: int
    noise: float
    vignette: float
    share: float
    radius: float
    light: Tensor
    snow: float

    def change(self, x: Tensor, other: Tensor, random: torch.Generator) -> Tensor:
        """Images (B, 3, H, W) in 0..1 in this look, the same shape.

        Args:
            x: the images.
            other: (3, H, W) the image whose appearance `transfer` gives.
            random: generator on the CPU for the individual changes.
        """
        if self.kind == 'transfer':
            x = transferred(x, other, self.share, self.radius)
        elif self.kind == 'night':
            x = at_night(x, random)
        elif self.kind == 'snow':
            x = in_snow(x, self.snow, random)
        if self.kind in ('sun', 'transfer', 'camera'):
            x = relit(x, self.light, random)
        return self.seen(x, random)

    def seen(self, x: Tensor, random: torch.Generator) -> Tensor:
        """Apply the session's camera: tone, colours, resolution, noise and vignette."""
        count, (H, W) = len(x), x.shape[-2:]
        if self.width < W:
            height = max(8, round(self.width * H / W))
            x = F.interpolate(x, (height, self.width), mode='bilinear', antialias=True)
            x = F.interpolate(x, (H, W), mode='bicubic')
        own = uniform(count, 1.0 - OWN, 1.0 + OWN, random, x)
        x = x.clamp(1e-4, 1.0) ** (self.gamma * own) * self.gain * self.cast.view(1, 3, 1, 1).to(x)
        grey = x.mean(dim=1, keepdim=True)
        x = grey + (x - grey) * self.saturation
        middle = x.mean(dim=(1, 2, 3), keepdim=True)
        x = middle + (x - middle) * self.contrast
        ys, xs = (torch.linspace(-1, 1, side).to(x) for side in (H, W))
        x = x * (1.0 - self.vignette * (ys[:, None] ** 2 + xs**2) / 2)
        return (x + self.noise * torch.randn(x.shape, generator=random).to(x)).clamp(0.0, 1.0)


def draw_look(random: torch.Generator, kind: str | None = None) -> Look:
    """Draw a session's look; `kind` None: any.

    Args:
        random: on the CPU.
        kind: one of `KINDS`.
    """
    def number(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=random))

    if kind is None:
        kind = KINDS[int(torch.randint(len(KINDS), (), generator=random))]
    angle = number(0.0, 2 * math.pi)
    return Look(
        kind=kind, gamma=math.exp(number(-0.5, 0.5)), gain=number(0.75, 1.25),
        cast=0.85 + 0.3 * torch.rand(3, generator=random),
        saturation=0.0 if number(0, 1) < 0.2 else number(0.3, 1.3), contrast=number(0.6, 1.3),
        width=round(math.exp(number(math.log(56), math.log(400)))), noise=number(0.0, 0.05),
        vignette=number(0.0, 0.5), share=number(0.5, 1.0), radius=number(0.02, 0.12),
        light=torch.tensor([math.cos(angle), math.sin(angle)]), snow=number(0.4, 1.0))


def transferred(x: Tensor, other: Tensor, share: float, radius: float) -> Tensor:
    """Images (B, 3, H, W) with the appearance of another (3, H, W).

    Amplitudes of the lowest frequencies are replaced, phases are kept (FDA). Then mean and
    standard deviation of each channel are adapted in three parts from top to bottom.
    """
    H, W = x.shape[-2:]
    spectrum, theirs = torch.fft.rfft2(x), torch.fft.rfft2(other.to(x)[None])
    fy, fx = torch.fft.fftfreq(H)[:, None], torch.fft.rfftfreq(W)
    low = (share * (torch.maximum(fy.abs(), fx) <= 0.5 * radius)).to(x)
    amplitude = spectrum.abs() * (1 - low) + theirs.abs() * low
    y = torch.fft.irfft2(torch.polar(amplitude, spectrum.angle()), s=(H, W))
    mean, deviation = bands(y)
    their_mean, their_deviation = bands(other.to(x)[None])
    gain = (their_deviation / deviation.clamp(min=0.02)).clamp(0.3, 3.0)
    moved: Tensor = y + share * ((y - mean) * gain + their_mean - y)
    return moved.clamp(0.0, 1.0)


def bands(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (B, 3, H, 1) of each channel, interpolated between three parts."""
    rows = F.adaptive_avg_pool2d(x, (BANDS, 1))
    squares = F.adaptive_avg_pool2d(x**2, (BANDS, 1))
    deviation = (squares - rows**2).clamp(min=1e-6).sqrt()
    size = (int(x.shape[2]), 1)
    return (F.interpolate(rows, size, mode='bilinear'),
            F.interpolate(deviation, size, mode='bilinear'))


def in_snow(x: Tensor, depth: float, random: torch.Generator) -> Tensor:
    """Snow on flat regions in the lower part, a pale sky, less colour, flakes."""
    count, (H, W) = len(x), x.shape[-2:]
    grey = x.mean(dim=1, keepdim=True)
    rough = (grey - F.avg_pool2d(grey, 9, 1, 4, count_include_pad=False)).abs()
    flat = torch.exp(-(F.avg_pool2d(rough, 9, 1, 4) / 0.05) ** 2)
    below = torch.sigmoid((torch.linspace(0, 1, H).to(x) - 0.5) * 10).view(1, 1, H, 1)
    patches = torch.rand(count, 1, 6, 6, generator=random).to(x)
    cover = depth * flat * (0.3 + 0.7 * below) * (
        F.interpolate(patches, (H, W), mode='bicubic').clamp(0, 1) * 0.6 + 0.5).clamp(max=1.0)
    white = 0.75 + 0.25 * grey + 0.03 * torch.randn(x.shape, generator=random).to(x)
    pale = grey + (x - grey) * (1 - 0.6 * depth)
    return (pale + (white - pale) * cover).clamp(0.0, 1.0)


def relit(x: Tensor, light: Tensor, random: torch.Generator) -> Tensor:
    """Light from one side, with bright and dark parts that differ for each image."""
    count, (H, W) = len(x), x.shape[-2:]
    ys, xs = torch.linspace(-1, 1, H).to(x), torch.linspace(-1, 1, W).to(x)
    side = 0.4 * (float(light[1]) * ys[:, None] + float(light[0]) * xs)
    parts = 0.5 * torch.randn(count, 1, 4, 4, generator=random).to(x)
    return (x * torch.exp(side + F.interpolate(parts, (H, W), mode='bicubic'))).clamp(0.0, 1.0)
