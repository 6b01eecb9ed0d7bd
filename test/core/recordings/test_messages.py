from array import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.errors import BagError, ImageError
from regvpr_core.recordings.messages import (
    BYTES_PER_PIXEL,
    fill_pose,
    image_rgb,
    pose_T,
    split_stamp,
    stamp_ns,
    transform_T,
)

RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (90, 90, 90)
PICTURE = np.array([[RED, GREEN, BLUE, GREY], [GREY, BLUE, GREEN, RED]], dtype=np.uint8)


def message(encoding: str, pixels: np.ndarray, **changes) -> SimpleNamespace:
    """A sensor_msgs/Image of pixels (H, W) or (H, W, C) of any type."""
    data = np.ascontiguousarray(pixels).view(np.uint8).reshape(-1)
    width = pixels.shape[1] if pixels.ndim > 1 else 0
    fields = {'encoding': encoding, 'height': pixels.shape[0], 'width': width,
              'step': data.size // max(pixels.shape[0], 1), 'is_bigendian': 0, 'data': data}
    return SimpleNamespace(**(fields | changes))


def grey3(values: np.ndarray) -> np.ndarray:
    return np.dstack([values] * 3)


GREY8 = np.array([[0, 1, 128, 255], [7, 8, 9, 10]], dtype=np.uint8)
ALPHA = np.full((2, 4, 1), 3, np.uint8)
BGR = PICTURE[..., ::-1]
COLOURS = {
    'rgb8': (PICTURE, PICTURE), 'bgr8': (BGR, PICTURE), '8UC3': (BGR, PICTURE),
    'rgba8': (np.dstack([PICTURE, ALPHA]), PICTURE), 'bgra8': (np.dstack([BGR, ALPHA]), PICTURE),
    '8UC4': (np.dstack([BGR, ALPHA]), PICTURE),
    'mono8': (GREY8, grey3(GREY8)), '8UC1': (GREY8, grey3(GREY8)),
    **{name: (pixels.astype(np.uint16) * 257, want) for name, pixels, want in (
        ('mono16', GREY8, grey3(GREY8)), ('16UC1', GREY8, grey3(GREY8)),
        ('rgb16', PICTURE, PICTURE), ('bgr16', BGR, PICTURE), ('16UC3', BGR, PICTURE),
        ('16UC4', np.dstack([BGR, ALPHA]), PICTURE),
        ('rgba16', np.dstack([PICTURE, ALPHA]), PICTURE),
        ('bgra16', np.dstack([BGR, ALPHA]), PICTURE))},
}


@pytest.mark.parametrize('encoding', COLOURS)
@pytest.mark.parametrize('padding', [0, 1, 5, 64])
def test_plain_encodings_become_rgb_with_the_padding_taken_off(encoding, padding):
    pixels, want = COLOURS[encoding]
    rows = np.ascontiguousarray(pixels).view(np.uint8).reshape(2, -1)
    padded = np.full((2, rows.shape[1] + padding), 0xAB, np.uint8)
    padded[:, :rows.shape[1]] = rows
    got = image_rgb(message(encoding, pixels, step=padded.shape[1], data=padded.reshape(-1)))
    assert got.dtype == np.uint8
    assert np.abs(got.astype(int) - want).max() <= 1  # 65535 / 257 in floats
    assert got.flags.c_contiguous


@pytest.mark.parametrize('encoding', [name for name in COLOURS if '16' in name])
def test_16_bit_pixels_are_read_in_both_byte_orders(encoding):
    pixels, want = COLOURS[encoding]
    got = image_rgb(message(encoding, pixels.byteswap(), is_bigendian=1))
    assert np.abs(got.astype(int) - want).max() <= 1


def test_byte_order_says_nothing_about_bytes():
    for encoding in ('rgb8', 'mono8', 'bgra8'):
        pixels, want = COLOURS[encoding]
        assert np.array_equal(image_rgb(message(encoding, pixels, is_bigendian=1)), want)


def mosaic(pattern: str, colour: tuple[int, int, int]) -> np.ndarray:
    """What a sensor with this filter sees of one colour."""
    tile = [colour['rgb'.index(letter)] for letter in pattern]
    return np.tile(np.array(tile, np.uint8).reshape(2, 2), (8, 8))


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('colour', [RED, GREEN, BLUE, (200, 100, 50)])
def test_bayer_pixels_of_one_colour_give_that_colour(pattern, bits, colour):
    pixels = mosaic(pattern, colour)
    pixels = pixels if bits == 8 else pixels.astype(np.uint16) * 257
    got = image_rgb(message(f'bayer_{pattern}{bits}', pixels))
    assert got.shape == (16, 16, 3)
    assert np.abs(got[2:-2, 2:-2].astype(int) - colour).max() <= 1


# Y U V of BT.601 with the range that video uses, from the standard's table of 100 % bars.
YUV = [((82, 90, 240), RED), ((145, 54, 34), GREEN), ((41, 240, 110), BLUE),
       ((235, 128, 128), (255, 255, 255)), ((16, 128, 128), (0, 0, 0))]


@pytest.mark.parametrize(('encoding', 'order'), [
    ('yuv422', 'uyvy'), ('uyvy', 'uyvy'), ('yuv422_yuy2', 'yuyv'), ('yuyv', 'yuyv')])
@pytest.mark.parametrize(('yuv', 'rgb'), YUV)
def test_yuv_pixels_have_the_colour_that_video_means(encoding, order, yuv, rgb):
    pair = [yuv['yuv'.index(letter)] for letter in order]
    pixels = np.tile(np.array(pair, np.uint8).reshape(1, 2, 2), (4, 3, 1))
    got = image_rgb(message(encoding, pixels))
    assert got.shape == (4, 6, 3)
    assert np.abs(got.astype(int) - rgb).max() <= 3


def test_two_pixels_of_yuv_share_their_colour_and_not_their_light():
    pixels = np.array([128, 16, 128, 235], np.uint8).reshape(1, 2, 2)  # U Y V Y
    assert image_rgb(message('uyvy', pixels))[0].tolist() == [[0, 0, 0], [255, 255, 255]]


PLANAR = {'nv12': 'uv', 'nv21': 'vu', 'i420': 'u v', 'yuv420': 'u v', 'yv12': 'v u',
          'nv16': 'uv', 'nv61': 'vu', 'nv24': 'uv', 'nv42': 'vu'}
SHARED = {'nv24': (1, 1), 'nv42': (1, 1), 'nv16': (2, 1), 'nv61': (2, 1)}


def planar(encoding: str, y: np.ndarray, u: np.ndarray, v: np.ndarray, pad: int = 0
           ) -> np.ndarray:
    """Planes as a camera sends them: Y (H, W), U and V averaged over the pixels that share them.

    Rows of Y are `pad` bytes longer, those of colours as much as the encoding says.
    """
    across, down = SHARED.get(encoding, (2, 2))
    height, width = y.shape
    cut = {name: plane.reshape(height // down, down, width // across, across).mean((1, 3))
           for name, plane in (('u', u), ('v', v))}
    order = PLANAR[encoding]
    padded = [np.pad(y, ((0, 0), (0, pad)))]
    if ' ' in order:
        padded += [np.pad(cut[name], ((0, 0), (0, pad // across))) for name in order.split()]
    else:
        both = np.stack([cut[name] for name in order], axis=-1).reshape(height // down, -1)
        padded.append(np.pad(both, ((0, 0), (0, 2 * pad // across))))
    return np.concatenate([np.rint(plane).astype(np.uint8).reshape(-1) for plane in padded])


@pytest.mark.parametrize('encoding', PLANAR)
@pytest.mark.parametrize('pad', [0, 6])
@pytest.mark.parametrize(('yuv', 'rgb'), YUV)
def test_planes_of_yuv_have_the_colour_that_video_means(encoding, pad, yuv, rgb):
    planes = [np.full((8, 12), value) for value in yuv]
    image = message(encoding, planar(encoding, *planes, pad), width=12, height=8, step=12 + pad)
    got = image_rgb(image)
    assert got.shape == (8, 12, 3)
    assert np.abs(got.astype(int) - rgb).max() <= 3


def test_nv12_keeps_the_place_of_light_and_colour_as_opencv_means_it(noise):
    rgb = cv2.resize(noise(1)[0], (64, 48), interpolation=cv2.INTER_AREA)
    yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    for encoding, data in (('i420', yuv), ('nv12', np.concatenate(
            [yuv[:48].reshape(-1), np.stack([yuv[48:60].reshape(-1), yuv[60:].reshape(-1)],
                                            axis=1).reshape(-1)]))):
        got = image_rgb(message(encoding, data.reshape(-1), width=64, height=48, step=64))
        want = cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB_I420)
        assert np.abs(got.astype(int) - want).mean() < 1.0


def test_a_height_that_counts_the_rows_of_colour_is_understood():
    data = planar('nv21', *(np.full((8, 12), value) for value in YUV[0][0]))
    got = image_rgb(message('nv21', data, width=12, height=12, step=12))
    assert got.shape == (8, 12, 3)
    assert np.abs(got.astype(int) - RED).max() <= 3


@pytest.mark.parametrize('encoding', ['nv12', 'nv21', 'i420', 'nv16', 'nv24'])
def test_a_step_that_counts_the_colours_is_understood(encoding):
    data = planar(encoding, *(np.full((8, 12), value) for value in YUV[0][0]))
    got = image_rgb(message(encoding, data, width=12, height=8, step=data.size // 8))
    assert got.shape == (8, 12, 3)
    assert np.abs(got.astype(int) - RED).max() <= 3


@pytest.mark.parametrize(('encoding', 'known'), [('YUYV', 'yuyv'), ('Mono8', 'mono8'),
                                                 ('RGB8', 'rgb8')])
def test_encodings_in_capitals_are_those_in_small_letters(encoding, known, noise):
    data = noise(1)[0].reshape(-1)[:12 * 8 * 3]
    size = {'yuyv': 2, 'mono8': 1, 'rgb8': 3}[known]
    one, other = (image_rgb(message(name, data[:96 * size], width=12, height=8, step=12 * size))
                  for name in (encoding, known))
    assert np.array_equal(one, other)


@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
@pytest.mark.parametrize('encoding', ['mono16', '16UC1', 'rgb16', 'bayer_grbg16'])
def test_the_bits_in_use_of_16_are_the_range(bits, encoding):
    top = 2**bits - 1
    pixels = np.full((16, 16, 3) if encoding == 'rgb16' else (16, 16), top // 2, np.uint16)
    pixels[8:, 8:] = top
    got = image_rgb(message(encoding, pixels))
    assert abs(int(got[3, 3, 0]) - 127) <= 1
    assert got[12, 12].tolist() == [255, 255, 255]


def test_a_dark_image_of_a_camera_with_known_bits_stays_dark():
    pixels = np.full((4, 4), 400, np.uint16)
    assert image_rgb(message('mono16', pixels), bits=12)[0, 0, 0] == 400 * 255 // 4095
    assert image_rgb(message('mono16', pixels * 100), bits=12)[0, 0, 0] == 40000 * 255 // 65535


@pytest.mark.parametrize('pattern', ['rggb', 'bggr', 'gbrg', 'grbg'])
@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_a_compressed_mosaic_gets_its_colours(pattern, suffix):
    data = cv2.imencode(suffix, mosaic(pattern, (200, 100, 50)))[1].reshape(-1)
    form = f'bayer_{pattern}8; {suffix[1:]} compressed '
    got = image_rgb(SimpleNamespace(format=form, data=data))
    assert np.abs(got[4:-4, 4:-4].astype(int).mean((0, 1)) - (200, 100, 50)).max() <= 12


def test_every_encoding_listed_is_tested_here():
    bayer = {f'bayer_{p}{b}' for p in ('rggb', 'bggr', 'gbrg', 'grbg') for b in (8, 16)}
    assert {*COLOURS, *bayer, *PLANAR, 'yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv'} == set(
        BYTES_PER_PIXEL)


@pytest.mark.parametrize('encoding', BYTES_PER_PIXEL)
@pytest.mark.parametrize(('width', 'height'), [(1, 1), (2, 2), (3, 3), (5, 4), (1, 9), (8, 2)])
def test_small_and_odd_sizes_are_read_or_refused(encoding, width, height):
    if encoding in PLANAR:
        across, down = SHARED.get(encoding, (2, 2))
        size = width * height + 2 * -(-width // across) * -(-height // down)
        pixels = np.zeros(size + 2 * width, np.uint8)
        image = message(encoding, pixels, width=width, height=height, step=width)
        assert image_rgb(image).shape == (height, width, 3)
        return
    pixels = np.zeros((height, int(width * BYTES_PER_PIXEL[encoding])), np.uint8)
    image = message(encoding, pixels, width=width)
    if width % 2 and ('yuv' in encoding or encoding in ('uyvy', 'yuyv')):
        with pytest.raises(ImageError, match=f'{encoding} image of {width}x{height}: O') as error:
            image_rgb(image)
        assert '\n' not in str(error.value)
    else:
        assert image_rgb(image).shape == (height, width, 3)


def test_data_comes_as_rclpys_array_as_bytes_and_as_numpy():
    for make in (lambda d: array('B', d.tobytes()), bytes, lambda d: d, memoryview):
        image = message('rgb8', PICTURE)
        image.data = make(image.data)
        assert np.array_equal(image_rgb(image), PICTURE)


def test_a_step_of_zero_means_no_padding_and_bytes_too_many_are_left():
    assert np.array_equal(image_rgb(message('rgb8', PICTURE, step=0)), PICTURE)
    data = np.append(PICTURE.reshape(-1), np.zeros(100, np.uint8))
    assert np.array_equal(image_rgb(message('rgb8', PICTURE, data=data)), PICTURE)


def test_the_last_row_may_come_without_its_padding():
    padded = np.zeros((2, 20), np.uint8)
    padded[:, :12] = PICTURE.reshape(2, 12)
    image = message('rgb8', PICTURE, step=20, data=padded.reshape(-1)[:32])
    assert np.array_equal(image_rgb(image), PICTURE)


@pytest.mark.parametrize('encoding', ['jpeg', '', '32FC1', '8UC2', 'p010'])
def test_an_unknown_encoding_lists_the_known_ones(encoding):
    with pytest.raises(ImageError) as error:
        image_rgb(message(encoding, PICTURE))
    assert str(error.value).startswith(f'image encoding {encoding!r} is not supported; known: '
                                       'mono8, mono16')


@pytest.mark.parametrize(('changes', 'message_part'), [
    ({'data': b''}, 'rgb8 image of 4x2 with step 12 has 0 bytes of data; expected 24'),
    ({'data': bytes(23)}, 'has 23 bytes of data; expected 24'),
    ({'step': 11}, 'with step 11 has 24 bytes of data; expected 24'),
    ({'step': 13}, 'with step 13 has 24 bytes of data; expected 26'),
    ({'step': 2**32 - 1}, 'with step 4294967295 has 24 bytes'),
    ({'width': 0}, 'image of 0x2 pixels; sides must be 1 to 16384'),
    ({'height': 0}, 'image of 4x0 pixels'),
    ({'width': 2**32 - 1}, 'image of 4294967295x2 pixels'),
    ({'width': 16384, 'height': 16384}, 'the area at most 100000000 pixels'),
    ({'height': 3}, 'rgb8 image of 4x3 with step 12 has 24 bytes of data; expected 36')])
def test_impossible_sizes_and_missing_bytes_are_refused(changes, message_part):
    with pytest.raises(ImageError) as error:
        image_rgb(message('rgb8', PICTURE, **changes))
    assert message_part in str(error.value)


def test_a_single_row_with_an_absurd_step_is_read_without_making_room_for_it():
    image = message('rgb8', PICTURE[:1], step=2**32 - 1)
    assert np.array_equal(image_rgb(image), PICTURE[:1])


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_compressed_images_are_decoded(suffix, noise):
    rgb = noise(1)[0]
    data = cv2.imencode(suffix, rgb[..., ::-1])[1].reshape(-1)
    image = SimpleNamespace(format='bgr8; jpeg compressed bgr8', data=array('B', data.tobytes()))
    assert np.abs(image_rgb(image).astype(int) - rgb).mean() < 8.0


@pytest.mark.parametrize('data', [b'', b'no picture', b'\xff\xd8\xff\xe0'])
def test_compressed_data_that_is_no_picture_is_refused_with_its_format(data):
    with pytest.raises(ImageError, match=r"compressed image \('jpeg'\): .*\d+ bytes"):
        image_rgb(SimpleNamespace(format='jpeg', data=data))


@pytest.mark.parametrize('stamp', [0, 1, 999_999_999, 1_000_000_000, 1_700_000_000_123_456_789])
def test_stamps_keep_their_nanoseconds(stamp):
    assert stamp_ns(SimpleNamespace(**split_stamp(stamp))) == stamp
    assert 0 <= split_stamp(stamp)['nanosec'] < 10**9


def empty_pose() -> SimpleNamespace:
    return SimpleNamespace(position=SimpleNamespace(x=0.0, y=0.0, z=0.0),
                           orientation=SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0))


def test_poses_go_into_messages_and_back():
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler('zyx', [1.0, -0.3, 2.0]).as_matrix()
    T[:3, 3] = [1.5, -2.0, 1e6]
    pose = empty_pose()
    fill_pose(pose, T)
    assert isinstance(pose.orientation.w, float)
    np.testing.assert_allclose(pose_T(pose), T, atol=1e-12)
    transform = SimpleNamespace(translation=pose.position, rotation=pose.orientation)
    np.testing.assert_allclose(transform_T(transform), T, atol=1e-12)


def test_a_pose_without_sense_is_refused():
    pose = empty_pose()
    pose.orientation.w = 0.0
    with pytest.raises(BagError, match=r'bad pose \[0.0, 0.0, 0.0\] .* all zeros'):
        pose_T(pose)
    pose.orientation.w, pose.position.x = 1.0, float('nan')
    with pytest.raises(BagError, match=r'bad pose .* not finite'):
        pose_T(pose)
