"""What to expect of a new map: a part of its own drive is held out and localized in the rest."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
import tempfile

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from regvpr_core.arrays import Mask
from regvpr_core.geometry import Array, rotation_angle
from regvpr_core.localization.belief import BeliefConfig, place_radius
from regvpr_core.localization.frames import Description, Frame
from regvpr_core.localization.localizer import Localizer
from regvpr_core.localization.stored_calibration import calibrate_and_store
from regvpr_core.map_report.study import study
from regvpr_core.map_tools.prune import prune_map, PruneReport
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder

LEAST_KEYFRAMES = 12
"""A smaller map says nothing about itself."""

AGAIN_SHARE = 0.15
"""Share of keyframes at places mapped before, from which on a return is what is held out."""

APART_RADII = 10.0
"""Between two passes of a place lie so many radii of the way."""

OPPOSITE_RAD = 2.0
"""Beyond this angle two views of a place are of different directions."""

NO_IMAGE = np.zeros((1, 1, 3), dtype=np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a held-out part of the drive says of a map.

    how: which part was held out. queries, references: images of either side. radius_m: right is
    nearer than this. recall_at_1: share of queries whose most similar reference is right.
    localized: share of queries that gave a pose. precision: share of these poses that are right,
    None where there is none. error_m: median error of the right ones. look_alike, compared: places
    that resemble one elsewhere more than their own neighbours, of so many. one_way: share of
    places seen from one direction only.
    """

    how: str
    queries: int
    references: int
    radius_m: float
    recall_at_1: float
    localized: float
    precision: float | None
    error_m: float | None
    look_alike: int
    compared: int
    one_way: float


def expect(
    path: Path, encoder: Encoder, *, odometry: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Expectation | None:
    """Hold out a part of a map, localize it in the rest and say what came of it.

    Where the drive passes places again, later passes are held out. Else every second keyframe is:
    then the rest is half as dense as the map, but the light and the traffic are the same.

    Args:
        path: the map.
        encoder: of its model.
        odometry: whether the images are one drive with the motion of its poses, as in a robot;
            else each is localized alone.
        progress: told queries done and in all.

    Returns:
        None where the map has fewer than `LEAST_KEYFRAMES` of one camera.
    """
    config = BeliefConfig()
    with PlaceMap.open(path) as place_map:
        radius_m = place_radius(place_map.T_map_cam, config, place_map.drives)
        queries, how = _held_out(place_map, radius_m, config.place_angle_rad)
        if queries is None:
            return None
        compared = study(place_map, radius_m, config.place_angle_rad)
        with tempfile.TemporaryDirectory(prefix='regvpr-expect-') as folder:
            rest = Path(folder) / 'map'
            prune_map(place_map, PruneReport(
                ambiguous=queries, dense=np.zeros(len(place_map), dtype=bool)), rest)
            calibrate_and_store(rest)
            with PlaceMap.open(rest) as references:
                found, errors = _localize(place_map, np.flatnonzero(queries), references, encoder,
                                          odometry, progress)
        poses = errors[~np.isnan(errors)]
        right = poses <= radius_m
        return Expectation(
            how=how, queries=int(queries.sum()), references=int((~queries).sum()),
            radius_m=round(radius_m, 2), recall_at_1=float((found <= radius_m).mean()),
            localized=len(poses) / len(errors),
            precision=float(right.mean()) if len(poses) else None,
            error_m=float(np.median(poses[right])) if right.any() else None,
            look_alike=int(compared.mistaken.sum()), compared=len(compared.queried),
            one_way=_one_way(place_map.T_map_cam, radius_m))


def _held_out(place_map: PlaceMap, radius_m: float, angle_rad: float) -> tuple[Mask | None, str]:
    """Keyframes (N,) to ask with, of the camera that has most of them, and why these."""
    cameras = np.array(place_map.cameras)
    names, counts = np.unique(cameras, return_counts=True)
    if not len(counts) or counts.max() < LEAST_KEYFRAMES:
        return None, ''
    mine = np.flatnonzero(cameras == names[counts.argmax()])
    mine = mine[np.argsort(place_map.stamps_ns[mine], kind='stable')]
    T = place_map.T_map_cam[mine]
    steps = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
    way_m = np.concatenate([[0.0], np.cumsum(steps)])
    again = np.zeros(len(mine), dtype=bool)
    for i, near in enumerate(cKDTree(T[:, :3, 3]).query_ball_point(T[:, :3, 3], radius_m)):
        before = np.array(near)[way_m[near] < way_m[i] - APART_RADII * radius_m]
        again[i] = len(before) and bool(
            (rotation_angle(T[i, :3, :3].T @ T[before, :3, :3]) < angle_rad).any())
    mask = np.zeros(len(place_map), dtype=bool)
    if again.mean() >= AGAIN_SHARE and (~again).sum() >= LEAST_KEYFRAMES // 2:
        mask[mine[again]] = True
        return mask, 'on later passes of mapped places, localized in the earlier ones'
    mask[mine[1::2]] = True
    return mask, 'every second one, localized in the others: same drive and light'


def _localize(
    place_map: PlaceMap, queries: npt.NDArray[np.int64], references: PlaceMap, encoder: Encoder,
    odometry: bool, progress: Callable[[int, int], None],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Distance (Q,) to the most similar reference, and error (Q,) of the pose, NaN: none; m."""
    order = queries[np.argsort(place_map.stamps_ns[queries], kind='stable')]
    localizer = Localizer(encoder, references)
    nearest, errors = np.full(len(order), np.inf), np.full(len(order), np.nan)
    for number, i in enumerate(order):
        T = place_map.T_map_cam[i]
        frame = Frame(stamp_ns=int(place_map.stamps_ns[i]), rgb=NO_IMAGE)
        descriptor = place_map.descriptors(int(i), int(i) + 1)[0]
        _, ids = references.search(descriptor, 1)
        nearest[number] = _metres(T, references.T_map_cam[ids[0]])
        view = Description(frame, descriptor)
        # Without odometry images are asked one by one, as `regvpr localize` asks them.
        said = localizer.localize(view, T) if odometry else localizer.localize_image(view)
        if said.pose_prior is not None:
            errors[number] = _metres(T, said.pose_prior.T_map_base)
        progress(number + 1, len(order))
    return nearest, errors


def _metres(T_a: Array, T_b: Array) -> float:
    return float(np.linalg.norm(T_a[:3, 3] - T_b[:3, 3]))


def _one_way(T_map_cam: Array, radius_m: float) -> float:
    """Share of keyframes (N, 4, 4) that have no other near them which looks the opposite way."""
    near = cKDTree(T_map_cam[:, :3, 3]).query_ball_point(T_map_cam[:, :3, 3], radius_m)
    both = [bool((rotation_angle(T_map_cam[i, :3, :3].T @ T_map_cam[others, :3, :3])
                  > OPPOSITE_RAD).any()) for i, others in enumerate(near)]
    return 1.0 - float(np.mean(both))
