"""Conversion of raw camera images, with the encodings of sensor_msgs/Image, to RGB."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from regvpr_core.errors import ImageError
from regvpr_core.images.pixels import as_rgb, check_size, RGB

# Red and blue are swapped: OpenCV names a Bayer pattern by its second row.
BAYER = {'rggb': cv2.COLOR_BayerBG2RGB, 'bggr': cv2.COLOR_BayerRG2RGB,
         'gbrg': cv2.COLOR_BayerGR2RGB, 'grbg': cv2.COLOR_BayerGB2RGB}
_UYVY, _YUYV = cv2.COLOR_YUV2RGB_UYVY, cv2.COLOR_YUV2RGB_YUYV

# Bytes of a sample, samples of a pixel, and OpenCV's conversion to RGB (None: grey or RGB).
_PACKED: dict[str, tuple[int, int, int | None]] = {
    'mono8': (1, 1, None), 'mono16': (2, 1, None), '8UC1': (1, 1, None), '16UC1': (2, 1, None),
    'rgb8': (1, 3, None), 'rgb16': (2, 3, None),
    'rgba8': (1, 4, None), 'rgba16': (2, 4, None),
    **{name: (depth, 3, cv2.COLOR_BGR2RGB) for name, depth in
       (('bgr8', 1), ('bgr16', 2), ('8UC3', 1), ('16UC3', 2))},
    **{name: (depth, 4, cv2.COLOR_BGRA2RGB) for name, depth in
       (('bgra8', 1), ('bgra16', 2), ('8UC4', 1), ('16UC4', 2))},
    **{f'bayer_{pattern}{8 * depth}': (depth, 1, code)
       for pattern, code in BAYER.items() for depth in (1, 2)},
    'yuv422': (1, 2, _UYVY), 'uyvy': (1, 2, _UYVY), 'yuv422_yuy2': (1, 2, _YUYV),
    'yuyv': (1, 2, _YUYV)}

# Planar YUV: chroma bytes per byte of Y, whether U and V are swapped, and whether they are
# interleaved or two planes.
_PLANAR: dict[str, tuple[float, bool, bool]] = {
    'nv12': (0.5, False, True), 'nv21': (0.5, True, True),
    'i420': (0.5, False, False), 'yuv420': (0.5, False, False), 'yv12': (0.5, True, False),
    'nv16': (1.0, False, True), 'nv61': (1.0, True, True),
    'nv24': (2.0, False, True), 'nv42': (2.0, True, True)}

BYTES_PER_PIXEL: dict[str, float] = {
    **{name: depth * samples for name, (depth, samples, _) in _PACKED.items()},
    **{name: 1.0 + colour for name, (colour, *_) in _PLANAR.items()}}
"""Encodings of sensor_msgs/Image that are read."""


def raw_rgb(data: npt.NDArray[np.uint8], encoding: str, width: int, height: int, step: int,
            *, big_endian: bool = False, bits: int = 0) -> RGB:
    """Raw pixels as uint8 (H, W, 3) RGB.

    OpenCV's generic encodings (8UC3, ...) are taken as BGR.

    Args:
        data: (N,) bytes.
        encoding: one of `BYTES_PER_PIXEL`.
        width, height: pixels.
        step: bytes of a row, of its first plane; 0 means no padding.
        big_endian: order of the bytes of 16-bit samples.
        bits: known bit depth, as in `as_rgb`.

    Raises:
        ImageError: unknown encoding, impossible size, or too few bytes.
    """
    check_size(width, height)
    given = encoding
    encoding = encoding if encoding in _PACKED else encoding.lower()  # V4L2 writes NV12
    if encoding in _PLANAR:
        return _planar(data, encoding, width, height, step or width)
    if encoding not in _PACKED:
        raise ImageError(f'image encoding {given!r} is not supported; known: '
                         f'{", ".join(BYTES_PER_PIXEL)}')
    depth, samples, code = _PACKED[encoding]
    row_bytes = width * samples * depth
    rows = _rows(data, encoding, width, height, step or row_bytes, row_bytes)
    pixels: npt.NDArray[Any] = rows.reshape(-1)
    if depth == 2:
        pixels = pixels.view('>u2' if big_endian else '<u2').astype(np.uint16)
    pixels = pixels.reshape((height, width, samples) if samples > 1 else (height, width))
    return _convert(pixels, encoding, code, bits)


def demosaic(pixels: npt.NDArray[Any], pattern: str, bits: int = 0) -> RGB:
    """A Bayer mosaic (H, W) of 8 or 16 bits as RGB. pattern: rggb, bggr, gbrg or grbg."""
    return _convert(pixels, f'bayer_{pattern}', BAYER[pattern], bits)


def _convert(pixels: npt.NDArray[Any], encoding: str, code: int | None, bits: int) -> RGB:
    if code is None:
        return as_rgb(pixels, bits=bits)
    try:
        return as_rgb(np.asarray(cv2.cvtColor(pixels, code)), bits=bits)
    except cv2.error as error:  # an odd width with shared colour samples
        raise ImageError(f'{encoding} image of {pixels.shape[1]}x{pixels.shape[0]}: OpenCV '
                         f'refuses it: {error.err}') from error


def _planar(data: npt.NDArray[np.uint8], encoding: str, width: int, height: int, step: int
            ) -> RGB:
    """Convert Y, U, V planes to RGB: BT.601, limited range."""
    colour, swapped, paired = _PLANAR[encoding]
    if step == int(width * (1 + colour)) and data.size == width * height * (1 + colour):
        step = width  # some drivers count chroma bytes in the step; rows have no padding
    if colour == 0.5 and height % 3 == 0 and data.size < step * height * 1.4:
        height = height * 2 // 3  # some drivers include the chroma rows
    light = _rows(data, encoding, width, height, step, width)
    across, down = (2, 2) if colour == 0.5 else (2, 1) if colour == 1.0 else (1, 1)
    rows, columns = -(-height // down), -(-width // across)
    start, pad = step * height, step - width
    if paired:
        size = 2 * columns
        both = _rows(data[start:], encoding, size, rows, size + 2 * pad // across, size)
        u, v = both.reshape(rows, columns, 2).transpose(2, 0, 1)
    else:
        half = columns + pad // across
        u = _rows(data[start:], encoding, columns, rows, half, columns)
        v = _rows(data[start + half * rows:], encoding, columns, rows, half, columns)
    if swapped:
        u, v = v, u
    full = [np.repeat(np.repeat(plane, down, axis=0), across, axis=1)[:height, :width]
            .astype(np.float32) - 128.0 for plane in (u, v)]
    y = 1.164 * (light.astype(np.float32) - 16.0)
    rgb = np.stack([y + 1.596 * full[1], y - 0.391 * full[0] - 0.813 * full[1],
                    y + 2.018 * full[0]], axis=-1)
    return np.asarray(np.clip(np.rint(rgb), 0, 255), dtype=np.uint8)


def _rows(data: npt.NDArray[np.uint8], encoding: str, width: int, height: int, step: int,
          row_bytes: int) -> npt.NDArray[np.uint8]:
    """Bytes (height, row_bytes) of rows with stride `step`, without padding."""
    if step < row_bytes or data.size < step * (height - 1) + row_bytes:
        raise ImageError(f'{encoding} image of {width}x{height} with step {step} has {data.size} '
                         f'bytes of data; expected {max(step, row_bytes) * height}')
    if step == row_bytes:
        return data[:row_bytes * height].reshape(height, row_bytes)
    view = np.lib.stride_tricks.as_strided(data, (height, row_bytes), (step, 1))
    return np.ascontiguousarray(view)
