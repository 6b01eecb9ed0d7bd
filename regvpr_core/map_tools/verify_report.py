"""Report of `verify`."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

POSE, DESCRIPTOR, MISSING = 'record changed', 'descriptor changed', 'missing'
PICTURE, FEATURES = 'thumbnail changed', 'local features changed'
_LOST = (POSE, DESCRIPTOR, MISSING)


@dataclass(slots=True)
class VerifyReport:
    """Damage of a map.

    keyframes: expected number. damaged: ids of damaged keyframes by kind of damage.
    problems: damage of the map as a whole. notes: harmless deviations.
    stamps_ns: of the keyframes with an intact record. refusal: why the map cannot be opened.
    """

    keyframes: int = 0
    damaged: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    stamps_ns: dict[int, int] = field(default_factory=dict)
    refusal: str = ''

    @property
    def sound(self) -> bool:
        """True when nothing is lost."""
        return not (self.damaged or self.problems or self.refusal)

    @property
    def lost(self) -> list[int]:
        """Number of keyframes whose pose or descriptor is damaged."""
        return sorted({i for what in _LOST for i in self.damaged.get(what, ())})

    def facts(self) -> dict[str, Any]:
        """The report as plain values, for tables and JSON."""
        lost = self.lost
        stamps = [self.stamps_ns[i] / 1e9 for i in lost if i in self.stamps_ns]
        told: dict[str, Any] = {
            'sound': self.sound, 'keyframes': self.keyframes, 'lost_keyframes': len(lost)}
        told |= {what: runs(sorted(ids)) for what, ids in self.damaged.items()}
        if stamps:
            told['lost_from_s'], told['lost_to_s'] = min(stamps), max(stamps)
        for name, lines in (('problems', self.problems), ('notes', self.notes)):
            if lines:
                told[name] = lines
        told['what_works'] = self.what_works()
        return told

    def what_works(self) -> str:
        """Which operations the damaged map still supports."""
        if self.sound:
            return 'everything'
        if not self.refusal:
            return 'the map opens and localizes; the damaged data above is not used'
        left = self.keyframes - len(self.lost)
        if not left:
            return f'nothing: {self.refusal}'
        # Descriptors are read on demand, but all at once in a small map.
        how = ('does not open' if self.damaged.keys() & {POSE, MISSING} or self.problems
               else 'fails when it reads a lost keyframe; a small map fails when it is opened')
        return (f'the map {how}; --salvage OUT writes its {left} sound keyframes to a new map')


def runs(ids: list[int]) -> str:
    """Sorted numbers as `3, 7-12`; at most twenty runs are written out."""
    parts: list[list[int]] = []
    for i in ids:
        if parts and i == parts[-1][1] + 1:
            parts[-1][1] = i
        else:
            parts.append([i, i])
    text = ', '.join(str(a) if a == b else f'{a}-{b}' for a, b in parts[:20])
    return text + (f' and {sum(b - a + 1 for a, b in parts[20:])} more' if parts[20:] else '')
