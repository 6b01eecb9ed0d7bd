"""Communication between the processes of a run (torchrun): descriptors and gradients."""

from collections.abc import Iterator, Sequence
import contextlib
from dataclasses import dataclass
import datetime
import os
from typing import Any

import torch
from torch import nn, Tensor
import torch.distributed as dist

from regvpr_core.errors import TrainingError

PATIENCE = datetime.timedelta(hours=6)
"""Timeout of other processes while the first one validates or computes tokens."""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among all. The first one writes files and reports progress."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the first process, which writes files."""
        return self.rank == 0

    def gathered(self, rows: Tensor) -> Tensor:
        """Rows of all processes in order (B, D). The gradient flows to this process's own rows.

        Every process then computes the same loss, and the sum of the gradients of all processes is
        the gradient of that loss.
        """
        if self.count == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self.rank, self.count)  # type: ignore[no-untyped-call]
        return gathered

    def gathered_labels(self, labels: Tensor) -> Tensor:
        """Labels of all processes in order."""
        if self.count == 1:
            return labels
        parts = [torch.empty_like(labels) for _ in range(self.count)]
        dist.all_gather(parts, labels)
        return torch.cat(parts)

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Make the gradient of each parameter the sum over processes."""
        if self.count == 1:
            return
        for parameter in parameters:  # a parameter may be unused in this process only
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
        dist.all_reduce(flat)
        start = 0
        for parameter in parameters:
            if parameter.grad is not None:
                end = start + parameter.numel()
                parameter.grad.copy_(flat[start:end].view_as(parameter.grad))
                start = end

    def agree(self, flag: bool, device: torch.device) -> bool:
        """Whether any process has the flag set."""
        if self.count == 1:
            return flag
        number = torch.tensor(float(flag), device=device)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return bool(number)

    def share_tensors(self, tensors: Sequence[Tensor]) -> None:
        """Give all processes the values of the first one, in place."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            dist.barrier()


def is_first_process() -> bool:
    """Whether this is the only process, or the first that torchrun started."""
    return os.environ.get('RANK', '0') == '0'


class _Gather(torch.autograd.Function):
    """Gathers all rows; backward returns the gradient of this process's rows without
    communication."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, rank: int, count: int) -> Tensor:
        ctx.part = slice(rank * len(rows), (rank + 1) * len(rows))
        parts = [torch.empty_like(rows) for _ in range(count)]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.part], None, None


@contextlib.contextmanager
def joined_processes(device: torch.device) -> Iterator[Processes]:
    """The group that torchrun made, or this process alone.

    Raises:
        TrainingError: torchrun's variables are set, but the group cannot be joined.
    """
    text = os.environ.get('WORLD_SIZE', '1')
    count = int(text) if text.isdigit() else 0
    if count < 1:
        raise TrainingError(f'WORLD_SIZE is {text!r}; torchrun sets it to a number of processes')
    if count == 1:
        yield Processes()
        return
    try:
        dist.init_process_group('nccl' if device.type == 'cuda' else 'gloo',
                                timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f'the {count} processes of torchrun cannot meet: '
                            f'{" ".join(str(error).split())[:200]}') from error
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
