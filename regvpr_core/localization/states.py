"""States of the localizer and the rules of their transitions.

| from | to | when |
|---|---|---|
| any | INITIALISING | fewer than `least_images` images from different spots |
| any | OFF_MAP | being off the map has more than half of the probability |
| any | AMBIGUOUS | two places share most of the probability |
| any | LOST | no place has `accept_probability` and an exact position, or it is not in the image |
| not LOCALIZED | LOCALIZED | one place has `accept_probability` over `confirm_m` |
| LOCALIZED | itself | it still has `keep_probability`, and the image shows it |
"""

from dataclasses import dataclass
import enum
import math

from regvpr_core.localization.settings import LocalizerConfig

CONFIRM_IMAGES = 1.8
"""Number of entirely new images that must confirm a place after the first one, before the place is
accepted; used if `confirm_m` is 0. It is 2 minus 10 % for the error of odometry."""

MOST_RIVAL = 0.5
"""Without odometry an image gives no fix if the score of another place exceeds that of the
believed place by more than this. Set on the data sets corridor_changes and pepper_office
(keyframes_gray). In the corridor it raises precision from 0.94 to 0.98 and lowers recall, as a
share of the recall@1 of single images, from 0.84 to 0.74."""

CLEAR_RIVAL = 3.0
"""The same with odometry. A robot that was carried sees another place much better than the one
that its odometry leads to. Set by hand."""


EXACT_SPACINGS = 1.5
"""Without odometry a position is exact enough for a fix if its standard deviation is at most this
many spacings of the map, or the distance at which its keyframes are half as similar
(`calibration.alike_m`). Set on a third and a fifth of the images of corridor_changes: precision
0.932 becomes 0.971, and 0.833 becomes 0.897. With odometry it costs recall and gains nothing."""


class State(enum.IntEnum):
    """State of the localizer; values as in the messages."""

    INITIALISING = 0
    LOST = 1
    AMBIGUOUS = 2
    LOCALIZED = 3
    OFF_MAP = 4


class Reason(str):
    """Reason of a state: a line of text, with a code for programs.

    Texts may change between versions; codes do not: `few_images`, `off_map`, `two_places`,
    `unsure`, `not_seen`, `too_short_a_way`, `one_place`, `empty_map`.
    """

    code: str

    def __new__(cls, code: str, text: str) -> 'Reason':
        """Make a reason from its code and its text."""
        reason = super().__new__(cls, text)
        reason.code = code
        return reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Evidence after an image.

    images: number of images from different spots so far. off_map: probability of being off the
    map. here, elsewhere: probabilities of the best and second place. seen: score of the best place
    in this image, -inf if it was not found. rival: by how much the score of the best other place
    in this image exceeds `seen`, 0 or more. way_m: distance since the previous image.
    odometry: whether it is known. spread_m: standard deviation of the position at the best place.
    continued: whether the best place is within reach of the last fix, and the robot has been on
    the map ever since.
    """

    images: int
    off_map: float
    here: float
    elsewhere: float
    seen: float
    way_m: float
    rival: float = 0.0
    odometry: bool = True
    spread_m: float = 0.0
    continued: bool = False


class Decider:
    """Derives the state from the belief, with hysteresis."""

    def __init__(self, config: LocalizerConfig, confirm_m: float | None = None,
                 exact_m: float = math.inf) -> None:
        """Start in the initial state.

        Args:
            config: settings.
            confirm_m: used instead of the setting, which may be 0.
            exact_m: largest standard deviation of a position without odometry, m.
        """
        self._config = config
        self.exact_m = exact_m
        self._confirm_m = config.confirm_m if confirm_m is None else confirm_m
        self.reset()

    def reset(self) -> None:
        """Return to the initial state."""
        self._localized = False
        self._believed_m: float | None = None

    def decide(self, evidence: Evidence) -> tuple[State, Reason]:
        """The state after an image, and its reason in one short line."""
        state, reason = self._state(evidence)
        self._localized = state is State.LOCALIZED
        return state, reason

    def _state(self, evidence: Evidence) -> tuple[State, Reason]:
        config, here = self._config, evidence.here
        # Distance driven since one place has had enough probability.
        if here < (config.keep_probability if evidence.continued else config.accept_probability):
            self._believed_m = None
        else:
            self._believed_m = 0.0 if self._believed_m is None else \
                self._believed_m + evidence.way_m
        if evidence.images < config.least_images:
            return State.INITIALISING, Reason(
                'few_images', f'{evidence.images} of {config.least_images} images from different '
                f'spots')
        if evidence.off_map > 0.5:
            return State.OFF_MAP, Reason('off_map', f'off the map with {evidence.off_map:.2f}')
        if here < (config.keep_probability if self._localized else config.accept_probability):
            if evidence.elsewhere > 0.5 * here and here > 0.2:
                return State.AMBIGUOUS, Reason(
                    'two_places', f'two places: {here:.2f} and {evidence.elsewhere:.2f}')
            return State.LOST, Reason('unsure', f'best place has {here:.2f}')
        if evidence.seen < (config.keep_score if self._localized else config.least_score):
            found = f'score {evidence.seen:.1f}' if evidence.seen > -math.inf else 'not found'
            return State.LOST, Reason('not_seen', f'the believed place is not seen ({found})')
        if evidence.rival > (CLEAR_RIVAL if evidence.odometry else MOST_RIVAL):
            return State.LOST, Reason(
                'not_seen', f'the image shows another place better (score {evidence.rival:.1f} '
                f'above that of the believed place)')
        if not evidence.odometry and evidence.spread_m > self.exact_m:
            return State.LOST, Reason(
                'unsure', f'best place has {here:.2f}, but its position is uncertain by '
                f'{evidence.spread_m:.1f} m (at most {self.exact_m:.1f} m)')
        believed_m = self._believed_m or 0.0
        if not self._localized and believed_m < self._confirm_m - 1e-9:
            return State.LOST, Reason(
                'too_short_a_way', f'nearly there: one place has {here:.2f}, confirmed over '
                f'{believed_m:.1f} of {self._confirm_m:.1f} m so far')
        return State.LOCALIZED, Reason('one_place', f'one place has {here:.2f}')
