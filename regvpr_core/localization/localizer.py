"""One image after the other: where on the map is the robot?"""

from dataclasses import dataclass, field
import enum
import time

import numpy as np

from regvpr_core.config import check_range
from regvpr_core.geometry import Array, inverse, rotation_angle
from regvpr_core.images import RGB
from regvpr_core.localization.appearance import Appearance, AppearanceConfig, Float32
from regvpr_core.localization.belief import Belief, BeliefConfig, Float, Ids
from regvpr_core.localization.calibration import calibrate, sample, scores
from regvpr_core.localization.pose_prior import estimate, PosePrior, PosePriorConfig
from regvpr_core.models.encoder import Encoder
from regvpr_core.places.place_map import PlaceMap, unit

OUT_OF_ORDER_NS = 1_000_000_000
"""An image older than the last by less came late and is no evidence; by more, time jumped back."""

METRES_OF_A_RADIAN = 3.0
"""A turn shows as much that is new as this drive."""


class State(enum.IntEnum):
    """As in the messages."""

    INITIALISING = 0
    LOST = 1
    AMBIGUOUS = 2
    LOCALIZED = 3
    OFF_MAP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizerConfig:
    """Settings of localization.

    candidates: keyframes searched for an image, 1 to 1000. matches: reported, 1 to 50.
    accept_probability: belief that a place needs, 0.5 to 1.
    least_score: and how far its best keyframe must stand out in this image, 0 to 20.
    least_images: before the first fix, 1 to 100.
    still_m, still_rad: an image taken nearer than this to the last one is no new evidence.
    still_cosine: without odometry, nor is one whose descriptor is this similar, 0.5 to 1.
    """

    candidates: int = 50
    matches: int = 5
    accept_probability: float = 0.9
    least_score: float = 2.0
    least_images: int = 3
    still_m: float = 0.1
    still_rad: float = 0.05
    still_cosine: float = 0.97
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    belief: BeliefConfig = field(default_factory=BeliefConfig)
    pose_prior: PosePriorConfig = field(default_factory=PosePriorConfig)

    def __post_init__(self) -> None:
        for name, low, high in (
            ('candidates', 1, 1000), ('matches', 1, 50), ('accept_probability', 0.5, 1.0),
            ('least_score', 0.0, 20.0), ('least_images', 1, 100), ('still_m', 0.0, 10.0),
            ('still_rad', 0.0, 3.2), ('still_cosine', 0.5, 1.0),
        ):
            check_range(name, getattr(self, name), low, high)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One image. rgb: (H, W, 3) uint8. T_base_cam: (4, 4) of its camera."""

    stamp_ns: int
    rgb: RGB
    T_base_cam: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One keyframe found. probability: belief that the robot is at its place."""

    keyframe_id: int
    similarity: float
    score: float
    probability: float
    accepted: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Localization:
    """What is known after an image. pose_prior: only when the state is LOCALIZED."""

    stamp_ns: int
    state: State
    reason: str
    off_map: float
    matches: tuple[Match, ...]
    pose_prior: PosePrior | None
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class _Evidence:
    """The last image that moved the belief."""

    stamp_ns: int
    T_base_cam: Array
    T_odom_base: Array | None
    descriptor: Float32


class Localizer:
    """Holds an encoder, a map and the belief. Not to be shared between threads."""

    def __init__(self, encoder: Encoder, place_map: PlaceMap, config: LocalizerConfig) -> None:
        """Start without a belief; `place_map` must be of the encoder's model."""
        self._encoder = encoder
        self.place_map = place_map
        self._config = config
        self._appearance = Appearance(place_map.centre, config.appearance)
        self._belief = Belief(place_map.T_map_cam, config.belief)
        self._background = place_map.centred(sample(place_map))
        self._calibration = calibrate(
            place_map, self._belief.radius_m, config.belief.place_angle_rad)
        self.reset()

    def reset(self) -> None:
        """Forget where the robot was."""
        self._appearance.reset()
        self._belief.reset()
        self._last: _Evidence | None = None
        self._images = 0

    def localize(self, frame: Frame, T_odom_base: Array | None = None) -> Localization:
        """Localize one image.

        Args:
            frame: newer than the one before. Up to a second older counts as late and tells
                nothing; still older starts over (a bag began again).
            T_odom_base: (4, 4) odometry at the image's stamp, None where there is none.

        Raises:
            ImageError: the image cannot be used; the belief stays as it was.
        """
        start = time.perf_counter()
        # 1. Describe the image.
        descriptor = self._encoder.describe(frame.rgb)
        described = time.perf_counter()
        # 2. Move the belief by odometry; an image from where the last was taken tells nothing new.
        travelled_m = self._move(frame, T_odom_base, descriptor)
        # 3. Take off what the session's images share, and search the map.
        if travelled_m:
            self._appearance.update(descriptor)
        similarities, ids = self.place_map.search(
            descriptor, self._config.candidates, self._appearance.mean)
        background = self._background @ unit(descriptor - self._appearance.mean)
        found = scores(similarities, background)
        searched = time.perf_counter()
        # 4. Weigh the belief with what was found.
        if travelled_m:
            self._belief.update(ids, self._calibration.log_odds(found), travelled_m)
            self._images += 1
        # 5. Decide, and estimate the pose only where one place is believed.
        state, reason, keyframe = self._decide(ids, found)
        pose_prior = None
        if state is State.LOCALIZED:
            pose_prior = estimate(self._belief, keyframe, self.place_map.T_map_cam,
                                  frame.T_base_cam, self._config.pose_prior)
        matches = self._matches(ids, similarities, found, state, keyframe)
        end = time.perf_counter()
        return Localization(
            stamp_ns=frame.stamp_ns, state=state, reason=reason, off_map=self._belief.off_map,
            matches=matches, pose_prior=pose_prior,
            seconds={'describe': described - start, 'search': searched - described,
                     'belief': end - searched})

    def _move(self, frame: Frame, T_odom_base: Array | None, descriptor: Float32) -> float:
        """Predict the belief to this image; metres since the last, 0 when it is still there."""
        if self._last is not None and frame.stamp_ns < self._last.stamp_ns - OUT_OF_ORDER_NS:
            self.reset()
        last = self._last
        if last is not None and frame.stamp_ns < last.stamp_ns:
            return 0.0
        this = _Evidence(frame.stamp_ns, frame.T_base_cam, T_odom_base, descriptor)
        if last is None:
            self._last = this
            return np.inf
        elapsed_s = (frame.stamp_ns - last.stamp_ns) / 1e9
        if T_odom_base is not None and last.T_odom_base is not None:
            base_motion = inverse(last.T_odom_base) @ T_odom_base
            metres = float(np.linalg.norm(base_motion[:3, 3]))
            radians = float(rotation_angle(base_motion[:3, :3]))
            if metres < self._config.still_m and radians < self._config.still_rad:
                return 0.0
            motion = inverse(last.T_base_cam) @ base_motion @ frame.T_base_cam
            travelled_m = metres + METRES_OF_A_RADIAN * radians
        elif float(descriptor @ last.descriptor) > self._config.still_cosine:
            return 0.0
        else:
            motion = None
            travelled_m = self._config.belief.drift_mps * elapsed_s
        self._belief.predict(motion, elapsed_s)
        self._last = this
        return travelled_m

    def _decide(self, ids: Ids, found: Float) -> tuple[State, str, int]:
        """State, its reason, and the believed keyframe (-1: none)."""
        if not len(ids):
            return State.OFF_MAP, 'the map holds no keyframe', -1
        keyframe, here, elsewhere = self._belief.best()
        if self._images < self._config.least_images:
            return (State.INITIALISING, f'{self._images} of {self._config.least_images} images '
                    f'from different spots', keyframe)
        if self._belief.off_map > 0.5:
            return State.OFF_MAP, f'off the map with {self._belief.off_map:.2f}', keyframe
        if here < self._config.accept_probability:
            if elsewhere > 0.5 * here and here > 0.2:
                return (State.AMBIGUOUS,
                        f'two places: {here:.2f} and {elsewhere:.2f}', keyframe)
            return State.LOST, f'best place has {here:.2f}', keyframe
        seen = float(found[np.isin(ids, self._belief.around(keyframe))].max(initial=0.0))
        if seen < self._config.least_score:
            return State.LOST, f'the believed place is not seen (score {seen:.1f})', keyframe
        return State.LOCALIZED, f'one place has {here:.2f}', keyframe

    def _matches(self, ids: Ids, similarities: Float32, found: Float, state: State,
                 keyframe: int) -> tuple[Match, ...]:
        """Best first; when localized, the first is the most similar one of the believed place."""
        order = np.arange(len(ids))
        accepted = -1
        if state is State.LOCALIZED:
            there = np.isin(ids, self._belief.around(keyframe))
            accepted = int(np.argmax(there))
            order = np.concatenate([[accepted], np.delete(order, accepted)])
        return tuple(
            Match(keyframe_id=int(ids[i]), similarity=float(similarities[i]),
                  score=float(found[i]), accepted=bool(i == accepted),
                  probability=self._belief.probability(
                      keyframe if i == accepted else int(ids[i])))
            for i in order[: self._config.matches])
