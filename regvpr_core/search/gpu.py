"""Search by a matrix product in torch, on a CUDA device in half precision or on the CPU."""

import importlib
import importlib.util
from typing import Any

import numpy as np

from regvpr_core.arrays import Float32, Ids
from regvpr_core.errors import MapError
from regvpr_core.search.rows import CentredRows, nothing

MARGIN = 32
"""Number of rows beyond k that are re-ranked, since half precision has errors of 0.001."""

FREE_SHARE = 0.5
"""Share of the device's free memory that `auto` uses for a map; the network needs the rest."""


def device_holds(count: int, dimension: int) -> bool:
    """Whether torch has a CUDA device with memory for this many rows in half precision."""
    if importlib.util.find_spec('torch') is None:
        return False
    torch: Any = importlib.import_module('torch')
    if not torch.cuda.is_available():
        return False
    free, _ = torch.cuda.mem_get_info()
    return bool(2 * count * dimension <= FREE_SHARE * free)


class GpuIndex:
    """Searches all rows on the device, and re-ranks the best ones by the rows in the file."""

    kind = 'gpu'

    def __init__(self, rows: CentredRows, device: str = '') -> None:
        """Copy the rows to a device: CUDA in half precision if available, else the CPU.

        Raises:
            MapError: torch is not installed, the device is out of memory, or a row has changed.
        """
        if importlib.util.find_spec('torch') is None:
            raise MapError("index gpu needs torch: pip install 'regvpr_ros[torch]'; or take the "
                           'index auto')
        torch: Any = importlib.import_module('torch')
        self._torch = torch
        self._rows = rows
        self.device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
        half = self.device.startswith('cuda')
        try:
            self._matrix = torch.empty((len(rows), rows.dimension), device=self.device,
                                       dtype=torch.float16 if half else torch.float32)
            start = 0
            for block in rows.blocks():
                self._matrix[start:start + len(block)] = torch.from_numpy(block)
                start += len(block)
        except RuntimeError as error:  # raised for lack of memory on any device
            raise MapError(f'{len(rows)} places of {rows.dimension} numbers do not fit on '
                           f'{self.device} ({str(error).splitlines()[0]}); take the index '
                           f'rabitq') from error
        self.resident_bytes = self._matrix.numel() * self._matrix.element_size()

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, queries: Float32, k: int) -> tuple[Float32, Ids]:
        """The k most similar rows for each of (Q, D), unit: similarities, ids (Q, min(k, N)).

        Raises:
            MapError: a candidate's row has changed since it was written.
        """
        k = min(k, len(self))
        if k == 0:
            return nothing(len(queries))
        with self._torch.inference_mode():
            query = self._torch.from_numpy(np.ascontiguousarray(queries)).to(self._matrix)
            products = query @ self._matrix.T
            candidates = products.topk(min(k + MARGIN, len(self)), dim=1).indices.cpu().numpy()
        found = [self._rows.best(query, row, k)
                 for query, row in zip(queries, candidates, strict=True)]
        return np.stack([s for s, _ in found]), np.stack([i for _, i in found])
