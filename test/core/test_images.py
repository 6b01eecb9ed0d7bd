import os

import cv2
import numpy as np
import pytest

from regvpr_core.errors import ImageError
from regvpr_core.images import (
    as_rgb,
    check_rgb,
    check_size,
    decode,
    encode_jpeg,
    MAX_FILE_BYTES,
    MAX_SIDE,
    read,
    thumbnail,
)

RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode('.png', pixels)[1].tobytes()


def test_a_png_comes_back_as_the_pixels_in_rgb_order():
    assert np.array_equal(decode(png(RGB[..., ::-1])), RGB)


def test_grey_alpha_and_16_bit_become_8_bit_rgb():
    grey = RGB[..., 0]
    assert np.array_equal(as_rgb(grey), np.dstack([grey] * 3))
    assert np.array_equal(as_rgb(grey[..., None]), np.dstack([grey] * 3))
    assert np.array_equal(as_rgb(np.dstack([grey, grey // 2])), np.dstack([grey] * 3))
    assert np.array_equal(as_rgb(np.dstack([RGB, grey])), RGB)
    assert np.array_equal(as_rgb(RGB[..., ::-1], bgr=True), RGB)
    bgra = np.dstack([RGB[..., ::-1], grey])
    assert np.array_equal(as_rgb(bgra, bgr=True), RGB)
    assert np.array_equal(as_rgb(RGB.astype(np.uint16) * 257), RGB)
    assert as_rgb(np.array([[65535, 256, 257]], np.uint16))[0, :, 0].tolist() == [255, 0, 1]
    assert as_rgb(np.array([[1023, 256, 0]], np.uint16))[0, :, 0].tolist() == [255, 63, 0]
    assert as_rgb(np.array([[1023, 256, 0]], np.uint16), bits=14)[0, :, 0].tolist() == [15, 3, 0]


def test_pictures_of_every_kind_are_decoded():
    grey = RGB[..., 0]
    assert np.array_equal(decode(png(grey)), np.dstack([grey] * 3))
    assert np.array_equal(decode(png(np.dstack([RGB[..., ::-1], grey]))), RGB)
    assert np.array_equal(decode(png(RGB[..., ::-1].astype(np.uint16) * 257)), RGB)
    assert np.array_equal(decode(png(grey.astype(np.uint16) * 257)), np.dstack([grey] * 3))


@pytest.mark.parametrize(('pixels', 'message'), [
    (np.zeros((4, 4, 3)), r'expected 8- or 16-bit pixels .*, got float64 \(4, 4, 3\)'),
    (np.zeros((4, 4, 5), np.uint8), 'image has 5 channels; expected 1 to 4'),
    (np.zeros((4, 4, 0), np.uint8), 'image has 0 channels'),
    (np.zeros((0, 4, 3), np.uint8), 'image of 4x0 pixels'),
    (np.zeros((4,), np.uint8), r'got uint8 \(4,\)'),
    (np.zeros((4, 4), bool), 'got bool')])
def test_pixels_of_another_kind_are_refused(pixels, message):
    with pytest.raises(ImageError, match=message):
        as_rgb(pixels)


@pytest.mark.parametrize(('image', 'message'), [
    (np.zeros((4, 4), np.uint8), r'got uint8 \(4, 4\)'),
    (np.zeros((4, 4, 3), np.float32), r'got float32 \(4, 4, 3\)'),
    (np.zeros((4, 0, 3), np.uint8), 'image of 0x4 pixels'),
    ([[1, 2, 3]], 'got list'), (None, 'got NoneType')])
def test_the_network_is_shown_uint8_rgb_only(image, message):
    with pytest.raises(ImageError, match=message):
        check_rgb(image)


@pytest.mark.parametrize(('width', 'height'), [
    (0, 10), (10, 0), (-1, 10), (MAX_SIDE + 1, 1), (1, MAX_SIDE + 1), (16_000, 16_000)])
def test_sizes_that_no_camera_has_are_refused(width, height):
    with pytest.raises(ImageError, match=f'image of {width}x{height} pixels; sides must be 1 to'):
        check_size(width, height)
    check_size(MAX_SIDE, 6000)


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp'])
@pytest.mark.parametrize('share', [0.0, 0.02, 0.3, 0.7, 0.99])
def test_a_picture_cut_short_is_refused(suffix, share):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    whole = cv2.imencode(suffix, pixels)[1].tobytes()
    assert decode(whole).shape == (60, 80, 3)
    with pytest.raises(ImageError, match='front: '):
        decode(whole[:int(share * len(whole))], 'front')


def test_what_is_no_picture_is_refused_with_its_size():
    with pytest.raises(ImageError, match='image: 5 bytes that are no image in a known format'):
        decode(b'hello')
    with pytest.raises(ImageError, match='image: 0 bytes of image data; expected 1 to'):
        decode(b'')


def test_a_file_is_read_or_named(tmp_path):
    (tmp_path / 'a.png').write_bytes(png(RGB[..., ::-1]))
    assert np.array_equal(read(tmp_path / 'a.png'), RGB)
    with pytest.raises(ImageError, match=r'none.png: cannot be read: No such file or directory'):
        read(tmp_path / 'none.png')
    with pytest.raises(ImageError, match='is no plain file'):
        read(tmp_path)


def test_a_pipe_or_a_huge_file_is_refused_unread_and_any_refusal_names_the_file(tmp_path):
    os.mkfifo(tmp_path / 'pipe.jpg')
    with (tmp_path / 'huge.png').open('wb') as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse
    (tmp_path / 'deep.tiff').write_bytes(
        cv2.imencode('.tiff', np.ones((4, 5, 3), np.float32))[1].tobytes())
    for name, message in (('pipe.jpg', 'is no plain file'),
                          ('huge.png', f'{MAX_FILE_BYTES + 1} bytes of image data'),
                          ('deep.tiff', 'expected 8- or 16-bit pixels')):
        with pytest.raises(ImageError, match=f'{name}: {message}'):
            read(tmp_path / name)


def test_a_jpeg_is_near_the_pixels_it_was_made_from(noise):
    rgb = noise(1)[0]
    back = decode(encode_jpeg(rgb, 95))
    assert np.abs(back.astype(int) - rgb).mean() < 3.0
    assert len(encode_jpeg(rgb, 30)) < len(encode_jpeg(rgb, 95))


@pytest.mark.parametrize(('shape', 'side', 'want'), [
    ((120, 160), 80, (60, 80)), ((160, 120), 80, (80, 60)), ((120, 160), 160, (120, 160)),
    ((120, 160), 500, (120, 160)), ((1, 1000), 10, (1, 10))])
def test_a_thumbnail_keeps_the_aspect_and_never_grows(shape, side, want):
    assert thumbnail(np.zeros((*shape, 3), np.uint8), side).shape == (*want, 3)


def test_a_thumbnail_averages_the_area():
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[:, ::2] = 200
    assert np.array_equal(thumbnail(rgb, 2), np.full((2, 2, 3), 100))
