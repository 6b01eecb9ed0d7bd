"""EXIF made byte by byte here, and damaged at random."""

import struct

import cv2
import numpy as np
import pytest

from regvpr_core.errors import ImageError
from regvpr_core.images.exif import Exif, parse_exif, read_exif, upright

RATIONAL, ASCII, SHORT, BYTE, LONG = 5, 2, 3, 1, 4


def fractions(*values: float) -> bytes:
    return b''.join(struct.pack('<II', round(v * 10_000), 10_000) for v in values)


def directory(entries: list[tuple[int, int, int, bytes]], start: int) -> bytes:
    """One directory that lies at `start`, its longer values behind it."""
    body, extra = b'', b''
    behind = start + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        if len(value) > 4:
            field, extra = struct.pack('<I', behind + len(extra)), extra + value
        else:
            field = value.ljust(4, b'\0')
        body += struct.pack('<HHI', tag, kind, count) + field
    return struct.pack('<H', len(entries)) + body + bytes(4) + extra


def exif_block(*, lat=(55.0, 41.0, 53.4), lon=(13.0, 11.0, 43.4), south=False, orientation=1,
               taken='2019:06:12 14:30:05', fraction='25', offset='+02:00', heading=None,
               alt=37.0, below=False) -> bytes:
    """A TIFF block such as a phone writes."""
    gps = [(1, ASCII, 2, b'S\0' if south else b'N\0'), (2, RATIONAL, 3, fractions(*lat)),
           (3, ASCII, 2, b'E\0'), (4, RATIONAL, 3, fractions(*lon)),
           (5, BYTE, 1, b'\1' if below else b'\0'), (6, RATIONAL, 1, fractions(alt)),
           (7, RATIONAL, 3, fractions(12, 30, 4)), (29, ASCII, 11, b'2019:06:12\0')]
    if heading is not None:
        gps.append((17, RATIONAL, 1, fractions(heading)))
    photo = [(0x9003, ASCII, 20, taken.encode() + b'\0'),
             (0x9011, ASCII, 7, offset.encode() + b'\0'),
             (0x9291, ASCII, len(fraction) + 1, fraction.encode() + b'\0')]
    main_size = 2 + 3 * 12 + 4
    photo_at = 8 + main_size
    photo_bytes = directory(photo, photo_at)
    main = [(0x0112, SHORT, 1, struct.pack('<H', orientation)),
            (0x8769, LONG, 1, struct.pack('<I', photo_at)),
            (0x8825, LONG, 1, struct.pack('<I', photo_at + len(photo_bytes)))]
    return (b'II*\0' + struct.pack('<I', 8) + directory(main, 8) + photo_bytes
            + directory(gps, photo_at + len(photo_bytes)))


def with_exif(rgb: np.ndarray, block: bytes, suffix: str = '.jpg') -> bytes:
    data = cv2.imencode(suffix, rgb[..., ::-1])[1].tobytes()
    if suffix == '.jpg':
        segment = b'Exif\0\0' + block
        return data[:2] + b'\xff\xe1' + struct.pack('>H', len(segment) + 2) + segment + data[2:]
    import zlib
    chunk = b'eXIf' + block
    return (data[:33] + struct.pack('>I', len(block)) + chunk
            + struct.pack('>I', zlib.crc32(chunk)) + data[33:])


@pytest.mark.parametrize('suffix', ['.jpg', '.png'])
def test_position_time_and_direction_are_read_from_a_file(tmp_path, noise, suffix):
    file = tmp_path / f'photo{suffix}'
    file.write_bytes(with_exif(noise(1)[0], exif_block(heading=271.5, orientation=6), suffix))
    exif = read_exif(file)
    assert exif.lat_deg == pytest.approx(55 + 41 / 60 + 53.4 / 3600, abs=1e-9)
    assert exif.lon_deg == pytest.approx(13 + 11 / 60 + 43.4 / 3600, abs=1e-9)
    assert (exif.alt_m, exif.heading_deg, exif.orientation) == (37.0, 271.5, 6)
    # 14:30:05.25 two hours east of Greenwich.
    assert exif.stamp_ns == 1_560_342_605_250_000_000
    assert exif.gps_stamp_ns == 1_560_342_604_000_000_000


def test_signs_are_those_of_the_hemisphere_and_the_sea():
    exif = parse_exif(exif_block(south=True, below=True, alt=3.5))
    assert exif.lat_deg == pytest.approx(-55.698166667)
    assert exif.alt_m == -3.5


@pytest.mark.parametrize('change', [
    {'lat': (0.0, 0.0, 0.0), 'lon': (0.0, 0.0, 0.0)}, {'lat': (91.0, 0.0, 0.0)},
    {'lon': (181.0, 0.0, 0.0)}])
def test_a_place_that_is_none_is_not_known(change):
    exif = parse_exif(exif_block(**change))
    assert (exif.lat_deg, exif.lon_deg) == (None, None)


@pytest.mark.parametrize('taken', ['0000:00:00 00:00:00', '2019:13:01 00:00:00', 'yesterday'])
def test_a_time_that_is_none_is_not_known(taken):
    assert parse_exif(exif_block(taken=taken)).stamp_ns is None


@pytest.mark.parametrize('block', [b'', b'II*\0', b'II*\0\xff\xff\xff\xff', bytes(100),
                                   b'II*\0' + struct.pack('<I', 8) + b'\xff\xff'])
def test_what_is_no_exif_says_nothing(block):
    assert parse_exif(block) == Exif()


def test_damaged_exif_says_less_and_never_fails():
    whole = exif_block(heading=10.0)
    assert parse_exif(whole).heading_deg == 10.0
    rng = np.random.default_rng(0)
    for length in range(len(whole)):
        parse_exif(whole[:length])
    changed_results = 0
    for _ in range(3000):
        changed = bytearray(whole)
        for at in rng.integers(4, len(whole), rng.integers(1, 4)):
            changed[at] = rng.integers(256)
        exif = parse_exif(bytes(changed))
        changed_results += exif != parse_exif(whole)
        assert exif.lat_deg is None or abs(exif.lat_deg) <= 90.0
        assert exif.orientation in range(1, 9)
    assert changed_results > 500


def test_files_that_are_cut_or_no_pictures_say_nothing(tmp_path, noise):
    file = tmp_path / 'photo.jpg'
    whole = with_exif(noise(1)[0], exif_block())
    for data in (b'', b'\xff\xd8', whole[:30], whole[:100], b'GIF89a' + bytes(50),
                 b'\x89PNG\r\n\x1a\n' + b'\xff' * 40):
        file.write_bytes(data)
        assert read_exif(file).lat_deg is None
    with pytest.raises(ImageError, match=r'none.jpg: cannot be read: No such file'):
        read_exif(tmp_path / 'none.jpg')


def test_orientations_agree_with_what_opencv_makes_of_them(tmp_path):
    rng = np.random.default_rng(0)
    rgb = np.kron(rng.integers(0, 256, (3, 5, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    shapes = set()
    for orientation in range(1, 9):
        data = np.frombuffer(with_exif(rgb, exif_block(orientation=orientation)), np.uint8)
        turned = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
        plain = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]
        got = upright(np.ascontiguousarray(plain), orientation)
        assert np.array_equal(got, turned), orientation
        assert got.flags.c_contiguous
        shapes.add(got.shape)
    assert shapes == {(48, 80, 3), (80, 48, 3)}


def test_the_street_in_lund_has_positions(real_data):
    photos = sorted((real_data('opensfm_lund') / 'images').glob('*.jpg'))
    found = [read_exif(photo) for photo in photos]
    assert len(found) == 29
    assert all(55.698 < exif.lat_deg < 55.700 and 13.194 < exif.lon_deg < 13.196
               for exif in found)
    assert found[0].alt_m == 37.0
