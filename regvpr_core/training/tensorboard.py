"""A run's loss, learning rate and recall for TensorBoard."""

from pathlib import Path
from typing import Any

from regvpr_core.errors import TrainingError


class TensorBoardWatch:
    """Writes event files; loss and rate every few steps."""

    def __init__(self, folder: Path, every: int = 10) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError("--tensorboard needs tensorboard: pip install "
                                "'regvpr_ros[train]'") from error
        self._writer: Any = SummaryWriter(str(folder))
        self._every = every

    def begin(self, facts: dict[str, Any]) -> None:
        """Write a text about the run."""
        lines = '\n'.join(f'- {name}: {value}' for name, value in facts.items())
        self._writer.add_text('run', lines, facts['from_step'])

    def reading(self, what: str, done: int, total: int) -> None:
        """Ignored: only training and validation are written."""

    def step(self, step: int, steps: int, loss: float, rate: float) -> None:
        """Write loss and learning rate."""
        if step % self._every == 0 or step == steps:
            self._writer.add_scalar('loss', loss, step)
            self._writer.add_scalar('learning rate', rate, step)

    def recall(self, step: int, recalls: dict[str, dict[int, float]]) -> None:
        """Write the recall on each validation set."""
        for name, of_set in recalls.items():
            for k, share in of_set.items():
                self._writer.add_scalar(f'{name}/recall@{k}', share, step)
        self._writer.flush()
