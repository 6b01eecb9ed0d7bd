"""One image with its camera, and what the network made of it."""

from dataclasses import dataclass, field

import numpy as np

from regvpr_core.arrays import Float32
from regvpr_core.geometry import Array
from regvpr_core.images import RGB
from regvpr_core.verification.camera_rays import Intrinsics
from regvpr_core.verification.local_features import LocalFeatures


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One image. rgb: (H, W, 3) uint8. T_base_cam: (4, 4) of its camera, by default the base.

    camera: its name, where there are several. intrinsics: for verification, where known.
    """

    stamp_ns: int
    rgb: RGB
    T_base_cam: Array = field(default_factory=lambda: np.eye(4))
    camera: str = ''
    intrinsics: Intrinsics | None = None

    def __repr__(self) -> str:
        height, width = self.rgb.shape[:2]
        return f'Frame(stamp_ns={self.stamp_ns}, {width}x{height}, camera={self.camera!r})'


@dataclass(frozen=True, slots=True, eq=False)
class Description:
    """What the network made of a frame. descriptor: (D,) unit. features: where verified."""

    frame: Frame
    descriptor: Float32
    features: LocalFeatures | None = None

    @property
    def camera(self) -> str | bytes:
        """Which camera took it, by name or by where it is mounted."""
        return self.frame.camera or self.frame.T_base_cam.tobytes()
