"""Recall of a network on validation sets, by the evaluation's ground truth and recall@k."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regvpr_core.datasets.dataset import Dataset
from regvpr_core.errors import TrainingError
from regvpr_core.evaluation.retrieval_metrics import recall_at

KS = (1, 5, 10)
QUERIES_A_PASS = 512

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """A validation set; its images are numbered, references first."""

    dataset: Dataset

    def __post_init__(self) -> None:
        if self.dataset.positives is None:
            raise TrainingError(f'{self.dataset.title} hides its ground truth; it is no '
                                f'validation set')
        if len(self.dataset.references) < max(KS) or not len(self.dataset.queries):
            raise TrainingError(
                f'{self.dataset.title} has {len(self.dataset.references)} references and '
                f'{len(self.dataset.queries)} queries; expected at least {max(KS)} and 1')

    def recalls(self, describe: Callable[[Sequence[int]], Rows]) -> dict[int, float]:
        """Recall at 1, 5 and 10.

        Args:
            describe: function from indices of images to unit rows.
        """
        count, queries = len(self.dataset.references), len(self.dataset.queries)
        references = describe(range(count))
        ranked = np.zeros((queries, max(KS)), dtype=np.int64)
        for start in range(0, queries, QUERIES_A_PASS):
            numbers = range(start, min(start + QUERIES_A_PASS, queries))
            similarity = describe([count + i for i in numbers]) @ references.T
            # Stable: equal similarities keep the references' order.
            best = np.argsort(-similarity, axis=1, kind='stable')[:, : max(KS)]
            ranked[numbers.start:numbers.stop] = best
        positives = self.dataset.positives
        return recall_at(positives.hits(ranked), KS) if positives is not None else {}
