"""Distinctiveness of the places of a map, measured on the map alone.

Leave-one-out: each place is a query to the rest of the map. Are the most similar keyframes those
of the same place, or distant ones?
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Float32, Int64
from regvpr_core.config import check_range
from regvpr_core.maps.place_map import PlaceMap

PASS_S = 60.0
"""Keyframes of one source nearer in time than this are of one pass."""

BINS = 200
"""Number of histogram bins over similarities of -1 to 1."""

MATRIX_SIDE = 400
KINDS = ('near', 'again', 'far')
"""Kinds of pairs: neighbours of one pass, neighbours of two passes, different places."""

NEIGHBOURS = {'near': 3, 'again': 4, 'far': 4}
FAR_CANDIDATES = 48

PAIRS = 50_000_000
PRODUCTS = 400e9
"""Limits on compared pairs and on multiplications: about 15 s on two cores."""

BLOCK_PAIRS = 8_000_000
FARTHEST_M = 1e12
COLUMNS = 2048


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MapStudy:
    """Result of the study. Positions are indices into `ids`, -1 for none.

    ids: (N,) of the keyframes used: all, or an even sample.
    queried: (Q,) positions of the queries, compared with all N.
    neighbours, similarities: by kind, (Q, K) most similar places, by falling similarity; those of
        the kind `far` are at distinct places.
    best: by kind, (Q,) largest similarity, -inf if there is none. The further kind `rival`
        contains the far places of other passes.
    matrix: (S, S) largest similarity between bins of `bin_size` places, NaN where none was
        compared.
    matrix_pairs: (S, S, 2) positions of the two places which have it.
    all_pairs: by kind, (BINS,) histogram of all similarities.
    best_pairs: by kind and for `rival`, (BINS,) histogram of the best similarity of each place.
    """

    ids: Int64
    queried: Int64
    radius_m: float
    angle_rad: float
    neighbours: dict[str, Int64]
    similarities: dict[str, Float32]
    best: dict[str, Float32]
    bin_size: int
    matrix: Float32
    matrix_pairs: Int64
    all_pairs: dict[str, Int64]
    best_pairs: dict[str, Int64]

    @property
    def best_true(self) -> Float32:
        """(Q,) largest similarity with a true neighbour, -inf without one."""
        return np.maximum(self.best['near'], self.best['again'])

    @property
    def mistaken(self) -> npt.NDArray[np.bool_]:
        """(Q,) whether a far place is more similar than every true neighbour."""
        return np.isfinite(self.best_true) & (self.best['far'] > self.best_true)

    def share_right(self, kind: str) -> tuple[int, float]:
        """Number of places with neighbours of `kind`, and the share whose best neighbour is more
        similar than all far places.

        For `again` both are taken from other passes only, as for a returning robot.
        """
        known = np.isfinite(self.best[kind])
        rivals = self.best['rival' if kind == 'again' else 'far']
        right = self.best[kind][known] >= rivals[known]
        return int(known.sum()), float(right.mean()) if known.any() else 0.0


def study(
    place_map: PlaceMap,
    radius_m: float,
    angle_rad: float,
    *,
    most_places: int = 100_000,
    most_queries: int = 100_000,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MapStudy:
    """Compare the places of a map with each other.

    Args:
        place_map: the map.
        radius_m, angle_rad: keyframes within both show one place; beyond twice the radius or the
            angle they show different places.
        most_places: larger maps are sampled evenly to this number of keyframes.
        most_queries: largest number of queries; fewer if the comparison would take too long.
        progress: called with places compared and in total.

    Raises:
        ConfigError: radius or angle is out of range.
    """
    check_range('radius_m', radius_m, 0.1, 1000.0)
    check_range('angle_rad', angle_rad, 0.01, 3.2)
    ids = _spread(len(place_map), most_places)
    count = len(ids)
    affordable = max(MATRIX_SIDE, int(min(
        PAIRS / max(count, 1), PRODUCTS / max(count * place_map.manifest.dimension, 1))))
    queried = _spread(count, min(affordable, most_queries))
    tally = _Tally(count, len(queried))
    geometry = _Geometry(place_map, ids, radius_m, angle_rad)
    block = max(8, BLOCK_PAIRS // max(count, 1))
    for start in range(0, len(queried), block):
        rows = queried[start:start + block]
        # 1. similarities of these queries  2. kinds of pairs  3. count
        similarities = _similarities(place_map, ids, rows)
        kinds = geometry.kinds(rows)
        tally.add(start, rows, similarities, kinds, geometry)
        progress(start + len(rows), len(queried))
    return tally.result(ids, queried, radius_m, angle_rad)


def _spread(count: int, most: int) -> Int64:
    """At most `most` evenly spaced integers from 0 to count - 1."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).astype(np.int64))


def _similarities(place_map: PlaceMap, ids: Int64, rows: Int64) -> Float32:
    """Similarities (len(rows), N); -inf of a place with itself."""
    queries = place_map.centred(ids[rows])
    out = np.empty((len(rows), len(ids)), dtype=np.float32)
    for start in range(0, len(ids), COLUMNS):
        out[:, start:start + COLUMNS] = queries @ place_map.centred(ids[start:start + COLUMNS]).T
    out = np.nan_to_num(out, copy=False, nan=0.0)
    out[np.arange(len(rows)), rows] = -np.inf
    return out


class _Geometry:
    """Poses, times and passes of the places."""

    def __init__(
        self, place_map: PlaceMap, ids: Int64, radius_m: float, angle_rad: float
    ) -> None:
        T = place_map.T_map_cam[ids]
        self.positions = np.clip(T[:, :3, 3], -FARTHEST_M, FARTHEST_M)  # squares stay finite
        self._rotations = T[:, :3, :3].reshape(-1, 9).astype(np.float32)
        self._seconds = place_map.stamps_ns[ids] / 1e9
        numbers = {name: i for i, name in enumerate(dict.fromkeys(place_map.sources))}
        self._sources = np.array([numbers[place_map.sources[i]] for i in ids], dtype=np.int64)
        self.radius_m = radius_m
        self._least_cosine = np.cos(angle_rad) if angle_rad < np.pi else -np.inf

    def kinds(self, rows: Int64) -> dict[str, npt.NDArray[np.bool_]]:
        """Masks (len(rows), N) of pairs by kind; some pairs have no kind.

        `rival`, in addition to `KINDS`, is a far place of another pass.
        """
        squared = np.zeros((len(rows), len(self.positions)))
        for axis in range(3):
            step = self.positions[rows, axis][:, None] - self.positions[:, axis]
            squared += np.square(step, out=step)
        # The trace of R_i^T R_j is 1 + 2 cos(angle between them).
        turned = (self._rotations[rows] @ self._rotations.T - 1.0) / 2.0 < self._least_cosine
        here = (squared < self.radius_m ** 2) & ~turned
        here[np.arange(len(rows)), rows] = False
        same_pass = np.abs(self._seconds[rows][:, None] - self._seconds) < PASS_S
        same_pass &= self._sources[rows][:, None] == self._sources
        far = (squared > (2 * self.radius_m) ** 2) | turned
        return {'near': here & same_pass, 'again': here & ~same_pass, 'far': far,
                'rival': far & ~same_pass}


class _Tally:
    """Accumulator of the result, filled block by block."""

    def __init__(self, count: int, queries: int) -> None:
        self._neighbours = {kind: np.full((queries, k), -1, dtype=np.int64)
                            for kind, k in NEIGHBOURS.items()}
        self._similarities = {kind: np.full((queries, k), -np.inf, dtype=np.float32)
                              for kind, k in NEIGHBOURS.items()}
        self._rivals = np.full(queries, -np.inf, dtype=np.float32)
        self._all = {kind: np.zeros(BINS, dtype=np.int64) for kind in KINDS}
        self._bin_size = max(1, -(-count // MATRIX_SIDE))
        side = -(-count // self._bin_size)
        self._matrix = np.full((side, side), -np.inf, dtype=np.float32)
        self._pairs = np.zeros((side, side, 2), dtype=np.int64)

    def add(
        self, start: int, rows: Int64, similarities: Float32,
        kinds: dict[str, npt.NDArray[np.bool_]], geometry: _Geometry,
    ) -> None:
        """Add similarities (B, N) of the queries from `start` on; rows: their places."""
        bins = _bins(similarities)
        rivals = np.where(kinds['rival'], similarities, -np.inf)
        self._rivals[start:start + len(rows)] = rivals.max(axis=1, initial=-np.inf)
        for kind in KINDS:
            mask = kinds[kind]
            self._all[kind] += np.bincount(bins[mask], minlength=BINS)
            of_kind = np.where(mask, similarities, -np.inf)
            for offset, row in enumerate(of_kind):
                chosen = _best(row, kind, geometry)
                self._neighbours[kind][start + offset, :len(chosen)] = chosen
                self._similarities[kind][start + offset, :len(chosen)] = row[chosen]
        self._add_to_matrix(rows, similarities)

    def _add_to_matrix(self, rows: Int64, similarities: Float32) -> None:
        """Keep the largest similarity of each pair of bins and the two places."""
        side, size = len(self._matrix), self._bin_size
        padded = np.full((len(rows), side * size), -np.inf, dtype=np.float32)
        padded[:, :similarities.shape[1]] = similarities
        binned = padded.reshape(len(rows), side, size)
        columns = binned.argmax(axis=2)  # (B, S)
        largest = np.take_along_axis(binned, columns[..., None], axis=2)[..., 0]
        columns += np.arange(side) * size
        for row, values, cells in zip(rows, largest, columns, strict=True):
            line, pairs = self._matrix[row // size], self._pairs[row // size]
            better = values > line
            line[better] = values[better]
            pairs[better, 0] = row
            pairs[better, 1] = cells[better]

    def result(
        self, ids: Int64, queried: Int64, radius_m: float, angle_rad: float
    ) -> MapStudy:
        """Build the study; pairs compared in one direction are made symmetric."""
        better = self._matrix < self._matrix.T
        matrix = np.where(better, self._matrix.T, self._matrix)
        pairs = np.where(better[..., None], self._pairs.transpose(1, 0, 2)[..., ::-1], self._pairs)
        best = {kind: values[:, 0] for kind, values in self._similarities.items()}
        best['rival'] = self._rivals
        return MapStudy(
            ids=ids, queried=queried, radius_m=radius_m, angle_rad=angle_rad,
            neighbours=self._neighbours, similarities=self._similarities,
            best=best,
            bin_size=self._bin_size, matrix=np.where(np.isfinite(matrix), matrix, np.nan),
            matrix_pairs=pairs, all_pairs=self._all,
            best_pairs={kind: np.bincount(_bins(values[np.isfinite(values)]), minlength=BINS)
                        for kind, values in best.items()})


def _best(row: Float32, kind: str, geometry: _Geometry) -> Int64:
    """The most similar keyframes of a row, best first; those of kind `far` at distinct places."""
    wanted = NEIGHBOURS[kind]
    most = min(FAR_CANDIDATES if kind == 'far' else wanted, len(row))
    found = np.argpartition(row, len(row) - most)[len(row) - most:]
    found = found[np.argsort(-row[found], kind='stable')]
    found = found[np.isfinite(row[found])]
    if kind != 'far':
        return np.asarray(found, dtype=np.int64)
    chosen: list[int] = []
    for candidate in found:
        steps = geometry.positions[chosen] - geometry.positions[candidate]
        if not (np.square(steps).sum(axis=1) < (2 * geometry.radius_m) ** 2).any():
            chosen.append(int(candidate))
        if len(chosen) == wanted:
            break
    return np.array(chosen, dtype=np.int64)


def _bins(similarities: Float32) -> npt.NDArray[np.int16]:
    """Bin of each similarity; -inf falls into the first bin, which is not counted."""
    scaled = np.clip((similarities + 1.0) * (BINS / 2), 0, BINS - 1)
    return np.asarray(scaled, dtype=np.int16)
