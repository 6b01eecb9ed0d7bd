"""Multi-similarity loss over the whole batch, with its miner, of pytorch-metric-learning."""

from typing import Any

from torch import nn, Tensor

from regvpr_core.errors import TrainingError
from regvpr_core.models.transport import full_precision
from regvpr_core.training.config import LossConfig


class PlaceLoss(nn.Module):
    """Wang et al. (2019, arXiv:1904.06627), on cosine similarities, in float32."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        try:
            from pytorch_metric_learning.distances import CosineSimilarity, DotProductSimilarity
            from pytorch_metric_learning.losses import MultiSimilarityLoss
            from pytorch_metric_learning.miners import MultiSimilarityMiner
        except ImportError as error:
            raise TrainingError("training needs pytorch-metric-learning: pip install "
                                "'regvpr_ros[train]'") from error
        self._miner: Any = MultiSimilarityMiner(epsilon=config.epsilon,
                                                distance=CosineSimilarity())
        self._loss: Any = MultiSimilarityLoss(
            alpha=config.alpha, beta=config.beta, base=config.base,
            distance=DotProductSimilarity(normalize_embeddings=False))

    def forward(self, descriptors: Tensor, places: Tensor) -> Tensor:
        """Loss of unit rows (B, D) with labels (B). 0 where the miner finds no pair."""
        with full_precision(descriptors.device):
            rows = descriptors.float()
            loss: Tensor = self._loss(rows, places, self._miner(rows, places))
            return loss + 0.0 * rows.sum()  # a zero gradient if there is no pair
