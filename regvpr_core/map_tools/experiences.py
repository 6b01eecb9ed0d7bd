"""Records of a map's keyframes: the update that added each, and how often it was matched.

An experience (Churchill and Newman, 2013) is one appearance of a place. Keyframes of one place
that were added by different updates are its experiences. Stored as the attachment `experiences`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
import json
from typing import Any

import numpy as np

from regvpr_core.arrays import Int64
from regvpr_core.errors import MapError
from regvpr_core.maps.place_map import PlaceMap

NAME = 'experiences'
VERSION = 1
COLUMNS = ('update', 'matched', 'last', 'missed', 'anchor')
MAX_BYTES = 64 << 20
MAX_UPDATES = 1_000_000


@dataclass(slots=True, eq=False)
class Experiences:
    """Records of all keyframes of a map, by keyframe id.

    update: number of the update that added the keyframe, 0 for the first build.
    matched: number of images that matched it best. last: last update that matched it.
    missed: number of updates since then, in similar light, that saw its place without a match.
    anchor: 1 if the keyframe represents others that were removed as redundant.
    updates: number of updates so far. notes: one line for each of the last updates.
    """

    update: Int64
    matched: Int64
    last: Int64
    missed: Int64
    anchor: Int64
    updates: int = 0
    notes: list[str] = field(default_factory=list)

    @classmethod
    def new(cls, count: int, update: int = 0) -> 'Experiences':
        """Records of `count` keyframes without matches."""
        zeros = np.zeros(count, dtype=np.int64)
        return cls(update=np.full(count, update), matched=zeros, last=np.full(count, update),
                   missed=zeros.copy(), anchor=zeros.copy(), updates=update)

    def taken(self, ids: Int64) -> 'Experiences':
        """Records of some keyframes, in the order of `ids`."""
        return Experiences(self.update[ids], self.matched[ids], self.last[ids], self.missed[ids],
                           self.anchor[ids], self.updates, list(self.notes))

    def joined(self, other: 'Experiences') -> 'Experiences':
        """These records followed by others."""
        def both(name: str) -> Int64:
            return np.concatenate([getattr(self, name), getattr(other, name)])

        return Experiences(both('update'), both('matched'), both('last'), both('missed'),
                           both('anchor'), max(self.updates, other.updates), list(self.notes))

    def to_bytes(self) -> bytes:
        """Serialise for the attachment."""
        return json.dumps({
            'version': VERSION, 'updates': self.updates, 'notes': self.notes[-64:],
            **{name: getattr(self, name).tolist()
               for name in COLUMNS}}).encode()


def read_experiences(place_map: PlaceMap) -> Experiences:
    """The records of a map; keyframes without a stored record get an empty one.

    Raises:
        MapError: the attachment is invalid.
    """
    data = place_map.attachment(NAME)
    if data is None:
        return Experiences.new(len(place_map))
    try:
        if len(data) > MAX_BYTES:
            raise ValueError(f'{len(data)} bytes; expected at most {MAX_BYTES}')
        values = json.loads(data)
        if not isinstance(values, dict) or values.get('version') != VERSION:
            raise ValueError(f'expected a table of version {VERSION}')
        update, matched, last, missed = (
            _column(values[name], name) for name in COLUMNS[:4])
        # Records of older versions have no anchors.
        anchor = _column(values.get('anchor', [0] * len(update)), 'anchor')
        if len({len(column) for column in (update, matched, last, missed, anchor)}) != 1:
            raise ValueError('its columns differ in length')
        notes = values['notes']
        if not isinstance(notes, list) or not all(isinstance(n, str) for n in notes):
            raise ValueError('notes: expected texts')
        updates = int(_column([values['updates']], 'updates')[0])
        known = Experiences(update, matched, last, missed, anchor, updates,
                            [note[:200] for note in notes[-64:]])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise MapError(f'map {place_map.path} is damaged: its attachment {NAME!r} cannot be '
                       f'used: {error}; `regvpr map verify {place_map.path}` says what is '
                       f'lost') from error
    if len(known.update) > len(place_map):
        raise MapError(f'map {place_map.path} is damaged: its attachment {NAME!r} describes '
                       f'{len(known.update)} keyframes, the map has {len(place_map)}')
    return known.joined(Experiences.new(len(place_map) - len(known.update)))


def _column(values: Sequence[Any], name: str) -> Int64:
    column = np.asarray(values)
    if column.ndim != 1 or (len(column) and column.dtype.kind != 'i') \
            or (len(column) and not 0 <= column.min() <= column.max() <= MAX_UPDATES):
        raise ValueError(f'{name}: expected whole numbers from 0 to {MAX_UPDATES}')
    return column.astype(np.int64)
