"""Detection of truncated and damaged JPEGs, independent of the decoder.

libjpeg fills missing pixels with grey and only warns; OpenCV 4 returns such images and OpenCV 5
refuses some. Some cameras omit the end marker, which loses no pixel.
"""

from collections.abc import Callable
import re
from typing import Any

import numpy as np
import numpy.typing as npt

SOI, EOI = b'\xff\xd8', b'\xff\xd9'
_PROGRESSIVE = b'\xff\xc2'  # its last scans do not affect a small image
_SOS, _NO_LENGTH = 0xDA, frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_MARKER = re.compile(rb'\xff[\x01-\xcf\xd8-\xfe]')
"""A marker that ends entropy-coded data; 0xff00 (a data byte) and 0xffd0-d7 (restarts) do not."""

_MORE = b''.join(np.random.default_rng(7).integers(0, 255, 512, dtype=np.uint8).tobytes()
                 + bytes((0xFF, 0xD0 + i)) for i in range(8))
"""Random data with restart markers, which is appended to an image to see if its pixels change."""

MAX_MARKERS = 100_000
FLAT_PX = 8

Decode = Callable[[bytes], 'npt.NDArray[Any] | None']


def end_of(data: bytes) -> tuple[int, bool] | None:
    """End of the entropy-coded data of the first image, and whether it has an end marker.

    None if the segments before the pixels are truncated or damaged.
    """
    at, end = 2, None
    for _ in range(MAX_MARKERS):
        while data[at:at + 2] == b'\xff\xff':  # fill bytes before a marker
            at += 1
        if at + 4 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker in _NO_LENGTH:
            at += 2
            continue
        if marker == EOI[1]:
            break
        at += 2 + int.from_bytes(data[at + 2:at + 4], 'big')
        if at > len(data):
            break
        if marker == _SOS:
            found = _MARKER.search(data, at)
            at = end = found.start() if found else len(data)
    return None if end is None else (end, data[at:at + 2] == EOI)


def size_of(data: bytes) -> tuple[int, int] | None:
    """Height and width in the header, pixels; None if there is none."""
    at = 2
    for _ in range(MAX_MARKERS):
        if at + 9 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker in _SOF:
            return int.from_bytes(data[at + 5:at + 7], 'big'), \
                int.from_bytes(data[at + 7:at + 9], 'big')
        at += 1 if marker == 0xFF else 2 if marker in _NO_LENGTH else \
            2 + int.from_bytes(data[at + 2:at + 4], 'big')
    return None


def whole(data: bytes, decode: Decode, decode_small: Decode) -> 'npt.NDArray[Any] | None':
    """Decode a JPEG; None if it is damaged or pixels are missing.

    Args:
        data: the file; it starts with `SOI`.
        decode: bytes to pixels (H, W[, 3]), None where it cannot.
        decode_small: decodes at an eighth of the size, for comparison; None where it cannot.
    """
    end = end_of(data)
    if end is None:
        return None
    at, marked = end
    if not marked:
        data = _without_padding(data)
        at = min(at, len(data))
    pixels = decode(data if marked else data + EOI)
    if pixels is None or (marked and not _flat_end(pixels)):
        return pixels
    # Appended entropy-coded data changes the image only if pixels are missing.
    compared = decode if _PROGRESSIVE in data[:at] else decode_small
    usual, more = compared(data[:at] + EOI), compared(data[:at] + _MORE + EOI)
    if usual is None or more is None or not np.array_equal(usual, more):
        return None
    return pixels


def _without_padding(data: bytes) -> bytes:
    """Strip trailing zeros: of a larger buffer, or of a file whose end was not written."""
    data = data.rstrip(b'\0')
    return data + b'\0' if data.endswith(b'\xff') else data


def _flat_end(pixels: npt.NDArray[Any]) -> bool:
    """Whether the last block has one colour, as in a truncated image."""
    corner = pixels[-FLAT_PX:, -FLAT_PX:]
    return bool((corner == corner[-1, -1]).all())
