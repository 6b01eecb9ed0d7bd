"""Messages to arrays and back. Takes any object with a message's fields: rclpy's or rosbags'."""

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
from rosbags.image import image_to_cvimage, ImageError as RosbagsImageError

from regvpr_core.errors import BagError, ImageError
from regvpr_core.geometry import Array, pose_matrix, quat_xyzw
from regvpr_core.images import as_rgb, check_size, decode, RGB

BYTES_PER_PIXEL = {
    'mono8': 1, 'bayer_rggb8': 1, 'bayer_bggr8': 1, 'bayer_gbrg8': 1, 'bayer_grbg8': 1,
    'mono16': 2, 'bayer_rggb16': 2, 'bayer_bggr16': 2, 'bayer_gbrg16': 2, 'bayer_grbg16': 2,
    'yuv422': 2, 'uyvy': 2, 'yuv422_yuy2': 2, 'yuyv': 2,
    'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4, 'rgb16': 6, 'bgr16': 6, 'rgba16': 8, 'bgra16': 8,
    '8UC1': 1, '8UC3': 3, '8UC4': 4, '16UC1': 2,
}
"""Encodings of sensor_msgs/Image that are read."""

_GENERIC = {'8UC1': 'mono8', '8UC3': 'bgr8', '8UC4': 'bgra8', '16UC1': 'mono16'}


def image_rgb(message: Any) -> RGB:
    """A sensor_msgs/Image or CompressedImage as uint8 (H, W, 3) RGB.

    Row padding (`step`) is taken off. OpenCV's generic encodings count as BGR, as OpenCV means
    them.

    Raises:
        ImageError: unknown encoding, impossible size, too few bytes, or data that is no picture.
    """
    if hasattr(message, 'format'):
        return decode(np.frombuffer(message.data, dtype=np.uint8),
                      f'compressed image ({message.format!r})')
    encoding, width, height = message.encoding, int(message.width), int(message.height)
    if encoding not in BYTES_PER_PIXEL:
        raise ImageError(f'image encoding {encoding!r} is not supported; known: '
                         f'{", ".join(BYTES_PER_PIXEL)}')
    check_size(width, height)
    data = np.frombuffer(message.data, dtype=np.uint8)
    row_bytes = width * BYTES_PER_PIXEL[encoding]
    step = int(message.step) or row_bytes
    if step < row_bytes or data.size < step * (height - 1) + row_bytes:
        raise ImageError(f'{encoding} image of {width}x{height} with step {step} has {data.size} '
                         f'bytes of data; expected {max(step, row_bytes) * height}')
    if step != row_bytes:
        data = np.lib.stride_tricks.as_strided(data, (height, row_bytes), (step, 1))
    data = np.ascontiguousarray(data.reshape(-1)[:row_bytes * height])
    if encoding == 'rgb8':
        return data.reshape(height, width, 3)
    plain = SimpleNamespace(encoding=_GENERIC.get(encoding, encoding), width=width, height=height,
                            is_bigendian=bool(message.is_bigendian), data=data)
    try:
        return as_rgb(np.asarray(image_to_cvimage(plain, 'rgb8')))
    except cv2.error as error:  # an odd width where two pixels share their colour
        raise ImageError(f'{encoding} image of {width}x{height}: OpenCV refuses it: '
                         f'{error.err}') from error
    except (RosbagsImageError, ValueError, TypeError) as error:
        raise ImageError(f'{encoding} image of {width}x{height}: {error}') from error


def stamp_ns(stamp: Any) -> int:
    """A builtin_interfaces/Time in nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def split_stamp(stamp: int) -> dict[str, int]:
    """Nanoseconds as the fields of a builtin_interfaces/Time."""
    sec, nanosec = divmod(stamp, 1_000_000_000)
    return {'sec': sec, 'nanosec': nanosec}


def pose_T(pose: Any) -> Array:
    """A geometry_msgs/Pose as (4, 4).

    Raises:
        BagError: a value is not finite or the quaternion is zero.
    """
    p, q = pose.position, pose.orientation
    return _checked([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])


def transform_T(transform: Any) -> Array:
    """A geometry_msgs/Transform as (4, 4).

    Raises:
        BagError: a value is not finite or the quaternion is zero.
    """
    p, q = transform.translation, transform.rotation
    return _checked([p.x, p.y, p.z], [q.x, q.y, q.z, q.w])


def fill_pose(pose: Any, T: Array, quaternion: Array | None = None) -> None:
    """Write (4, 4) into a geometry_msgs/Pose; its quaternion (4,) as xyzw, where it is known."""
    pose.position.x, pose.position.y, pose.position.z = (float(v) for v in T[:3, 3])
    q = quat_xyzw(T) if quaternion is None else quaternion
    pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w = map(float, q)


def _checked(position: list[float], quaternion: list[float]) -> Array:
    try:
        return pose_matrix(position, quaternion)
    except ValueError as error:
        raise BagError(f'bad pose {position} {quaternion}: {error}') from error
