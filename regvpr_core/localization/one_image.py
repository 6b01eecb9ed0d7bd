"""Answer from one image alone whether its place is in the map: yes, unsure or no."""

from dataclasses import dataclass
import enum
import math

from regvpr_core.localization.matches import Match
from regvpr_core.localization.pose_prior import PosePrior

SURE = 0.9
"""Least probability of the best match for the answer yes."""

POSSIBLE = 0.3
"""Below this probability the answer is no."""


class Answer(enum.Enum):
    """Whether the place of an image is in the map."""

    YES = 'yes'
    UNSURE = 'unsure'
    NO = 'no'


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageLocalization:
    """Result of localizing a single image.

    reason: of the answer, one short line. probability: that `matches[0]` shows its place
    (`Match.image_probability`, with local features if the map contains them). matches: best
    first; empty for an empty map. pose_prior: of the base frame, only with the answer YES.
    """

    answer: Answer
    reason: str
    probability: float
    matches: tuple[Match, ...]
    pose_prior: PosePrior | None


def with_evidence(probability: float, log_odds: float) -> float:
    """Update a probability with a log likelihood ratio."""
    odds = math.log(max(probability, 1e-12) / max(1.0 - probability, 1e-12)) + log_odds
    return 1.0 / (1.0 + math.exp(-min(max(odds, -30.0), 30.0)))


def answer(match: Match | None) -> tuple[Answer, str]:
    """Answer and reason for the best match of an image; None if there is no match."""
    if match is None:
        return Answer.NO, 'the map holds no keyframe'
    probability = match.image_probability
    inliers = '' if match.verification is None else \
        f', {match.verification.inliers} of {match.verification.matches} local matches agree'
    reason = f'the best keyframe is right with probability {probability:.2f}{inliers}'
    if probability >= SURE:
        return Answer.YES, reason
    return (Answer.UNSURE if probability >= POSSIBLE else Answer.NO), reason
