"""Finding, reading and decoding of images."""

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
