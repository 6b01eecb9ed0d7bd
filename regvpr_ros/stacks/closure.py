"""A loop closure between poses of the base frame, for SLAM stacks."""

from dataclasses import dataclass

import numpy as np

from regvpr_core.geometry import Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Closure:
    """A loop closure between two stamps of the running session.

    T_reference_query: (4, 4) pose of the base at the query stamp in the base at the reference
    stamp, None if unknown. covariance: (6, 6) of it, over x, y, z (m^2) and
    rotations about the reference's axes (rad^2).
    """

    query_stamp_ns: int
    reference_stamp_ns: int
    probability: float
    T_reference_query: Array | None = None
    covariance: Array | None = None

    @property
    def metric(self) -> bool:
        """Whether the relative pose and its covariance are known."""
        return self.T_reference_query is not None and self.covariance is not None

    @property
    def information(self) -> Array:
        """Inverse (6, 6) of the covariance."""
        if self.covariance is None:
            raise ValueError('a closure without a covariance has no information matrix')
        return np.asarray(np.linalg.inv(self.covariance), dtype=np.float64)
