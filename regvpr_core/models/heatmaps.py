"""Heatmaps of the last feature map (paper, figure 4) and of the attention of each register."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from regvpr_core.images import RGB
from regvpr_core.models.descriptor_model import DescriptorModel
from regvpr_core.models.joined_heads import JoinedHeads
from regvpr_core.models.preprocessing import network_input
from regvpr_core.models.register_aggregator import RegisterAggregator

Heat = npt.NDArray[np.float32]

OPACITY = 0.5
CAPTION_HEIGHT = 24


@dataclass(frozen=True, slots=True, eq=False)
class Heatmaps:
    """Heat of one image under one model, each (h, w) float32 on the grid of patches, 0 to 1.

    features: mean over channels of the last feature map.
    registers: attention of each register in the last layer; empty for models without registers.
    """

    features: Heat
    registers: list[Heat]


@torch.inference_mode()
def heatmaps(model: DescriptorModel, rgb: RGB) -> Heatmaps:
    """Compute the heat of an image (H, W, 3) uint8 RGB; the model is in eval mode on the CPU.

    Raises:
        ImageError: the image cannot be used.
    """
    inputs = network_input(rgb, model.config.preprocessing, torch.device('cpu'))
    _, patches = model.backbone(inputs, model.config.last_block)  # (1, width, h, w)
    registers: list[Heat] = []
    head = model.aggregator
    if isinstance(head, JoinedHeads):
        head = head.registers
    if isinstance(head, RegisterAggregator) and head.config.layers and head.config.registers:
        last = head.views(patches).attention[-1, 0]  # (k, h, w)
        registers = [scaled(heat.float().numpy()) for heat in last]
    return Heatmaps(scaled(patches[0].float().mean(dim=0).numpy()), registers)


def scaled(heat: npt.NDArray[np.float32]) -> Heat:
    """Stretch to 0..1; a flat map becomes zeros."""
    low, high = float(heat.min()), float(heat.max())
    return np.asarray((heat - low) / max(high - low, 1e-12), dtype=np.float32)


def overlay(rgb: RGB, heat: Heat) -> RGB:
    """The image overlaid with colours: blue is 0, red is 1."""
    size = (rgb.shape[1], rgb.shape[0])
    large = cv2.resize(heat, size, interpolation=cv2.INTER_CUBIC).clip(0.0, 1.0)
    colours = cv2.applyColorMap((255 * large).round().astype(np.uint8), cv2.COLORMAP_JET)
    mixed = OPACITY * colours[..., ::-1] + (1.0 - OPACITY) * rgb
    return np.asarray(mixed.round(), dtype=np.uint8)


def sheet(rgb: RGB, by_model: dict[str, Heatmaps]) -> RGB:
    """The image and the feature heat of each model side by side; registers in rows below.

    Args:
        rgb: (H, W, 3).
        by_model: caption to heat.
    """
    first = [captioned(rgb, 'image'),
             *(captioned(overlay(rgb, maps.features), name) for name, maps in by_model.items())]
    lines = [first, *(
        [captioned(overlay(rgb, heat), f'{name}: register {i}')
         for i, heat in enumerate(maps.registers)]
        for name, maps in by_model.items() if maps.registers)]
    height, width = first[0].shape[:2]
    columns = max(map(len, lines))
    page = np.full((height * len(lines), width * columns, 3), 255, dtype=np.uint8)
    for y, line in enumerate(lines):
        for x, picture in enumerate(line):
            page[y * height:(y + 1) * height, x * width:(x + 1) * width] = picture
    return page


def captioned(rgb: RGB, text: str) -> RGB:
    """The image below a line of text."""
    band = np.full((CAPTION_HEIGHT, rgb.shape[1], 3), 255, dtype=np.uint8)
    cv2.putText(band, text, (4, CAPTION_HEIGHT - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1,
                cv2.LINE_AA)
    return np.vstack([band, rgb])
