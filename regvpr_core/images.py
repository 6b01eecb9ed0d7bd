"""Pictures as uint8 RGB arrays: decoding, checks, thumbnails."""

import os
from pathlib import Path
import stat
from typing import Any

# OpenCV reads this once, when it is loaded: a small file must not unpack to gigabytes.
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', '100000000')

import cv2
import numpy as np
import numpy.typing as npt

from regvpr_core.errors import ImageError

RGB = npt.NDArray[np.uint8]

MAX_SIDE = 16_384
MAX_PIXELS = 100_000_000
MAX_FILE_BYTES = 200_000_000


def check_rgb(rgb: RGB) -> None:
    """Refuse anything but a uint8 (H, W, 3) array of a usable size.

    Raises:
        ImageError: says the shape and type that came.
    """
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 \
            or rgb.shape[2] != 3:
        kind = f'{rgb.dtype} {rgb.shape}' if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise ImageError(f'expected an image as uint8 (H, W, 3) RGB, got {kind}')
    check_size(rgb.shape[1], rgb.shape[0])


def check_size(width: int, height: int) -> None:
    """Refuse sizes that no camera has.

    Raises:
        ImageError: a side is 0 or too large.
    """
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise ImageError(f'image of {width}x{height} pixels; sides must be 1 to {MAX_SIDE} and '
                         f'the area at most {MAX_PIXELS} pixels')


def as_rgb(pixels: npt.NDArray[Any], *, bgr: bool = False) -> RGB:
    """Bring grey, grey + alpha, RGB or RGBA pixels of 8 or 16 bits to uint8 (H, W, 3) RGB.

    Args:
        pixels: (H, W) or (H, W, 1 to 4), uint8 or uint16 (scaled by 1/257).
        bgr: colours come in OpenCV's order.

    Raises:
        ImageError: another type or shape.
    """
    if pixels.dtype == np.uint16:
        pixels = (pixels // np.uint16(257)).astype(np.uint8)
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


def decode(data: bytes | npt.NDArray[np.uint8], name: str = 'image') -> RGB:
    """Decode a JPEG, PNG or other picture that OpenCV reads.

    Raises:
        ImageError: the data is empty, too large or no picture; `name` is in the message.
    """
    buffer = np.frombuffer(data, dtype=np.uint8)
    if not 0 < buffer.size <= MAX_FILE_BYTES:
        raise ImageError(f'{name}: {buffer.size} bytes of image data; expected 1 to '
                         f'{MAX_FILE_BYTES}')
    try:
        pixels = cv2.imdecode(buffer, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f'{name}: cannot be decoded: {error.err}') from error
    if pixels is None:
        raise ImageError(f'{name}: {buffer.size} bytes that are no picture in a known format')
    try:
        return as_rgb(pixels, bgr=True)
    except ImageError as error:
        raise ImageError(f'{name}: {error}') from error


def read(path: Path) -> RGB:
    """Read a picture file.

    Raises:
        ImageError: the file cannot be read or is no picture.
    """
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ImageError(f'{path}: is no plain file')  # reading a pipe would wait for ever
        if state.st_size > MAX_FILE_BYTES:
            raise ImageError(f'{path}: {state.st_size} bytes of image data; expected 1 to '
                             f'{MAX_FILE_BYTES}')
        return decode(path.read_bytes(), str(path))
    except OSError as error:
        raise ImageError(f'{path}: cannot be read: {error.strerror}') from error


def encode_jpeg(rgb: RGB, quality: int = 85) -> bytes:
    """JPEG bytes of an RGB image."""
    encoded, data = cv2.imencode('.jpg', rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not encoded:
        raise ImageError(f'an image of shape {rgb.shape} cannot be encoded as JPEG')
    return data.tobytes()


def thumbnail(rgb: RGB, longest_side: int) -> RGB:
    """The image scaled down, by area, so that its longer side is at most `longest_side` pixels."""
    scale = longest_side / max(rgb.shape[:2])
    if scale >= 1.0:
        return rgb
    size = (max(1, round(rgb.shape[1] * scale)), max(1, round(rgb.shape[0] * scale)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
