"""One image with its camera, and its description by the network."""

from dataclasses import dataclass, field

import numpy as np

from regvpr_core.arrays import Float32
from regvpr_core.geometry import Array
from regvpr_core.images import RGB
from regvpr_core.verification.camera_rays import Intrinsics
from regvpr_core.verification.local_features import LocalFeatures


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One image. rgb: (H, W, 3) uint8. T_base_cam: (4, 4) of its camera, default the identity.

    camera: name, if there are several. intrinsics: for verification, if known.
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
    """Description of a frame. descriptor: (D,) unit. features: local features for verification."""

    frame: Frame
    descriptor: Float32
    features: LocalFeatures | None = None

    @property
    def camera(self) -> str | bytes:
        """Key of the camera: its name, or its mounting pose."""
        return self.frame.camera or self.frame.T_base_cam.tobytes()
