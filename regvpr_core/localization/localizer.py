"""Localizes a robot in a place map from images and odometry."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
import math
import time

import numpy as np

from regvpr_core.arrays import Float32
from regvpr_core.errors import ImageError
from regvpr_core.geometry import Array, inverse, length_and_angle
from regvpr_core.localization.appearance import Appearance
from regvpr_core.localization.belief import Belief, LEAST_RADIUS_M
from regvpr_core.localization.calibration import alike_m, same_place, sample
from regvpr_core.localization.frames import Description, Frame
from regvpr_core.localization.matches import Match
from regvpr_core.localization.model_evidence import known
from regvpr_core.localization.odometry import Moment, Odometry, Order
from regvpr_core.localization.one_image import Answer, answer, ImageLocalization, with_evidence
from regvpr_core.localization.pose_prior import estimate, PoseHypothesis, PosePrior
from regvpr_core.localization.settings import LocalizerConfig
from regvpr_core.localization.states import (
    CONFIRM_IMAGES,
    Decider,
    Evidence,
    EXACT_SPACINGS,
    Reason,
    State,
)
from regvpr_core.localization.stored_calibration import stored_or_learnt
from regvpr_core.localization.views import Candidates, Mounts
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder
from regvpr_core.verification.metric_pose import MetricPose
from regvpr_core.verification.verification import (
    AnyVerifier,
    make_verifier,
    spread_log_odds,
)

__all__ = ['Description', 'Frame', 'Localization', 'Localizer', 'LocalizerConfig', 'Match',
           'State', 'image_config']

METRES_OF_A_RADIAN = 3.0
"""Translation that reveals as much new view as a turn of 1 rad, in metres."""

NEW_VIEW = 0.35
"""Without odometry, an image is entirely new if its descriptor has changed by this share of the
difference to an unrelated image. In the rendered town (`examples.town`, seed 7) this takes 2 m."""

REACH_RADII = 2.0
"""A place continues the last fix if it is nearer to it than this many radii of a place plus the
distance driven since. After a short doubt it is then not confirmed anew. Set on
corridor_changes."""

MOST_OFF_MAP = 0.1
"""Probability of being off the map above which a place must be confirmed anew."""

LEAST_HYPOTHESIS = 0.02
"""Least probability of a hypothesis."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Localization:
    """Result of localizing the images of one stamp.

    pose_prior: only in the state LOCALIZED.
    hypotheses: places where the robot may be, most likely first, at most
        `LocalizerConfig.hypotheses`. In the state LOCALIZED only the accepted place; in other
        states no place is accepted.
    descriptions: descriptors and features of the images, reused by loop closing.
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
    """Last image of a camera that was used to update the belief."""

    moment: Moment
    descriptor: Float32


def image_config(place_map: PlaceMap, config: LocalizerConfig | None = None) -> LocalizerConfig:
    """Settings for `localize_image`: verification by the local features stored in the map."""
    config = LocalizerConfig() if config is None else config
    kind = place_map.manifest.features or 'none'
    return replace(config, verification=replace(config.verification, kind=kind))


class Localizer:
    """Localizes images in a map. Not to be shared between threads."""

    def __init__(self, encoder: Encoder, place_map: PlaceMap,
                 config: LocalizerConfig | None = None) -> None:
        """Start with the prior belief; `place_map` must have been built with the encoder's model.

        Raises:
            MapError: the map's calibration is damaged, or it lacks the features to verify by.
        """
        config = config or LocalizerConfig()
        self.place_map = place_map
        self._config = config
        self._verifier: AnyVerifier = make_verifier(encoder, place_map, config.verification)
        self._belief = Belief(place_map.T_map_cam, config.belief, place_map.drives)
        self._evidence_m = config.belief.evidence_m or self._belief.spacing_m or 1.0
        self._mounts = Mounts(self._belief, place_map.T_map_cam,
                              place_map.manifest.fingerprint in known())
        self._decider = Decider(
            config, config.confirm_m or CONFIRM_IMAGES * self._evidence_m,
            max(EXACT_SPACINGS * self._belief.spacing_m, alike_m(place_map), LEAST_RADIUS_M))
        self._background = place_map.centred(sample(place_map))
        self._calibration = stored_or_learnt(
            place_map, self._belief.radius_m, config.belief.place_angle_rad)
        self.reset()

    def __repr__(self) -> str:
        return f'Localizer({self.place_map!r}, images={self._images})'

    def reset(self) -> None:
        """Forget where the robot was."""
        self._odometry = Odometry(speed_limit_mps=self._config.speed_limit_mps)
        self._appearances: dict[str | bytes, Appearance] = {}
        self._belief.reset()
        self._mounts.reset()
        self._decider.reset()
        # Keyframe of the last fix, and the distance since, while the robot is on the map.
        self._fixed: tuple[int, float] | None = None
        self._last: Moment | None = None
        self._last_of: dict[str | bytes, _Past] = {}
        self._seen_ns = 0
        self._images = 0

    def localize(
        self, frame: Frame | Description | Sequence[Frame | Description],
        T_odom_base: Array | None = None,
    ) -> Localization:
        """Localize the images of one stamp: a single image, or one image per camera.

        Args:
            frame: newer than the previous one. An image up to a second older is late: it does not
                change the belief and gets no pose. An older one starts over (a bag was restarted).
                A `Description`, with a descriptor in the map's form, is not described again.
            T_odom_base: (4, 4) odometry at the image's stamp; None if unknown.

        Raises:
            ImageError: an image cannot be used, or stamps differ; the belief stays as it was.
        """
        start = time.perf_counter()
        # 1. Describe the images.
        views = self._describe([frame] if isinstance(frame, Frame | Description) else frame)
        described = time.perf_counter()
        # 2. Order the stamp in time and look up its odometry; start over if time jumped back.
        stamp_ns = views[0].frame.stamp_ns
        order = self._odometry.clock.order(stamp_ns)
        if order is Order.JUMPED_BACK:
            self.reset()
        moment = self._odometry.put(stamp_ns, T_odom_base)
        late = order is Order.LATE
        # 3. How much of each image is new: an image from the same spot as the last adds nothing.
        ways = [self._way(view, moment) for view in views]
        novelty = [0.0 if late else self._novelty(view, way)
                   for view, way in zip(views, ways, strict=True)]
        # A robot that was carried while its wheels stood moved, but it is unknown how.
        carried = any(share and way is not None and self._stood(way)
                      for way, share in zip(ways, novelty, strict=True))
        odometry = T_odom_base is not None and not carried
        motion = self._last.motion_to(moment) if self._last is not None and odometry else None
        way_m = self._way_m(novelty, motion)
        # 4. Update the session's mean descriptor, and move the belief.
        if any(novelty):
            self._mounts.refer_to(views[0].frame.T_base_cam)
            self._learn_appearance(views, novelty)
            self._predict(moment, motion)
            self._remember(views, novelty, moment)
        self._seen_ns = max(self._seen_ns, stamp_ns)
        moved = time.perf_counter()
        # 5. Search the map, and verify the candidates.
        seen = [self._search(view, share) for view, share in zip(views, novelty, strict=True)]
        searched = time.perf_counter()
        # 6. Update the belief with the candidates.
        if any(novelty):
            said = self._mounts.evidence(
                seen, self._config.belief.evidence_limit, T_odom_base is not None)
            self._belief.update(said.ids, said.log_odds, said.others, said.limited,
                                said.others_limited)
            self._images += 1
        # 7. Decide on the state; estimate the pose only if one place is accepted.
        state, reason, keyframe = self._decide(seen, way_m, odometry)
        self._remember_fix(state, keyframe, way_m)
        matches = self._matches(seen, state, keyframe)
        # A late image shows where the robot was, but the belief is about where it is now.
        pose_prior = self._pose_prior(views, matches[0], keyframe) \
            if state is State.LOCALIZED and not late else None
        hypotheses = self._hypotheses(views, pose_prior, keyframe)
        end = time.perf_counter()
        return Localization(
            stamp_ns=stamp_ns, state=state, reason=reason, off_map=self._belief.off_map,
            matches=matches, pose_prior=pose_prior,
            seconds={'describe': described - start, 'search': searched - moved,
                     'belief': moved - described + end - searched},
            descriptions=tuple(views), hypotheses=hypotheses)

    def localize_image(self, frame: Frame | Description) -> ImageLocalization:
        """Localize a single image; the belief is neither used nor changed.

        Local features are used if `LocalizerConfig.verification` enables them; `image_config`
        does so if the map contains them.

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

    def _pose_of_image(self, view: Description, match: Match, found: Candidates) -> PosePrior:
        """Pose of the base from one image alone."""
        belief = copy(self._belief)
        belief.reset()
        belief.update(found.ids, found.log_odds)
        verified = self._verifier.pose(
            view.features, match.keyframe_id,
            belief.around(match.keyframe_id), view.frame.intrinsics)
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

    def _way(self, view: Description, moment: Moment) -> tuple[float, float] | None:
        """Distance, m, and turn, rad, since the last image of a camera; None if unknown."""
        last = self._last_of.get(view.camera)
        motion = None if last is None else last.moment.motion_to(moment)
        return None if motion is None else length_and_angle(motion)

    def _novelty(self, view: Description, way: tuple[float, float] | None) -> float:
        """How much of an image is new since the last of its camera, 0 to 1."""
        last = self._last_of.get(view.camera)
        if last is None:
            return 1.0
        if way is None:
            return self._changed(view, last)
        if self._stood(way):
            # A robot that stands by its odometry and sees another view was carried or turned.
            return 1.0 if self._changed(view, last) >= 1.0 else 0.0
        metres, radians = way
        return min(1.0, (metres + METRES_OF_A_RADIAN * radians) / self._evidence_m)

    def _stood(self, way: tuple[float, float]) -> bool:
        """Whether a robot that moved so far stood."""
        metres, radians = way
        return metres < self._config.still_m and radians < self._config.still_rad

    def _changed(self, view: Description, last: _Past) -> float:
        """Novelty of an image, 0 to 1, from the change of its descriptor alone."""
        similarity = float(view.descriptor @ last.descriptor)
        if similarity > self._config.still_cosine:
            return 0.0
        # Similarity of unrelated images, estimated from this camera's mean descriptor.
        mean = self._appearance(view).mean
        elsewhere = min(float(mean @ mean), self._config.still_cosine - 0.01)
        return min(1.0, (1.0 - similarity) / (1.0 - elsewhere) / NEW_VIEW)

    def _way_m(self, novelty: Sequence[float], motion: Array | None) -> float:
        """Distance since the last image used, m; without odometry, estimated from the novelty."""
        if self._last is None or not any(novelty):
            return 0.0
        if motion is None:
            return max(novelty) * self._evidence_m
        return math.hypot(*motion[:3, 3])

    def _learn_appearance(self, views: Sequence[Description], novelty: Sequence[float]) -> None:
        """Add the new images to the mean descriptors of their cameras."""
        for view, share in zip(views, novelty, strict=True):
            appearance = self._appearances.setdefault(
                view.camera, Appearance(self.place_map.centre, self._config.appearance))
            if share:
                appearance.update(view.descriptor, share)

    def _predict(self, moment: Moment, motion: Array | None) -> None:
        """Move the belief from the last image to this one."""
        if self._last is None:
            return
        reference = self._mounts.T_base_reference
        if motion is not None and reference is not None:
            motion = inverse(reference) @ motion @ reference
        self._belief.predict(motion, (moment.stamp_ns - self._seen_ns) / 1e9)

    def _remember(self, views: Sequence[Description], novelty: Sequence[float], moment: Moment
                  ) -> None:
        self._last = moment
        for view, share in zip(views, novelty, strict=True):
            if share:
                self._last_of[view.camera] = _Past(moment, view.descriptor)

    def _appearance(self, view: Description) -> Appearance:
        """Mean descriptor of a camera; before its first image that of the map."""
        return self._appearances.get(view.camera) or Appearance(
            self.place_map.centre, self._config.appearance)

    def _search(self, view: Description, novelty: float) -> Candidates:
        """Candidates for an image, with scores and log likelihood ratios."""
        mean = self._appearance(view).mean
        query = self.place_map.query(view.descriptor, mean)
        similarities, ids = self.place_map.nearest(query, self._config.candidates)
        found = self._calibration.scores(similarities, self._background @ query)
        log_odds = self._calibration.log_odds(found)
        verifications = () if self._config.verification.kind == 'none' else \
            self._verifier.verify(view.features, self._one_a_place(ids), view.frame.intrinsics)
        if verifications:
            # Local features count only against a place, because those of a look-alike match too.
            log_odds = log_odds + np.minimum(0.0, spread_log_odds(
                verifications, ids, self.place_map.T_map_cam, self._belief.radius_m))
        T_base_cam = view.frame.T_base_cam
        return Candidates(
            novelty=novelty, T_base_cam=T_base_cam, ids=ids, similarities=similarities,
            scores=found, log_odds=log_odds, verifications=verifications,
            places=self._mounts.places(ids, T_base_cam))

    def _one_a_place(self, ids: np.ndarray) -> list[int]:
        """The first of these keyframes at each place, in the given order."""
        poses = self.place_map.T_map_cam[ids]
        near = same_place(poses, poses, self._belief.radius_m, np.pi)
        return [int(k) for i, k in enumerate(ids) if not near[i, :i].any()]

    def _decide(self, seen: Sequence[Candidates], way_m: float, odometry: bool
                ) -> tuple[State, Reason, int]:
        """State, its reason, and the accepted keyframe (-1: none)."""
        if not len(self.place_map):
            return State.OFF_MAP, Reason('empty_map', 'the map holds no keyframe'), -1
        keyframe, here, elsewhere = self._belief.best()
        there = self._belief.around(keyframe)
        shown = [float(one.scores[one.at(there)].max(initial=-np.inf)) for one in seen]
        place = self._belief.place(keyframe)
        rivals = [float(one.scores[~one.at(place)].max(initial=-np.inf)) - score
                  for one, score in zip(seen, shown, strict=True) if np.isfinite(score)]
        state, reason = self._decider.decide(Evidence(
            images=self._images, off_map=self._belief.off_map, here=here, elsewhere=elsewhere,
            seen=max(shown), rival=min(rivals, default=0.0), way_m=way_m, odometry=odometry,
            spread_m=0.0 if odometry else self._belief.spread_m(keyframe),
            continued=self._continues(keyframe, way_m)))
        return state, reason, keyframe

    def _continues(self, keyframe: int, way_m: float) -> bool:
        """Whether the robot may have gone from its last fix to this keyframe, on the map."""
        if self._fixed is None or self._belief.off_map > MOST_OFF_MAP:
            return False
        before, since_m = self._fixed
        T = self.place_map.T_map_cam
        return (math.dist(T[before, :3, 3], T[keyframe, :3, 3])
                < REACH_RADII * self._belief.radius_m + since_m + way_m)

    def _remember_fix(self, state: State, keyframe: int, way_m: float) -> None:
        """Note a fix, or the way since the last one; off the map the last one is forgotten."""
        if state is State.LOCALIZED:
            self._fixed = keyframe, 0.0
        elif self._belief.off_map > MOST_OFF_MAP:
            self._fixed = None
        elif self._fixed is not None:
            self._fixed = self._fixed[0], self._fixed[1] + way_m

    def _matches(self, seen: Sequence[Candidates], state: State, keyframe: int
                 ) -> tuple[Match, ...]:
        """Matches, best first; if localized, first the best one of the accepted place."""
        views = np.repeat(np.arange(len(seen)), [len(one.ids) for one in seen])
        rows = np.concatenate([np.arange(len(one.ids)) for one in seen])
        order = np.argsort(-np.concatenate([one.scores for one in seen]), kind='stable')
        accepted = None
        if state is State.LOCALIZED:
            # The candidate at the accepted place with the largest probability.
            there = self._belief.around(keyframe)
            shown = order[np.concatenate([one.at(there) for one in seen])[order]]
            masses = np.concatenate([one.masses(self._belief) for one in seen])
            best = shown[np.argmax(masses[shown])]
            accepted = int(views[best]), int(rows[best])
            order = np.concatenate([[best], order[order != best]])
        found = [(int(views[at]), int(rows[at])) for at in order[: self._config.matches]]
        ahead = self._ahead(seen, found)
        of_image = self._calibration.probability(
            np.array([seen[view].scores[i] for view, i in found]), np.array(ahead))
        at = [keyframe if one == accepted else seen[one[0]].places.first(one[1]) for one in found]
        return tuple(self._match(seen[view], view, i, (view, i) == accepted, p, alone)
                     for (view, i), p, alone in zip(
                         found, self._belief.probabilities(at), of_image.tolist(), strict=True))

    def _ahead(self, seen: Sequence[Candidates], found: Sequence[tuple[int, int]]) -> list[float]:
        """Margin of each candidate's score over the best score at another place."""
        T, config = self.place_map.T_map_cam, self._config.belief
        ahead = [0.0] * len(found)
        for number, one in enumerate(seen):
            mine = [at for at, (view, _) in enumerate(found) if view == number]
            rows = [found[at][1] for at in mine]
            same = same_place(T[one.ids[rows]], T[one.ids], 2.0 * self._belief.radius_m,
                              2.0 * config.place_angle_rad)
            others = np.where(same, -np.inf, one.scores).max(axis=1, initial=-np.inf)
            for at, row, mask, other in zip(mine, rows, same, others, strict=True):
                # If all candidates show one place, other places score at most like the last one.
                ahead[at] = float(one.scores[row] - (one.scores.min() if mask.all() else other))
        return ahead

    def _match(self, one: Candidates, view: int, i: int, accepted: bool, probability: float,
               image_probability: float) -> Match:
        return Match(
            keyframe_id=int(one.ids[i]), similarity=float(one.similarities[i]),
            score=float(one.scores[i]), accepted=accepted, view=view,
            probability=probability, image_probability=image_probability,
            verification=next((v for v in one.verifications
                               if v.keyframe_id == one.ids[i]), None))

    def _hypotheses(self, views: Sequence[Description], pose_prior: PosePrior | None,
                    keyframe: int) -> tuple[PoseHypothesis, ...]:
        """The accepted place, or all places that are likely enough."""
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
        """Pose prior from local features if they give a pose, else from the belief."""
        view = views[match.view]
        T = self.place_map.T_map_cam
        verified: MetricPose | None = None if view.features is None else self._verifier.pose(
            view.features, match.keyframe_id, self._belief.around(match.keyframe_id),
            view.frame.intrinsics)
        # The belief is about the reference camera, which may not be the camera of this image.
        reference = self._mounts.T_base_reference
        return estimate(self._belief, keyframe, T,
                        view.frame.T_base_cam if reference is None else reference,
                        self._config.pose_prior, verified, view.frame.T_base_cam)
