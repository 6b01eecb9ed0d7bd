"""Detects different cameras with the same name."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from regvpr_core.errors import BagError
from regvpr_core.geometry import distance, pose_matrix
from regvpr_core.recordings.frames import PosedSource

SAME_EXTRINSICS_M, SAME_EXTRINSICS_RAD = 0.01, 0.01


class Calibrated(Protocol):
    """Object with cameras: a map's manifest, or a source of a map."""

    @property
    def extrinsics(self) -> Mapping[str, list[float]]:
        """`T_base_cam` as x y z qx qy qz qw, by camera name."""

    @property
    def intrinsics(self) -> Mapping[str, dict[str, Any]]:
        """width, height, K, … by camera name."""


def conflict(camera: str, a: Calibrated, b: Calibrated) -> str:
    """Difference of a camera between two objects, in words; '' if none."""
    if camera in a.extrinsics and camera in b.extrinsics:
        T_a, T_b = (pose_matrix(m.extrinsics[camera][:3], m.extrinsics[camera][3:])
                    for m in (a, b))
        metres, radians = distance(T_a, T_b)
        if metres > SAME_EXTRINSICS_M or radians > SAME_EXTRINSICS_RAD:
            return f'extrinsics ({metres:.3f} m, {np.degrees(radians):.1f} deg apart)'
    elif (camera in a.extrinsics) != (camera in b.extrinsics):
        return 'extrinsics (only one of them knows any)'
    if camera in a.intrinsics and camera in b.intrinsics:
        sizes = [(m.intrinsics[camera]['width'], m.intrinsics[camera]['height']) for m in (a, b)]
        K_a, K_b = (np.asarray(m.intrinsics[camera]['K'], dtype=float) for m in (a, b))
        if sizes[0] != sizes[1] or not np.allclose(K_a, K_b, rtol=0.01, atol=1.0):
            return (f'intrinsics (f {K_a[0]:.1f} and {K_b[0]:.1f} px, {sizes[0][0]}x{sizes[0][1]} '
                    f'and {sizes[1][0]}x{sizes[1][1]})')
    return ''


def refuse_conflicts(sources: Sequence[PosedSource]) -> None:
    """Refuse sources with different cameras of the same name.

    Raises:
        BagError: the message has the camera, the difference and what to do.
    """
    for camera in dict.fromkeys(camera for source in sources for camera in source.cameras):
        group = [source for source in sources if camera in source.cameras]
        # The first source with intrinsics may not be the first source.
        known = [group[0], *[source for source in group if camera in source.intrinsics][:1]]
        for source in group[1:]:
            for first in known:
                if what := conflict(camera, first, source):
                    given = ('give --extrinsics for both if it is one camera, else ' if
                             what.startswith('extrinsics') else '')
                    raise BagError(
                        f'camera {camera!r} has other {what} in {source.name} than in '
                        f'{first.name}; {given}build a map of each and join them by regvpr map '
                        f'merge --rename-cameras')
