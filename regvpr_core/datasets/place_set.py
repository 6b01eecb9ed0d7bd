"""Pictures with the place that each shows, and the group (city, floor) that each place is in."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from regvpr_core.config import nearest
from regvpr_core.errors import TrainingError

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

ANY_NUMBER = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class PlaceSet:
    """A training set.

    name: of the data set. paths: (N) picture files; names: (N) what to call them.
    members: for each of P places the numbers of its pictures. A picture may be in several.
    groups: group of each place.
    positions: (P, 3) of places: group of positions that can be compared, x, y (metres, or seconds
        along a clip and 0). NaN where a place has none.
    apart: distance below which two places are not put into one batch.
    repeats: (P) how often each place comes in an epoch.
    copies: (N) at most so many augmented copies of each picture are kept with its tokens.
    dropped: places that had too few pictures.
    """

    name: str
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    members: tuple[Int64, ...]
    groups: tuple[str, ...]
    positions: Float64
    apart: Float64
    repeats: Int64
    copies: Int64
    dropped: int = 0

    def digest(self) -> str:
        """SHA-256 over names and sizes of the pictures, and over the places."""
        sha = hashlib.sha256()
        for name, path in zip(self.names, self.paths, strict=True):
            size = path.stat().st_size if path.is_file() else -1
            sha.update(json.dumps([name, size]).encode())
        for group, members in zip(self.groups, self.members, strict=True):
            sha.update(json.dumps([group, members.tolist()]).encode())
        return sha.hexdigest()

    def without(self, pictures: Iterable[int]) -> 'PlaceSet':
        """Without some pictures, and the places that have no other."""
        gone = np.asarray(sorted(pictures), dtype=np.int64)
        members = tuple(m[~np.isin(m, gone)] for m in self.members)
        return replace(self, members=members).with_at_least(1)

    def repeated(self, times: int) -> 'PlaceSet':
        """Each place so many times as often."""
        return replace(self, repeats=self.repeats * times)

    def with_copies(self, most: int | None) -> 'PlaceSet':
        """With at most so many augmented copies of each picture; None: as the run says."""
        return self if most is None else replace(self, copies=np.full_like(self.copies, most))

    def with_at_least(self, images: int) -> 'PlaceSet':
        """Without the places that have fewer pictures."""
        kept = [i for i, members in enumerate(self.members) if len(members) >= images]
        return replace(
            self, members=tuple(self.members[i] for i in kept),
            groups=tuple(self.groups[i] for i in kept), positions=self.positions[kept],
            apart=self.apart[kept], repeats=self.repeats[kept],
            dropped=self.dropped + len(self.members) - len(kept))


def place_set(
    name: str, paths: Sequence[Path], names: Sequence[str], members: Sequence[Sequence[int]],
    groups: Sequence[str], positions: Sequence[Sequence[float]] | None = None, apart: float = 0.0,
) -> PlaceSet:
    """From lists; without positions places are never too near to one another."""
    count = len(members)
    rows = np.full((count, 3), np.nan) if positions is None else \
        np.asarray(positions, dtype=np.float64).reshape(count, 3)
    return PlaceSet(name, tuple(paths), tuple(names),
                    tuple(np.asarray(m, dtype=np.int64) for m in members), tuple(groups), rows,
                    np.full(count, float(apart)), np.ones(count, dtype=np.int64),
                    np.full(len(paths), ANY_NUMBER, dtype=np.int64))


def joined(sets: Sequence[PlaceSet]) -> PlaceSet:
    """Several sets in one. Groups keep apart by the name of their set."""
    if len(sets) == 1:
        return sets[0]
    starts = np.cumsum([0, *(len(s.paths) for s in sets)])
    positions = [s.positions + np.array([1e6 * i, 0.0, 0.0]) for i, s in enumerate(sets)]
    return PlaceSet(
        name=' + '.join(s.name for s in sets),
        paths=tuple(path for s in sets for path in s.paths),
        names=tuple(f'{s.name}/{name}' for s in sets for name in s.names),
        members=tuple(members + start for s, start in zip(sets, starts, strict=False)
                      for members in s.members),
        groups=tuple(f'{number}:{group}' for number, s in enumerate(sets) for group in s.groups),
        positions=np.concatenate(positions), apart=np.concatenate([s.apart for s in sets]),
        repeats=np.concatenate([s.repeats for s in sets]),
        copies=np.concatenate([s.copies for s in sets]),
        dropped=sum(s.dropped for s in sets))


def wanted(
    found: Sequence[str], only: Sequence[str], leave_out: Sequence[str], where: str
) -> list[str]:
    """The groups to take, in their order.

    Raises:
        TrainingError: a group that is asked for does not exist, or none is left.
    """
    for name in (*only, *leave_out):
        if name not in found:
            raise TrainingError(f'{where} has no {name!r}{nearest(name, found)}')
    kept = [name for name in found if (not only or name in only) and name not in leave_out]
    if not kept:
        raise TrainingError(f'{where}: nothing is left of {len(found)} groups; see only and '
                            f'leave_out')
    return kept
