"""Parses image messages without copying the pixels."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from builtin_interfaces.msg import Time
from rosbags.typesys import get_typestore, Stores
from std_msgs.msg import Header

from regvpr_core.errors import ImageError

RAW, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'


class ImageParser:
    """Parses the images of cameras; rclpy's deserializer copies the pixels twice."""

    def __init__(self, is_compressed: Callable[[str], bool]) -> None:
        """is_compressed: whether a camera, by name, publishes CompressedImage."""
        self._is_compressed = is_compressed
        self._types = get_typestore(Stores.LATEST)

    def __call__(self, camera: str, raw: bytes) -> Any:
        """The fields of a message; `data` is a read-only view of its bytes.

        Raises:
            ImageError: the bytes are not such a message.
        """
        kind = COMPRESSED if self._is_compressed(camera) else RAW
        try:
            message: Any = self._types.deserialize_cdr(memoryview(raw), kind)
            stamp = message.header.stamp
            header = Header(stamp=Time(sec=stamp.sec, nanosec=stamp.nanosec),
                            frame_id=message.header.frame_id)
        except Exception as error:
            raise ImageError(f'a message of {len(raw)} bytes is no '
                             f'{kind.rpartition("/")[2]}: {error}') from error
        fields = {name: value for name, value in vars(message).items() if name != '__msgtype__'}
        return SimpleNamespace(**{**fields, 'header': header})
