"""A pose with covariance out of the belief over keyframes."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from regvpr_core.config import check_range
from regvpr_core.geometry import Array, inverse
from regvpr_core.localization.belief import Belief


@dataclass(frozen=True, slots=True, kw_only=True)
class PosePriorConfig:
    """How wide a pose prior is at least.

    position_floor_m: standard deviation of position never goes below this, 0.01 to 100.
    rotation_floor_rad: of rotation, 0.001 to 3.
    """

    position_floor_m: float = 0.5
    rotation_floor_rad: float = 0.1

    def __post_init__(self) -> None:
        check_range('pose_prior.position_floor_m', self.position_floor_m, 0.01, 100.0)
        check_range('pose_prior.rotation_floor_rad', self.rotation_floor_rad, 0.001, 3.0)


@dataclass(frozen=True, slots=True, eq=False)
class PosePrior:
    """Pose of the base frame in the map.

    T_map_base: (4, 4). variances: (6,) of x, y, z (m^2) and of rotations about the map's axes
    (rad^2): finite and positive, the diagonal of a covariance.
    """

    T_map_base: Array
    variances: Array


def estimate(
    belief: Belief, keyframe: int, T_map_cam: Array, T_base_cam: Array, config: PosePriorConfig
) -> PosePrior:
    """Weighted mean of the keyframes that show the believed place.

    Args:
        belief: after the update with this image.
        keyframe: the most likely one.
        T_map_cam: (N, 4, 4) keyframe poses.
        T_base_cam: (4, 4) of the camera that took the image.
        config: least widths.
    """
    ids = belief.around(keyframe)
    weights = belief.places[ids] / belief.places[ids].sum()
    T_map_base = T_map_cam[ids] @ inverse(T_base_cam)
    positions = T_map_base[:, :3, 3]
    rotations = Rotation.from_matrix(T_map_base[:, :3, :3])

    mean = np.eye(4)
    mean[:3, 3] = weights @ positions
    centre = rotations.mean(weights)
    mean[:3, :3] = centre.as_matrix()

    # Spread of the belief, plus what lies between two keyframes (uniform: spacing^2 / 12).
    floor = config.position_floor_m**2 + belief.spacing_m**2 / 12.0
    position = weights @ (positions - mean[:3, 3]) ** 2 + floor
    turns = (rotations * centre.inv()).as_rotvec()
    rotation = weights @ turns**2 + config.rotation_floor_rad**2
    return PosePrior(mean, np.concatenate([position, rotation]))
