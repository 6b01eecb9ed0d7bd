"""Local features of an image, and their format in a map.

    bytes 0-3   b'RVLF'      4  version (1)     5  kind (1 patch, 2 xfeat)
    bytes 6-9   width, height of the image, px (uint16)
    bytes 10-13 points N, numbers a descriptor C (uint16)
    then N x 2 uint16: x / width and y / height in 1/65536, and N x C int8: the descriptor, scaled
    so that its largest number is 127. All little endian.
"""

from dataclasses import dataclass
import struct

import numpy as np

from regvpr_core.arrays import Float32, Float64
from regvpr_core.errors import MapError

MAGIC = b'RVLF'
VERSION = 1
KINDS = {'patch': 1, 'xfeat': 2}
HEADER = struct.Struct('<4sBBHHHH')

MAX_POINTS = 4096
MAX_CHANNELS = 1024
MAX_BYTES = 1 << 20
STEPS = 65536
"""Steps of a stored position per side: 1/100 px in an image of 640 px."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LocalFeatures:
    """Points of one image.

    kind: patch or xfeat. width, height: of the image, px.
    xy: (N, 2) float64, px of that image; the centre of its top left pixel is (0, 0).
    descriptors: (N, C) float32, unit rows.
    """

    kind: str
    width: int
    height: int
    xy: Float64
    descriptors: Float32

    def __len__(self) -> int:
        return len(self.xy)


def encode_features(features: LocalFeatures) -> bytes:
    """Encode for a map, 4 + C bytes per point; surplus points at the end are dropped."""
    channels = features.descriptors.shape[1]
    count = min(len(features), MAX_POINTS, (MAX_BYTES - HEADER.size) // (4 + channels))
    size = np.array([features.width, features.height])
    xy = np.round((features.xy[:count] + 0.5) / size * STEPS).clip(0, STEPS - 1)
    rows = features.descriptors[:count]
    peak = np.abs(rows).max(axis=1, keepdims=True, initial=1e-12)
    packed = np.round(rows / peak * 127.0)
    header = HEADER.pack(MAGIC, VERSION, KINDS[features.kind], features.width, features.height,
                         count, channels)
    body: bytes = xy.astype('<u2').tobytes() + packed.astype(np.int8).tobytes()
    return header + body


def decode_features(data: bytes, name: str = 'local features') -> LocalFeatures:
    """Decode the result of `encode_features`.

    Raises:
        MapError: damaged, of a newer version, or larger than allowed; `name` is in the message.
    """
    try:
        magic, version, number, width, height, count, channels = HEADER.unpack_from(data)
    except struct.error as error:
        raise MapError(f'{name} are damaged: {len(data)} bytes') from error
    if magic != MAGIC:
        raise MapError(f'{name} are damaged: they begin with {magic!r}, not {MAGIC!r}')
    if version != VERSION:
        raise MapError(f'{name} have version {version}; this version reads {VERSION}: update '
                       f'regvpr_ros, or build the map again')
    kind = next((kind for kind, known in KINDS.items() if known == number), None)
    wanted = HEADER.size + count * (4 + channels)
    if kind is None or not width or not height or count > MAX_POINTS or wanted != len(data) \
            or not 1 <= channels <= MAX_CHANNELS or wanted > MAX_BYTES:
        raise MapError(f'{name} are damaged: kind {number}, {count} points of {channels} numbers '
                       f'in {len(data)} bytes')
    xy = np.frombuffer(data, '<u2', 2 * count, HEADER.size).reshape(count, 2)
    rows = np.frombuffer(data, np.int8, count * channels, HEADER.size + 4 * count)
    rows = rows.reshape(count, channels).astype(np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if count and not length.all():
        raise MapError(f'{name} are damaged: a descriptor has no direction')
    return LocalFeatures(kind=kind, width=width, height=height,
                         xy=xy / STEPS * np.array([width, height]) - 0.5,
                         descriptors=rows / length)
