"""A running session as a growing place map on disk; committed keyframes survive a crash."""

from pathlib import Path

from regvpr_core.arrays import Float32
from regvpr_core.geometry import Array
from regvpr_core.images import RGB
from regvpr_core.maps.files import Manifest, new_folder
from regvpr_core.maps.writer import Keyframe, MapWriter


class SessionMap:
    """Appends keyframes in small batches. All keyframes stay, also those dropped from memory."""

    BATCH = 8

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Create a new map.

        Raises:
            MapError: the folder exists, or cannot be written.
        """
        self.path = path
        # The folder gets its name only once the map can be opened.
        with new_folder(path) as folder:
            MapWriter.create(folder, manifest).close()
        self._writer = MapWriter.append_to(path)
        self._waiting: list[Keyframe] = []

    def add(self, stamp_ns: int, camera: str, descriptor: Float32, T_odom_cam: Array,
            thumbnail: RGB | None, local_features: bytes | None = None) -> None:
        """Append a keyframe; a full batch is committed.

        Raises:
            MapError: the disk is full or gone; committed keyframes are safe.
        """
        self._waiting.append(Keyframe(
            stamp_ns=stamp_ns, camera=camera, T_map_cam=T_odom_cam, descriptor=descriptor,
            source='session', thumbnail=thumbnail, local_features=local_features))
        if len(self._waiting) >= self.BATCH:
            self.flush()

    def flush(self) -> None:
        """Commit pending keyframes.

        Raises:
            MapError: as `add`.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._writer.append(waiting)

    def close(self) -> None:
        """Commit and close the map."""
        try:
            self.flush()
        finally:
            self._writer.close()
