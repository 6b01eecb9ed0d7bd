"""An image with pose and intrinsics at its stamp."""

from dataclasses import dataclass
from typing import Any

from regvpr_core.geometry import Array
from regvpr_core.images import RGB
from regvpr_core.localization.frames import Frame


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """An image to process, with odometry, extrinsics and intrinsics at its stamp."""

    camera: str
    header: Any
    frame: Frame
    T_odom_base: Array | None
    arrived_s: float

    @property
    def rgb(self) -> RGB:
        """Pixels (H, W, 3) of the image."""
        return self.frame.rgb
