"""Selects the images of each step: P places of K images, by the seed and the epoch."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from regvpr_core.arrays import Int64
from regvpr_core.datasets.place_set import PlaceSet
from regvpr_core.training.config import BatchConfig

NEAREST_LOOK_AHEAD = 512
"""Number of places tried to find one that is far enough from the others of a batch."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """The images of one step. images: (B) indices in the set; copies: (B) augmented copy, 0 for
    none; places: (B) labels. Images of a place are adjacent.
    """

    images: Int64
    copies: Int64
    places: Int64

    def share(self, rank: int, processes: int) -> 'Batch':
        """The part of a batch for one process. All parts have the same number of places."""
        part = slice(rank * len(self.images) // processes,
                     (rank + 1) * len(self.images) // processes)
        return Batch(self.images[part], self.copies[part], self.places[part])


class Batches:
    """The batches of any epoch; they depend only on the seed and the epoch."""

    def __init__(
        self, places: PlaceSet, config: BatchConfig, seed: int, copies: int = 1,
        processes: int = 1,
    ) -> None:
        self._places = places
        self._config = config
        self._seed = seed
        self._copies = copies
        self._processes = processes

    @property
    def steps(self) -> int:
        """Number of batches of an epoch. The last may be smaller, but has at least two places."""
        count, P = int(self._places.repeats.sum()), self._config.places
        rest = count % P - count % P % self._processes
        return count // P + (rest >= 2 * self._processes)

    def epoch(self, number: int) -> list[Batch]:
        """All batches of an epoch, in order."""
        rng = np.random.default_rng([self._seed, number])
        queue, batches = deque(self._order(rng)), []
        for _ in range(self.steps):
            chosen = self._take(queue)
            chosen = chosen[: len(chosen) - len(chosen) % self._processes]
            batches.append(self._draw(chosen, rng))
        return batches

    def _order(self, rng: np.random.Generator) -> list[int]:
        """Places in the order of the epoch."""
        repeats = self._places.repeats
        if self._config.shuffle == 'all':
            return [int(i) for i in rng.permutation(np.repeat(np.arange(len(repeats)), repeats))]
        of_group: dict[str, list[int]] = {}
        for place, group in enumerate(self._places.groups):
            of_group.setdefault(group, []).extend([place] * int(repeats[place]))
        return [int(place) for members in of_group.values() for place in rng.permutation(members)]

    def _take(self, queue: deque[int]) -> list[int]:
        """The next places that are far enough from each other; others are postponed."""
        chosen: list[int] = []
        waiting: list[int] = []
        while queue and len(chosen) < self._config.places and len(waiting) < NEAREST_LOOK_AHEAD:
            place = queue.popleft()
            (waiting if self._too_near(place, chosen) else chosen).append(place)
        queue.extendleft(reversed(waiting))
        return chosen

    def _too_near(self, place: int, chosen: list[int]) -> bool:
        if place in chosen:  # a repeated place
            return True
        position, apart = self._places.positions[place], self._places.apart[place]
        if not chosen or not apart or np.isnan(position[0]):
            return False
        others = self._places.positions[chosen]
        same = others[:, 0] == position[0]
        near = np.hypot(*(others[:, 1:] - position[1:]).T) < apart
        return bool((same & near).any())

    def _draw(self, chosen: list[int], rng: np.random.Generator) -> Batch:
        """K images of each place, without repetition if there are enough."""
        K = self._config.images
        images, copies = [], []
        for place in chosen:
            members = self._places.members[place]
            count = len(members)
            # Use every image once before repeating any, and repeat in another copy.
            order = np.concatenate([rng.permutation(count) for _ in range(-(-K // count))])[:K]
            versions = np.minimum(1 + self._places.copies[members], self._copies)
            of_member = [rng.permutation(number) for number in versions]
            images.append(members[order])
            copies.append([of_member[member][turn // count % versions[member]]
                           for turn, member in enumerate(order)])
        return Batch(np.concatenate(images).astype(np.int64),
                     np.concatenate(copies).astype(np.int64),
                     np.repeat(np.asarray(chosen, dtype=np.int64), K))
