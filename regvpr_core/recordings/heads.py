"""Frame, clock offset and bit depth of a topic, from its first messages."""

from collections import Counter
from dataclasses import dataclass
import itertools
from typing import Any

import numpy as np

from regvpr_core.errors import BagError, ImageError
from regvpr_core.images.pixels import bits_in_use, decode_pixels
from regvpr_core.recordings.bags import Bag, Topic
from regvpr_core.recordings.messages import stamp_ns
from regvpr_core.recordings.transforms import plain

LOOKED_AT = 40
"""Number of messages that are read, because the first ones of some drivers have no stamp."""

OFFSET_S = 0.5
"""Difference of clocks that is reported, s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The first messages on a topic.

    frame: most frequent frame, '' if none. offset_s: time of recording minus stamp, None if all
    stamps are 0. bits: used bits of 16-bit pixels, 0 for others.
    """

    topic: str
    frame: str
    offset_s: float | None
    bits: int = 0


def head_of(bag: Bag, topic: Topic) -> Head:
    """Read the first messages of a topic.

    Raises:
        BagError: there is no message.
    """
    frames: Counter[str] = Counter()
    offsets: list[int] = []
    bits, number = 0, 0
    for _, _, time_ns, message in itertools.islice(bag.messages(topic), LOOKED_AT):
        number += 1
        frames[plain(str(message.header.frame_id))] += 1
        if stamp := stamp_ns(message.header.stamp):
            offsets.append(time_ns - stamp)
        bits = max(bits, _bits(message))
    if not number:
        raise BagError(f'{topic.name} in {bag.path} holds no message')
    named = Counter({frame: count for frame, count in frames.items() if frame})
    return Head(topic=topic.name, frame=named.most_common(1)[0][0] if named else '', bits=bits,
                offset_s=float(np.median(offsets)) / 1e9 if len(offsets) * 2 > number else None)


def clock_notes(images: Head, poses: Head | None) -> list[str]:
    """Notes on differing clocks of images and poses, one line each."""
    if images.offset_s is None:
        return [f'the stamps on {images.topic} are 0: the times of recording are taken']
    if poses is None or poses.offset_s is None:
        if abs(images.offset_s) > OFFSET_S:
            return [f'images on {images.topic} are stamped {_before(images.offset_s)}; '
                    f'--bag-time takes the times of recording']
        return []
    apart = images.offset_s - poses.offset_s
    if abs(apart) > OFFSET_S:
        return [f'images on {images.topic} are stamped {_before(images.offset_s)}, '
                f'{poses.topic} {_before(poses.offset_s)}: if one of their clocks is wrong, '
                f'--bag-time takes the times of recording']
    if abs(images.offset_s) > OFFSET_S:
        return [f'images and poses are both stamped {_before(images.offset_s)}']
    return []


def _before(offset_s: float) -> str:
    if abs(offset_s) <= OFFSET_S:
        return f'when they were recorded ({offset_s:.1f} s)'
    return f'{abs(offset_s):.1f} s {"before" if offset_s > 0 else "after"} they were recorded'


def _bits(message: Any) -> int:
    """Used bits of the 16-bit pixels of an image message; 0 for other messages."""
    form = str(getattr(message, 'format', getattr(message, 'encoding', '')))
    if '16' not in form:
        return 0
    if not hasattr(message, 'format'):
        kind = '>u2' if message.is_bigendian else '<u2'
        data = np.frombuffer(message.data, dtype=np.uint8)
        return bits_in_use(data[:data.size // 2 * 2].view(kind))
    try:
        pixels = decode_pixels(np.frombuffer(message.data, dtype=np.uint8))
    except ImageError:
        return 0
    return bits_in_use(pixels) if pixels.dtype == np.uint16 else 0
