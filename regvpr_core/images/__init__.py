"""Finding, reading and decoding of images. OpenCV and NumPy load on first use."""

import importlib
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from regvpr_core.images.files import decode_photo, orientation_of, read
    from regvpr_core.images.finding import find_below, find_images, Found, natural, SUFFIXES
    from regvpr_core.images.pixels import (
        as_rgb,
        bits_in_use,
        check_rgb,
        check_size,
        decode,
        encode_jpeg,
        MAX_FILE_BYTES,
        MAX_PIXELS,
        MAX_SIDE,
        RGB,
        thumbnail,
    )

__all__ = [
    'MAX_FILE_BYTES', 'MAX_PIXELS', 'MAX_SIDE', 'RGB', 'SUFFIXES', 'Found', 'as_rgb',
    'bits_in_use', 'check_rgb', 'check_size', 'decode', 'decode_photo', 'encode_jpeg',
    'find_below', 'find_images', 'natural', 'orientation_of', 'read', 'thumbnail']

_FILES = frozenset({'decode_photo', 'orientation_of', 'read'})
_FINDING = frozenset({'find_below', 'find_images', 'Found', 'natural', 'SUFFIXES'})


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    home = 'files' if name in _FILES else 'finding' if name in _FINDING else 'pixels'
    value = globals()[name] = getattr(importlib.import_module(f'{__name__}.{home}'), name)
    return value
