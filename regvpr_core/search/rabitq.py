"""Search by one-bit codes, then re-rank by the rows.

RaBitQ (Gao and Long, SIGMOD 2024) keeps the signs of a rotated row, one bit a number, and two
figures that make its estimate of a cosine unbiased; FAISS scans the codes with the query in a few
bits. The best by the estimate are re-ranked by the exact cosines of the rows, which stay on disk.
Deviation: the rotation is two rounds of signs and Hadamard blocks, because a random matrix of
8448 x 8448 takes 285 MB and more time than the search, and that of faiss pads 8448 to 16384.
"""

from dataclasses import dataclass
import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Float32, Ids
from regvpr_core.config import check_settings, setting
from regvpr_core.search.rows import CentredRows, load_faiss, nothing, one_thread

Codes = npt.NDArray[np.uint8]

FAST_SCAN_DIMENSION = 1024
"""Largest row length for fast-scan, which sums one byte per four numbers in 16 bits. For longer
rows the sums overflow: with 8448 numbers fast-scan finds 0.26 of the ten nearest rows, and the
plain scan all of them."""

CANDIDATES, CANDIDATES_DIMENSION = 128, 8448
"""Least number of rows to re-rank, for the descriptor length at which it was measured."""

COARSE_BITS, COARSE_PLACES = 2048, 16_384
"""Coarse stage: number of bits that are compared first, and least number of places of a map. Rows
must have at least twice as many bits. Any part of a rotated row is a random projection of it."""

COARSE_CANDIDATES, COARSE_SHARE = 1024, 10
"""Coarse shortlist: at least this many rows, or this multiple of the rows to re-rank, are compared
by all bits."""

QUERY_BITS, FINE_QUERY_BITS = 2, 4
"""Bits per number of the query for a scan of all codes, and for the shortlist."""

FEW_PLACES = 4096
"""Up to this number of places all codes are scanned with `FINE_QUERY_BITS`: a scan of 2,000 takes
0.02 ms more, and about 70 rows fewer are ranked again for fifty matches, which take 0.1 ms."""

MANY_ROWS = 1024
"""Above this number of rows, one large matrix product is faster than two small ones. A query has
fewer rows: 33 of 256 numbers for a descriptor of 8448."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RabitqConfig:
    """Settings of coding and search."""

    code_bits: int = setting(1, 'Bits for each number of a stored row.', 1, 9)
    query_bits: int = setting(
        0, 'Bits for each number of the query; 0 chooses by the number of rows.', 0, 8)
    candidates: int = setting(
        0,
        'Rows that are ranked again by their full values, always more than twice the matches '
        'asked for; 0 chooses by the length and the number of rows.', 0, 1000000)

    def __post_init__(self) -> None:
        check_settings(self)


class Rotation:
    """A fixed pseudo-random rotation of R^D, D padded with zeros to a multiple of 64.

    One-bit codes need information spread evenly over all numbers. For descriptors whose numbers
    differ tenfold in size, 200 candidates contain 0.96 of the ten nearest without the rotation
    and all of them with it.
    """

    def __init__(self, dimension: int) -> None:
        self.padded = -(-dimension // 64) * 64
        self._side = min(self.padded & -self.padded, 256)  # largest power of two that divides it
        rng = np.random.default_rng(dimension)
        self._signs = rng.choice(np.array([-1.0, 1.0], np.float32), size=(2, self.padded))
        self._order = rng.permutation(self.padded)
        self.bytes = self._signs.nbytes + self._order.nbytes

    def apply(self, rows: Float32) -> Float32:
        """Rotate rows (N, D) to (N, padded); lengths and cosines are unchanged."""
        turned = np.zeros((len(rows), self.padded), np.float32)
        turned[:, :rows.shape[1]] = rows
        for signs in self._signs:
            turned = np.take(turned * signs, self._order, axis=1)
            turned = hadamard(turned.reshape(-1, self._side)).reshape(len(rows), self.padded)
        return turned


def hadamard(rows: Float32) -> Float32:
    """Rows (N, 2^k) times the Hadamard matrix of length-1 rows.

    Computed as a Kronecker product of two smaller ones. For a query these products are so small
    that BLAS stays in the calling thread.
    """
    side = rows.shape[1]
    inner = 1 << (side.bit_length() - 1) // 2
    if len(rows) > MANY_ROWS:
        return np.asarray(rows @ np.kron(_matrix(side // inner), _matrix(inner)))
    blocks = (np.ascontiguousarray(rows).reshape(-1, inner) @ _matrix(inner)).reshape(
        len(rows), -1, inner)
    return np.asarray((_matrix(side // inner) @ blocks).reshape(len(rows), side))


@functools.cache
def _matrix(side: int) -> Float32:
    """The Hadamard matrix of Sylvester (side, side), rows of length 1."""
    from scipy.linalg import hadamard  # late: small maps do not need it

    return np.asarray(hadamard(side) / np.sqrt(side), dtype=np.float32)


def encode(rows: CentredRows, config: RabitqConfig) -> Codes:
    """Codes (N, bytes) of all rows.

    Raises:
        MapError: a row is damaged.
    """
    rotation = Rotation(rows.dimension)
    coder = _coder(rotation.padded, config)
    codes = np.empty((len(rows), coder.code_size), np.uint8)
    start = 0
    for block in rows.blocks():
        codes[start:start + len(block)] = coder.sa_encode(rotation.apply(block))
        start += len(block)
    return codes


def code_bytes(dimension: int, config: RabitqConfig) -> int:
    """Size of a row's code in bytes."""
    return int(_coder(Rotation(dimension).padded, config).code_size)


class RabitqIndex:
    """Codes in memory, rows on disk."""

    kind = 'rabitq'

    def __init__(self, rows: CentredRows, codes: Codes, config: RabitqConfig) -> None:
        """Index the codes that `encode` made of the rows; they are copied."""
        self._rows = rows
        self._config = config
        self._rotation = Rotation(rows.dimension)
        self._query_bits = config.query_bits or (
            FINE_QUERY_BITS if len(rows) <= FEW_PLACES else QUERY_BITS)
        self._index = _searchable(codes, self._rotation.padded, config, self._query_bits)
        coarse = _coarse_codes(codes, self._rotation.padded, config)
        self._coarse = None if coarse is None else _filled(
            coarse, COARSE_BITS, config, self._query_bits)
        # 9 bytes a row: whether it was checked, and two length factors.
        self.resident_bytes = codes.nbytes + 9 * len(rows) + self._rotation.bytes + (
            0 if coarse is None else coarse.nbytes)

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, queries: Float32, k: int) -> tuple[Float32, Ids]:
        """The k most similar rows for each of (Q, D), unit: similarities, ids (Q, min(k, N)).

        Raises:
            MapError: the row of a candidate is damaged.
        """
        k = min(k, len(self))
        if k == 0:
            return nothing(len(queries))
        with one_thread():
            candidates = self._find(self._rotation.apply(queries), self._candidates(k))
        found = [self._rows.best(query, row, k)
                 for query, row in zip(queries, candidates, strict=True)]
        return np.array([s for s, _ in found]), np.array([i for _, i in found])

    def _find(self, turned: Float32, count: int) -> Ids:
        """Ids (Q, count) of the codes most similar to rotated queries."""
        if self._coarse is None:
            return np.asarray(self._index.search(turned, count)[1])
        many = min(max(COARSE_CANDIDATES, COARSE_SHARE * count), len(self))
        first = self._coarse.search(np.ascontiguousarray(turned[:, :COARSE_BITS]), many)[1]
        return np.stack([self._find_among(query, ids, count)
                         for query, ids in zip(turned, first, strict=True)])

    def _find_among(self, turned: Float32, ids: Ids, count: int) -> Ids:
        """Re-rank a shortlist of ids by all bits."""
        faiss = load_faiss()
        passed = np.zeros(len(self), dtype=bool)
        passed[ids] = True
        selector = faiss.IDSelectorBitmap(np.packbits(passed, bitorder='little'))
        parameters = faiss.RaBitQSearchParameters()
        parameters.sel = selector
        parameters.qb = max(FINE_QUERY_BITS, self._query_bits)
        return np.asarray(self._index.search(turned[None], count, params=parameters)[1][0])

    def _candidates(self, k: int) -> int:
        # The estimate's error falls with the root of the length: short rows need more.
        least = self._config.candidates or int(CANDIDATES * max(
            1.0, (CANDIDATES_DIMENSION / self._rows.dimension) ** 0.5))
        if self._coarse is not None and not self._config.candidates:
            least //= 2  # because the query then has more bits
        # The order of a scan with a fine query needs less correction.
        fine = self._coarse is None and self._query_bits >= FINE_QUERY_BITS
        more = 5 * k // 2 if fine else 4 * k
        return min(max(least, min(more, 2 * k + 2 * CANDIDATES)), len(self))


def _coder(padded: int, config: RabitqConfig) -> Any:
    """Create an empty index centred at the origin, because the rows are centred already."""
    faiss = load_faiss()
    coder = faiss.IndexRaBitQ(padded, faiss.METRIC_INNER_PRODUCT, config.code_bits)
    coder.train(np.zeros((1, padded), np.float32))
    return coder


def _searchable(codes: Codes, padded: int, config: RabitqConfig, query_bits: int) -> Any:
    faiss = load_faiss()
    index = _filled(codes, padded, config, query_bits)
    # Fast-scan quantises the query to 8 bits.
    return faiss.IndexRaBitQFastScan(index) if padded <= FAST_SCAN_DIMENSION else index


def _filled(codes: Codes, padded: int, config: RabitqConfig, query_bits: int) -> Any:
    faiss = load_faiss()
    index = _coder(padded, config)
    index.qb = query_bits
    faiss.copy_array_to_vector(np.ascontiguousarray(codes).reshape(-1), index.codes)
    index.ntotal = len(codes)
    return index


def _coarse_codes(codes: Codes, padded: int, config: RabitqConfig) -> Codes | None:
    """First bits of each code with its two factors, or None if a coarse stage is not faster.

    The factors are those of the whole row; for a part they differ by a nearly constant factor.
    """
    if padded < 2 * COARSE_BITS or len(codes) < COARSE_PLACES or config.code_bits != 1:
        return None
    return np.concatenate([codes[:, :COARSE_BITS // 8], codes[:, padded // 8:]], axis=1)
