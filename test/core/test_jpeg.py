"""JPEGs that lack something: what is whole is read, whatever the decoder, and nothing else."""

import io
import os

import cv2
import numpy as np
import pytest

from regvpr_core.errors import ImageError
from regvpr_core.images import decode, read
from regvpr_core.images.jpeg import end_of, EOI, size_of
from regvpr_core.images.pixels import decode_pixels

PROGRESSIVE = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
RESTARTS = [cv2.IMWRITE_JPEG_RST_INTERVAL, 3]


def jpeg(rgb: np.ndarray, options: list[int] | None = None) -> bytes:
    return cv2.imencode('.jpg', rgb[..., ::-1], options or [])[1].tobytes()


@pytest.fixture
def scene(noise) -> np.ndarray:
    """(90, 122, 3), neither side a multiple of a block."""
    return cv2.resize(noise(1)[0], (122, 90), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize('options', [[], PROGRESSIVE, RESTARTS])
@pytest.mark.parametrize('tail', [b'', b'\0' * 700])
def test_an_image_that_lacks_only_its_end_marker_is_whole(scene, options, tail):
    data = jpeg(scene, options)
    assert data.endswith(EOI)
    assert np.array_equal(decode(data[:-2] + tail), decode(data))


@pytest.mark.parametrize('options', [[], RESTARTS])
@pytest.mark.parametrize('share', [0.3, 0.5, 0.8, 0.97])
@pytest.mark.parametrize('tail', [b'', EOI, b'\0' * 5000])
def test_an_image_that_lacks_pixels_is_refused_whatever_ends_it(scene, options, share, tail):
    data = jpeg(scene, options)
    with pytest.raises(ImageError, match='damaged or cut off'):
        decode(data[:int(share * len(data))] + tail)


@pytest.mark.parametrize('share', [0.2, 0.5, 0.9])
def test_a_progressive_image_cut_within_a_scan_is_refused(scene, share):
    data = jpeg(scene, PROGRESSIVE)
    with pytest.raises(ImageError, match='damaged or cut off'):
        decode(data[:int(share * len(data))])


def test_an_image_whose_end_is_flat_is_whole(scene):
    scene[-40:] = 128
    assert np.abs(decode(jpeg(scene)).astype(int) - scene).mean() < 25
    flat = np.full((64, 64, 3), 200, np.uint8)
    assert np.array_equal(decode(jpeg(flat)), flat)


@pytest.mark.parametrize('options', [[], PROGRESSIVE, RESTARTS])
@pytest.mark.parametrize('grey', [False, True])
def test_a_jpeg_much_larger_than_what_is_wanted_is_decoded_at_half_its_size(scene, options, grey):
    pixels = scene[..., 1] if grey else scene
    data = cv2.imencode('.jpg', cv2.resize(pixels, (244, 180)), options)[1].tobytes()
    assert size_of(data) == (180, 244)
    full = decode_pixels(data)
    assert full.shape[:2] == (180, 244)
    half = decode_pixels(data, least=(60, 81))
    assert half.shape == (90, 122, 3)
    wanted = cv2.resize(full.reshape(180, 244, -1), (122, 90), interpolation=cv2.INTER_AREA)
    assert np.abs(half - wanted.reshape(90, 122, -1).astype(float)).mean() < 1.0
    assert np.abs(half.mean() - full.mean()) < 0.2
    for least in (None, (61, 81), (60, 82)):
        assert np.array_equal(decode_pixels(data, least=least), full)
    with pytest.raises(ImageError, match='damaged or cut off'):
        decode_pixels(data[:len(data) * 2 // 3], least=(60, 81))


@pytest.mark.parametrize('size', [(243, 180), (244, 181)])
def test_an_odd_side_has_no_half(scene, size):
    data = jpeg(cv2.resize(scene, size))
    assert decode_pixels(data, least=(10, 10)).shape == (size[1], size[0], 3)


def test_a_jpeg_at_half_size_is_not_turned_either(tmp_path, scene):
    path = tmp_path / 'photo.jpg'
    oriented(path, cv2.resize(scene, (244, 180)), 6)
    assert decode_pixels(path.read_bytes()).shape == (180, 244, 3)
    assert decode_pixels(path.read_bytes(), least=(20, 20)).shape == (90, 122, 3)


@pytest.mark.parametrize('data', [b'', EOI, b'\xff\xd8', b'\xff\xd8\xff\xe0\0\x02' * 3,
                                  b'\xff\xd8\xff\xff\xff\xc0\0\x11\x08'])
def test_a_head_without_a_size_has_none(data):
    assert size_of(data) is None


def test_what_follows_the_end_marker_says_nothing(scene):
    data = jpeg(scene)
    assert np.array_equal(decode(data + b'\0' * 99 + jpeg(scene[:8, :8])), decode(data))
    assert end_of(data + data) == (len(data) - 2, True)


def test_the_end_of_a_thumbnail_in_its_head_is_not_that_of_the_image(scene):
    data, small = jpeg(scene), jpeg(scene[:16, :16])
    segment = b'Exif\0\0' + bytes(40) + small
    head = b'\xff\xe1' + (len(segment) + 2).to_bytes(2, 'big') + segment
    whole = data[:2] + head + data[2:]
    assert np.array_equal(decode(whole), decode(data))
    with pytest.raises(ImageError, match='damaged or cut off'):
        decode(whole[:len(head) + len(data) // 2])


def test_random_bytes_behind_a_jpegs_start_are_refused_at_worst(scene):
    rng = np.random.default_rng(0)
    data = bytearray(jpeg(scene))
    for _ in range(300):
        changed = bytearray(data)
        for at in rng.integers(2, len(data), 4):
            changed[at] = rng.integers(256)
        try:
            assert decode(bytes(changed)).ndim == 3
        except ImageError:
            continue
    for size in range(2, 40):
        with pytest.raises(ImageError):
            decode(bytes(data[:size]))


def oriented(path, rgb: np.ndarray, orientation: int) -> None:
    """An image file of PNG, WebP or JPEG whose EXIF says how it lies."""
    Image = pytest.importorskip('PIL.Image')
    image = Image.fromarray(rgb)
    exif = image.getexif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, {'.jpg': 'JPEG', '.png': 'PNG', '.webp': 'WEBP'}[path.suffix],
               exif=exif, **({'lossless': True} if path.suffix == '.webp' else {}))
    path.write_bytes(out.getvalue())


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.webp'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_every_format_is_turned_as_its_exif_says(tmp_path, scene, suffix, orientation):
    from PIL import Image, ImageOps

    path = tmp_path / f'photo{suffix}'
    oriented(path, scene, orientation)
    got = read(path)
    want = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert('RGB'))
    assert got.shape == want.shape
    assert np.abs(got.astype(int) - want).mean() < 3
    assert os.path.getsize(path) > 1000
