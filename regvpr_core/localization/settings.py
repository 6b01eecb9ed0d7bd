"""Settings of localization, in one place."""

from dataclasses import dataclass, field

from regvpr_core.config import check_range
from regvpr_core.localization.appearance import AppearanceConfig
from regvpr_core.localization.belief import BeliefConfig
from regvpr_core.localization.pose_prior import PosePriorConfig
from regvpr_core.verification.verification import VerificationConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizerConfig:
    """Settings of localization.

    candidates: keyframes searched for an image, 1 to 1000.
    matches: reported, 1 to 50.
    accept_probability: belief that a place needs, 0.5 to 1.
    least_score: and how far its best keyframe must stand out in this image, 0 to 20.
    confirm_m: over this much of the way, 0 to 1000.
    keep_probability: once localized, this much belief suffices, 0.5 to 1.
    keep_score: and this much of standing out, 0 to 20.
    least_images: before the first fix, 1 to 100.
    still_m, still_rad: an image taken nearer than this to the last one is no new evidence.
    still_cosine: without odometry, nor is one whose descriptor is this similar, 0.5 to 1.
    speed_limit_mps: odometry that moves faster has started over or jumped: the motion is then
        taken as unknown, 0.1 to 1000.
    """

    candidates: int = 50
    matches: int = 5
    accept_probability: float = 0.9
    least_score: float = 2.0
    confirm_m: float = 3.0
    keep_probability: float = 0.7
    keep_score: float = 1.5
    least_images: int = 3
    still_m: float = 0.1
    still_rad: float = 0.05
    still_cosine: float = 0.97
    speed_limit_mps: float = 60.0
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    belief: BeliefConfig = field(default_factory=BeliefConfig)
    verification: VerificationConfig = field(default_factory=VerificationConfig)
    pose_prior: PosePriorConfig = field(default_factory=PosePriorConfig)

    def __post_init__(self) -> None:
        for name, low, high in (
            ('candidates', 1, 1000), ('matches', 1, 50), ('accept_probability', 0.5, 1.0),
            ('least_score', 0.0, 20.0), ('confirm_m', 0.0, 1000.0),
            ('keep_probability', 0.5, 1.0), ('keep_score', 0.0, 20.0), ('least_images', 1, 100),
            ('still_m', 0.0, 10.0), ('still_rad', 0.0, 3.2), ('still_cosine', 0.5, 1.0),
            ('speed_limit_mps', 0.1, 1000.0),
        ):
            check_range(name, getattr(self, name), low, high)
