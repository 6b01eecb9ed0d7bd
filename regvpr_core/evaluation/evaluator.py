"""One model on one data set: describe, search, count."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Float32, Int64
from regvpr_core.config import check_settings, setting
from regvpr_core.datasets.dataset import Dataset, GivenDescriptors, Matrix, Picture
from regvpr_core.errors import ConfigError, EvaluationError
from regvpr_core.evaluation.describe_pictures import (
    Degrade,
    describe_pictures,
    DescribeProgress,
    open_cache,
    Rows,
)
from regvpr_core.evaluation.describers import Describer
from regvpr_core.evaluation.descriptor_cache import DescriptorCache
from regvpr_core.evaluation.retrieval_metrics import (
    first_hit,
    precision_recall,
    PrecisionRecall,
    quantiles,
    recall_at,
)
from regvpr_core.evaluation.searching import (
    agreement,
    centred,
    exact_search,
    indexed_search,
    Ranking,
    spare,
    without_excluded,
)
from regvpr_core.evaluation.significance import interval

RECALLS = (1, 5, 10, 20)
BYTES_A_NUMBER = 2
"""Size of one value of a descriptor in a place map (float16), bytes."""

SHOWN_CURVE = 400
SUBMITTED = 25
LEAST_CENTRED = 8
"""Least number of images for a mean; with fewer, each image dominates the mean."""


Told = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Settings of an evaluation."""

    recalls: tuple[int, ...] | None = setting(
        None,
        'The k of recall@k, ascending; None for 1, 5, 10 and 20 as far as there are references.',
        1, 1000)
    batch: int = setting(16, 'Images in one pass of the network.', 1, 4096)
    index: str = setting('', 'Approximate index to compare with the exact search; empty for none.')
    partial: bool = setting(
        False, 'Leave out images that cannot be read; the result is then named partial.')

    def __post_init__(self) -> None:
        check_settings(self)
        ks = self.recalls
        if ks is not None and (not ks or list(ks) != sorted(set(ks))):
            raise ConfigError(f'recalls are {list(ks)}; expected ascending numbers')


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Approximate:
    """Result of an approximate index compared with exact search.

    agreement: share of the first k references by exact search that the index also finds, for the
        largest k. seconds: duration of its search, one query after the other.
    build_s, resident_bytes: build time and memory of the index.
    """

    kind: str
    recalls: dict[int, float]
    agreement: float
    seconds: float
    build_s: float
    resident_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """Result of one model on one data set.

    recalls: k to share of queries; empty if the ground truth is hidden, like the other fields.
    centred: recalls with the mean query subtracted from the queries and the mean reference from
        the references; empty with fewer than 8 of either.
    ranking: of all queries. ranks: (Q,) rank of the first correct reference, 0 if none is ranked.
    right: (Q,) whether the best match is correct.
    errors_m: (Q,) distance from the query to its best match, NaN where unknown.
    """

    model: str
    notice: str
    dataset: Dataset
    dimension: int
    ranking: Ranking
    recalls: dict[int, float] = field(default_factory=dict)
    centred: dict[int, float] = field(default_factory=dict)
    curve: PrecisionRecall | None = None
    ranks: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    right: npt.NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    errors_m: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    without_positives: int = 0
    described: int = 0
    describe_s: float = 0.0
    approximate: Approximate | None = None

    def figures(self) -> dict[str, Any]:
        """Figures for JSON and tables."""
        d = self.dataset
        figures: dict[str, Any] = {
            'model': self.model, 'data': d.name, 'protocol': d.protocol, 'rule': d.rule,
            'partial': d.partial, 'warning': d.warning,
            'queries': len(d.queries), 'references': len(d.references),
            'queries_without_positives': self.without_positives,
            'counted_as': d.without_positives, 'queries_removed': d.removed,
            'dimension': self.dimension, 'bytes_a_place': BYTES_A_NUMBER * self.dimension,
            'weights': self.notice,
            'pictures_described': self.described, 'describe_s': round(self.describe_s, 2),
            'ms_an_image': (round(1e3 * self.describe_s / self.described, 2)
                            if self.described else None),
            'search_s': round(self.ranking.seconds, 3)}
        if self.curve is None:
            return figures
        figures['recall'] = {str(k): round(v, 5) for k, v in self.recalls.items()}
        figures['recall_interval_95'] = {
            str(k): [round(v, 5) for v in self.interval(k)] for k in self.recalls}
        if self.centred:
            figures['recall_centred'] = {str(k): round(v, 5) for k, v in self.centred.items()}
        figures['average_precision'] = round(self.curve.average_precision, 5)
        figures['recall_at_100_precision'] = round(self.curve.recall_at_full_precision, 5)
        known = self.errors_m[np.isfinite(self.errors_m)]
        figures['error_m'] = {k: round(v, 2) for k, v in quantiles(known).items()}
        if self.approximate is not None:
            a = self.approximate
            figures['index'] = {
                'kind': a.kind, 'recall': {str(k): round(v, 5) for k, v in a.recalls.items()},
                'agreement': round(a.agreement, 5), 'search_s': round(a.seconds, 3),
                'build_s': round(a.build_s, 3), 'resident_bytes': a.resident_bytes}
        return figures

    def right_within(self, k: int) -> npt.NDArray[np.bool_]:
        """(Q,) whether a correct reference is among the first k."""
        return np.asarray((self.ranks > 0) & (self.ranks <= k))

    def interval(self, k: int) -> tuple[float, float]:
        """95 % bootstrap interval of recall@k."""
        return interval(self.right_within(k))

    def curve_points(self) -> dict[str, list[float]]:
        """The precision-recall curve, thinned, for JSON."""
        if self.curve is None:
            return {}
        thin = self.curve.thinned(SHOWN_CURVE)
        return {'threshold': np.round(thin.thresholds, 5).tolist(),
                'precision': np.round(thin.precision, 5).tolist(),
                'recall': np.round(thin.recall, 5).tolist()}


def evaluate(
    dataset: Dataset,
    describer: Describer | None,
    config: EvaluateConfig,
    cache_folder: Path | None = None,
    told: Told = lambda what, done, total: None,
) -> Result:
    """Measure one model on one data set.

    Args:
        dataset: queries, references, ground truth.
        describer: the model; None if the data set has stored descriptors.
        config: what to count.
        cache_folder: parent folder of descriptor caches; None keeps none.
        told: called with progress: what, done, total.

    Raises:
        EvaluationError: an image cannot be read, the model gives no usable descriptors, or k is
            larger than the number of references.
    """
    start_s = time.monotonic()
    with _Source(dataset, describer, config, cache_folder, told) as source:
        # 1. describe  2. leave out unreadable images, if allowed
        references, bad_references = source.rows(dataset.references, dataset.given_references,
                                                 'references')
        queries, bad_queries = source.rows(dataset.queries, dataset.given_queries, 'queries')
        dataset, queries, references = _readable(dataset, queries, references, bad_queries,
                                                 bad_references, config)
        describe_s = time.monotonic() - start_s
        # 3. search  4. count
        ks = _ks(dataset, config)
        width = SUBMITTED if dataset.positives is None else ks[-1]
        ranking, approximate = _search(dataset, queries, references, width, ks, config, told)
        result = _result(dataset, source, ranking, approximate, ks, references.dimension,
                         describe_s)
        return replace(result, centred=_centred(dataset, queries, references, ks, told))


def degraded(
    dataset: Dataset, describer: Describer, config: EvaluateConfig, cache_folder: Path | None,
    steps: Sequence[tuple[str, Degrade]], told: Told = lambda what, done, total: None,
) -> list[float]:
    """Recall@1 with degraded queries and unchanged references.

    Args:
        steps: name and image function of each degradation.
    """
    if dataset.positives is None or dataset.given_queries is not None:
        raise EvaluationError(f'{dataset.name} cannot be degraded: it has no images with known '
                              f'ground truth')
    values = []
    with _Source(dataset, describer, config, cache_folder, told) as source:
        references, bad = source.rows(dataset.references, dataset.given_references, 'references')
        for mark, degrade in steps:
            queries, bad_queries = source.rows(dataset.queries, None, mark, degrade, mark)
            part, queries, kept = _readable(dataset, queries, references, bad_queries, bad, config)
            ranking, _ = _search(part, queries, kept, 1, (1,), replace(config, index=''), told)
            hits = _positives(part).hits(ranking.references)
            values.append(recall_at(hits, (1,))[1])
    return values


class _Source:
    """Descriptors from the data set, the cache or the model."""

    def __init__(self, dataset: Dataset, describer: Describer | None, config: EvaluateConfig,
                 folder: Path | None, told: Told) -> None:
        self._dataset, self._config, self._folder, self._told = dataset, config, folder, told
        self.describer = describer
        self.described = 0
        self._cache: DescriptorCache | None = None

    def __enter__(self) -> '_Source':
        return self

    def __exit__(self, *_: object) -> None:
        if self._cache is not None:
            self._cache.close()

    def rows(
        self, pictures: Sequence[Picture], given: GivenDescriptors | None, what: str,
        degrade: Degrade | None = None, mark: str = '',
    ) -> tuple[Rows, dict[int, str]]:
        """Descriptors of the queries or the references, and the unreadable images."""
        describer = self.describer
        if given is not None and degrade is None and (
                describer is None or _same_model(describer, given)):
            return Rows(given.rows, np.arange(given.rows.shape[0], dtype=np.int64)), {}
        if describer is None:
            raise EvaluationError(f'{what} of {self._dataset.name} have no descriptors: give a '
                                  f'model')
        if given is not None:
            raise EvaluationError(f'{given.source} was built with {given.model}, not with '
                                  f'{describer.name}; its images are too small to describe '
                                  f'again: give that model, or the bag or folder')
        if self._cache is None:
            self._cache = open_cache(self._folder, describer)

        def tell(report: DescribeProgress) -> None:
            done = report.found + report.described + len(report.unreadable)
            self._told(f'{describer.name}: {what} of {self._dataset.name}', done, report.total)

        before = len(self._cache)
        rows, unreadable = describe_pictures(
            pictures, describer, self._cache, batch=self._config.batch, degrade=degrade,
            degrade_mark=mark, progress=tell)
        self.described += len(self._cache) - before
        for other in (self._dataset.given_references, self._dataset.given_queries):
            if other is not None and other.project is not None:
                rows = Rows(_Projected(rows.matrix, other.project), rows.numbers)
        return rows, unreadable


class _Projected:
    """Descriptors projected, when they are read, to the length used in a compressed map."""

    def __init__(self, rows: Matrix, project: Callable[[Float32], Float32]) -> None:
        self._rows, self._project = rows, project
        sample = np.asarray(rows[np.arange(min(1, rows.shape[0]))], dtype=np.float32)
        self.shape = (rows.shape[0], project(sample).shape[1])

    def __getitem__(self, rows: Int64, /) -> Float32:
        return self._project(np.asarray(self._rows[rows], dtype=np.float32))


def _same_model(describer: Describer, given: GivenDescriptors) -> bool:
    return describer.fingerprint.split('-')[0] == given.fingerprint


def _readable(
    dataset: Dataset, queries: Rows, references: Rows, bad_queries: dict[int, str],
    bad_references: dict[int, str], config: EvaluateConfig,
) -> tuple[Dataset, Rows, Rows]:
    """Refuse unreadable images, or leave them out with a note."""
    bad = len(bad_queries) + len(bad_references)
    if not bad:
        return dataset, queries, references
    first = next(iter((bad_queries or bad_references).values()))
    if not config.partial:
        raise EvaluationError(f'{bad} of {len(queries) + len(references)} images of '
                              f'{dataset.name} cannot be read, e.g. {first}; --partial goes on '
                              f'without them and marks the result as partial')
    left = np.setdiff1d(np.arange(len(queries)), list(bad_queries))
    kept = np.setdiff1d(np.arange(len(references)), list(bad_references))
    if not len(left) or not len(kept):
        raise EvaluationError(f'no image of {dataset.name} can be read, e.g. {first}')
    return (dataset.subset(left, kept, f'{bad} images cannot be read'), queries.select(left),
            references.select(kept))


def _ks(dataset: Dataset, config: EvaluateConfig) -> tuple[int, ...]:
    """The requested k up to the number of references."""
    count = len(dataset.references) - spare(dataset.excluded)
    ks = config.recalls
    if ks is None:
        return tuple(k for k in RECALLS if k <= count) or (1,)
    if ks[-1] > count:
        raise EvaluationError(f'recall@{ks[-1]} asks for more references than {dataset.name} has '
                              f'({count}); choose smaller numbers with --recalls')
    return ks


def _search(
    dataset: Dataset, queries: Rows, references: Rows, k: int, ks: tuple[int, ...],
    config: EvaluateConfig, told: Told,
) -> tuple[Ranking, Approximate | None]:
    if queries.dimension != references.dimension:
        raise EvaluationError(f'queries of {dataset.name} have {queries.dimension} numbers and '
                              f'its references {references.dimension}')
    total, more = len(references), spare(dataset.excluded)
    exact = exact_search(queries, references, k + more,
                         lambda done: told(f'search in {dataset.name}', done, total))
    ranking = without_excluded(exact, dataset.excluded, k)
    if not config.index or config.index == 'exact':
        return ranking, None
    indexed = indexed_search(queries, references, k + more, config.index)
    other = without_excluded(indexed.ranking, dataset.excluded, k)
    recalls = {} if dataset.positives is None else recall_at(
        dataset.positives.hits(other.references), ks)
    return ranking, Approximate(kind=config.index, recalls=recalls, seconds=other.seconds,
                                agreement=agreement(ranking, other, k),
                                build_s=indexed.build_s,
                                resident_bytes=indexed.resident_bytes)


def _centred(
    dataset: Dataset, queries: Rows, references: Rows, ks: tuple[int, ...], told: Told
) -> dict[int, float]:
    """Recall after centring: queries by their mean, references by theirs."""
    if dataset.positives is None or min(len(queries), len(references)) < LEAST_CENTRED:
        return {}
    ranking, _ = _search(dataset, centred(queries), centred(references), ks[-1], ks,
                         EvaluateConfig(), told)
    return recall_at(dataset.positives.hits(ranking.references), ks)


def _result(
    dataset: Dataset, source: _Source, ranking: Ranking, approximate: Approximate | None,
    ks: tuple[int, ...], dimension: int, describe_s: float,
) -> Result:
    describer = source.describer
    given = dataset.given_references
    name = describer.name if describer else given.model if given else ''
    about: dict[str, Any] = {
        'model': name, 'dataset': dataset, 'dimension': dimension, 'ranking': ranking,
        'notice': describer.notice if describer else f'descriptors of {given.source}'
        if given else '',
        'described': source.described, 'describe_s': describe_s, 'approximate': approximate}
    if dataset.positives is None:
        return Result(**about)
    hits = dataset.positives.hits(ranking.references)
    revisits = int((dataset.positives.counts > 0).sum())
    return Result(
        **about, recalls=recall_at(hits, ks),
        curve=precision_recall(ranking.similarities[:, 0], hits[:, 0], revisits),
        ranks=first_hit(hits), right=hits[:, 0],
        errors_m=_errors_m(dataset, ranking), without_positives=len(hits) - revisits)


def _errors_m(dataset: Dataset, ranking: Ranking) -> npt.NDArray[np.float64]:
    """Distance (Q,) in metres from each query to its best match; NaN without positions."""
    if dataset.reference_xy is None or dataset.query_xy is None:
        return np.full(len(dataset.queries), np.nan)
    best = dataset.reference_xy[ranking.references[:, 0]]
    return np.asarray(np.linalg.norm(best - dataset.query_xy, axis=1))


def _positives(dataset: Dataset) -> Any:
    if dataset.positives is None:
        raise EvaluationError(f'the ground truth of {dataset.name} is hidden')
    return dataset.positives
