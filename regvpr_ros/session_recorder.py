"""The running session: loop closures, and its map on disk."""

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from regvpr_core.config import to_mapping
from regvpr_core.errors import MapError
from regvpr_core.geometry import Array, quat_xyzw
from regvpr_core.images import thumbnail
from regvpr_core.localization.frames import Description
from regvpr_core.localization.session import LoopClosure, SessionConfig, SessionLoops
from regvpr_core.maps.files import Manifest, new_map_id
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.session_map import SessionMap
from regvpr_core.models.encoder import Encoder
from regvpr_core.verification.local_features import encode_features
from regvpr_ros.view import View

THUMBNAIL_PX = 160
EDGES = 5000


class SessionRecorder:
    """Loop closures of one camera; keyframes are also stored on disk if a folder is given."""

    def __init__(self, encoder: Encoder, config: SessionConfig, folder: str,
                 intrinsics: dict[str, dict[str, Any]] | None = None) -> None:
        """Start a session. intrinsics: of the cameras; entries may be added later.

        Raises:
            MapError: the folder is not empty.
        """
        self._encoder = encoder
        self._intrinsics = {} if intrinsics is None else intrinsics
        self._loops = SessionLoops(encoder, config, self._intrinsics)
        self._folder = session_folder(folder)
        self._map: SessionMap | None = None
        self._part = 0
        self._frame = 'odom'
        self.reset()

    def __len__(self) -> int:
        return len(self._loops)

    def reset(self) -> None:
        """Start a new session after a restart of odometry or time; on disk it is a new part."""
        self._loops.reset()
        self._newest, self._restarts = -1, 0
        self.map_id = new_map_id()
        self._edges: deque[Array] = deque(maxlen=EDGES)
        self.close()

    @property
    def edges(self) -> Array:
        """Positions (N, 2, 3) of query and reference of each closure, in the odometry frame."""
        return np.array(self._edges).reshape(-1, 2, 3)

    def look(self, view: View, description: Description | None,
             frame: str) -> tuple[LoopClosure, ...]:
        """Add an image and return the loop closure, if there is one.

        Args:
            view: the image, with odometry if known.
            description: of the image, if the localizer has made one with the same model.
            frame: of the odometry.

        Raises:
            ImageError: the image cannot be used.
            MapError: the disk is full or unavailable; the session continues in memory.
        """
        self._frame = frame or 'odom'
        if description is None or not self._loops.takes(description):
            description = self._loops.describe(view.frame)
        closures = self._loops.update(description, view.T_odom_base)
        if self._loops.odometry_restarts != self._restarts:
            # A map has one frame: further keyframes go into a new part.
            self._restarts = self._loops.odometry_restarts
            self._edges.clear()
            self.close()
        for closure in closures:
            ends = self.pose_of(closure.query_id), self.pose_of(closure.reference_id)
            if np.isfinite(ends).all():
                self._edges.append(np.stack([T[:3, 3] for T in ends]))
        store = self._loops.store
        if self._folder is not None and len(store) and store.ids[-1] != self._newest:
            self._newest = int(store.ids[-1])
            self._record(view, description, store.T_odom_cam[-1])
        return closures

    def pose_of(self, number: int) -> Array:
        """`T_odom_cam` (4, 4) of a keyframe in memory; NaN if unknown."""
        store = self._loops.store
        at = int(np.searchsorted(store.ids, number))
        return np.asarray(store.T_odom_cam[min(at, len(store) - 1)])

    def save(self, path: Path) -> int:
        """Write the session as a map to a new folder; return the number of keyframes.

        Raises:
            MapError: no keyframe has a pose, or the folder exists or cannot be written.
        """
        if self._map is None:
            return self._loops.save(path)
        self._map.flush()
        with PlaceMap.open(self._map.path) as place_map:
            place_map.copy_to(path)
            return len(place_map)

    def parts(self) -> list[Path]:
        """Commit, and return the maps of the session on disk, oldest first."""
        if self._map is not None:
            self._map.flush()
        return [] if self._folder is None else sorted(self._folder.glob('part*'))

    def close(self) -> None:
        """Commit pending keyframes."""
        if self._map is not None:
            done, self._map = self._map, None
            done.close()

    def _record(self, view: View, description: Description, T_odom_cam: Array) -> None:
        if not np.isfinite(T_odom_cam).all():
            return  # keyframes of a map need poses
        if self._map is None and self._folder is not None:
            self._part += 1
            self._map = SessionMap(self._folder / f'part{self._part:03d}',
                                   self._manifest(view, description))
        features = description.features
        if self._map is not None:
            self._map.add(view.frame.stamp_ns, view.camera or 'camera', description.descriptor,
                          T_odom_cam, thumbnail(view.rgb, THUMBNAIL_PX),
                          None if features is None else encode_features(features))

    def _manifest(self, view: View, description: Description) -> Manifest:
        encoder, T_base_cam = self._encoder, view.frame.T_base_cam
        name, intrinsics = view.camera or 'camera', self._intrinsics.get(view.camera)
        return Manifest(
            map_id=self.map_id if not self._restarts else new_map_id(),
            model=encoder.name, fingerprint=encoder.fingerprint, dimension=encoder.dimension,
            map_frame=self._frame,
            features='' if description.features is None else description.features.kind,
            intrinsics={} if intrinsics is None else {name: intrinsics},
            extrinsics={name: [float(v) for v in (*T_base_cam[:3, 3],
                                                *quat_xyzw(T_base_cam))]},
            preprocessing=to_mapping(encoder.preprocessing), sources=['session'])


def session_folder(path: str) -> Path | None:
    """The folder of the parameter `session_path`; None for a session in memory.

    Raises:
        MapError: the folder is not empty.
    """
    if not path:
        return None
    folder = Path(path).expanduser()
    # A folder left by a process killed before its first map is no session.
    if folder.exists() and not all(file.name.startswith('.part') for file in folder.iterdir()):
        raise MapError(f"parameter 'session_path': {folder} is not empty; choose a new folder, or "
                       f'move the session of before away')
    return folder
