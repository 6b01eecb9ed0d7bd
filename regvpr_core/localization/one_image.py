"""What one image alone says of the robot's place: yes, unsure or no."""

from dataclasses import dataclass
import enum
import math

from regvpr_core.localization.matches import Match
from regvpr_core.localization.pose_prior import PosePrior

SURE = 0.9
"""An image that shows its place with this probability is answered with yes."""

POSSIBLE = 0.3
"""One of less than this is answered with no."""


class Answer(enum.Enum):
    """Whether the map holds the place of an image, in a word."""

    YES = 'yes'
    UNSURE = 'unsure'
    NO = 'no'


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageLocalization:
    """What one image shows, without any image before it.

    reason: of the answer, one short line. probability: that `matches[0]` shows its place
    (`Match.image_probability`, with local features where the map holds them). matches: best
    first; empty for an empty map. pose_prior: of the base frame, only with the answer YES.
    """

    answer: Answer
    reason: str
    probability: float
    matches: tuple[Match, ...]
    pose_prior: PosePrior | None


def with_evidence(probability: float, log_odds: float) -> float:
    """A probability after further evidence of this log likelihood ratio."""
    odds = math.log(max(probability, 1e-12) / max(1.0 - probability, 1e-12)) + log_odds
    return 1.0 / (1.0 + math.exp(-min(max(odds, -30.0), 30.0)))


def answer(match: Match | None) -> tuple[Answer, str]:
    """The answer for the best match of an image, and its reason; None: nothing was found."""
    if match is None:
        return Answer.NO, 'the map holds no keyframe'
    probability = match.image_probability
    inliers = '' if match.verification is None else \
        f', {match.verification.inliers} of {match.verification.matches} local matches agree'
    reason = f'the best keyframe is right with probability {probability:.2f}{inliers}'
    if probability >= SURE:
        return Answer.YES, reason
    return (Answer.UNSURE if probability >= POSSIBLE else Answer.NO), reason
