import array

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from rosbags.typesys import get_typestore, Stores
from sensor_msgs.msg import CompressedImage, Image

from regvpr_core.errors import ImageError
from regvpr_core.recordings.messages import image_rgb
from regvpr_ros.image_parser import ImageParser


def image(**fields) -> Image:
    message = Image(**({'height': 4, 'width': 6, 'encoding': 'bgr8', 'step': 20,
                        'data': array.array('B', range(80))} | fields))
    message.header.stamp.sec, message.header.stamp.nanosec = -5, 999_999_999
    message.header.frame_id = 'kamera_größe'
    return message


def test_an_image_has_the_fields_and_pixels_that_rclpy_reads_and_a_header_to_publish():
    message = image(is_bigendian=1)
    parsed = ImageParser(lambda camera: False)('front', serialize_message(message))
    assert parsed.header == message.header
    assert type(parsed.header) is type(message.header)
    for name in ('height', 'width', 'encoding', 'step', 'is_bigendian'):
        assert getattr(parsed, name) == getattr(message, name)
    assert bytes(parsed.data) == bytes(message.data)
    np.testing.assert_array_equal(image_rgb(parsed), image_rgb(message))


def test_pixels_are_a_view_of_the_bytes():
    raw = serialize_message(image())
    data = ImageParser(lambda camera: False)('', raw).data
    assert np.shares_memory(data, np.frombuffer(raw, np.uint8))
    assert not data.flags.writeable


def test_bytes_of_the_other_order_and_padding_are_read_and_an_unknown_order_is_refused():
    raw = serialize_message(image())
    parse = ImageParser(lambda camera: False)
    for padding in range(1, 4):
        assert bytes(parse('', raw + bytes(padding)).data) == bytes(range(80))
    store = get_typestore(Stores.LATEST)
    types = store.types
    big = store.serialize_cdr(types['sensor_msgs/msg/Image'](
        types['std_msgs/msg/Header'](types['builtin_interfaces/msg/Time'](-5, 7), 'camera'),
        4, 6, 'bgr8', 0, 20, np.arange(80, dtype=np.uint8)), 'sensor_msgs/msg/Image',
        little_endian=False)
    read = parse('', bytes(big))
    assert (read.header.stamp.sec, read.header.stamp.nanosec, read.step) == (-5, 7, 20)
    assert bytes(read.data) == bytes(range(80))
    with pytest.raises(ImageError, match='is no Image'):
        parse('', b'\x07\x07' + raw[2:])


def test_each_camera_is_read_as_what_it_sends():
    parse = ImageParser(lambda camera: camera == 'back')
    message = CompressedImage(format='jpeg', data=array.array('B', b'abc'))
    assert bytes(parse('back', serialize_message(message)).data) == b'abc'
    assert parse('back', serialize_message(message)).format == 'jpeg'
    assert parse('front', serialize_message(image())).encoding == 'bgr8'


@pytest.mark.parametrize('cut', [0, 3, 4, 12, 30, 60, -1])
def test_bytes_that_end_too_early_are_refused_with_their_number(cut):
    raw = serialize_message(image())[:cut]
    with pytest.raises(ImageError, match=f'^a message of {len(raw)} bytes is no Image: '):
        ImageParser(lambda camera: False)('', raw)


def test_a_length_beyond_all_bytes_is_refused_before_anything_is_reserved():
    raw = bytearray(serialize_message(image()))
    at = bytes(raw).index(bytes(array.array('B', range(8)))) - 4
    raw[at:at + 4] = b'\xff\xff\xff\x7f'
    with pytest.raises(ImageError, match='is no Image'):
        ImageParser(lambda camera: False)('', bytes(raw))
