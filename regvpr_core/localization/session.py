"""Loop closures of a running session: the robot returns to its own keyframes.

A false closure distorts a whole map and a missed one costs little, so one image is never enough.
The previous images must match, along odometry, the keyframes before the reference (after Milford
and Wyeth, SeqSLAM, ICRA 2012; here the reference may have been driven at any speed). The
distribution of scores of unrelated sequences is learnt from the session itself, from the best
sequence of each image at any other place.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
import math
from pathlib import Path
from typing import Any, cast

import numpy as np

from regvpr_core.arrays import Float32, Float64, Ids
from regvpr_core.config import check_settings, setting
from regvpr_core.errors import ImageError
from regvpr_core.geometry import Array, inverse, rotation_angle
from regvpr_core.localization.calibration import same_place, SAMPLE, scores, stand_out
from regvpr_core.localization.frames import Description, Frame
from regvpr_core.localization.model_evidence import model_evidence
from regvpr_core.localization.odometry import Odometry, Order
from regvpr_core.localization.one_image import with_evidence
from regvpr_core.localization.pose_prior import of_verified, PosePriorConfig, relative_to
from regvpr_core.localization.session_store import SessionStore
from regvpr_core.maps.keyframes import KeyframeConfig
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder
from regvpr_core.verification.local_extractor import LocalExtractor
from regvpr_core.verification.verification import (
    Verification,
    VerificationConfig,
    Verifier,
)

CANDIDATES = 24
TOP_SCORE = 8.0
"""Upper limit of an image's score, so that no single image decides about a sequence."""

PLACE_RAD = 0.7
WINDOW_KEYFRAMES = 24
"""References of a sequence are searched among this many keyframes before and after."""

SPEEDS = (0.5, 0.75, 1.0, 1.4, 2.0)
"""Speeds without odometry, in references per keyframe of the sequence. Set on rtabmap_samples,
whose recall at precision 1 rises from 0.84 to 0.98."""

DRIFT_M, DRIFT_SHARE = 2.0, 0.1
"""Largest distance of references from the poses by odometry: a constant, m, and a share of the
distance driven."""

UNRELATED = (2.1, 0.65, 20.0)
"""Prior of the scores of unrelated sequences: median, spread, and its weight in images. Learnt
in the rendered town (`examples.town`, seed 7)."""

ODDS = (-4.3, 1.2, 0.2)
"""Log odds of a true closure: intercept, weight of the score and weight of the margin, both in
spreads of unrelated scores. By logistic regression in the rendered town (seed 7): a lap by day,
then one in rain, at dusk or through other streets."""

LEAST_LEVEL, LEAST_LEVEL_ODOMETRY = 0.9, 0.7
"""Least mean similarity of a sequence to its references, as a share of the median similarity of
successive keyframes, without and with odometry. A look-alike corridor reaches 0.88 (multi_floor),
a return to the same place 1.6 and more (rtabmap_samples), on another day 0.6 to 0.9
(campus_track). With odometry the motion tells most look-alikes, and 0.9 would miss nearly all
closures of another day."""

CLOSURE_ABOVE = 1.2
"""With odometry, the least score of a closure above the offset of the model, at which a tenth of
look-alikes pass: a wrong closure is worse than missed ones, and `LEAST_LEVEL_ODOMETRY` is low. Set
on multi_floor, whose floors lie above each other, and campus_track: 5 wrong closures in 1,800
images instead of 10, and one right closure of 111 on another day is missed."""

LEVEL_SAMPLE = 128
"""Keyframes all over the session that the score of a closure is compared with."""

MOST_BY_SEQUENCE = 0.999
"""Largest probability of a sequence alone, if local features are compared: those that clearly
disagree stop a closure of the default `accept_probability`. Set by hand."""

SPREAD_FLOOR = 0.3
MEMORY = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionConfig:
    """Settings of loop closing."""

    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    still_cosine: float = setting(
        0.9,
        'Without odometry, an image becomes a keyframe when its similarity to the last keyframe '
        'is below this.', 0.0, 1.0)
    exclude_s: float = setting(
        30.0, 'Keyframes younger than this are not matched.', 0.0, 3600.0, unit='s')
    exclude_m: float = setting(
        20.0, 'Keyframes less than this way back are not matched.', 0.0, 1000.0, unit='m')
    sequence: int = setting(8, 'Successive keyframes that must agree on a closure.', 1, 20)
    accept_probability: float = setting(0.99, 'Least probability of a closure.', 0.5, 1.0)
    place_m: float = setting(
        5.0,
        'A further closure is reported when its reference is this far from the last one; 0 '
        'reports each.', 0.0, 1000.0, unit='m')
    speed_limit_mps: float = setting(
        60.0, 'Odometry that moves faster has restarted or jumped.', 0.1, 1000.0, unit='m/s')
    max_keyframes: int = setting(
        20_000, 'Keyframes kept in memory; redundant ones are deleted first.', 100, 10**6)
    verification: VerificationConfig = field(default_factory=VerificationConfig)
    pose_prior: PosePriorConfig = field(default_factory=PosePriorConfig)

    def __post_init__(self) -> None:
        check_settings(self, 'session')


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoopClosure:
    """Two images of one session that show one place.

    query_id, reference_id: keyframe numbers of the session, in the order of time; the query is
        the newest keyframe. similarity: whitened cosine of the two. probability: of being true.
    T_reference_query: (4, 4) pose of the query's camera relative to the reference's, if local
        features determine it, else None. covariance: (6, 6) of it: x, y, z (m^2) and
        rotations about the reference camera's axes (rad^2).
    """

    query_stamp_ns: int
    reference_stamp_ns: int
    query_id: int
    reference_id: int
    similarity: float
    probability: float
    T_reference_query: Array | None = None
    covariance: Array | None = None
    verification: Verification | None = None

    @property
    def relative_pose_valid(self) -> bool:
        """Whether `T_reference_query` is known."""
        return self.T_reference_query is not None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Hypothesis:
    """The best sequence of the newest keyframe, accepted or not."""

    query_id: int
    reference_id: int
    similarity: float
    score: float
    margin: float
    probability: float


@dataclass(frozen=True, slots=True, eq=False)
class _Query:
    """A keyframe of the running sequence.

    along_m: distance driven until it. ids, scores: keyframes it was compared with, by time.
    centred: (D,) unit, less the mean of the session.
    """

    T_odom_cam: Array
    along_m: float
    ids: Ids
    scores: Float64
    similarities: Float64
    centred: Float32


class SessionLoops:
    """Stores keyframes and finds loop closures. Not to be shared between threads."""

    def __init__(self, encoder: Encoder, config: SessionConfig,
                 intrinsics: dict[str, dict[str, Any]] | None = None) -> None:
        """Start a session.

        Args:
            encoder: describes images that come without a description. Saved maps name its model.
            config: settings.
            intrinsics: intrinsics by camera, as in the manifest of a map, for verification.
                Entries may be added later.
        """
        self._encoder = encoder
        self._config = config
        kind = config.verification.kind
        self._features = '' if kind == 'none' else kind
        self._extractor = LocalExtractor(self._features, encoder, config.verification.keypoints)
        self._intrinsics = {} if intrinsics is None else intrinsics
        self.reset()

    def reset(self) -> None:
        """Forget the session."""
        self.store = SessionStore(self._encoder.dimension, self._config.max_keyframes,
                                  self._features)
        self._sequences: dict[str | bytes, deque[_Query]] = {}
        self._kept: dict[str | bytes, tuple[Description, Array | None]] = {}
        self._unrelated: deque[float] = deque(maxlen=MEMORY)
        # Whitened and centred similarity of each keyframe to the one before.
        self._steps: deque[float] = deque(maxlen=MEMORY)
        self._nearest: deque[float] = deque(maxlen=MEMORY)
        self._odometry = Odometry(speed_limit_mps=self._config.speed_limit_mps)
        self._along_m = 0.0
        self._closed: LoopClosure | None = None
        self.odometry_restarts = 0
        self.hypothesis: Hypothesis | None = None

    def __len__(self) -> int:
        """Keyframes in memory."""
        return len(self.store)

    def describe(self, frame: Frame) -> Description:
        """Describe an image; a `Localization` contains the same description.

        Raises:
            ImageError: the image cannot be used.
        """
        return Description(frame, *self._extractor.describe(frame.rgb))

    def takes(self, description: Description) -> bool:
        """Whether a description by the localizer has the features that this session needs."""
        features = description.features
        return len(description.descriptor) == self._encoder.dimension and (
            not self._features or (features is not None and features.kind == self._features))

    def update(
        self, view: Frame | Description, T_odom_base: Array | None = None
    ) -> tuple[LoopClosure, ...]:
        """Add an image and return the loop closure, if there is one.

        Args:
            view: newer than the previous one. An image up to a second older is ignored; an older
                one starts over.
            T_odom_base: (4, 4) odometry at its stamp; None if unknown.

        Raises:
            ImageError: the image cannot be used; the session stays as it was.
        """
        # 1. Describe the image, and update the distance driven.
        description = self.describe(view) if isinstance(view, Frame) else view
        if not np.isfinite(description.descriptor).all():
            raise ImageError('the descriptor of the image is not finite')
        if T_odom_base is not None and not np.isfinite(T_odom_base).all():
            T_odom_base = None
        if not self._go(description.frame.stamp_ns, T_odom_base):
            return ()
        # 2. Ignore images that are no keyframes.
        self.hypothesis = None
        if not self._is_new(description, T_odom_base):
            return ()
        self._kept[description.camera] = (description, T_odom_base)
        # 3. Compare with all keyframes that are old enough. Indices stay valid until the end.
        self.store.make_room()
        query = self._compare(description, T_odom_base)
        keyframe_id = self.store.append(description, T_odom_base, self._along_m)
        sequence = self._sequences.setdefault(
            description.camera, deque(maxlen=self._config.sequence))
        sequence.append(query)
        # 4. Score the sequence of previous images, and the probability of a true closure.
        found = self._best_sequence(sequence)
        if found is None:
            return ()
        at, score, margin = found
        self.hypothesis = Hypothesis(
            query_id=keyframe_id, reference_id=int(query.ids[at]), score=score, margin=margin,
            similarity=float(query.similarities[at]), probability=self._probability(score, margin))
        if len(sequence) < self._config.sequence \
                or self.hypothesis.probability < self._config.accept_probability \
                or not self._is_level(at, sequence):
            return ()
        # 5. Report one closure per place.
        return self._close(description, self.hypothesis)

    def save(self, path: Path) -> int:
        """Write the session as a place map in the odometry frame; return the number of keyframes.

        Raises:
            MapError: no keyframe has odometry, or the folder exists or cannot be written.
        """
        return self.store.save(path, model=self._encoder.name,
                               fingerprint=self._encoder.fingerprint)

    def _go(self, stamp_ns: int, T_odom_base: Array | None) -> bool:
        """Update the distance driven; False for a late image."""
        order = self._odometry.clock.order(stamp_ns)
        if order is Order.JUMPED_BACK:
            self.reset()
        if order is Order.LATE:
            return False
        part = self._odometry.part
        moment = self._odometry.put(stamp_ns, T_odom_base)
        self._along_m = moment.way_m
        if moment.part != part:  # odometry restarted: earlier poses are in another frame
            self._sequences.clear()
            self.store.forget_poses()
            self.odometry_restarts += 1
        return True

    def _is_new(self, description: Description, T_odom_base: Array | None) -> bool:
        """Whether an image is a keyframe."""
        if description.camera not in self._kept:
            return True
        last, T_last = self._kept[description.camera]
        if T_last is None or T_odom_base is None:
            return float(last.descriptor @ description.descriptor) < self._config.still_cosine
        motion = inverse(T_last) @ T_odom_base
        return (float(np.linalg.norm(motion[:3, 3])) >= self._config.keyframes.distance_m
                or float(rotation_angle(motion[:3, :3])) >= self._config.keyframes.rotation_rad)

    def _compare(
        self, description: Description, T_odom_base: Array | None
    ) -> _Query:
        """Scores and similarities of an image with all keyframes that are old enough."""
        frame, store, config = description.frame, self.store, self._config
        old = store.stamps_ns <= frame.stamp_ns - int(config.exclude_s * 1e9)
        if T_odom_base is not None:
            old &= store.along_m <= self._along_m - config.exclude_m
        count = int(old.sum())  # time and distance only grow, so old keyframes come first
        similarities = store.similarities(description.descriptor)
        last = next((at for at in range(len(store) - 1, -1, -1)
                     if store.cameras[at] == frame.camera), None)
        centred = store.query(description.descriptor)
        if last is not None:
            self._steps.append(float(similarities[last]))
            self._nearest.append(float(store.centred(np.array([last]))[0] @ centred))
        similarities = similarities[:count]
        sample = np.unique(np.linspace(0, max(count - 1, 0), min(count, SAMPLE)).astype(int))
        found = np.minimum(scores(similarities, similarities[sample]), TOP_SCORE)
        T_odom = np.full((4, 4), np.nan) if T_odom_base is None else T_odom_base
        return _Query(T_odom @ frame.T_base_cam, self._along_m, store.ids[:count], found,
                      similarities.astype(np.float64), centred)

    def _is_level(self, at: int, sequence: deque[_Query]) -> bool:
        """Whether a sequence is as similar to its references as one of the same place is.

        Two conditions: the mean similarity is at least a share of that of successive keyframes
        (`LEAST_LEVEL`), and the mean score reaches the offset of the model; with odometry it
        exceeds it by `CLOSURE_ABOVE`.
        """
        if not self._steps:
            return True
        level = self._sequence_mean(at, sequence, [
            self._by_index(query, query.similarities) for query in sequence])
        odometry = self._posed(at, sequence[-1])
        least = LEAST_LEVEL_ODOMETRY if odometry else LEAST_LEVEL
        if level < least * float(np.median(self._steps)):
            return False
        evidence = model_evidence(self._encoder.fingerprint, float(np.median(self._nearest)))
        # All references of the sequence lie in this window.
        first = max(0, at - max(WINDOW_KEYFRAMES, math.ceil(max(SPEEDS) * len(sequence)) + 1))
        window = np.arange(first, min(len(self.store), at + WINDOW_KEYFRAMES + 1))
        rows, old = self.store.centred(window), len(sequence[-1].ids)
        sample = np.unique(np.linspace(0, old - 1, min(old, LEVEL_SAMPLE)).astype(int))
        background = self.store.centred(sample)
        shown = []
        for query in sequence:
            values = np.zeros(len(self._by_index(query, query.scores)))
            there = background[sample < len(values)] @ query.centred
            found = stand_out(rows @ query.centred, there, evidence.weight)
            values[first:first + len(window)] = found[:max(len(values) - first, 0)]
            shown.append(values)
        above = CLOSURE_ABOVE if odometry else 0.0
        return self._sequence_mean(at, sequence, shown) >= evidence.offset + above

    def _posed(self, at: int, query: _Query) -> bool:
        """Whether odometry gives the motion from a reference, by index, to a query."""
        return bool(np.isfinite(query.T_odom_cam).all()
                    and np.isfinite(self.store.T_odom_cam[at]).all())

    def _best_sequence(self, sequence: deque[_Query]) -> tuple[int, float, float] | None:
        """Index, score and margin of the best reference of the newest keyframe.

        The margin is the score above that of the best sequence at any other place.
        """
        query = sequence[-1]
        if len(query.ids) < 2:
            return None
        candidates = np.argsort(-query.scores, kind='stable')[:CANDIDATES]
        scores_of = [self._by_index(query, query.scores) for query in sequence]
        totals = np.array([self._sequence_mean(int(at), sequence, scores_of)
                           for at in candidates])
        best = int(np.argmax(totals))
        at, score = int(candidates[best]), float(totals[best])
        elsewhere = ~self._same_place(at, candidates)
        if elsewhere.any():
            unrelated = float(totals[elsewhere].max())
            self._unrelated.append(unrelated)
        else:  # all candidates are at one place
            unrelated = self._unrelated_scores()[0]
        return at, score, score - unrelated

    def _sequence_mean(self, at: int, sequence: deque[_Query], values: Sequence[Float64]) -> float:
        """Mean of the values of a sequence, if the newest keyframe is at this reference.

        Args:
            at: index of the reference.
            sequence: of P + 1 queries, oldest first.
            values: of each query by index of the keyframe, from `_by_index`.
        """
        newest, past = sequence[-1], list(sequence)[-2::-1]
        T, T_reference = newest.T_odom_cam, self.store.T_odom_cam[at]
        if past and self._posed(at, newest):
            window = np.arange(max(0, at - WINDOW_KEYFRAMES),
                               min(len(newest.ids), at + WINDOW_KEYFRAMES + 1))
            # Poses of the earlier images, if the newest one was taken at the reference.
            expected = T_reference @ inverse(T) @ np.stack([query.T_odom_cam for query in past])
            way_m = newest.along_m - np.array([query.along_m for query in past])
            near = same_place(expected, self.store.T_odom_cam[window],
                              (DRIFT_M + DRIFT_SHARE * way_m)[:, None], PLACE_RAD)
        else:
            # Without odometry, the best line of constant speed, as in SeqSLAM.
            backs = np.arange(1, len(past) + 1)
            middles = np.maximum(at - np.multiply.outer(SPEEDS, backs), -1.0)[..., None]
            window = np.arange(max(0, math.floor(at - max(SPEEDS) * len(past)) - 1), at + 1)
            near = (window >= middles - 1.0) & (window <= middles + 1.0)
        found = np.zeros((len(past), len(window)))
        for row, of_query in zip(found, values[-2::-1], strict=True):
            known = of_query[window[0]:window[-1] + 1]  # others are too new for that image
            row[:len(known)] = known
        best = np.where(near, found, 0.0).max(axis=-1, initial=0.0)  # (P,), or (speeds, P)
        return (float(values[-1][at]) + float(best.sum(axis=-1).max())) / (1 + len(past))

    def _by_index(self, query: _Query, values: Float64) -> Float64:
        """Values of a query by present index of the keyframe; some may have been deleted."""
        ids, count = self.store.ids, len(query.ids)
        if not count or (count <= len(ids) and ids[count - 1] == query.ids[-1]):
            return values
        kept = ids[:np.searchsorted(ids, query.ids[-1], side='right')]
        return values[np.searchsorted(query.ids, kept)]

    def _same_place(self, at: int, others: Ids) -> np.ndarray:
        """Mask of keyframes that may show the same place as the one at this index."""
        reach = self._config.sequence
        near = np.abs(others - at) <= reach
        # Keyframes that were matched on an earlier lap.
        ids, of = self.store.ids, self.store.revisit_of
        near |= (of[at] >= 0) & (np.abs(ids[others] - of[at]) <= reach)
        near |= (of[others] >= 0) & (np.abs(of[others] - ids[at]) <= reach)
        near |= (of[at] >= 0) & (of[others] >= 0) & (np.abs(of[others] - of[at]) <= reach)
        T = self.store.T_odom_cam
        if np.isfinite(T[at]).all():
            metres = np.linalg.norm(T[others, :3, 3] - T[at, :3, 3], axis=1)
            along = np.abs(self.store.along_m[others] - self.store.along_m[at])
            way_m = max(2.0 * self._config.exclude_m, 10.0)
            # Keyframes of earlier laps at the same place, by odometry.
            near |= metres <= way_m
            near |= along <= 0.5 * way_m
        return np.asarray(near)

    def _unrelated_scores(self) -> tuple[float, float]:
        """Median and spread of the scores of unrelated sequences in this session."""
        middle, spread, weight = UNRELATED
        seen = np.array(self._unrelated)
        if len(seen):
            share = len(seen) / (len(seen) + weight)
            median = float(np.median(seen))
            mad = 1.4826 * float(np.median(np.abs(seen - median)))
            middle = share * median + (1.0 - share) * middle
            spread = share * mad + (1.0 - share) * spread
        return middle, max(spread, SPREAD_FLOOR)

    def _probability(self, score: float, margin: float) -> float:
        middle, spread = self._unrelated_scores()
        bias, of_score, of_margin = ODDS
        odds = bias + (of_score * (score - middle) + of_margin * margin) / spread
        return 1.0 / (1.0 + math.exp(-min(max(odds, -30.0), 30.0)))

    def _close(self, description: Description, found: Hypothesis) -> tuple[LoopClosure, ...]:
        """The closure, unless its place was reported on this pass or it is too improbable."""
        if self._closed is not None and self._config.place_m > 0.0:
            before = self._first_visit(self._closed.reference_id)
            query = int(np.searchsorted(self.store.ids, self._closed.query_id))
            # The same place again, and the robot has not left it in between.
            if self._way_m(before, self._first_visit(found.reference_id)) < self._config.place_m \
                    and self._way_m(query, len(self.store) - 1) < 2.0 * self._config.exclude_m:
                self.store.mark_revisit(found.query_id, found.reference_id)
                return ()
        closure = self.closure_of(description, found)
        if closure is None or closure.probability < self._config.accept_probability:
            return ()
        self.store.mark_revisit(found.query_id, found.reference_id)
        self._closed = closure
        return (closure,)

    def _first_visit(self, keyframe_id: int) -> int:
        """Index of the oldest keyframe known to show the same place as this one."""
        store = self.store
        while True:
            at = min(int(np.searchsorted(store.ids, keyframe_id)), len(store) - 1)
            older = int(store.revisit_of[at])
            spot = min(int(np.searchsorted(store.ids, older)), len(store) - 1)
            if not 0 <= older < keyframe_id or int(store.ids[spot]) != older:
                return at
            keyframe_id = older

    def _way_m(self, first: int, second: int) -> float:
        """Distance driven between two keyframes, by index; without odometry a lower bound."""
        first, second = (min(at, len(self.store) - 1) for at in (first, second))
        if np.isfinite(self.store.T_odom_cam[[first, second]]).all():
            return abs(float(self.store.along_m[second] - self.store.along_m[first]))
        return abs(second - first) * self._config.keyframes.distance_m

    def closure_of(self, description: Description, found: Hypothesis) -> LoopClosure | None:
        """The closure of the newest keyframe's hypothesis, with its relative pose.

        Local features change its probability. None if the session compares them and the image or
        the reference has none.
        """
        frame, store = description.frame, self.store
        at = int(np.searchsorted(store.ids, found.reference_id))
        verification, T_reference_query, covariance = None, None, None
        probability = found.probability
        if self._features:
            verifier = Verifier(self._encoder, cast(PlaceMap, _AsMap(store, self._intrinsics)),
                                self._config.verification)
            checked = verifier.verify(description.features, [at], frame.intrinsics)
            if not checked:
                return None
            verification = replace(checked[0], keyframe_id=found.reference_id)
            probability = with_evidence(min(probability, MOST_BY_SEQUENCE), verification.log_odds)
            near = np.flatnonzero(np.abs(np.arange(len(store)) - at) <= self._config.sequence)
            pose = verifier.pose(description.features, at, near, frame.intrinsics) \
                if np.isfinite(store.T_odom_cam[near]).all() else None
            if pose is not None:
                # At least the widths of a pose prior, because residuals underestimate the error.
                T_reference_query, covariance = relative_to(
                    store.T_odom_cam[at], of_verified(pose, np.eye(4), self._config.pose_prior))
        return LoopClosure(
            query_stamp_ns=frame.stamp_ns, reference_stamp_ns=int(store.stamps_ns[at]),
            query_id=found.query_id, reference_id=found.reference_id,
            similarity=found.similarity, probability=probability,
            T_reference_query=T_reference_query, covariance=covariance,
            verification=verification)


class _AsMap:
    """Access to the session's local features in the form that the verifier expects of a map."""

    path = Path('session')

    def __init__(self, store: SessionStore, intrinsics: dict[str, dict[str, Any]]) -> None:
        self.T_map_cam, self.cameras = store.T_odom_cam, store.cameras
        self.manifest = _Manifest(store.features, intrinsics)
        self.local_features = store.local_features


@dataclass(frozen=True, slots=True)
class _Manifest:
    features: str
    intrinsics: dict[str, dict[str, Any]]
