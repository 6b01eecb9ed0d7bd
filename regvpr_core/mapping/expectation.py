"""Expected quality of a new map: a part of its own drive is localized in the rest."""

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
from regvpr_core.localization.localizer import image_config, Localizer
from regvpr_core.localization.one_image import Answer
from regvpr_core.localization.stored_calibration import calibrate_and_store
from regvpr_core.map_report.seen import bits, places, seen
from regvpr_core.map_report.study import study
from regvpr_core.map_tools.prune import prune_map, PruneReport
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder
from regvpr_core.verification.verification import stored_features

LEAST_KEYFRAMES = 12
"""Least number of keyframes of a map for this test."""

AGAIN_SHARE = 0.15
"""Least share of keyframes at revisited places, for which later passes are held out."""

APART_RADII = 10.0
"""Least distance driven between two passes of a place, in radii of a place."""

NO_IMAGE = np.zeros((1, 1, 3), dtype=np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """Result of localizing a held-out part of the drive.

    how: which part was held out. queries, references: their numbers. radius_m: largest distance
    of a correct match or pose. recall_at_1: share of queries whose best match is correct.
    localized: share of queries with a pose. precision: share of these poses that are correct,
    None without poses. unsure: share of queries, localized alone, that name a place without a
    pose. unsure_right: share of these that are correct, None without any. error_m: median error
    of the correct poses. look_alike: number of places that resemble another place more than their
    own neighbours, among `compared` places. one_way: share of places seen from one direction only.
    """

    how: str
    queries: int
    references: int
    radius_m: float
    recall_at_1: float
    localized: float
    precision: float | None
    unsure: float
    unsure_right: float | None
    error_m: float | None
    look_alike: int
    compared: int
    one_way: float


def expect(
    path: Path, encoder: Encoder, *, odometry: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Expectation | None:
    """Hold out a part of a map and localize it in the rest.

    If the drive revisits places, later passes are held out, else every second keyframe. In the
    latter case the rest is half as dense as the map, but light and traffic are the same.

    Args:
        path: the map.
        encoder: of its model.
        odometry: True: the images are one drive, and its poses serve as odometry; False: each
            image is localized alone.
        progress: called with queries done and in total.

    Returns:
        None if the map has fewer than `LEAST_KEYFRAMES` of one camera.
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
                found, errors, unsure = _localize(
                    place_map, np.flatnonzero(queries), references, encoder, odometry, progress)
        poses = errors[~np.isnan(errors)]
        right = poses <= radius_m
        return Expectation(
            how=how, queries=int(queries.sum()), references=int((~queries).sum()),
            radius_m=round(radius_m, 2), recall_at_1=float((found <= radius_m).mean()),
            localized=len(poses) / len(errors),
            precision=float(right.mean()) if len(poses) else None,
            unsure=float(unsure.mean()),
            unsure_right=float((found[unsure] <= radius_m).mean()) if unsure.any() else None,
            error_m=float(np.median(poses[right])) if right.any() else None,
            look_alike=int(compared.mistaken.sum()), compared=len(compared.queried),
            one_way=_one_way(place_map, radius_m, config.place_angle_rad))


def _held_out(place_map: PlaceMap, radius_m: float, angle_rad: float) -> tuple[Mask | None, str]:
    """Mask (N,) of query keyframes of one camera, and a description of their choice."""
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
    return mask, ('every second one, localized in the others, which are half as dense as the map: '
                  'same drive and light')


def _localize(
    place_map: PlaceMap, queries: npt.NDArray[np.int64], references: PlaceMap, encoder: Encoder,
    odometry: bool, progress: Callable[[int, int], None],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Mask]:
    """Distance to the most similar reference, pose error and whether the answer is unsure.

    Each (Q,); lengths in m. The error is NaN without a pose.
    """
    order = queries[np.argsort(place_map.stamps_ns[queries], kind='stable')]
    localizer = Localizer(encoder, references, None if odometry else image_config(references))
    nearest, errors = np.full(len(order), np.inf), np.full(len(order), np.nan)
    unsure = np.zeros(len(order), dtype=bool)
    for number, i in enumerate(order):
        T = place_map.T_map_cam[i]
        frame = Frame(stamp_ns=int(place_map.stamps_ns[i]), rgb=NO_IMAGE)
        descriptor = place_map.descriptors(int(i), int(i) + 1)[0]
        _, ids = references.search(descriptor, 1)
        nearest[number] = _metres(T, references.T_map_cam[ids[0]])
        view = Description(
            frame, descriptor, None if odometry else stored_features(place_map, int(i)))
        # Without odometry each image is localized alone, as `regvpr localize` does.
        if odometry:
            prior = localizer.localize(view, T).pose_prior
        else:
            alone = localizer.localize_image(view)
            prior, unsure[number] = alone.pose_prior, alone.answer is Answer.UNSURE
        if prior is not None:
            errors[number] = _metres(T, prior.T_map_base)
        progress(number + 1, len(order))
    return nearest, errors, unsure


def _metres(T_a: Array, T_b: Array) -> float:
    return float(np.linalg.norm(T_a[:3, 3] - T_b[:3, 3]))


def _one_way(place_map: PlaceMap, radius_m: float, angle_rad: float) -> float:
    """Share of the places of a map that were seen in one direction only."""
    found = seen(place_map, places(place_map, radius_m), radius_m, angle_rad)
    return float((bits(found.directions) == 1).mean())
