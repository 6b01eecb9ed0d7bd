"""Training images labelled by place, and places by group (city, floor)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
import hashlib
import json
from pathlib import Path

import numpy as np

from regvpr_core.arrays import Float64, Int64
from regvpr_core.config import nearest
from regvpr_core.errors import TrainingError

ANY_NUMBER = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class PlaceSet:
    """A training set.

    name: of the data set. paths: (N) image files. names: (N) names for messages.
    members: for each of P places the indices of its images. An image may be in several places.
    groups: group of each place.
    positions: (P, 3) of places: frame of reference, x, y (metres, or seconds along a clip and
        0). NaN for a place without a position.
    apart: two places closer than this distance are not put into one batch.
    repeats: (P) number of times each place is used in an epoch.
    copies: (N) largest number of augmented copies stored per image with its tokens.
    dropped: number of places dropped for having too few images.
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
        """SHA-256 over names and sizes of the images and over the places."""
        sha = hashlib.sha256()
        for name, path in zip(self.names, self.paths, strict=True):
            size = path.stat().st_size if path.is_file() else -1
            sha.update(json.dumps([name, size]).encode())
        for group, members in zip(self.groups, self.members, strict=True):
            sha.update(json.dumps([group, members.tolist()]).encode())
        return sha.hexdigest()

    def without(self, pictures: Iterable[int]) -> 'PlaceSet':
        """Remove images, and the places that are left without any."""
        gone = np.asarray(sorted(pictures), dtype=np.int64)
        members = tuple(m[~np.isin(m, gone)] for m in self.members)
        return replace(self, members=members).with_at_least(1)

    def repeated(self, times: int) -> 'PlaceSet':
        """Multiply the repeats of each place."""
        return replace(self, repeats=self.repeats * times)

    def with_copies(self, most: int | None) -> 'PlaceSet':
        """Limit the augmented copies per image; None keeps the setting of the run."""
        return self if most is None else replace(self, copies=np.full_like(self.copies, most))

    def with_at_least(self, images: int) -> 'PlaceSet':
        """Remove places with fewer images."""
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
    """Build from lists; without positions no two places count as close."""
    count = len(members)
    rows = np.full((count, 3), np.nan) if positions is None else \
        np.asarray(positions, dtype=np.float64).reshape(count, 3)
    return PlaceSet(name, tuple(paths), tuple(names),
                    tuple(np.asarray(m, dtype=np.int64) for m in members), tuple(groups), rows,
                    np.full(count, float(apart)), np.ones(count, dtype=np.int64),
                    np.full(len(paths), ANY_NUMBER, dtype=np.int64))


def joined(sets: Sequence[PlaceSet]) -> PlaceSet:
    """Merge sets. Groups are prefixed with the name of their set."""
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
    """The selected groups, in their order.

    Raises:
        TrainingError: a requested group does not exist, or no group is left.
    """
    for name in (*only, *leave_out):
        if name not in found:
            raise TrainingError(f'{where} has no {name!r}{nearest(name, found)}')
    kept = [name for name in found if (not only or name in only) and name not in leave_out]
    if not kept:
        raise TrainingError(f'{where}: nothing is left of {len(found)} groups; see only and '
                            f'leave_out')
    return kept
