"""Extrinsics of a camera: from a parameter, TF if installed, or the map."""

import importlib
from typing import Any

import numpy as np

from regvpr_core.geometry import Array, pose_matrix
from regvpr_core.recordings.messages import transform_T


class TransformListener:
    """Transforms from TF; none if tf2_ros is not installed."""

    def __init__(self, node: Any) -> None:
        try:
            tf2_ros = importlib.import_module('tf2_ros')
        except ImportError:
            self._buffer, self._listener = None, None
            return
        self._errors = tf2_ros.TransformException
        self._newest = type(node.get_clock().now())()  # time 0 requests the newest transform
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    @property
    def available(self) -> bool:
        """True if TF is installed."""
        return self._buffer is not None

    def find(self, base_frame: str, camera_frame: str) -> Array | None:
        """`T_base_cam` (4, 4) if it is available now."""
        if self._buffer is None:
            return None
        try:
            found = self._buffer.lookup_transform(base_frame, camera_frame, self._newest)
        except self._errors:
            return None
        return transform_T(found.transform)

    def close(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.unregister()


def find_extrinsics(
    given: tuple[float, ...],
    transforms: TransformListener,
    base_frame: str,
    camera_frame: str,
    of_map: dict[str, list[float]] | None,
    camera: str = '',
) -> tuple[Array, str, bool]:
    """`T_base_cam`, its origin, and whether it is final.

    Args:
        given: seven numbers of the parameter, or none.
        transforms: TF.
        base_frame, camera_frame: frames in TF.
        of_map: extrinsics of the map by camera; None without a map.
        camera: name of the camera in the map.
    """
    if of_map is not None and not of_map:
        # The map stores poses of a body as those of the camera: the extrinsics are the identity.
        return np.eye(4), ('unknown when the map was built: the published pose is that of the '
                           'body whose poses the map was built from'), True
    if given:
        return pose_matrix(given[:3], given[3:]), "parameter 'extrinsics'", True
    T = transforms.find(base_frame, camera_frame)
    if T is not None:
        return T, f'TF {base_frame} -> {camera_frame}', True
    if of_map is None:
        return np.eye(4), ("unknown: the camera frame is taken as the base frame (give the "
                           "parameter 'extrinsics')"), not transforms.available
    name = camera if camera in of_map else next(iter(of_map))
    values = of_map[name]
    return (pose_matrix(values[:3], values[3:]),
            f'of camera {name!r} in the map', not transforms.available)
