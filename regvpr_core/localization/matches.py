"""What was found for an image."""

from dataclasses import dataclass

from regvpr_core.verification.verification import Verification


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """One keyframe found.

    similarity: cosine of the centred descriptors. score: see `calibration`.
    probability: that the robot is at its place, after all images so far (the belief).
    image_probability: that the match is true, by this image's score and margin alone
        (`Calibration.probability`).
    view: which of the frame's images found it. verification: what local features say of it.
    """

    keyframe_id: int
    similarity: float
    score: float
    probability: float
    accepted: bool
    image_probability: float = 0.0
    view: int = 0
    verification: Verification | None = None
