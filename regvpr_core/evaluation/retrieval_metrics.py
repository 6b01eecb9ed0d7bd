"""Retrieval metrics: recall@k, precision and recall over a threshold, average precision.

Recall@k is the share of queries with a correct reference among the first k, as in all VPR papers
(elsewhere called hit rate). Precision and recall over a threshold judge the best match of each
query, as a robot would accept or reject it (Schubert et al., arXiv:2303.03281, single-best match).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Float64, Mask
from regvpr_core.errors import EvaluationError


def recall_at(hits: Mask, ks: Sequence[int], total: int | None = None) -> dict[int, float]:
    """Share of queries with a correct reference among the first k, for each k.

    Args:
        hits: (Q, K) whether the reference on each rank is correct.
        ks: 1 to K.
        total: number of queries to divide by; None: Q. It is larger than Q if queries without a
            correct reference count as misses.

    Raises:
        EvaluationError: a k is not in 1 to K.
    """
    total = len(hits) if total is None else total
    for k in ks:
        if not 1 <= k <= hits.shape[1]:
            raise EvaluationError(f'recall@{k} needs {k} ranked references; there are '
                                  f'{hits.shape[1]}')
    return {k: float(hits[:, :k].any(axis=1).sum() / total) if total else float('nan') for k in ks}


def first_hit(hits: Mask) -> npt.NDArray[np.int64]:
    """Rank, from 1, of the first correct reference in each row of (Q, K); 0 if there is none."""
    if not hits.shape[1]:
        return np.zeros(len(hits), dtype=np.int64)
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class PrecisionRecall:
    """Precision and recall if the best matches at or above a threshold are accepted.

    thresholds: (T,) similarities, falling. precision, recall: (T,) at each of them.
    """

    thresholds: Float64
    precision: Float64
    recall: Float64

    @property
    def average_precision(self) -> float:
        """Sum over thresholds of the precision times the increase in recall."""
        return float((self.precision * np.diff(self.recall, prepend=0.0)).sum())

    @property
    def recall_at_full_precision(self) -> float:
        """The largest share of revisits accepted without one wrong match."""
        perfect = self.recall[self.precision == 1.0]
        return float(perfect.max()) if len(perfect) else 0.0

    def thinned(self, points: int) -> 'PrecisionRecall':
        """At most this number of points of the curve, with both ends, for drawing."""
        if len(self.thresholds) <= points:
            return self
        keep = np.unique(np.linspace(0, len(self.thresholds) - 1, points).astype(int))
        return PrecisionRecall(self.thresholds[keep], self.precision[keep], self.recall[keep])


def precision_recall(
    similarities: npt.ArrayLike, right: npt.ArrayLike, revisits: int
) -> PrecisionRecall:
    """Precision and recall over the threshold from which best matches are accepted.

    Matches of one similarity are accepted together; a query without any match (similarity
    -inf) is never accepted.

    Args:
        similarities: (Q,) of each query's best match.
        right: (Q,) whether that match is correct.
        revisits: number of queries with a correct reference, the denominator of recall; if it
            is 0, the recall is 0.
    """
    scores = np.asarray(similarities, dtype=np.float64)
    correct = np.asarray(right, dtype=bool)
    found = np.isfinite(scores)
    scores, correct = scores[found], correct[found]
    order = np.argsort(-scores, kind='stable')
    scores, correct = scores[order], correct[order]
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of each run of equal similarities
    accepted = np.cumsum(correct)[last].astype(np.float64)
    precision = accepted / (last + 1.0)
    recall = accepted / revisits if revisits else np.zeros_like(accepted)
    return PrecisionRecall(scores[last], precision, recall)


def mean_average_precision(similarities: npt.ArrayLike, relevant: npt.ArrayLike) -> float:
    """Mean over queries of the average precision of their whole ranking.

    Queries without a relevant reference do not count; NaN where none has one.

    Args:
        similarities: (Q, N). relevant: (Q, N) whether each reference is correct.
    """
    scores = np.asarray(similarities, dtype=np.float64)
    wanted = np.asarray(relevant, dtype=bool)
    values = []
    for row, right in zip(scores, wanted, strict=True):
        if right.any():
            ranked = right[np.argsort(-row, kind='stable')]
            ranks = np.flatnonzero(ranked) + 1.0
            values.append(float((np.arange(1, len(ranks) + 1) / ranks).mean()))
    return float(np.mean(values)) if values else float('nan')


def quantiles(values: npt.ArrayLike) -> dict[str, float]:
    """Median, 90th and 99th percentile and maximum of distances; empty without values."""
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return {}
    middle, high, far = np.percentile(numbers, [50, 90, 99])
    return {'median': float(middle), 'p90': float(high), 'p99': float(far),
            'max': float(numbers.max())}
