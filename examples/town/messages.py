"""The town's ROS messages, for ROS 1 and ROS 2 alike."""

import math
from typing import Any

import cv2
import numpy as np
from rosbags.typesys.store import Typestore
from scipy.spatial.transform import Rotation

from examples.town.camera import Camera, Floats, Image, T_BASE_CAM, yaw_of

CAMERA_FRAME = 'camera_optical'
JPEG_QUALITY = 90


class Messages:
    """Makes messages of the types of one typestore."""

    def __init__(self, store: Typestore, *, ros1: bool) -> None:
        self._types: dict[str, Any] = dict(store.types)
        self._ros1 = ros1

    def raw(self, stamp_ns: int, image: Image) -> Any:
        """A sensor_msgs/Image of (H, W, 3) uint8 RGB."""
        height, width = image.shape[:2]
        return self._types['sensor_msgs/msg/Image'](
            header=self._header(stamp_ns, CAMERA_FRAME), height=height, width=width,
            encoding='rgb8', is_bigendian=0, step=3 * width, data=image.reshape(-1),
        )  # fmt: skip

    def jpeg(self, stamp_ns: int, image: Image) -> Any:
        """A sensor_msgs/CompressedImage of (H, W, 3) uint8 RGB."""
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        return self._types['sensor_msgs/msg/CompressedImage'](
            header=self._header(stamp_ns, CAMERA_FRAME), format='rgb8; jpeg compressed bgr8',
            data=np.asarray(data, np.uint8).reshape(-1),
        )  # fmt: skip

    def camera_info(self, stamp_ns: int, camera: Camera) -> Any:
        """A sensor_msgs/CameraInfo without distortion."""
        projection = np.hstack([camera.matrix, np.zeros((3, 1))]).ravel()
        arrays = {'d': np.zeros(5), 'k': camera.matrix.ravel(), 'r': np.eye(3).ravel(),
                  'p': projection}  # fmt: skip
        if self._ros1:
            arrays = {name.upper(): value for name, value in arrays.items()}
        region = self._types['sensor_msgs/msg/RegionOfInterest'](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self._types['sensor_msgs/msg/CameraInfo'](
            header=self._header(stamp_ns, CAMERA_FRAME), height=camera.height,
            width=camera.width, distortion_model='plumb_bob', binning_x=0, binning_y=0,
            roi=region, **arrays,
        )  # fmt: skip

    def odometry(
        self, stamp_ns: int, frame: str, pose: Floats, twist: tuple[float, float],
        variance: float,
    ) -> Any:  # fmt: skip
        """A nav_msgs/Odometry of base_link.

        Args:
            stamp_ns: Time in ns.
            frame: Parent frame.
            pose: (4, 4) pose of base_link on the ground of the parent frame.
            twist: Forward speed in m/s and yaw rate in rad/s.
            variance: Of x, y in m^2 and of yaw in rad^2.
        """
        covariance = np.diag([variance, variance, 1e-9, 1e-9, 1e-9, variance])
        kinds = self._types
        yaw = yaw_of(pose)
        x, y, z = (float(v) for v in pose[:3, 3])
        where = kinds['geometry_msgs/msg/Pose'](
            position=kinds['geometry_msgs/msg/Point'](x=x, y=y, z=z),
            orientation=self._quaternion((0.0, 0.0, math.sin(yaw / 2), math.cos(yaw / 2))),
        )
        motion = kinds['geometry_msgs/msg/Twist'](
            linear=self._vector((twist[0], 0.0, 0.0)), angular=self._vector((0.0, 0.0, twist[1]))
        )
        return kinds['nav_msgs/msg/Odometry'](
            header=self._header(stamp_ns, frame), child_frame_id='base_link',
            pose=kinds['geometry_msgs/msg/PoseWithCovariance'](
                pose=where, covariance=covariance.ravel()),
            twist=kinds['geometry_msgs/msg/TwistWithCovariance'](
                twist=motion, covariance=(np.eye(6) * 1e-3).ravel()),
        )  # fmt: skip

    def static_transform(self, stamp_ns: int) -> Any:
        """A tf2_msgs/TFMessage with the camera's place on base_link."""
        quat_xyzw = Rotation.from_matrix(T_BASE_CAM[:3, :3]).as_quat()
        x, y, z, w = (float(v) for v in np.copysign(1.0, quat_xyzw[3]) * quat_xyzw)
        place = self._vector((float(T_BASE_CAM[0, 3]), float(T_BASE_CAM[1, 3]),
                              float(T_BASE_CAM[2, 3])))  # fmt: skip
        transform = self._types['geometry_msgs/msg/TransformStamped'](
            header=self._header(stamp_ns, 'base_link'), child_frame_id=CAMERA_FRAME,
            transform=self._types['geometry_msgs/msg/Transform'](
                translation=place, rotation=self._quaternion((x, y, z, w))),
        )  # fmt: skip
        return self._types['tf2_msgs/msg/TFMessage'](transforms=[transform])

    def _header(self, stamp_ns: int, frame: str) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 10**9)
        stamp = self._types['builtin_interfaces/msg/Time'](sec=seconds, nanosec=nanoseconds)
        more = {'seq': 0} if self._ros1 else {}
        return self._types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame, **more)

    def _vector(self, xyz: tuple[float, float, float]) -> Any:
        x, y, z = xyz
        return self._types['geometry_msgs/msg/Vector3'](x=x, y=y, z=z)

    def _quaternion(self, quat_xyzw: tuple[float, float, float, float]) -> Any:
        x, y, z, w = quat_xyzw
        return self._types['geometry_msgs/msg/Quaternion'](x=x, y=y, z=z, w=w)
