"""Settings of the localizer and its parts."""

from dataclasses import dataclass, field

from regvpr_core.config import check_settings, setting
from regvpr_core.localization.appearance import AppearanceConfig
from regvpr_core.localization.belief import BeliefConfig
from regvpr_core.localization.pose_prior import PosePriorConfig
from regvpr_core.verification.verification import VerificationConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalizerConfig:
    """Settings of the localizer."""

    candidates: int = setting(50, 'Keyframes that the search returns for an image.', 1, 1000)
    matches: int = setting(5, 'Matches that are reported.', 1, 50)
    hypotheses: int = setting(
        5, 'Places given with a pose while none is believed.', 0, 20)
    accept_probability: float = setting(0.95, 'Least belief in a place for a fix.', 0.5, 1.0)
    least_score: float = setting(
        4.0, 'Least score of the best keyframe of the place for a fix.', 0.0, 20.0)
    confirm_m: float = setting(
        0.0, 'Distance over which a place must be confirmed before the first fix; 0 takes the '
        'distance of two images that are all new (1.8 `belief.evidence_m`), which the log names.',
        0.0, 1000.0, unit='m')
    keep_probability: float = setting(0.7, 'Least belief that keeps an existing fix.', 0.5, 1.0)
    keep_score: float = setting(3.0, 'Least score that keeps an existing fix.', 0.0, 20.0)
    least_images: int = setting(3, 'Images before the first fix.', 1, 100)
    still_m: float = setting(
        0.1,
        'An image nearer than this to the last one, and within `still_rad`, is no new evidence.',
        0.0, 10.0, unit='m')
    still_rad: float = setting(
        0.05, 'An image turned by less than this, and within `still_m`, is no new evidence.',
        0.0, 3.2, unit='rad')
    still_cosine: float = setting(
        0.97,
        'Without odometry, an image at least this similar to the last one is no new evidence.',
        0.5, 1.0)
    speed_limit_mps: float = setting(
        60.0, 'Odometry that moves faster has restarted or jumped; the motion is then unknown.',
        0.1, 1000.0, unit='m/s')
    appearance: AppearanceConfig = field(default_factory=AppearanceConfig)
    belief: BeliefConfig = field(default_factory=BeliefConfig)
    verification: VerificationConfig = field(default_factory=VerificationConfig)
    pose_prior: PosePriorConfig = field(default_factory=PosePriorConfig)

    def __post_init__(self) -> None:
        check_settings(self)
