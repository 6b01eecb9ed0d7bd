"""Selection of example queries for the report, with the images found for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from regvpr_core.datasets.dataset import Picture
from regvpr_core.errors import ImageError
from regvpr_core.evaluation.evaluator import Result
from regvpr_core.images import decode_photo, encode_jpeg, thumbnail

SHOWN = 6
LONGEST_SIDE = 240
QUALITY = 78


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An image of a row.

    right: whether the match is correct, None for the query. data: JPEG, None if unreadable.
    """

    title: str
    name: str
    detail: str
    data: bytes | None
    right: bool | None = None


def best_queries(results: Sequence[Result]) -> list[int]:
    """Queries matched correctly by the first model, starting with those that others miss.

    Queries missed by equally many models are sorted by falling similarity. With several models
    this reproduces figure 5 of the paper.
    """
    first = results[0]
    others = sum((r.right for r in results[1:]), np.zeros(len(first.right), dtype=np.int64))
    sure = first.ranking.similarities[:, 0]
    order = np.lexsort((-sure, others))
    return [int(i) for i in order if first.right[i]][:SHOWN]


def worst_queries(results: Sequence[Result]) -> list[int]:
    """Queries with a correct reference that the first model misses, by falling similarity."""
    first = results[0]
    positives = first.dataset.positives
    if positives is None:
        return []
    wrong = ~first.right & (positives.counts > 0)
    order = np.argsort(-first.ranking.similarities[:, 0], kind='stable')
    return [int(i) for i in order if wrong[i]][:SHOWN]


def row(results: Sequence[Result], query: int) -> list[Found]:
    """The query, each model's best match, and a correct reference if no model found one."""
    dataset = results[0].dataset
    shown = [_found('query', dataset.queries[query], '')]
    for result in results:
        best = int(result.ranking.references[query, 0])
        if best < 0:
            continue
        error = result.errors_m[query]
        metres = f', {error:.1f} m away' if np.isfinite(error) else ''
        rank = int(result.ranks[query])
        where = '' if result.right[query] else (
            f', a right one on rank {rank}' if rank else ', no right one ranked')
        shown.append(_found(
            result.model, dataset.references[best],
            f'similarity {result.ranking.similarities[query, 0]:.3f}{metres}{where}',
            bool(result.right[query])))
    positives = dataset.positives
    if positives is not None and len(positives.of(query)) and not results[0].right[query]:
        shown.append(_found('would be right', dataset.references[int(positives.of(query)[0])], ''))
    return shown


def _found(title: str, picture: Picture, detail: str, right: bool | None = None) -> Found:
    try:
        data = encode_jpeg(thumbnail(decode_photo(picture.encoded()), LONGEST_SIDE), QUALITY)
    except ImageError:
        data = None
    return Found(title=title, name=picture.name, detail=detail, data=data, right=right)
