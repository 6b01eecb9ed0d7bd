"""The bounds that docs/encoder.md states for each precision."""

from collections.abc import Callable, Sequence
from pathlib import Path
import re

import numpy as np
import pytest

PAGE = Path(__file__).resolve().parents[3] / 'docs' / 'encoder.md'


@pytest.fixture(scope='session')
def stated_cosines() -> dict[str, dict[str, float]]:
    """Smallest cosine for each precision: alone against in a `batch`, and against `fp32`."""
    rows = re.findall(r'^\| (fp32|bf16|fp16|int8) \| ([\d.]+) \| ([\d.]+) \|',
                      PAGE.read_text('utf-8'), re.MULTILINE)
    return {name: {'batch': float(batch), 'fp32': float(full)} for name, batch, full in rows}


@pytest.fixture(scope='session')
def assert_agree(stated_cosines: dict[str, dict[str, float]]) -> Callable[..., None]:
    """`assert_agree(precision, 'batch' or 'fp32', rows, rows)`: within the stated bound."""
    def check(precision: str, against: str, wanted: Sequence[np.ndarray], given: np.ndarray
              ) -> None:
        # In float64: a float32 sum of 8448 products errs by as much as the bound of fp32.
        a, b = np.asarray(wanted, np.float64), np.asarray(given, np.float64)
        cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosines.min() >= stated_cosines[precision][against], cosines
    return check
