"""Image files as they are to be seen: decoded, and turned as their EXIF says."""

import io
from pathlib import Path
import stat

from regvpr_core.errors import ImageError
from regvpr_core.images.exif import find_exif, parse_exif, upright
from regvpr_core.images.pixels import decode, MAX_FILE_BYTES, RGB


def read(path: str | Path) -> RGB:
    """Read an image file, the way up that its EXIF says.

    Raises:
        ImageError: the file cannot be read, is too large, or is no image.
    """
    path = Path(path)
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise ImageError(f'{path}: is no plain file')  # reading a pipe would wait for ever
        if state.st_size > MAX_FILE_BYTES:
            raise ImageError(f'{path}: {state.st_size} bytes of image data; expected 1 to '
                             f'{MAX_FILE_BYTES}')
        return decode_photo(path.read_bytes(), str(path))
    except OSError as error:
        raise ImageError(f'{path}: cannot be read: {error.strerror}') from error


def decode_photo(data: bytes, name: str = 'image') -> RGB:
    """Decode the bytes of an image file, the way up that its EXIF says.

    Raises:
        ImageError: as `decode`.
    """
    return upright(decode(data, name), orientation_of(data))


def orientation_of(data: bytes) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1 where it says none."""
    return parse_exif(find_exif(io.BytesIO(data))).orientation
