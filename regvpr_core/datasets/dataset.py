"""A place recognition data set in memory: image files, ground truth, scoring rule."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Float32, Float64, Int64
from regvpr_core.datasets.ground_truth import Matches
from regvpr_core.errors import ImageError
from regvpr_core.images import MAX_FILE_BYTES

MISSED = 'missed'
REMOVED = 'removed'


class Picture(Protocol):
    """An encoded image that is read on demand."""

    @property
    def name(self) -> str:
        """Name in tables and messages."""

    def encoded(self) -> bytes:
        """The bytes of the file.

        Raises:
            ImageError: it cannot be read.
        """


@dataclass(frozen=True, slots=True)
class PictureFile:
    """An image file; `name` is its path below the data set's folder."""

    name: str
    path: Path

    def encoded(self) -> bytes:
        """The bytes of the file.

        Raises:
            ImageError: the file cannot be read or exceeds the size limit.
        """
        try:
            size = self.path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise ImageError(f'{self.path}: {size} bytes; expected at most {MAX_FILE_BYTES}')
            return self.path.read_bytes()
        except OSError as error:
            raise ImageError(f'{self.path}: cannot be read: {error.strerror}') from error


class Matrix(Protocol):
    """Descriptors read on demand: an array, a memory map or an open place map."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows N and length D of a descriptor."""

    def __getitem__(self, rows: npt.NDArray[np.int64], /) -> npt.NDArray[np.floating]:
        """The rows with these indices."""


@dataclass(frozen=True, slots=True, eq=False)
class GivenDescriptors:
    """Stored descriptors of the images, such as those of a place map.

    rows: (N, D), unit rows; row i belongs to image i. fingerprint: of the model that made them.
    project: maps the model's descriptors to such rows, if they are compressed.
    """

    rows: Matrix
    fingerprint: str
    model: str
    source: str
    project: Callable[[Float32], Float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Dataset:
    """Queries and the references to search.

    name: in tables. protocol: its exact name. rule: when a reference counts as correct.
    references, queries: images, in the published order.
    positives: correct references of each query; None if they are hidden, as in a challenge.
    radius_m: largest distance of a correct reference, if the rule is a distance.
    reference_xy, query_xy: (N, 2) and (Q, 2) in metres, if positions are real.
    excluded: references that a query must not be matched with.
    without_positives: `missed` (such queries count as misses) or `removed` (already left out).
    removed: number of removed queries.
    partial: what is missing from the published set, '' for a whole one.
    warning: what to know before the figures are quoted, '' for nothing.
    given_references, given_queries: descriptors that need no network.
    """

    name: str
    protocol: str
    rule: str
    references: Sequence[Picture]
    queries: Sequence[Picture]
    positives: Matches | None
    radius_m: float | None = None
    reference_xy: Float64 | None = None
    query_xy: Float64 | None = None
    excluded: Matches | None = None
    without_positives: str = MISSED
    removed: int = 0
    partial: str = ''
    warning: str = ''
    given_references: GivenDescriptors | None = None
    given_queries: GivenDescriptors | None = None

    @property
    def title(self) -> str:
        """The name, with a note if the data set is incomplete."""
        return f'{self.name} (partial)' if self.partial else self.name

    def subset(self, queries: Int64, references: Int64, why: str) -> 'Dataset':
        """A subset of queries and references (ascending indices), marked partial for a reason."""
        count = len(self.references)

        def rows(given: GivenDescriptors | None, numbers: Int64) -> GivenDescriptors | None:
            return None if given is None else replace(given, rows=given.rows[numbers])

        def cut(found: Matches | None) -> Matches | None:
            return None if found is None else found.select(queries, references, count)

        return replace(
            self,
            references=[self.references[i] for i in references],
            queries=[self.queries[i] for i in queries],
            positives=cut(self.positives), excluded=cut(self.excluded),
            reference_xy=None if self.reference_xy is None else self.reference_xy[references],
            query_xy=None if self.query_xy is None else self.query_xy[queries],
            given_references=rows(self.given_references, references),
            given_queries=rows(self.given_queries, queries),
            partial='; '.join(filter(None, (self.partial, why))))
