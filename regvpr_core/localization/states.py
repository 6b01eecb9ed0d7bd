"""What the localizer says of itself, and when it changes its mind.

| from | to | when |
|---|---|---|
| any | INITIALISING | fewer than `least_images` images from different spots |
| any | OFF_MAP | off the map has more than half of the belief |
| any | AMBIGUOUS | two places share what there is |
| any | LOST | no place has `accept_probability`, or the image does not show it |
| not LOCALIZED | LOCALIZED | one place has `accept_probability` over `confirm_m` |
| LOCALIZED | itself | it still has `keep_probability`, and the image shows it |
"""

from dataclasses import dataclass
import enum
import math

from regvpr_core.localization.settings import LocalizerConfig

CONFIRM_IMAGES = 2.0
"""Images, all new, after the first that shows a place, until it is believed; where `confirm_m` is
0."""


class State(enum.IntEnum):
    """As in the messages."""

    INITIALISING = 0
    LOST = 1
    AMBIGUOUS = 2
    LOCALIZED = 3
    OFF_MAP = 4


class Reason(str):
    """Why the state is what it is: a line for people, with a code for programs.

    The texts may change between versions; the codes stay: `few_images`, `off_map`, `two_places`,
    `unsure`, `not_seen`, `too_short_a_way`, `one_place`, `empty_map`.
    """

    code: str

    def __new__(cls, code: str, text: str) -> 'Reason':
        """A text with its code."""
        reason = super().__new__(cls, text)
        reason.code = code
        return reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known after an image.

    images: from different spots so far. off_map: probability. here, elsewhere: of the best place
    and the next. seen: score of the best place in this image, -inf where it was not found. way_m:
    since the image before.
    """

    images: int
    off_map: float
    here: float
    elsewhere: float
    seen: float
    way_m: float


class Decider:
    """Turns belief into a state, with hysteresis."""

    def __init__(self, config: LocalizerConfig, confirm_m: float | None = None) -> None:
        """Start undecided. confirm_m: in place of the setting, which is 0 for "by the map"."""
        self._config = config
        self._confirm_m = config.confirm_m if confirm_m is None else confirm_m
        self.reset()

    def reset(self) -> None:
        """Forget what was decided."""
        self._localized = False
        self._believed_m: float | None = None

    def decide(self, evidence: Evidence) -> tuple[State, Reason]:
        """The state after an image, and its reason in one short line."""
        state, reason = self._state(evidence)
        self._localized = state is State.LOCALIZED
        return state, reason

    def _state(self, evidence: Evidence) -> tuple[State, Reason]:
        config, here = self._config, evidence.here
        # How much of the way one place has been believed: from the first image that shows it on.
        if here < config.accept_probability:
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
        believed_m = self._believed_m or 0.0
        if not self._localized and believed_m < self._confirm_m - 1e-9:
            return State.LOST, Reason(
                'too_short_a_way', f'one place has {here:.2f}, so far over {believed_m:.1f} of '
                f'{self._confirm_m:.1f} m')
        return State.LOCALIZED, Reason('one_place', f'one place has {here:.2f}')
