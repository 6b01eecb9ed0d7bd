"""Images as uint8 RGB arrays: decoding, checks, thumbnails."""

import os
from typing import Any

# OpenCV reads this limit on import: a small file must not unpack to gigabytes.
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', '100000000')

import cv2
import numpy as np
import numpy.typing as npt

from regvpr_core.errors import ImageError
from regvpr_core.images import jpeg

RGB = npt.NDArray[np.uint8]

MUCH_LARGER = 3
"""Least ratio of a JPEG's sides to those of the network's input at which it may be decoded at half
its size. The input then differs by less than it does by JPEG compression of quality 85 (0.9 and
1.1 grey levels for 720 lines and 224, street photos); at a ratio of 2 by 2.3 levels."""

MAX_SIDE = 16_384
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 200_000_000

BITS = (8, 10, 12, 14, 16)
"""Possible bit depths of 16-bit pixels."""


def check_rgb(rgb: RGB) -> None:
    """Refuse anything but a uint8 (H, W, 3) array of a usable size.

    Raises:
        ImageError: names the actual shape and type.
    """
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 \
            or rgb.shape[2] != 3:
        kind = f'{rgb.dtype} {rgb.shape}' if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise ImageError(f'expected an image as uint8 (H, W, 3) RGB, got {kind}')
    check_size(rgb.shape[1], rgb.shape[0])


def check_size(width: int, height: int) -> None:
    """Refuse impossible image sizes.

    Raises:
        ImageError: a side is 0 or too large.
    """
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise ImageError(f'image of {width}x{height} pixels; sides must be 1 to {MAX_SIDE} and '
                         f'the area at most {MAX_PIXELS} pixels')


def bits_in_use(pixels: npt.NDArray[Any]) -> int:
    """How many of the 16 bits of uint16 pixels hold values: 8, 10, 12, 14 or 16."""
    used = int(pixels.max(initial=0)).bit_length()
    return next(bits for bits in BITS if used <= bits)


def as_rgb(pixels: npt.NDArray[Any], *, bgr: bool = False, bits: int = 0) -> RGB:
    """Bring grey, grey + alpha, RGB or RGBA pixels of 8 or 16 bits to uint8 (H, W, 3) RGB.

    Args:
        pixels: (H, W) or (H, W, 1 to 4), uint8 or uint16.
        bgr: channels are in OpenCV's order.
        bits: known bit depth of uint16 pixels; larger values raise it. Cameras of 10, 12 and 14
            bits use the low bits of 16.

    Raises:
        ImageError: another type or shape.
    """
    if pixels.dtype == np.uint16:
        bits = max(bits, bits_in_use(pixels[..., :3] if pixels.ndim == 3 else pixels))
        pixels = (pixels.astype(np.uint32) * 255 // ((1 << bits) - 1)).astype(np.uint8)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3):
        raise ImageError(f'expected 8- or 16-bit pixels (H, W[, C]), got {pixels.dtype} '
                         f'{pixels.shape}')
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    check_size(pixels.shape[1], pixels.shape[0])
    channels = pixels.shape[2]
    if channels in (1, 2):
        return np.repeat(pixels[..., :1], 3, axis=2)
    if channels not in (3, 4):
        raise ImageError(f'image has {channels} channels; expected 1 to 4')
    if channels == 3 and not bgr:
        return np.ascontiguousarray(pixels)
    code = {(3, True): cv2.COLOR_BGR2RGB, (4, True): cv2.COLOR_BGRA2RGB,
            (4, False): cv2.COLOR_RGBA2RGB}[channels, bgr]
    return np.asarray(cv2.cvtColor(pixels, code))


def decode(data: bytes | npt.NDArray[np.uint8], name: str = 'image', bits: int = 0) -> RGB:
    """Decode a JPEG, PNG or other image that OpenCV reads, as its pixels are stored.

    Args:
        data: the file.
        name: for messages.
        bits: as in `as_rgb`.

    Raises:
        ImageError: the data is empty, too large or not an image, or pixels are missing.
    """
    return as_rgb_named(decode_pixels(data, name), name, bits)


def decode_pixels(data: bytes | npt.NDArray[np.uint8], name: str = 'image',
                  least: tuple[int, int] | None = None) -> npt.NDArray[Any]:
    """Decode an image to its stored pixels: (H, W) grey, or (H, W, 3 or 4) in OpenCV's order.

    Args:
        data, name: as for `decode`.
        least: height and width of the network's input; a JPEG at least `MUCH_LARGER` times as
            high and wide is decoded at half its size. None: always at its full size.

    Raises:
        ImageError: as `decode`.
    """
    buffer = np.frombuffer(data, dtype=np.uint8)
    if not 0 < buffer.size <= MAX_FILE_BYTES:
        raise ImageError(f'{name}: {buffer.size} bytes of image data; expected 1 to '
                         f'{MAX_FILE_BYTES}')
    try:
        if buffer[:2].tobytes() == jpeg.SOI:
            stored = buffer.tobytes()
            pixels = jpeg.whole(stored, _imdecode_half if _is_larger(stored, least) else _imdecode,
                                _imdecode_small)
            if pixels is None:
                raise ImageError(f'{name}: a JPEG of {buffer.size} bytes that is damaged or cut '
                                 f'off')
        else:
            pixels = _imdecode(buffer)
    except cv2.error as error:
        raise ImageError(f'{name}: cannot be decoded: {error.err}') from error
    if pixels is None:
        raise ImageError(f'{name}: {buffer.size} bytes that are no image in a known format')
    return pixels


def as_rgb_named(pixels: npt.NDArray[Any], name: str, bits: int = 0) -> RGB:
    """`as_rgb` of decoded pixels; `name` is used in messages."""
    try:
        return as_rgb(pixels, bgr=True, bits=bits)
    except ImageError as error:
        raise ImageError(f'{name}: {error}') from error


def _imdecode(data: bytes | npt.NDArray[np.uint8]) -> npt.NDArray[Any] | None:
    return cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_UNCHANGED)


def _is_larger(data: bytes, least: tuple[int, int] | None) -> bool:
    """Whether a JPEG is much larger than this height and width; an odd side has no half."""
    size = None if least is None else jpeg.size_of(data)
    return size is not None and least is not None and all(
        side % 2 == 0 and side >= MUCH_LARGER * small
        for side, small in zip(size, least, strict=True))


def _imdecode_half(data: bytes) -> npt.NDArray[Any] | None:
    return cv2.imdecode(np.frombuffer(data, dtype=np.uint8),
                        cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION)


def _imdecode_small(data: bytes) -> npt.NDArray[Any] | None:
    return cv2.imdecode(np.frombuffer(data, dtype=np.uint8), cv2.IMREAD_REDUCED_COLOR_8)


def encode_jpeg(rgb: RGB, quality: int = 85) -> bytes:
    """JPEG bytes of an RGB image."""
    encoded, data = cv2.imencode('.jpg', rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise ImageError(f'an image of shape {rgb.shape} cannot be encoded as JPEG')
    return data.tobytes()


def thumbnail(rgb: RGB, longest_side: int) -> RGB:
    """Scale an image down by area averaging to at most `longest_side` pixels."""
    scale = longest_side / max(rgb.shape[:2])
    if scale >= 1.0:
        return rgb
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
