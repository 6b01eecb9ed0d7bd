"""Confidence interval of a recall, and significance of the difference of two models."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from regvpr_core.arrays import Mask

RESAMPLES = 10_000
SEED = 0
LEVEL = 0.95


def interval(right: Mask, level: float = LEVEL) -> tuple[float, float]:
    """Percentile bootstrap interval of the share of correct queries (Q,).

    Queries are drawn with replacement; the number of right ones among Q draws is binomial. The
    queries are assumed independent. Neighbours on a drive are not, so the interval is too narrow.
    """
    count = len(right)
    if not count:
        return 0.0, 1.0
    drawn = np.random.default_rng(SEED).binomial(count, right.mean(), RESAMPLES) / count
    low, high = np.quantile(drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return float(low), float(high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Two models on the same queries.

    difference: share of correct queries of the first minus that of the second; low, high: its 95 %
    bootstrap interval. only_first, only_second: number of queries that only this model
    matches correctly. p: of McNemar's exact test that the models are equally good.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p: float

    @property
    def differ(self) -> bool:
        """Whether the difference is significant at 5 %."""
        return self.p < 1.0 - LEVEL


def paired(first: Mask, second: Mask) -> Paired:
    """Compare two models by their correct queries, masks (Q,)."""
    a, b = int((first & ~second).sum()), int((second & ~first).sum())
    count = max(len(first), 1)
    drawn = np.random.default_rng(SEED).multinomial(
        count, [a / count, b / count, 1.0 - (a + b) / count], RESAMPLES)
    differences = (drawn[:, 0] - drawn[:, 1]) / count
    low, high = np.quantile(differences, [(1.0 - LEVEL) / 2.0, (1.0 + LEVEL) / 2.0])
    p = float(binomtest(min(a, b), a + b).pvalue) if a + b else 1.0
    return Paired(difference=(a - b) / count, low=float(low), high=float(high), only_first=a,
                  only_second=b, p=p)
