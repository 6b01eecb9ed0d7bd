"""Whether a camera's axes are those of an optical frame: z ahead, x right, y down."""

import numpy as np

from regvpr_core.geometry import Array

UPWARD = 0.9
"""Cosine from which an axis points up."""


def looks_like_body(T_base_cam: Array) -> bool:
    """Whether the axis along which the camera would look (z) points up, as that of a body does."""
    return bool(T_base_cam[2, 2] > UPWARD and np.isfinite(T_base_cam).all())


def axes_notes(camera: str, T_base_cam: Array | None) -> list[str]:
    """A line where the axes are those of a body."""
    if T_base_cam is None or not looks_like_body(T_base_cam):
        return []
    return [f'camera {camera!r} would look straight up: its axes look like those of a body (x '
            f'ahead, z up), not of an optical frame (z ahead, y down); poses by --features and '
            f'directions in the map are then wrong. Name its optical frame in the images, or give '
            f'--extrinsics']
