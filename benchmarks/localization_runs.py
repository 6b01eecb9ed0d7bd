"""Runs the localizer on drives of images with stored descriptors, and collects the results."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

from benchmarks.town_drives import TownDrive
from benchmarks.town_features import Described
from regvpr_core.evaluation.localization_metrics import (
    fix_figures,
    FixFigures,
    frames_to_fix,
    nees_figures,
    NeesFigures,
)
from regvpr_core.evaluation.retrieval_metrics import precision_recall
from regvpr_core.geometry import distance, inverse
from regvpr_core.localization.frames import Description, Frame
from regvpr_core.localization.localizer import Localizer, LocalizerConfig, State
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder
from regvpr_core.verification.verification import VerificationConfig

RIGHT_M, RIGHT_RAD = 5.0, np.pi / 4
"""A fix is correct if its keyframe and its position are within this of the truth."""

SEGMENTS, STRIDE = 10, 3
"""A kidnapped lap is cut into this number of pieces, which are driven in steps of `STRIDE`. Each
seam is a kidnapping."""

BUDGET_S = 10.0
"""Time budget of verification, s; so long that a busy machine does not change the results."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ride:
    """Images of a drive in order.

    numbers: (F,) indices of the images in `made`. T_map_base: (F, 4, 4) truth. on_map: whether the
    map contains these streets. T_odom_base: (F, 4, 4), None without odometry. jumps: index of the
    first image after each kidnapping.
    """

    name: str
    made: Described
    numbers: np.ndarray
    stamps_ns: np.ndarray
    T_map_base: np.ndarray
    T_base_cam: np.ndarray
    T_odom_base: np.ndarray | None
    on_map: bool = True
    jumps: tuple[int, ...] = ()
    size: tuple[int, int] = (240, 320)

    def __len__(self) -> int:
        return len(self.numbers)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Track:
    """Result of a drive.

    fixed, right: (F,) whether there was a fix, and whether it was correct. errors: (P, 6) and
    widths: (P, 6, 6) errors and covariances of the correct fixes. verified: (P,) whether local
    features gave the pose. keyframes: (F,) of the fixes, -1 without a fix.
    """

    sequence: Ride
    fixed: np.ndarray
    right: np.ndarray
    errors: np.ndarray = field(default_factory=lambda: np.zeros((0, 6)))
    widths: np.ndarray = field(default_factory=lambda: np.zeros((0, 6, 6)))
    verified: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    reasons: tuple[str, ...] = ()
    keyframes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    @property
    def false(self) -> int:
        """Number of fixes at a wrong place."""
        return int((self.fixed & ~self.right).sum())

    def figures(self) -> FixFigures:
        """Precision, recall, time to the first fix, false fixes per kilometre."""
        steps = np.diff(self.sequence.T_map_base[:, :3, 3], axis=0)
        metres = np.linalg.norm(steps, axis=1)
        way_m = float(np.delete(metres, [j - 1 for j in self.sequence.jumps]).sum())
        return fix_figures(self.sequence.stamps_ns, self.fixed, self.right, way_m)

    def recoveries(self) -> list[int | None]:
        """Number of images from each kidnapping to the first correct fix.

        None if there was none before the next kidnapping. A fix at the place from which the robot
        was carried away is false.
        """
        ends = [*self.sequence.jumps[1:], len(self.fixed)][:len(self.sequence.jumps)]
        return [frames_to_fix(self.fixed[:end], self.right[:end], start)
                for start, end in zip(self.sequence.jumps, ends, strict=True)]


def along(lap: TownDrive, made: Described, on_map: bool = True) -> Ride:
    """A lap as it was driven."""
    return Ride(name=lap.name, made=made, numbers=np.arange(len(lap)),
                     stamps_ns=lap.stamps_ns, T_map_base=lap.T_map_base,
                     T_base_cam=lap.T_base_cam, T_odom_base=lap.T_odom_base, on_map=on_map)


def kidnapped(lap: TownDrive, made: Described) -> Ride:
    """A lap in pieces out of order; odometry does not contain the kidnappings."""
    pieces = np.array_split(np.arange(len(lap)), SEGMENTS)
    numbers = np.concatenate([pieces[STRIDE * k % SEGMENTS] for k in range(SEGMENTS)])
    jumps = np.flatnonzero(np.diff(numbers) != 1) + 1
    steps = inverse(lap.T_odom_base[:-1]) @ lap.T_odom_base[1:]
    odometry = [np.eye(4)]
    for frame in range(1, len(numbers)):
        # At a seam the last odometry step is repeated, as if the wheels kept turning.
        at = numbers[frame - 1] if frame not in jumps else max(numbers[frame - 1] - 1, 0)
        odometry.append(odometry[-1] @ steps[at])
    return Ride(name=f'{lap.name}-kidnapped', made=made, numbers=numbers,
                     stamps_ns=lap.stamps_ns[:len(numbers)], T_map_base=lap.T_map_base[numbers],
                     T_base_cam=lap.T_base_cam, T_odom_base=np.array(odometry),
                     jumps=tuple(int(j) for j in jumps))


def follow(
    encoder: Encoder, place_map: PlaceMap, sequence: Ride, kind: str = 'none',
    config: LocalizerConfig | None = None,
) -> Track:
    """Localize a drive on a map. kind: of the verification."""
    config = config or LocalizerConfig(
        verification=VerificationConfig(kind=kind, budget_s=BUDGET_S))
    localizer = Localizer(encoder, place_map, config)
    blank = np.zeros((*sequence.size, 3), np.uint8)
    fixed, right = np.zeros(len(sequence), bool), np.zeros(len(sequence), bool)
    errors, widths, verified, reasons = [], [], [], []
    keyframes = np.full(len(sequence), -1, np.int64)
    for frame, number in enumerate(sequence.numbers):
        view = Frame(stamp_ns=int(sequence.stamps_ns[frame]), rgb=blank,
                     T_base_cam=sequence.T_base_cam)
        features = None if kind == 'none' else sequence.made.features(int(number))
        result = localizer.localize(
            Description(view, sequence.made.descriptors[number], features),
            None if sequence.T_odom_base is None else sequence.T_odom_base[frame])
        reasons.append(f'{result.state.name}: {result.reason}')
        if result.state is not State.LOCALIZED or result.pose_prior is None:
            continue
        fixed[frame] = True
        keyframes[frame] = result.matches[0].keyframe_id
        truth, prior = sequence.T_map_base[frame], result.pose_prior
        keyframe = place_map.T_map_cam[result.matches[0].keyframe_id]
        metres, radians = distance(keyframe, truth @ sequence.T_base_cam)
        step = truth[:3, 3] - prior.T_map_base[:3, 3]
        right[frame] = (sequence.on_map and metres <= RIGHT_M and radians <= RIGHT_RAD
                        and np.linalg.norm(step) <= RIGHT_M)
        if right[frame]:
            turn = Rotation.from_matrix(truth[:3, :3] @ prior.T_map_base[:3, :3].T).as_rotvec()
            errors.append(np.concatenate([step, turn]))
            widths.append(prior.covariance)
            verified.append(prior.verified)
    return Track(sequence=sequence, fixed=fixed, right=right,
                 errors=np.array(errors).reshape(-1, 6),
                 widths=np.array(widths).reshape(-1, 6, 6), verified=np.array(verified, bool),
                 reasons=tuple(reasons), keyframes=keyframes)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Raw:
    """Result of top-1 by cosine. similarity, right: (F,) of the best match of each image."""

    similarity: np.ndarray
    right: np.ndarray

    def recall_at(self, precision: float) -> float:
        """Largest recall of any threshold that reaches this precision on the same images."""
        if not len(self.right):
            return 0.0
        curve = precision_recall(self.similarity, self.right, len(self.right))
        return float(curve.recall[curve.precision >= precision].max(initial=0.0))


def top_one(place_map: PlaceMap, sequence: Ride) -> Raw:
    """The most similar keyframe of each image."""
    rows = place_map.descriptors(0, len(place_map))
    found = sequence.made.descriptors[sequence.numbers] @ rows.T
    best = found.argmax(axis=1)
    metres, radians = distance(place_map.T_map_cam[best],
                               sequence.T_map_base @ sequence.T_base_cam)
    right = (metres <= RIGHT_M) & (radians <= RIGHT_RAD) & sequence.on_map
    return Raw(similarity=found[np.arange(len(best)), best], right=np.asarray(right))


def pooled_nees(tracks: Sequence[Track], axes: slice) -> NeesFigures:
    """Consistency of the covariances of correct fixes with their errors, on these axes."""
    errors = np.concatenate([track.errors[:, axes] for track in tracks])
    widths = np.concatenate([track.widths[:, axes, axes] for track in tracks])
    return nees_figures(errors, widths)
