"""Check that a camera's axes are those of an optical frame: z ahead, x right, y down."""

import numpy as np

from regvpr_core.geometry import Array

UPWARD = 0.9
"""Least cosine to the vertical of an axis that points up."""


def looks_like_body(T_base_cam: Array) -> bool:
    """Whether the z axis points up, as in a body frame, instead of ahead."""
    return bool(T_base_cam[2, 2] > UPWARD and np.isfinite(T_base_cam).all())


def axes_notes(camera: str, T_base_cam: Array | None) -> list[str]:
    """A note if the axes are those of a body frame."""
    if T_base_cam is None or not looks_like_body(T_base_cam):
        return []
    return [f'camera {camera!r} would look straight up: its axes look like those of a body (x '
            f'ahead, z up), not of an optical frame (z ahead, y down); poses by --features and '
            f'directions in the map are then wrong. Name its optical frame in the images, or give '
            f'--extrinsics']
