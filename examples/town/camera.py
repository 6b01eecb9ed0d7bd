"""The pinhole camera on the vehicle."""

from dataclasses import dataclass
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
Image = NDArray[np.uint8]

CAMERA_HEIGHT_M = 1.2

T_BASE_CAM: Floats = np.array(
    [[0.0, 0.0, 1.0, 0.3], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, CAMERA_HEIGHT_M], [0, 0, 0, 1]]
)
"""(4, 4) pose of camera_optical (z forward, x right, y down) in base_link."""


def planar_pose(x: float, y: float, yaw: float) -> Floats:
    """Pose (4, 4) on the ground at x, y in m, turned by yaw in rad about z."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    pose = np.eye(4)
    pose[:2] = [[cos, -sin, 0.0, x], [sin, cos, 0.0, y]]
    return pose


def yaw_of(pose: Floats) -> float:
    """Heading in rad of a (4, 4) pose on the ground."""
    return math.atan2(pose[1, 0], pose[0, 0])


@dataclass(frozen=True, slots=True)
class Camera:
    """An undistorted camera; the centre of the top left pixel is at (0, 0)."""

    width: int
    height: int
    focal: float

    @classmethod
    def from_hfov(cls, width: int, height: int, hfov_rad: float) -> 'Camera':
        """A camera that spans `hfov_rad` over its width."""
        return cls(width, height, width / 2 / math.tan(hfov_rad / 2))

    @property
    def cx(self) -> float:
        """Column of the principal point in pixels."""
        return (self.width - 1) / 2

    @property
    def cy(self) -> float:
        """Row of the principal point in pixels, which is the horizon."""
        return (self.height - 1) / 2

    @property
    def matrix(self) -> Floats:
        """Intrinsic matrix K, (3, 3) in pixels."""
        return np.array([[self.focal, 0, self.cx], [0, self.focal, self.cy], [0, 0, 1.0]])

    def project(self, points: Floats, T_map_base: Floats) -> tuple[Floats, Floats]:
        """Where points of the map fall in the image.

        Args:
            points: (N, 3) in the map frame in m.
            T_map_base: (4, 4) pose of the vehicle.

        Returns:
            (N, 2) column and row in pixels, and (N,) depth along the optical axis in m; a point
            behind the camera has a negative depth and a meaningless pixel.
        """
        T_cam_map = np.linalg.inv(T_map_base @ T_BASE_CAM)
        local = points @ T_cam_map[:3, :3].T + T_cam_map[:3, 3]
        depth = local[:, 2]
        return local[:, :2] / depth[:, None] * self.focal + [self.cx, self.cy], depth
