"""Removal of ambiguous or redundant keyframes from a map."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from regvpr_core.arrays import Mask
from regvpr_core.config import check_range, check_settings, setting
from regvpr_core.errors import MapError
from regvpr_core.geometry import rotation_angle
from regvpr_core.maps.files import map_bytes, new_folder, new_map_id
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter

BLOCK = 256
NEIGHBOURS = 24
"""Largest number of nearby keyframes that are compared as the same place."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneConfig:
    """Rules of pruning."""

    distance_m: float = setting(
        0.0,
        'Drop a keyframe within this distance and `rotation_rad` of one that is kept, of the '
        'same camera and source; 0 drops none.', 0.0, 1000.0, unit='m')
    rotation_rad: float = setting(
        0.5, 'Largest angle between two keyframes that show the same.', 0.0, 3.2, unit='rad')
    ambiguous: bool = setting(
        False,
        'Drop keyframes whose most similar keyframe beyond `far_m` is at least as similar as the '
        'median of those within `near_m` and `rotation_rad`.')
    near_m: float = setting(
        5.0, 'Keyframes within this distance show the same place.', 0.1, 1000.0, unit='m')
    far_m: float = setting(
        25.0, 'Keyframes beyond this distance, at least `near_m`, show another place.',
        0.1, 10000.0, unit='m')
    margin: float = setting(
        0.0, 'Added to the similarity of the far keyframe; larger values drop more.', -1.0, 1.0)
    candidates: int = setting(100, 'Keyframes searched for each keyframe.', 2, 10000)

    def __post_init__(self) -> None:
        check_settings(self)
        check_range('far_m', self.far_m, self.near_m, 10_000.0)


@dataclass(slots=True, kw_only=True, eq=False)
class PruneReport:
    """Keyframes to remove, by reason, as masks (N,). unjudged: keyframes without a neighbour.
    """

    ambiguous: Mask
    dense: Mask
    unjudged: int = 0
    size_bytes: int = 0

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """Ids of the keyframes to keep."""
        return np.flatnonzero(~(self.ambiguous | self.dense))


def choose(place_map: PlaceMap, config: PruneConfig,
           progress: Progress = lambda done, total: None) -> PruneReport:
    """Select keyframes to remove; nothing is written.

    Args:
        place_map: with a search index if `config.ambiguous` is set.
        config: rules of pruning.
        progress: called with keyframes compared and in total.
    """
    nobody = np.zeros(len(place_map), dtype=bool)
    report = PruneReport(ambiguous=nobody, dense=nobody.copy())
    if config.ambiguous:
        report.ambiguous, report.unjudged = _ambiguous(place_map, config, progress)
    if config.distance_m:
        # Ambiguous keyframes do not make others redundant.
        report.dense = _dense(place_map, config, ~report.ambiguous)
    return report


def prune_map(place_map: PlaceMap, report: PruneReport, out: Path) -> None:
    """Write the keyframes that `choose` keeps to a new map; ids are renumbered.

    Raises:
        MapError: no keyframe is left, one is damaged, or `out` exists or cannot be written.
    """
    ids = report.kept
    if not len(ids):
        raise MapError(f'no keyframe of {place_map.path} would be left; drop less')
    manifest = replace(place_map.manifest, map_id=new_map_id())
    with new_folder(out) as folder, MapWriter.create(folder, manifest) as writer:
        for start in range(0, len(ids), BLOCK):
            writer.append(list(place_map.keyframes(ids[start:start + BLOCK])))
        projection = place_map.attachment('pca')
        if projection is not None:
            writer.attach('pca', projection)
    report.size_bytes = map_bytes(out)


def _ambiguous(place_map: PlaceMap, config: PruneConfig, progress: Progress) -> tuple[Mask, int]:
    positions, R = place_map.T_map_cam[:, :3, 3], place_map.T_map_cam[:, :3, :3]
    tree = cKDTree(positions)
    drop, unjudged = np.zeros(len(place_map), dtype=bool), 0
    for i in range(len(place_map)):
        own = np.array([j for j in _nearest(tree, positions[i], config.near_m) if j != i],
                       dtype=np.int64)
        # A keyframe with another heading shows another view and is not compared.
        own = own[rotation_angle(R[i].T @ R[own]) < config.rotation_rad] if len(own) else own
        if not len(own):
            unjudged += 1
            continue
        row = place_map.descriptors(i, i + 1)[0]
        similarities, ids = place_map.search(row, config.candidates)
        far = np.linalg.norm(positions[ids] - positions[i], axis=1) > config.far_m
        if far.any():
            middle = np.median(place_map.centred(own) @ place_map.centred(np.array([i]))[0])
            drop[i] = similarities[far].max() + config.margin >= middle
        if i % BLOCK == BLOCK - 1:
            progress(i + 1, len(place_map))
    return drop, unjudged


def _nearest(tree: cKDTree, position: npt.NDArray[np.float64], radius_m: float) -> list[int]:
    distances, ids = tree.query(position, k=min(NEIGHBOURS + 1, tree.n),
                                distance_upper_bound=radius_m)
    return [int(i) for i, d in zip(np.atleast_1d(ids), np.atleast_1d(distances), strict=True)
            if np.isfinite(d)]


def _dense(place_map: PlaceMap, config: PruneConfig, wanted: Mask) -> Mask:
    """Greedy thinning: remove keyframes too close to an earlier kept one."""
    drop = np.zeros(len(place_map), dtype=bool)
    T = place_map.T_map_cam
    groups: dict[tuple[str, str], list[int]] = {}
    for i in np.flatnonzero(wanted):
        groups.setdefault((place_map.cameras[i], place_map.sources[i]), []).append(int(i))
    for members in groups.values():
        ids = np.array(members)
        tree = cKDTree(T[ids, :3, 3])
        open_ = np.ones(len(ids), dtype=bool)
        for k in range(len(ids)):
            if not open_[k]:
                continue
            near = np.array(tree.query_ball_point(T[ids[k], :3, 3], config.distance_m))
            near = near[(near > k) & open_[near]]
            apart = np.linalg.norm(T[ids[near], :3, 3] - T[ids[k], :3, 3], axis=1)
            turned = rotation_angle(T[ids[k], :3, :3].T @ T[ids[near], :3, :3])
            open_[near[(apart < config.distance_m) & (turned < config.rotation_rad)]] = False
        drop[ids[~open_]] = True
    return drop
