"""Which keyframes of a map and of a session recognise each other's places.

Each keyframe is a query to the others, as an image of a later drive will be. A keyframe recognises
the place of another one by as much as its cosine exceeds that of every keyframe elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

from regvpr_core.arrays import Float32, Ids, Mask
from regvpr_core.geometry import Array, rotation_angle
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.search.rows import unit

BLOCK = 256
MEAN_PRIOR = 5.0
"""Weight of the map's mean descriptor in the mean of a drive, in images, as in `Appearance`."""

MORE = 8
"""Number of keyframes searched beyond the near ones, so that at least one is elsewhere."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Definition of a place.

    Keyframes within `radius_m` whose directions differ by less than `angle_rad` show one place.
    It is recognised if its best keyframe exceeds every other place by `margin` in cosine.
    """

    radius_m: float
    angle_rad: float
    margin: float


@dataclass(slots=True, eq=False)
class Coverage:
    """Which views recognise which. V views: visited keyframes of the map, then of the session.

    map_ids: (V_m,) and session_ids: (V_s,), V = V_m + V_s. excess: (V, V) sparse, of two views of
    one place: cosine of the view of the column with that of the row, less the cosine of the best
    keyframe elsewhere; no entry where it is far below `margin`. known: (V_s,) the map contains the
    place. best: (V_s,) id of the map's best keyframe of the place, -1 if the map does not
    recognise it. positions: (V, 3) of the cameras in the map. margin: of `Place`.
    """

    map_ids: Ids
    session_ids: Ids
    excess: csr_matrix
    known: Mask
    best: Ids
    positions: Array
    margin: float

    @property
    def recognised(self) -> Mask:
        """Views of the session (V_s,) whose place the map recognises."""
        return np.asarray(self.best >= 0)

    @property
    def useful(self) -> Ids:
        """Ids of the map's keyframes that recognise a view of the session."""
        of_session = self.excess[len(self.map_ids):, :len(self.map_ids)]
        return np.asarray(self.map_ids[np.unique(of_session.indices[
            of_session.data > self.margin])])

    def within(self, metres: float) -> csr_matrix:
        """`excess` of the pairs of views up to this distance."""
        near = self.excess.tocoo()
        apart = np.linalg.norm(self.positions[near.row] - self.positions[near.col], axis=1)
        kept = apart <= metres
        return csr_matrix((near.data[kept], (near.row[kept], near.col[kept])),
                          shape=self.excess.shape)


def compare(place_map: PlaceMap, session: PlaceMap, T_map_cam: Array, reached: Mask,
            place: Place, progress: Progress = lambda done, total: None) -> Coverage:
    """Compare the keyframes of a session and the keyframes of the map that it passed.

    Args:
        place_map, session: open to be searched.
        T_map_cam: (M, 4, 4) poses of the session's keyframes in the map.
        reached: (M,) keyframes of the session whose poses are trusted.
        place: what one place is.
        progress: called with keyframes compared and in total.
    """
    in_session = np.flatnonzero(reached)
    T_session = T_map_cam[in_session]
    visited, known = _visited(place_map.T_map_cam, T_session, place)
    T = np.concatenate([place_map.T_map_cam[visited], T_session])
    near_map = cKDTree(place_map.T_map_cam[:, :3, 3])
    near_session = cKDTree(T_session[:, :3, 3]) if len(T_session) else None
    view_of = np.full(len(place_map), -1)
    view_of[visited] = np.arange(len(visited))
    means = _drive_means(place_map)
    session_mean = _mean(session, np.arange(len(session)), place_map.centre)
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    best = np.full(len(in_session), -1)
    for view in range(len(T)):
        own = view - len(visited)
        if own < 0:
            number = int(visited[view])
            row, mean = place_map.descriptors(number, number + 1)[0], means[
                place_map.sources[number]]
        else:
            number = int(in_session[own])
            row, mean = session.descriptors(number, number + 1)[0], session_mean
        query = _unit(row - mean)
        ids = np.array(near_map.query_ball_point(T[view, :3, 3], 2.0 * place.radius_m),
                       dtype=np.int64)
        here = _of_place(T[view], place_map.T_map_cam, ids, place)
        rival = _rival(place_map, row, mean, ids)
        similar = place_map.centred(here) @ query if len(here) else np.zeros(0, np.float32)
        others, of_others = np.zeros(0, np.int64), np.zeros(0, np.float32)
        if near_session is not None:
            close = np.array(near_session.query_ball_point(T[view, :3, 3], 2.0 * place.radius_m),
                             dtype=np.int64)
            others = _of_place(T[view], T_session, close, place)
            rival = max(rival, _rival(session, row, mean, in_session[close]))
            of_others = unit(session.descriptors_of(in_session[others]) - place_map.centre) \
                @ query if len(others) else of_others
        stands = np.concatenate([view_of[here], len(visited) + others])
        excess = np.concatenate([similar, of_others]) - rival
        wanted = (excess > -place.margin) & (stands != view) & (stands >= 0)
        rows += [view] * int(wanted.sum())
        columns += stands[wanted].tolist()
        values += excess[wanted].tolist()
        if own >= 0 and len(here) and similar.max() - rival > place.margin:
            best[own] = here[similar.argmax()]
        if view % BLOCK == BLOCK - 1:
            progress(view + 1, len(T))
    excess = csr_matrix((values, (rows, columns)), shape=(len(T), len(T)))
    return Coverage(map_ids=visited, session_ids=in_session, excess=excess, known=known,
                    best=best, positions=T[:, :3, 3], margin=place.margin)


def _visited(T_map: Array, T_session: Array, place: Place) -> tuple[Ids, Mask]:
    """Ids of the map's keyframes at places of the session, and a mask of the session's keyframes.

    The mask is True where the map has a keyframe at the same place.
    """
    known = np.zeros(len(T_session), dtype=bool)
    visited = np.zeros(len(T_map), dtype=bool)
    tree = cKDTree(T_map[:, :3, 3])
    for i, T in enumerate(T_session):
        ids = np.array(tree.query_ball_point(T[:3, 3], place.radius_m), dtype=np.int64)
        here = _of_place(T, T_map, ids, place)
        visited[here] = True
        known[i] = len(here) > 0
    return np.flatnonzero(visited), known


def _of_place(T: Array, T_others: Array, ids: Ids, place: Place) -> Ids:
    """Those of `ids` that show the place of the pose (4, 4)."""
    if not len(ids):
        return ids
    apart = np.linalg.norm(T_others[ids, :3, 3] - T[:3, 3], axis=1)
    turned = rotation_angle(T[:3, :3].T @ T_others[ids, :3, :3])
    return np.asarray(ids[(apart < place.radius_m) & (turned < place.angle_rad)])


def _rival(searched: PlaceMap, row: Float32, mean: Float32, near: Ids) -> float:
    """Cosine of the best keyframe that is not near; -1 if there is none."""
    similarities, ids = searched.search(row, len(near) + MORE, mean)
    away = ~np.isin(ids, near)
    return float(similarities[away].max()) if away.any() else -1.0


def _drive_means(place_map: PlaceMap) -> dict[str, Float32]:
    """Mean descriptor (D,) of each source of a map."""
    sources = np.array(place_map.sources)
    return {source: _mean(place_map, np.flatnonzero(sources == source), place_map.centre)
            for source in set(place_map.sources)}


def _mean(of: PlaceMap, ids: Ids, centre: Float32) -> Float32:
    """Mean descriptor (D,) of keyframes; if they are few, close to that of the map."""
    total = MEAN_PRIOR * centre.astype(np.float64)
    for start in range(0, len(ids), BLOCK):
        total += of.descriptors_of(ids[start:start + BLOCK]).sum(axis=0, dtype=np.float64)
    return np.asarray(total / (MEAN_PRIOR + len(ids)), dtype=np.float32)


def _unit(row: Float32) -> Float32:
    return row / max(float(np.linalg.norm(row)), 1e-12)
