"""Converts messages of rclpy or rosbags to arrays and back."""

from typing import Any

import numpy as np

from regvpr_core.errors import BagError
from regvpr_core.geometry import Array, pose_matrix, quat_xyzw
from regvpr_core.images.pixels import as_rgb_named, decode_pixels, RGB
from regvpr_core.images.raw import BAYER, BYTES_PER_PIXEL as BYTES_PER_PIXEL, demosaic, raw_rgb


def image_rgb(message: Any, bits: int = 0, least: tuple[int, int] | None = None) -> RGB:
    """A sensor_msgs/Image or CompressedImage as uint8 (H, W, 3) RGB.

    Args:
        message: any object with the fields of the message.
        bits: number of used bits of 16-bit samples, 0 if unknown.
        least: as for `decode_pixels`.

    Raises:
        ImageError: unknown encoding, impossible size, too few bytes, or data that is no image.
    """
    data = np.frombuffer(message.data, dtype=np.uint8)
    if not hasattr(message, 'format'):
        return raw_rgb(data, message.encoding, int(message.width), int(message.height),
                       int(message.step), big_endian=bool(message.is_bigendian), bits=bits)
    name = f'compressed image ({message.format!r})'
    # image_transport compresses Bayer images undemosaiced: "bayer_rggb8; jpeg compressed ".
    encoding = str(message.format).split(';')[0].strip().lower()
    pattern = encoding.removeprefix('bayer_').rstrip('0123456789')
    is_bayer = encoding.startswith('bayer_') and pattern in BAYER
    pixels = decode_pixels(data, name, None if is_bayer else least)
    if is_bayer and pixels.ndim == 2:
        return demosaic(pixels, pattern, bits)
    return as_rgb_named(pixels, name, bits)


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
    """Write (4, 4) into a geometry_msgs/Pose; quaternion: (4,) xyzw, if already computed."""
    pose.position.x, pose.position.y, pose.position.z = (float(v) for v in T[:3, 3])
    q = quat_xyzw(T) if quaternion is None else quaternion
    pose.orientation.x, pose.orientation.y, pose.orientation.z, pose.orientation.w = map(float, q)


def _checked(position: list[float], quaternion: list[float]) -> Array:
    try:
        return pose_matrix(position, quaternion)
    except ValueError as error:
        raise BagError(f'bad pose {position} {quaternion}: {error}') from error
