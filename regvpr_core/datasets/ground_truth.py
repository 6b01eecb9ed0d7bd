"""Ground truth: which references show the place of each query, from positions, frame numbers,
labels or pairs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Float64, Int64


@dataclass(frozen=True, slots=True, eq=False)
class Matches:
    """Correct references of each query, as rows of a sparse matrix (CSR).

    starts: (Q + 1,) int64, where the references of query q lie: `ids[starts[q]:starts[q + 1]]`.
    ids: int64 indices of references, ascending within a query.
    """

    starts: Int64
    ids: Int64

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, query: int) -> Int64:
        """Correct references of one query."""
        return self.ids[self.starts[query]:self.starts[query + 1]]

    @property
    def counts(self) -> Int64:
        """Number of correct references of each query (Q,)."""
        return np.diff(self.starts)

    def hits(self, ranked: Int64) -> npt.NDArray[np.bool_]:
        """Whether each ranked reference (Q, k) is correct for its query; False for -1 (none)."""
        hits = np.zeros(ranked.shape, dtype=bool)
        for query in range(len(self)):
            hits[query] = np.isin(ranked[query], self.of(query))
        return hits

    def select(self, queries: Int64, references: Int64, reference_count: int) -> 'Matches':
        """Select rows and columns and renumber them.

        Args:
            queries, references: indices to keep, ascending.
            reference_count: number of references before the selection.
        """
        new = np.full(reference_count, -1, dtype=np.int64)
        new[references] = np.arange(len(references))
        rows = (new[self.of(int(query))] for query in queries)
        return matches(row[row >= 0] for row in rows)


def matches(rows: Iterable[npt.ArrayLike]) -> Matches:
    """Build from one list of reference indices per query."""
    parts = [np.unique(np.asarray(row, dtype=np.int64)) for row in rows]
    starts = np.zeros(len(parts) + 1, dtype=np.int64)
    starts[1:] = np.cumsum([len(part) for part in parts])
    ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
    return Matches(starts, ids.astype(np.int64))


def within_radius(queries: Float64, references: Float64, radius_m: float) -> Matches:
    """References at most `radius_m` away: positions (Q, 2) and (N, 2) in metres."""
    from scipy.spatial import cKDTree

    if not len(references):
        return matches([[] for _ in queries])
    return matches(cKDTree(references).query_ball_point(queries, radius_m))


def within_frames(queries: Sequence[int], references: Sequence[int], tolerance: int) -> Matches:
    """References whose frame number is at most `tolerance` from the query's."""
    numbers = np.asarray(references, dtype=np.int64)
    order = np.argsort(numbers, kind='stable')
    in_order = numbers[order]
    low = np.searchsorted(in_order, np.asarray(queries, dtype=np.int64) - tolerance, 'left')
    high = np.searchsorted(in_order, np.asarray(queries, dtype=np.int64) + tolerance, 'right')
    return matches(order[a:b] for a, b in zip(low, high, strict=True))


def same_label(queries: Sequence[str], references: Sequence[str]) -> Matches:
    """References with the query's label."""
    groups: dict[str, list[int]] = {}
    for number, label in enumerate(references):
        groups.setdefault(label, []).append(number)
    return matches(groups.get(label, []) for label in queries)
