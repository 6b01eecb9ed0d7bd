"""Image files, decoded and rotated by their EXIF orientation."""

import io
from pathlib import Path
import stat

from regvpr_core.errors import ImageError
from regvpr_core.images.exif import find_exif, parse_exif, upright
from regvpr_core.images.pixels import decode, MAX_FILE_BYTES, RGB


def read(path: str | Path) -> RGB:
    """Read an image file and rotate it by its EXIF orientation.

    Raises:
        ImageError: the file cannot be read, is too large, or is not an image.
    """
    path = Path(path)
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ImageError(f'{path}: is no plain file')  # reading a pipe would block
        if state.st_size > MAX_FILE_BYTES:
            raise ImageError(f'{path}: {state.st_size} bytes of image data; expected 1 to '
                             f'{MAX_FILE_BYTES}')
        return decode_photo(path.read_bytes(), str(path))
    except OSError as error:
        raise ImageError(f'{path}: cannot be read: {error.strerror}') from error


def decode_photo(data: bytes, name: str = 'image') -> RGB:
    """Decode the bytes of an image file and rotate it by its EXIF orientation.

    Raises:
        ImageError: as `decode`.
    """
    return upright(decode(data, name), orientation_of(data))


def orientation_of(data: bytes) -> int:
    """EXIF orientation of an image file, 1 to 8; 1 if unknown."""
    return parse_exif(find_exif(io.BytesIO(data))).orientation
