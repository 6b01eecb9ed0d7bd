"""Random numbers that depend only on seed and step, so that a run can be resumed."""

import numpy as np
import torch


def step_seed(*numbers: int) -> int:
    """A seed of 63 bits from whole numbers such as (seed, step, process)."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1, np.uint64)[0] >> 1)


def generator(*numbers: int) -> torch.Generator:
    """A generator on the CPU, seeded with `step_seed`."""
    return torch.Generator().manual_seed(step_seed(*numbers))
