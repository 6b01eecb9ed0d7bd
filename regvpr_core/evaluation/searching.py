"""The k most similar references of every query: exact search in blocks, or an index.

Memory holds one block of references, one block of queries and the ranking.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
import time
from typing import Any

import numpy as np

from regvpr_core.arrays import Float32, Int64
from regvpr_core.config import nearest
from regvpr_core.datasets.dataset import Matrix
from regvpr_core.datasets.ground_truth import Matches
from regvpr_core.errors import EvaluationError
from regvpr_core.evaluation.describe_pictures import Rows
from regvpr_core.search.index import ExactIndex
from regvpr_core.search.rows import CENTRE_PRIOR, unit

BLOCK_ROWS = 4096
MAX_BLOCK_BYTES = 128_000_000
MAX_SPARE = 4096
INDEXES = ('exact', 'rabitq')


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """references: (Q, k) indices, best first, -1 for none. similarities: (Q, k)."""

    references: Int64
    similarities: Float32
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Indexed:
    """Ranking by an index, and its cost. resident_bytes: memory of the index."""

    ranking: Ranking
    build_s: float
    resident_bytes: int


def block_rows(dimension: int) -> int:
    """Rows of a block: 4096, or fewer so that a block has at most 128 MB."""
    return max(1, min(BLOCK_ROWS, MAX_BLOCK_BYTES // (4 * dimension)))


def exact_search(queries: Rows, references: Rows, k: int,
                 progress: Callable[[int], None] | None = None) -> Ranking:
    """Exact cosine search, block by block, each block of references read once.

    Args:
        queries, references: unit rows of one length.
        k: references a query, 1 or more.
        progress: called with the number of references compared.
    """
    start_s = time.monotonic()
    count, size = len(queries), block_rows(references.dimension)
    width = min(k, len(references))
    scores = np.full((count, width), -np.inf, np.float32)
    ids = np.full((count, width), -1, np.int64)
    for start in range(0, len(references), size):
        index = ExactIndex(references.dimension)
        index.add(references.block(start, min(start + size, len(references))))
        for row in range(0, count, size):
            part = slice(row, min(row + size, count))
            found, numbers = index.search(queries.block(part.start, part.stop), width)
            all_scores = np.concatenate([scores[part], found], axis=1)
            all_ids = np.concatenate([ids[part], numbers + start], axis=1)
            # Equal similarities keep the order of the references.
            order = np.lexsort((all_ids, -all_scores), axis=1)[:, :width]
            scores[part] = np.take_along_axis(all_scores, order, axis=1)
            ids[part] = np.take_along_axis(all_ids, order, axis=1)
        if progress:
            progress(min(start + size, len(references)))
    return Ranking(ids, scores, time.monotonic() - start_s)


def centred(rows: Rows) -> Rows:
    """Descriptors of one session minus their mean, unit rows.

    Light, season and camera shift all descriptors of a session alike; the localizer subtracts
    the mean as well (localization/appearance.py).
    """
    total, size = np.zeros(rows.dimension), block_rows(rows.dimension)
    for start in range(0, len(rows), size):
        total += rows.block(start, min(start + size, len(rows))).sum(axis=0)
    return Rows(_Centred(rows.matrix, (total / len(rows)).astype(np.float32)), rows.numbers)


class _Centred:
    """Rows minus a mean, which is subtracted when they are read."""

    def __init__(self, rows: Matrix, mean: Float32) -> None:
        self._rows, self._mean, self.shape = rows, mean, rows.shape

    def __getitem__(self, rows: Int64, /) -> Float32:
        rest = unit(np.asarray(self._rows[rows], dtype=np.float32) - self._mean)
        return np.nan_to_num(rest)  # identical images: all rows equal their mean


def indexed_search(queries: Rows, references: Rows, k: int, kind: str) -> Indexed:
    """Search by an index of the place map, one query at a time, as on a robot.

    Args:
        queries, references: unit rows of one length.
        k: references a query, 1 or more.
        kind: rabitq.

    Raises:
        EvaluationError: an unknown kind.
    """
    if kind != 'rabitq':
        raise EvaluationError(f'unknown index {kind!r}{nearest(kind, INDEXES)}')
    from regvpr_core.search.rabitq import encode, RabitqConfig, RabitqIndex

    start_s = time.monotonic()
    rows, config = _CodedRows(references), RabitqConfig()
    as_map_rows: Any = rows
    index = RabitqIndex(as_map_rows, encode(as_map_rows, config), config)
    built_s = time.monotonic()
    scores, ids = [], []
    for i in range(len(queries)):
        found, numbers = index.search(rows.asked(queries.block(i, i + 1)), k)
        scores.append(found)
        ids.append(numbers)
    ranking = Ranking(np.concatenate(ids).astype(np.int64), np.concatenate(scores),
                      time.monotonic() - built_s)
    return Indexed(ranking, built_s - start_s, index.resident_bytes)


class _CodedRows:
    """References in the form that an index of a map reads.

    Codes are made of centred rows. Re-ranking compares uncentred rows, because the exact search,
    which is the reference, does so too.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.dimension = rows.dimension
        self._size = block_rows(rows.dimension)
        total = np.zeros(rows.dimension)
        for start in range(0, len(rows), self._size):
            total += rows.block(start, min(start + self._size, len(rows))).sum(axis=0)
        self._centre = (total / (len(rows) + CENTRE_PRIOR)).astype(np.float32)
        self._query = self._centre

    def __len__(self) -> int:
        return len(self._rows)

    def asked(self, query: Float32) -> Float32:
        """The centred query (1, D), to be compared with codes; `best` keeps the uncentred one."""
        self._query = query[0]
        return unit(query - self._centre)

    def blocks(self) -> Iterator[Float32]:
        """All centred unit rows, block by block."""
        for start in range(0, len(self), self._size):
            yield unit(self._rows.block(start, min(start + self._size, len(self))) - self._centre)

    def best(self, query: Float32, candidates: Int64, k: int) -> tuple[Float32, Int64]:
        """The k most similar of the candidates, best first."""
        ids = np.sort(candidates[candidates >= 0])
        rows = np.asarray(self._rows.matrix[self._rows.numbers[ids]], dtype=np.float32)
        similarities = rows @ self._query
        order = np.argsort(-similarities, kind='stable')[:k]
        return similarities[order], ids[order]


def without_excluded(ranking: Ranking, excluded: Matches | None, k: int) -> Ranking:
    """The first k references of each query that are not excluded."""
    if excluded is None:
        return ranking
    barred = excluded.hits(ranking.references)
    order = np.argsort(barred, axis=1, kind='stable')[:, :k]
    ids = np.take_along_axis(np.where(barred, -1, ranking.references), order, axis=1)
    scores = np.where(barred, -np.inf, ranking.similarities).astype(np.float32)
    return Ranking(ids, np.take_along_axis(scores, order, axis=1), ranking.seconds)


def spare(excluded: Matches | None) -> int:
    """Number of references to rank in addition to k, because some are excluded.

    Raises:
        EvaluationError: a query excludes more than 4096.
    """
    most = int(excluded.counts.max()) if excluded is not None and len(excluded) else 0
    if most > MAX_SPARE:
        raise EvaluationError(f'a query excludes {most} references; at most {MAX_SPARE}')
    return most


def agreement(exact: Ranking, other: Ranking, k: int) -> float:
    """Share of the exact first k that another search also finds among its first k."""
    shares = []
    for wanted, found in zip(exact.references[:, :k], other.references[:, :k], strict=True):
        wanted = wanted[wanted >= 0]
        shares.append(np.isin(wanted, found).mean() if len(wanted) else 1.0)
    return float(np.mean(shares)) if shares else float('nan')
