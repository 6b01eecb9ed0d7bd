"""Entropic optimal transport of patches to clusters: Sinkhorn's iterations in the log domain."""

import contextlib
import math

import torch
from torch import Tensor

from regvpr_core.errors import ImageError


def sinkhorn(
    scores: Tensor, dustbin: Tensor | None = None, *, iterations: int = 3, reg: float = 1.0
) -> Tensor:
    """Distribute every patch over the clusters (Cuturi, 2013, NeurIPS 26).

    Each column (patch) of the plan sums to exactly 1, because columns are updated last.
    Without a dustbin (RegVPR) each row (cluster) tends to n/m, so n <= m is legal. With one
    (SALAD, Izquierdo and Civera, 2024, arXiv:2311.15937) each row tends to 1 and a further row,
    which is not returned, to n - m. This is SALAD's solver times (n + m), term by term.

    Args:
        scores: (B, m, n) of any float type; larger is better.
        dustbin: score of the dustbin for every patch, a scalar.
        iterations: updates of rows and columns; few iterations leave the row sums approximate.
        reg: entropic regularisation, > 0; scores are divided by it.

    Returns:
        the plan (B, m, n), float32 (float64 for float64 scores) also under autocast.

    Raises:
        ImageError: a dustbin, and no more patches than clusters.
    """
    B, m, n = scores.shape  # not len(): export keeps B dynamic
    with full_precision(scores.device):
        log_plan = scores.to(torch.promote_types(scores.dtype, torch.float32)) / reg
        if dustbin is None:
            row_mass = log_plan.new_full((m,), math.log(n / m))
        else:
            if n <= m:
                raise ImageError(f'an image of {n} patches has none left over for the dustbin of '
                                 f'{m} clusters; show the network a larger image')
            row_mass = torch.cat([log_plan.new_zeros(m), log_plan.new_full((1,), math.log(n - m))])
            row = dustbin.to(log_plan.dtype).expand(B, 1, n) / reg
            log_plan = torch.cat([log_plan, row], dim=1)  # (B, m + 1, n)
        columns = log_plan.new_zeros(B, 1, n)
        for _ in range(iterations):
            rows = row_mass[:, None] - torch.logsumexp(log_plan + columns, dim=2, keepdim=True)
            columns = -torch.logsumexp(log_plan + rows, dim=1, keepdim=True)
        return (log_plan + rows + columns)[:, :m].exp()


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Disable autocast inside; does nothing if it is off, because ONNX export fails otherwise."""
    if device.type != 'meta' and torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()
