"""An image and odometry in, a localization out: where in the map is the robot?"""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
import time

import numpy as np

from regvpr_core.errors import ImageError
from regvpr_core.geometry import Array, inverse, rotation_angle
from regvpr_core.localization.appearance import Appearance, Float32
from regvpr_core.localization.belief import Belief
from regvpr_core.localization.calibration import margin, same_place, sample, scores
from regvpr_core.localization.frames import Description, Frame
from regvpr_core.localization.matches import Match
from regvpr_core.localization.one_image import Answer, answer, ImageLocalization, with_evidence
from regvpr_core.localization.pose_prior import estimate, PoseHypothesis, PosePrior
from regvpr_core.localization.settings import LocalizerConfig
from regvpr_core.localization.states import Decider, Evidence, Reason, State
from regvpr_core.localization.stored_calibration import stored_or_learnt
from regvpr_core.localization.views import Mounts, Seen
from regvpr_core.localization.whitened import WhitenedRows
from regvpr_core.localization.whitening import Whitening
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder
from regvpr_core.search.rows import unit
from regvpr_core.verification.metric_pose import MetricPose
from regvpr_core.verification.verification import (
    AnyVerifier,
    make_verifier,
    spread_log_odds,
)

__all__ = ['Description', 'Frame', 'Localization', 'Localizer', 'LocalizerConfig', 'Match',
           'State', 'image_config']

OUT_OF_ORDER_NS = 1_000_000_000
"""An image older than the last by less came late and is no evidence; by more, time jumped back."""

METRES_OF_A_RADIAN = 3.0
"""A turn shows as much that is new as this drive."""

NEW_VIEW = 0.35
"""Without odometry: an image whose descriptor has gone this share of the way to one of anywhere
else is all new. On the town's laps (seed 7) that takes 2 m."""

LEAST_WAY_M = 1.0
"""Without odometry, an image of which all is new counts as at least so much of the way."""

LEAST_HYPOTHESIS = 0.02
"""Places of less belief are no hypotheses."""

JUMP_FLOOR_M = 1.0
"""Odometry may be corrected by this much between any two images."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Localization:
    """What is known after an image.

    pose_prior: only when the state is LOCALIZED.
    hypotheses: places where the robot may be, most likely first, at most
        `LocalizerConfig.hypotheses`; when LOCALIZED, the believed one alone. None of them is
        believed in any other state.
    descriptions: what the network made of the images, for who else wants it.
    """

    stamp_ns: int
    state: State
    reason: Reason
    off_map: float
    matches: tuple[Match, ...]
    pose_prior: PosePrior | None
    seconds: dict[str, float]
    descriptions: tuple[Description, ...] = ()
    hypotheses: tuple[PoseHypothesis, ...] = ()

    def __repr__(self) -> str:
        best = self.matches[0] if self.matches else None
        found = best and f', keyframe={best.keyframe_id}, probability={best.probability:.2f}'
        return f'Localization({self.state.name}, {self.reason!r}{found or ""})'


@dataclass(frozen=True, slots=True, eq=False)
class _Past:
    """Images of one stamp that moved the belief, or the last of one camera that did."""

    stamp_ns: int
    T_odom_base: Array | None
    descriptor: Float32


def image_config(place_map: PlaceMap, config: LocalizerConfig | None = None) -> LocalizerConfig:
    """Settings for `localize_image`: verified by the local features that the map holds."""
    config = LocalizerConfig() if config is None else config
    kind = place_map.manifest.features or 'none'
    return replace(config, verification=replace(config.verification, kind=kind))


class Localizer:
    """Holds an encoder, a map and the belief. Not to be shared between threads."""

    def __init__(self, encoder: Encoder, place_map: PlaceMap,
                 config: LocalizerConfig | None = None) -> None:
        """Start without a belief; `place_map` must be of the encoder's model.

        Raises:
            MapError: the map's calibration is damaged, or it lacks the features to verify by.
        """
        config = config or LocalizerConfig()
        self.place_map = place_map
        self._config = config
        self._verifier: AnyVerifier = make_verifier(encoder, place_map, config.verification)
        self._belief = Belief(place_map.T_map_cam, config.belief, place_map.cameras)
        self._mounts = Mounts(self._belief, place_map.T_map_cam)
        self._decider = Decider(config)
        self._whitened = WhitenedRows(Whitening.of_map(place_map), place_map, sample(place_map))
        self._calibration = stored_or_learnt(
            place_map, self._belief.radius_m, config.belief.place_angle_rad)
        self.reset()

    def __repr__(self) -> str:
        return (f'Localizer({self.place_map!r}, images={self._images}, '
                f'off_map={self._belief.off_map:.2f})')

    def reset(self) -> None:
        """Forget where the robot was."""
        self._appearances: dict[str | bytes, Appearance] = {}
        self._belief.reset()
        self._mounts.reset()
        self._decider.reset()
        self._last: _Past | None = None
        self._last_of: dict[str | bytes, _Past] = {}
        self._images = 0
        self._way_m = 0.0

    def localize(
        self, frame: Frame | Description | Sequence[Frame | Description],
        T_odom_base: Array | None = None,
    ) -> Localization:
        """Localize the images of one stamp: one, or one of each camera.

        Args:
            frame: newer than the one before. Up to a second older counts as late, tells nothing
                and is given no pose; still older starts over (a bag began again). One that was
                described already, with a descriptor as the map keeps them, is not described again.
            T_odom_base: (4, 4) odometry at the image's stamp, None where there is none.

        Raises:
            ImageError: an image cannot be used, or stamps differ; the belief stays as it was.
        """
        start = time.perf_counter()
        # 1. Describe the images.
        views = self._describe([frame] if isinstance(frame, Frame | Description) else frame)
        stamp_ns = views[0].frame.stamp_ns
        described = time.perf_counter()
        # 2. Move the belief by odometry; an image from where the last was taken tells nothing new.
        shares = self._move(stamp_ns, views, T_odom_base)
        # 3. Take off what the session's images share, search the map and verify what is found.
        seen = [self._search(view, share) for view, share in zip(views, shares, strict=True)]
        searched = time.perf_counter()
        # 4. Weigh the belief with what was found.
        if any(shares):
            config = self._config.belief
            ids, log_odds, others = self._mounts.log_odds(seen, config.evidence_limit)
            self._belief.update(ids, log_odds, others)
            self._images += 1
        # 5. Decide, and estimate the pose only where one place is believed.
        state, reason, keyframe = self._decide(seen)
        matches = self._matches(seen, state, keyframe)
        pose_prior = None
        # An image that came late is of where the robot was; the belief is of where it is.
        if state is State.LOCALIZED and not self._is_late(stamp_ns):
            pose_prior = self._pose_prior(views, matches[0], keyframe)
        hypotheses = self._hypotheses(views, pose_prior, keyframe)
        end = time.perf_counter()
        return Localization(
            stamp_ns=stamp_ns, state=state, reason=reason, off_map=self._belief.off_map,
            matches=matches, pose_prior=pose_prior,
            seconds={'describe': described - start, 'search': searched - described,
                     'belief': end - searched},
            descriptions=tuple(views), hypotheses=hypotheses)

    def localize_image(self, frame: Frame | Description) -> ImageLocalization:
        """Localize one image by itself; the belief is neither used nor changed.

        Local features decide with it where `LocalizerConfig.verification` asks for them
        (`image_config` does, where the map holds them).

        Raises:
            ImageError: the image cannot be used.
        """
        view = self._describe([frame])[0]
        found = self._search(view, 0.0)
        if not len(found.ids):
            return ImageLocalization(answer=answer(None)[0], reason=answer(None)[1],
                                     probability=0.0, matches=(), pose_prior=None)
        order = [(0, i) for i in range(len(found.ids))]
        alone = self._calibration.probability(
            found.scores, np.array(self._ahead([found], order)))
        verified = {one.keyframe_id: one for one in found.verifications}
        matches = [Match(
            keyframe_id=int(k), similarity=float(similarity), score=float(score),
            probability=0.0, accepted=False, verification=verified.get(int(k)),
            image_probability=with_evidence(
                float(p), verified[int(k)].log_odds if int(k) in verified else 0.0))
            for k, similarity, score, p in zip(
                found.ids, found.similarities, found.scores, alone, strict=True)]
        matches.sort(key=lambda match: -match.image_probability)
        said, reason = answer(matches[0])
        pose_prior = None
        if said is Answer.YES:
            matches[0] = replace(matches[0], accepted=True)
            pose_prior = self._pose_of_image(view, matches[0], found)
        return ImageLocalization(
            answer=said, reason=reason, probability=matches[0].image_probability,
            matches=tuple(matches[: self._config.matches]), pose_prior=pose_prior)

    def _pose_of_image(self, view: Description, match: Match, found: Seen) -> PosePrior:
        """Pose of the base by one image alone."""
        belief = copy(self._belief)
        belief.reset()
        belief.update(found.ids, found.log_odds)
        verified = self._verifier.pose(
            view.features, match.keyframe_id,
            belief.near_pose(self.place_map.T_map_cam[match.keyframe_id]), view.frame.intrinsics)
        return estimate(belief, match.keyframe_id, self.place_map.T_map_cam,
                        view.frame.T_base_cam, self._config.pose_prior, verified)

    def _describe(self, frames: Sequence[Frame | Description]) -> list[Description]:
        views = [one if isinstance(one, Description) else self._described(one) for one in frames]
        stamps = {view.frame.stamp_ns for view in views}
        if len(stamps) != 1:
            raise ImageError(f'{len(frames)} images of {len(stamps)} stamps; '
                             f'expected one image or more, of one stamp')
        if not all(np.isfinite(view.descriptor).all() for view in views):
            raise ImageError('the descriptor of the image is not finite; try the precision fp32')
        return views

    def _described(self, frame: Frame) -> Description:
        descriptor, features = self._verifier.describe(frame.rgb)
        return Description(frame, self.place_map.project(descriptor), features)

    def _is_late(self, stamp_ns: int) -> bool:
        return self._last is not None and stamp_ns < self._last.stamp_ns

    def _move(self, stamp_ns: int, views: Sequence[Description],
              T_odom_base: Array | None) -> list[float]:
        """Predict the belief to this stamp; how much of each image is new, 0 to 1."""
        last = self._last
        self._way_m = 0.0
        if last is not None and stamp_ns < last.stamp_ns - OUT_OF_ORDER_NS:
            self.reset()
            last = None
        if self._is_late(stamp_ns):
            return [0.0] * len(views)
        shares = [self._share(stamp_ns, view, T_odom_base) for view in views]
        if not any(shares):
            return shares
        this = _Past(stamp_ns, T_odom_base, views[0].descriptor)
        if last is None:
            self._mounts.places(np.zeros(0, np.int64), views[0].frame.T_base_cam)
        else:
            motion = self._motion(last, this)
            # Without odometry, an image of which all is new counts as `evidence_m` of the way.
            self._way_m = max(shares) * max(self._config.belief.evidence_m, LEAST_WAY_M) \
                if motion is None else float(np.linalg.norm(motion[:3, 3]))
            reference = self._mounts.T_base_reference
            if motion is not None and reference is not None:
                motion = inverse(reference) @ motion @ reference
            self._belief.predict(motion, (stamp_ns - last.stamp_ns) / 1e9)
        self._last = this
        for view, share in zip(views, shares, strict=True):
            if share:
                self._last_of[view.camera] = _Past(stamp_ns, T_odom_base, view.descriptor)
        return shares

    def _share(self, stamp_ns: int, view: Description, T_odom_base: Array | None) -> float:
        """How much of an image is new since the last of its camera, 0 to 1."""
        last = self._last_of.get(view.camera)
        if last is None:
            return 1.0
        motion = self._motion(last, _Past(stamp_ns, T_odom_base, view.descriptor))
        if motion is not None:
            metres = float(np.linalg.norm(motion[:3, 3]))
            radians = float(rotation_angle(motion[:3, :3]))
            if metres < self._config.still_m and radians < self._config.still_rad:
                return 0.0
            way_m = metres + METRES_OF_A_RADIAN * radians
            return min(1.0, way_m / max(self._config.belief.evidence_m, 1e-9))
        similarity = float(view.descriptor @ last.descriptor)
        if similarity > self._config.still_cosine:
            return 0.0
        # How alike images of anywhere are, by the mean of this camera's.
        mean = self._appearance(view).mean
        elsewhere = min(float(mean @ mean), self._config.still_cosine - 0.01)
        return min(1.0, (1.0 - similarity) / (1.0 - elsewhere) / NEW_VIEW)

    def _motion(self, last: _Past, this: _Past) -> Array | None:
        """Motion (4, 4) of the base, None where it is not known.

        Odometry that moved faster than a robot can has started over, or was corrected: what lies
        between says nothing.
        """
        if last.T_odom_base is None or this.T_odom_base is None:
            return None
        motion = inverse(last.T_odom_base) @ this.T_odom_base
        elapsed_s = (this.stamp_ns - last.stamp_ns) / 1e9
        metres = float(np.linalg.norm(motion[:3, 3]))
        # Not "greater": a motion that is not finite is none either.
        if not metres <= JUMP_FLOOR_M + self._config.speed_limit_mps * elapsed_s:
            return None
        return motion

    def _appearance(self, view: Description) -> Appearance:
        if view.camera not in self._appearances:
            self._appearances[view.camera] = Appearance(
                self.place_map.centre, self._config.appearance)
        return self._appearances[view.camera]

    def _search(self, view: Description, share: float) -> Seen:
        """Keyframes like an image, and what they are worth."""
        appearance = self._appearance(view)
        if share:
            appearance.update(view.descriptor)
        similarities, ids = self.place_map.search(
            view.descriptor, self._config.candidates, appearance.mean)
        # The index is quick and rough; what it found is compared again, whitened.
        away = view.descriptor - appearance.mean
        query = unit(away) if away.any() else away
        found = scores(*self._whitened.compare(query, ids, similarities))
        order = np.argsort(-found, kind='stable')
        ids, similarities, found = ids[order], similarities[order], found[order]
        log_odds = self._calibration.log_odds(found)
        verifications = () if self._config.verification.kind == 'none' else \
            self._verifier.verify(view.features, self._one_a_place(ids), view.frame.intrinsics)
        if verifications:
            log_odds = log_odds + spread_log_odds(
                verifications, ids, self.place_map.T_map_cam, self._belief.radius_m)
        T_base_cam = view.frame.T_base_cam
        return Seen(share=share, T_base_cam=T_base_cam, ids=ids, similarities=similarities,
                    scores=found, log_odds=log_odds, verifications=verifications,
                    places=self._mounts.places(ids, T_base_cam))

    def _one_a_place(self, ids: np.ndarray) -> list[int]:
        """The first keyframe of each place among these."""
        poses = self.place_map.T_map_cam[ids]
        near = same_place(poses, poses, self._belief.radius_m, np.pi)
        return [int(k) for i, k in enumerate(ids) if not near[i, :i].any()]

    def _decide(self, seen: Sequence[Seen]) -> tuple[State, Reason, int]:
        """State, its reason, and the believed keyframe (-1: none)."""
        if not len(self.place_map):
            return State.OFF_MAP, Reason('empty_map', 'the map holds no keyframe'), -1
        keyframe, here, elsewhere = self._belief.best()
        there = self._belief.around(keyframe)
        shown = [float(one.scores[one.at(there)].max(initial=-np.inf)) for one in seen]
        state, reason = self._decider.decide(Evidence(
            images=self._images, off_map=self._belief.off_map, here=here, elsewhere=elsewhere,
            seen=max(shown), way_m=self._way_m))
        return state, reason, keyframe

    def _matches(self, seen: Sequence[Seen], state: State, keyframe: int) -> tuple[Match, ...]:
        """Best first; when localized, the first is the most likely one of the believed place."""
        found = sorted(((view, i) for view, one in enumerate(seen) for i in range(len(one.ids))),
                       key=lambda at: -seen[at[0]].scores[at[1]])
        accepted = None
        if state is State.LOCALIZED:
            there = self._belief.around(keyframe)
            shown = [one.at(there) for one in seen]
            # Of those that this image shows there, the one that the belief lies on.
            accepted = max(
                ((view, i) for view, i in found if shown[view][i]),
                key=lambda at: float(self._belief.masses(seen[at[0]].places[at[1]]).sum()))
            found.remove(accepted)
            found.insert(0, accepted)
        found = found[: self._config.matches]
        ahead = self._ahead(seen, found)
        of_image = self._calibration.probability(
            np.array([seen[view].scores[i] for view, i in found]), np.array(ahead))
        return tuple(self._match(seen[view], view, i, keyframe, (view, i) == accepted, float(p))
                     for (view, i), p in zip(found, of_image, strict=True))

    def _ahead(self, seen: Sequence[Seen], found: Sequence[tuple[int, int]]) -> list[float]:
        """By how much each one's score is above that of the best keyframe of another place."""
        T, config = self.place_map.T_map_cam, self._config.belief
        ahead = [0.0] * len(found)
        for number, one in enumerate(seen):
            mine = [at for at, (view, _) in enumerate(found) if view == number]
            rows = [found[at][1] for at in mine]
            same = same_place(T[one.ids[rows]], T[one.ids], 2.0 * self._belief.radius_m,
                              2.0 * config.place_angle_rad)
            others = np.where(same, -np.inf, one.scores).max(axis=1, initial=-np.inf)
            for at, row, mask, other in zip(mine, rows, same, others, strict=True):
                ahead[at] = margin(one.scores, mask) if mask.all() else \
                    float(one.scores[row] - other)
        return ahead

    def _match(self, one: Seen, view: int, i: int, keyframe: int, accepted: bool,
               image_probability: float) -> Match:
        place = one.places[i]
        at = keyframe if accepted else int(place[0]) if len(place) else -1
        return Match(
            keyframe_id=int(one.ids[i]), similarity=float(one.similarities[i]),
            score=float(one.scores[i]), accepted=accepted, view=view,
            probability=self._belief.probability(at) if at >= 0 else 0.0,
            image_probability=image_probability,
            verification=next((v for v in one.verifications
                               if v.keyframe_id == one.ids[i]), None))

    def _hypotheses(self, views: Sequence[Description], pose_prior: PosePrior | None,
                    keyframe: int) -> tuple[PoseHypothesis, ...]:
        """The believed place, or those that may be believed."""
        if pose_prior is not None:
            return (PoseHypothesis(keyframe_id=keyframe, prior=pose_prior,
                                   probability=self._belief.probability(keyframe)),)
        reference = self._mounts.T_base_reference
        T_base_cam = views[0].frame.T_base_cam if reference is None else reference
        return tuple(
            PoseHypothesis(keyframe_id=k, probability=probability, prior=estimate(
                self._belief, k, self.place_map.T_map_cam, T_base_cam, self._config.pose_prior))
            for k, probability in self._belief.top(self._config.hypotheses, LEAST_HYPOTHESIS))

    def _pose_prior(
        self, views: Sequence[Description], match: Match, keyframe: int
    ) -> PosePrior:
        """From local features where they give a pose, else from the belief."""
        view = views[match.view]
        T = self.place_map.T_map_cam
        verified: MetricPose | None = self._verifier.pose(
            view.features, match.keyframe_id, self._belief.near_pose(T[match.keyframe_id]),
            view.frame.intrinsics)
        # The belief is about the reference camera, which need not have taken this image.
        reference = self._mounts.T_base_reference
        return estimate(self._belief, keyframe, T,
                        view.frame.T_base_cam if reference is None else reference,
                        self._config.pose_prior, verified, view.frame.T_base_cam)
