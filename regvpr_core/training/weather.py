"""Augmentation of images (B, 3, H, W) in 0..1 by blur, night, rain and occlusion.

The simulation is deliberately rough: it only teaches invariance. All random numbers come from a
generator on the CPU.
"""

import math

import torch
from torch import Tensor
import torch.nn.functional as F

LIGHTS = 6
"""Largest number of lamps in a night image."""


def uniform(count: int, low: float, high: float, random: torch.Generator, like: Tensor) -> Tensor:
    """Random numbers (count, 1, 1, 1) between low and high."""
    return (low + (high - low) * torch.rand(count, 1, 1, 1, generator=random)).to(like)


def blurred(x: Tensor, random: torch.Generator) -> Tensor:
    """Defocus (Gaussian) or motion blur (a line of random direction), half of the images each."""
    count, side = len(x), 11
    ys, xs = torch.meshgrid(*[torch.arange(side) - side // 2] * 2, indexing='ij')
    sigma = 0.6 + 2.0 * torch.rand(count, 1, 1, generator=random)
    angle = math.pi * torch.rand(count, 1, 1, generator=random)
    length = 1.0 + 4.0 * torch.rand(count, 1, 1, generator=random)
    along = xs * angle.cos() + ys * angle.sin()
    across = ys * angle.cos() - xs * angle.sin()
    focus = torch.exp(-(xs**2 + ys**2) / (2 * sigma**2))
    motion = torch.exp(-(across**2)) * (along.abs() <= length)
    kernel = torch.where(torch.rand(count, 1, 1, generator=random) < 0.5, focus, motion)
    return filtered(x, kernel / kernel.sum(dim=(1, 2), keepdim=True))


def at_night(x: Tensor, random: torch.Generator) -> Tensor:
    """Night: dark, in the colour of lamps or the moon, with a few lamps and noise."""
    count, (H, W) = len(x), x.shape[-2:]
    dark = x.clamp(min=1e-4) ** uniform(count, 1.2, 2.6, random, x)
    cast = 0.8 + 0.4 * torch.rand(count, 3, 1, 1, generator=random).to(x)
    dark = dark * uniform(count, 0.2, 0.7, random, x) * cast
    ys = torch.linspace(0, 1, H).view(1, 1, H, 1)
    xs = torch.linspace(0, 1, W).view(1, 1, 1, W)
    where, size = (torch.rand(count, LIGHTS, 2, generator=random),
                   torch.rand(count, LIGHTS, 2, generator=random))
    distance = (xs - where[..., :1, None]) ** 2 + (ys - where[..., 1:, None]) ** 2
    spread = (0.01 + 0.05 * size[..., :1, None]) ** 2
    lamps = torch.exp(-distance / spread) * (size[..., 1:, None] - 0.5).clamp(min=0)
    light = lamps.sum(dim=1, keepdim=True).to(x)  # (B, 1, H, W)
    noise = torch.randn(count, 3, H, W, generator=random).to(x)
    return (dark + light + noise * uniform(count, 0.0, 0.06, random, x)).clamp(0.0, 1.0)


def in_rain(x: Tensor, random: torch.Generator) -> Tensor:
    """Rain: pale, with streaks in one direction."""
    count, (H, W) = len(x), x.shape[-2:]
    side = 15
    ys, xs = torch.meshgrid(*[torch.arange(side) - side // 2] * 2, indexing='ij')
    slant = 0.8 * (torch.rand(count, 1, 1, generator=random) - 0.5)
    line = torch.exp(-((xs - slant * ys) ** 2))
    line = line / line.amax(dim=(1, 2), keepdim=True)
    share = 0.002 + 0.01 * torch.rand(count, 1, 1, 1, generator=random)
    drops = (torch.rand(count, 1, H, W, generator=random) < share).float().to(x)
    streaks = filtered(drops, line).clamp(max=1.0) * uniform(count, 0.2, 0.6, random, x)
    haze = uniform(count, 0.0, 0.4, random, x)
    pale = x * (1 - haze) + uniform(count, 0.5, 0.8, random, x) * haze
    return pale + (0.85 - pale) * streaks


def erased(x: Tensor, random: torch.Generator) -> Tensor:
    """Occlusion by a box of one colour, over a tenth to a quarter of the image."""
    count, (H, W) = len(x), x.shape[-2:]
    sides = 0.3 + 0.2 * torch.rand(count, 2, generator=random)
    start = torch.rand(count, 2, generator=random) * (1 - sides)
    ys = torch.linspace(0, 1, H).view(1, 1, H, 1)
    xs = torch.linspace(0, 1, W).view(1, 1, 1, W)
    (y0, x0), (y1, x1) = (edges.T.reshape(2, count, 1, 1, 1) for edges in (start, start + sides))
    inside = ((ys >= y0) & (ys <= y1) & (xs >= x0) & (xs <= x1)).to(x.device)
    return torch.where(inside, torch.rand(count, 3, 1, 1, generator=random).to(x), x)


def filtered(x: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each image (B, C, H, W) with its own kernel (B, k, k); edges are mirrored."""
    count, channels, H, W = x.shape
    pad = min(kernels.shape[-1] // 2, H - 1, W - 1)
    wide = F.pad(x, (pad, pad, pad, pad), mode='reflect').reshape(1, count * channels, H + 2 * pad,
                                                                   W + 2 * pad)
    weight = kernels.to(x).repeat_interleave(channels, dim=0)[:, None]
    out = F.conv2d(wide, weight, groups=count * channels)
    return out.view(count, channels, out.shape[-2], out.shape[-1])
