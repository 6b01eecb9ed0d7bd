"""Matches of an image with keyframes."""

from dataclasses import dataclass

from regvpr_core.verification.verification import Verification


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A keyframe found for an image.

    similarity: cosine of the centred descriptors. score: see `calibration`.
    probability: that the robot is at this place, given all images so far (the belief).
    image_probability: that the match is true, given only this image's score and margin
        (`Calibration.probability`).
    view: index of the image that found it. verification: result by local features.
    """

    keyframe_id: int
    similarity: float
    score: float
    probability: float
    accepted: bool
    image_probability: float = 0.0
    view: int = 0
    verification: Verification | None = None
