"""EXIF metadata of image files: position, heading, time, orientation.

Reads the TIFF structure of EXIF (CIPA DC-008) in JPEG, PNG and WebP files. Sizes, counts and depth
are bounded: an untrusted file takes at most `MAX_EXIF_BYTES` of memory.
"""

from collections.abc import Callable, Iterator
import contextlib
from dataclasses import dataclass
import datetime
from pathlib import Path
import struct
from typing import Any, BinaryIO, Literal

import numpy as np

from regvpr_core.errors import ImageError
from regvpr_core.images.pixels import RGB

MAX_EXIF_BYTES = 1_000_000
MAX_SEGMENTS = 200
MAX_CHUNKS = 20_000
MAX_ENTRIES = 512
MAX_TEXT = 64

_ORIENTATION, _EXIF_IFD, _GPS_IFD = 0x0112, 0x8769, 0x8825
_TAKEN, _TAKEN_FRACTION, _TAKEN_OFFSET = 0x9003, 0x9291, 0x9011
_LAT_REF, _LAT, _LON_REF, _LON, _ALT_REF, _ALT = 1, 2, 3, 4, 5, 6
_GPS_TIME, _STATUS, _DIRECTION, _GPS_DATE = 7, 9, 17, 29

_FORMATS = {1: 'B', 2: 's', 3: 'H', 4: 'I', 5: 'II', 6: 'b', 7: 's', 8: 'h', 9: 'i', 10: 'ii'}

Tags = dict[int, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exif:
    """Metadata of an image; None for unknown values.

    lat_deg, lon_deg: WGS84. alt_m: above sea level. heading_deg: the camera's direction,
    clockwise from north (true or magnetic: cameras seldom say). stamp_ns: when it was taken, UTC
    where an offset or GPS time is given, else the camera's own clock. orientation: 1 to 8, as
    EXIF counts them; 1 is upright.
    """

    lat_deg: float | None = None
    lon_deg: float | None = None
    alt_m: float | None = None
    heading_deg: float | None = None
    stamp_ns: int | None = None
    gps_stamp_ns: int | None = None
    orientation: int = 1


def read_exif(path: Path) -> Exif:
    """Read the EXIF of a JPEG, PNG or WebP file; empty if absent or damaged.

    Raises:
        ImageError: the file cannot be read.
    """
    try:
        with path.open('rb') as file:
            data = find_exif(file)
    except OSError as error:
        raise ImageError(f'{path}: cannot be read: {error.strerror}') from error
    return parse_exif(data)


def parse_exif(data: bytes) -> Exif:
    """Parse the TIFF block of an Exif segment; invalid entries are skipped."""
    order = {b'II*\0': '<', b'MM\0*': '>'}.get(data[:4])
    if order is None or not 8 <= len(data) <= MAX_EXIF_BYTES:
        return Exif()
    main = _tags(data, order, _integer(data, order, 4))
    taken = _tags(data, order, main.get(_EXIF_IFD))
    gps = _tags(data, order, main.get(_GPS_IFD))
    lat, lon = _angle(gps, _LAT, _LAT_REF, 'S', 90.0), _angle(gps, _LON, _LON_REF, 'W', 180.0)
    void = _text(gps.get(_STATUS)).upper() == 'V'  # the receiver reports no fix
    if lat is None or lon is None or void or (lat == 0.0 and lon == 0.0):
        lat = lon = None
    altitude = _number(gps.get(_ALT))
    heading = _number(gps.get(_DIRECTION))
    orientation = main.get(_ORIENTATION, 1)
    return Exif(
        lat_deg=lat, lon_deg=lon,
        alt_m=None if altitude is None else altitude * (-1.0 if gps.get(_ALT_REF) == 1 else 1.0),
        heading_deg=heading if heading is not None and 0.0 <= heading <= 360.0 else None,
        stamp_ns=_taken_ns(taken), gps_stamp_ns=_gps_ns(gps),
        orientation=int(orientation) if orientation in range(1, 9) else 1)


def upright(rgb: RGB, orientation: int) -> RGB:
    """Rotate and mirror an image (H, W, 3) by its EXIF orientation (1 to 8)."""
    turn: dict[int, Callable[[RGB], RGB]] = {
        2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2), 6: lambda p: p.transpose(1, 0, 2)[:, ::-1],
        7: lambda p: p.transpose(1, 0, 2)[::-1, ::-1], 8: lambda p: p.transpose(1, 0, 2)[::-1]}
    return np.ascontiguousarray(turn[orientation](rgb)) if orientation in turn else rgb


def find_exif(file: BinaryIO) -> bytes:
    """Find the TIFF block of an open JPEG, PNG or WebP; empty if there is none."""
    start = file.read(12)
    if start[:2] == b'\xff\xd8':
        return _in_jpeg(file)
    if start[:8] == b'\x89PNG\r\n\x1a\n':
        return _in_chunks(file, 8, 'big', b'eXIf')
    if start[:4] == b'RIFF' and start[8:] == b'WEBP':
        return _in_chunks(file, 12, 'little', b'EXIF')
    return b''


def _in_jpeg(file: BinaryIO) -> bytes:
    """The TIFF block of the APP1 segment."""
    file.seek(2)
    for marker, size in _jpeg_segments(file):
        if marker == 0xE1 and size <= MAX_EXIF_BYTES:
            block = file.read(size)
            if block[:6] == b'Exif\0\0':
                return block[6:]
        else:
            file.seek(size, 1)
    return b''


def _in_chunks(file: BinaryIO, start: int, order: Literal['big', 'little'], wanted: bytes
               ) -> bytes:
    """The data of a chunk of PNG (length, name, data, checksum) or RIFF (name, length, data)."""
    file.seek(start)
    for _ in range(MAX_CHUNKS):
        head = file.read(8)
        name, length = (head[4:], head[:4]) if order == 'big' else (head[:4], head[4:])
        if len(head) < 8 or name == b'IEND':
            break
        size = int.from_bytes(length, order)
        if name == wanted:
            block = file.read(size) if size <= MAX_EXIF_BYTES else b''
            return block.removeprefix(b'Exif\0\0')
        file.seek(size + 4 if order == 'big' else size + size % 2, 1)
    return b''


def _jpeg_segments(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Marker and size of each segment before the pixels; the file position is at its data."""
    for _ in range(MAX_SEGMENTS):
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] in (0xD9, 0xDA):
            return
        size = int.from_bytes(head[2:], 'big') - 2
        if size < 0:
            return
        yield head[1], size


def _integer(data: bytes, order: str, offset: int) -> int:
    return int(struct.unpack_from(f'{order}I', data, offset)[0])


def _tags(data: bytes, order: str, offset: Any) -> Tags:
    """Entries of one directory; entries that point outside the data are skipped."""
    tags: Tags = {}
    if not isinstance(offset, int) or not 8 <= offset <= len(data) - 2:
        return tags
    count = min(struct.unpack_from(f'{order}H', data, offset)[0], MAX_ENTRIES)
    for entry in range(offset + 2, min(offset + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, values = struct.unpack_from(f'{order}HHI', data, entry)
        form = _FORMATS.get(kind)
        if form is None or not 0 < values <= MAX_TEXT:
            continue
        layout = f'{order}{values}s' if form == 's' else f'{order}{form * values}'
        size = struct.calcsize(layout)
        at = entry + 8 if size <= 4 else _integer(data, order, entry + 8)
        if at + size > len(data):
            continue
        found = struct.unpack_from(layout, data, at)
        tags[tag] = found[0] if len(found) == 1 else found
    return tags


def _number(value: Any) -> float | None:
    """A fraction as a number."""
    if not isinstance(value, tuple) or len(value) != 2 or not value[1]:
        return None
    return float(value[0]) / float(value[1])


def _three(value: Any) -> tuple[float, float, float] | None:
    """Convert three fractions (degrees or hours, minutes, seconds) to one number.

    Cameras omit unused parts or write 0/0: fractional degrees have no minutes.
    """
    if not isinstance(value, tuple) or len(value) not in (2, 4, 6):
        return None
    parts = [0.0, 0.0, 0.0]
    for i in range(len(value) // 2):
        number, denominator = value[2 * i:2 * i + 2]
        if denominator:
            parts[i] = number / denominator
        elif number or i == 0 or (i == 1 and value[1] == 1):
            return None  # x/0, or whole degrees only, which are too coarse
    return parts[0], parts[1], parts[2]


def _angle(gps: Tags, tag: int, ref: int, negative: str, limit: float) -> float | None:
    parts = _three(gps.get(tag))
    if parts is None:
        return None
    degrees = parts[0] + parts[1] / 60.0 + parts[2] / 3600.0
    if _text(gps.get(ref)).upper().startswith(negative):
        degrees = -degrees
    return degrees if abs(degrees) <= limit else None


def _text(value: Any) -> str:
    return value.split(b'\0')[0].decode('ascii', 'ignore').strip() \
        if isinstance(value, bytes) else ''


def _taken_ns(tags: Tags) -> int | None:
    """Time of DateTimeOriginal with its fraction and, where given, its offset from UTC."""
    with contextlib.suppress(ValueError, OverflowError):
        moment = datetime.datetime.strptime(_text(tags.get(_TAKEN)), '%Y:%m:%d %H:%M:%S')
        seconds = moment.replace(tzinfo=datetime.timezone.utc).timestamp()
        offset = _text(tags.get(_TAKEN_OFFSET))
        if len(offset) == 6 and offset[0] in '+-':
            turn = int(offset[1:3]) * 3600 + int(offset[4:6]) * 60
            seconds -= turn if offset[0] == '+' else -turn
        digits = _text(tags.get(_TAKEN_FRACTION))[:9]
        fraction = int(digits.ljust(9, '0')) if digits.isdecimal() else 0
        return round(seconds) * 1_000_000_000 + fraction if seconds > 0 else None
    return None


def _gps_ns(tags: Tags) -> int | None:
    """Time of the fix, UTC."""
    time = _three(tags.get(_GPS_TIME))
    with contextlib.suppress(ValueError, OverflowError):
        day = datetime.datetime.strptime(_text(tags.get(_GPS_DATE)), '%Y:%m:%d')
        if time is not None:
            start = day.replace(tzinfo=datetime.timezone.utc).timestamp()
            seconds = time[0] * 3600.0 + time[1] * 60.0 + time[2]
            if start > 0 and 0.0 <= seconds <= 86_400.0:
                return round(start) * 1_000_000_000 + round(seconds * 1e9)
    return None
