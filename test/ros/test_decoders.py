"""Pixels by cv_bridge and by our own decoder: the same. cv_bridge is not on PyPI."""

import array
import importlib.util
import sys
import types

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image

from regvpr_core.errors import ImageError
from regvpr_core.recordings.messages import BYTES_PER_PIXEL, image_rgb
from regvpr_ros import decoders
from regvpr_ros.decoders import at_half_size, BY_CV_BRIDGE, choose_decoder, cv_bridge_decoder


def message(encoding: str, height: int = 24, width: int = 32) -> Image:
    """Smooth colours, so that Bayer patterns mean something; all of a byte's values."""
    rows = np.arange(height)[:, None, None] * 7
    columns = np.arange(width * BYTES_PER_PIXEL[encoding]).reshape(width, -1)[None] * 3
    pixels = (rows + columns).astype(np.uint8)
    return Image(height=height, width=width, encoding=encoding,
                 step=width * BYTES_PER_PIXEL[encoding],
                 data=array.array('B', np.ascontiguousarray(pixels).tobytes()))


@pytest.fixture
def decode():
    """The decoder by cv_bridge; skipped where it is not there, or does not work."""
    if importlib.util.find_spec('cv_bridge') is None:
        pytest.skip('cv_bridge is not on PyPI; a ROS 2 installation has it')
    chosen, name = choose_decoder()
    if name != 'cv_bridge':
        pytest.skip(name)
    return chosen


@pytest.mark.parametrize('encoding', sorted(BY_CV_BRIDGE))
def test_cv_bridge_and_our_decoder_give_the_same_pixels(decode, encoding):
    one = message(encoding)
    ours, theirs = image_rgb(one), decode(one)
    assert ours.shape == theirs.shape == (24, 32, 3)
    assert ours.dtype == theirs.dtype == np.uint8
    assert np.array_equal(ours, theirs)


def test_every_encoding_that_cv_bridge_is_given_is_one_that_we_read():
    assert set(BYTES_PER_PIXEL) >= BY_CV_BRIDGE


def test_without_cv_bridge_ours_is_used_and_the_log_says_so(monkeypatch):
    monkeypatch.setattr(decoders.importlib.util, 'find_spec', lambda name: None)
    assert choose_decoder() == (image_rgb, 'own decoder (cv_bridge is not installed)')


def test_a_cv_bridge_that_ends_its_process_is_not_used(monkeypatch):
    """As one does that was built against NumPy 1 and meets NumPy 2."""
    monkeypatch.setattr(decoders.importlib.util, 'find_spec', lambda name: object())
    monkeypatch.setattr(decoders, 'TRIAL', 'import os; os.abort()')
    chosen, name = choose_decoder()
    assert chosen is image_rgb
    assert name == 'own decoder (cv_bridge does not work here: exit code -6)'


def test_what_cv_bridge_refuses_is_an_error_of_the_image(monkeypatch):
    class Bridge:
        def imgmsg_to_cv2(self, image, encoding):
            raise RuntimeError('no such conversion')

    monkeypatch.setitem(sys.modules, 'cv_bridge', types.SimpleNamespace(CvBridge=Bridge))
    decode = cv_bridge_decoder()
    with pytest.raises(ImageError, match='bgr8 image of 32x24: cv_bridge: no such conversion'):
        decode(message('bgr8'))
    # And what it is not given goes to ours: padded rows, other encodings, wrong sizes.
    assert decode(message('uyvy')).shape == (24, 32, 3)
    short = message('rgb8')
    short.data = short.data[:50]
    with pytest.raises(ImageError, match='has 50 bytes of data'):
        decode(short)


def test_compressed_images_come_at_half_size_and_others_as_they_are():
    decode = at_half_size(image_rgb, 8, 8)
    pixels = image_rgb(message('bgr8'))
    data = array.array('B', cv2.imencode('.jpg', pixels)[1].tobytes())
    assert decode(CompressedImage(format='rgb8; jpeg compressed bgr8', data=data)).shape \
        == (12, 16, 3)
    assert decode(message('rgb8')).shape == (24, 32, 3)
    # A mosaic is not an image yet: half of it mixes its colours.
    mosaic = array.array('B', cv2.imencode('.jpg', pixels[..., 0])[1].tobytes())
    assert decode(CompressedImage(format='bayer_rggb8; jpeg compressed ', data=mosaic)).shape \
        == (24, 32, 3)
    assert at_half_size(image_rgb, 9, 8)(CompressedImage(format='jpeg', data=data)).shape \
        == (24, 32, 3)
