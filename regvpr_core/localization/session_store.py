"""The keyframes of a session, in bounded memory.

At most `max_keyframes` are kept. When the limit is reached, keyframes of a place that an older
keyframe shows (a street driven again) are deleted first, oldest first. If these are less than a
tenth, every second of the oldest three quarters is deleted too, so that old keyframes are sparser.
"""

from pathlib import Path

import numpy as np

from regvpr_core.arrays import Float32, Ids
from regvpr_core.errors import MapError
from regvpr_core.geometry import Array, quat_xyzw
from regvpr_core.localization.appearance import Appearance, AppearanceConfig
from regvpr_core.localization.frames import Description
from regvpr_core.localization.whitening import MAX_ROWS, Whitening
from regvpr_core.maps.files import Manifest, new_folder, new_map_id
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.search.rows import unit
from regvpr_core.verification.local_features import encode_features

FIRST_ROWS = 256
BLOCK = 2048
LEARN_FIRST = 16
LEARN_EVERY = 1000
"""The whitening is learnt again after the keyframes have doubled, or after this many new ones."""

THINNED = 0.1
RECENT = 0.25
SAVE_BATCH = 64

APPEARANCE = AppearanceConfig(prior_images=5.0, memory_images=100.0)
SNAPSHOT = 16
"""Interval in keyframes at which the running mean is stored."""


class SessionStore:
    """Keyframes in the order of time.

    ids: (N,) identifiers, which do not change when others are deleted. revisit_of: (N,) id of an
    older keyframe of the same place, -1 for none. along_m: (N,) distance driven.
    T_odom_cam: (N, 4, 4), NaN if unknown.
    """

    def __init__(self, dimension: int, max_keyframes: int, features: str = '') -> None:
        """Start empty.

        Args:
            dimension: length of a descriptor.
            max_keyframes: largest number of keyframes.
            features: kind of the local features of the images, '' for none.
        """
        self.dimension, self.max_keyframes = dimension, max_keyframes
        self.features = features
        self._rows = np.zeros((0, dimension), dtype=np.float16)
        self.ids: Ids = np.zeros(0, np.int64)
        self.stamps_ns: Ids = np.zeros(0, np.int64)
        self.along_m: Array = np.zeros(0)
        self.T_odom_cam: Array = np.zeros((0, 4, 4))
        self.T_base_cam: Array = np.zeros((0, 4, 4))
        self._lengths: Float32 = np.zeros(0, np.float32)
        self._appearance = Appearance(np.zeros(dimension, np.float32), APPEARANCE)
        self._means: Float32 = np.zeros((0, dimension), np.float32)
        self._mean_of: Ids = np.zeros(0, np.int64)
        self.revisit_of: Ids = np.zeros(0, np.int64)
        self.cameras: list[str] = []
        self._features: list[bytes | None] = []
        self._next_id = 0
        self._learn()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Memory of the keyframes, bytes."""
        arrays = (self._rows, self.ids, self.stamps_ns, self.along_m, self.T_odom_cam,
                  self.T_base_cam, self._lengths, self.revisit_of, self._means, self._mean_of)
        return (sum(array.nbytes for array in arrays)
                + sum(len(data) for data in self._features if data))

    def append(self, description: Description, T_odom_base: Array | None, along_m: float) -> int:
        """Add a keyframe and return its id. T_odom_base: (4, 4), None if unknown."""
        frame = description.frame
        self.make_room()
        self._appearance.update(description.descriptor)
        if not len(self._means) or self._next_id % SNAPSHOT == 0:
            self._means = np.concatenate([self._means, self._appearance.mean[None]])
        self._mean_of = np.append(self._mean_of, len(self._means) - 1)
        count = len(self)
        if count == len(self._rows):
            room = min(max(2 * count, FIRST_ROWS), max(self.max_keyframes, 1))
            rows = np.zeros((room, self.dimension), dtype=np.float16)
            rows[:count] = self._rows
            self._rows = rows
        self._rows[count] = description.descriptor
        T_odom = np.full((4, 4), np.nan) if T_odom_base is None else T_odom_base
        self.ids = np.append(self.ids, self._next_id)
        self.stamps_ns = np.append(self.stamps_ns, frame.stamp_ns)
        self.along_m = np.append(self.along_m, along_m)
        self.T_odom_cam = np.concatenate([self.T_odom_cam, (T_odom @ frame.T_base_cam)[None]])
        self.T_base_cam = np.concatenate([self.T_base_cam, frame.T_base_cam[None]])
        self.revisit_of = np.append(self.revisit_of, -1)
        self.cameras.append(frame.camera)
        self._features.append(
            None if description.features is None else encode_features(description.features))
        self._lengths = np.append(self._lengths, self._length(count, count + 1))
        self._next_id += 1
        self._due -= 1
        if self._due <= 0:
            self._learn()
        return self._next_id - 1

    def make_room(self) -> None:
        """Delete keyframes if the limit is reached; indices change."""
        if len(self) >= self.max_keyframes:
            self._thin()

    def forget_poses(self) -> None:
        """Delete the poses of all keyframes, after a restart of odometry."""
        self.T_odom_cam = np.full_like(self.T_odom_cam, np.nan)

    def mark_revisit(self, keyframe_id: int, reference_id: int) -> None:
        """Note that a keyframe shows the same place as an older one."""
        self.revisit_of[self.ids == keyframe_id] = reference_id

    def centred(self, at: Ids) -> Float32:
        """Unit rows (K, D) of keyframes, by index, less the running mean at their time."""
        rows = self._rows[at].astype(np.float32) - self._means[self._mean_of[at]]
        return unit(rows)

    def query(self, descriptor: Float32) -> Float32:
        """Unit row (D,) of the newest image, less the running mean."""
        return unit(descriptor - self._appearance.mean)

    def similarities(self, descriptor: Float32) -> Float32:
        """Whitened cosines (N,) of a descriptor (D,) with all keyframes.

        Each keyframe is centred by the running mean at its time, which follows the light.
        """
        query = self.whitening(descriptor - self._appearance.mean)
        # The whitening is symmetric: it is applied twice to the query instead of to all keyframes.
        twice = self.whitening.change(query)
        offsets = (self._means @ twice)[self._mean_of]
        out = np.empty(len(self), np.float32)
        for start in range(0, len(self), BLOCK):
            rows = self._rows[start:min(start + BLOCK, len(self))].astype(np.float32)
            out[start:start + len(rows)] = rows @ twice
        return np.asarray((out - offsets) / np.maximum(self._lengths, 1e-9), np.float32)

    def descriptors(self, at: Ids) -> Float32:
        """Descriptors (K, D) of the keyframes at these indices."""
        return np.asarray(self._rows[at], dtype=np.float32)

    def local_features(self, at: int) -> bytes | None:
        """Encoded local features of the keyframe at this index."""
        return self._features[at]

    def save(self, path: Path, *, model: str, fingerprint: str) -> int:
        """Write the keyframes as a place map in the odometry frame; return their number.

        Keyframes without odometry are omitted.

        Raises:
            MapError: no keyframe has a pose, or the folder exists or cannot be written.
        """
        posed = np.flatnonzero(np.isfinite(self.T_odom_cam).all(axis=(1, 2)))
        if not len(posed):
            raise MapError(f'{path} is not written: no keyframe of the session has odometry, and '
                           f'a place map needs poses')
        extrinsics = {self.cameras[i] or 'camera': [
            float(v) for v in (*self.T_base_cam[i, :3, 3], *quat_xyzw(self.T_base_cam[i]))]
            for i in posed}
        manifest = Manifest(
            map_id=new_map_id(), model=model, fingerprint=fingerprint, dimension=self.dimension,
            map_frame='odom', extrinsics=extrinsics, sources=['session'], features=self.features)
        with new_folder(path) as folder, MapWriter.create(folder, manifest) as writer:
            for start in range(0, len(posed), SAVE_BATCH):
                writer.append([Keyframe(
                    stamp_ns=int(self.stamps_ns[i]), camera=self.cameras[i] or 'camera',
                    T_map_cam=self.T_odom_cam[i], source='session',
                    descriptor=self._rows[i].astype(np.float32),
                    local_features=self._features[i]) for i in posed[start:start + SAVE_BATCH]])
        return len(posed)

    def _thin(self) -> None:
        """Delete keyframes by the policy in the module docstring."""
        count = len(self)
        old = np.arange(count) < (1.0 - RECENT) * count
        kept = np.ones(count, dtype=bool)
        wanted = max(1, int(THINNED * count))
        kept[np.flatnonzero((self.revisit_of >= 0) & old)[:wanted]] = False
        if count - int(kept.sum()) < wanted:
            kept[np.flatnonzero(old & kept)[::2]] = False
            if kept.all():
                kept[0] = False
        places = np.flatnonzero(kept)
        self._rows[: len(places)] = self._rows[places]
        for name in ('ids', 'stamps_ns', 'along_m', 'T_odom_cam', 'T_base_cam', '_lengths',
                     'revisit_of', '_mean_of'):
            setattr(self, name, getattr(self, name)[places])
        used, self._mean_of = np.unique(self._mean_of, return_inverse=True)
        self._means = self._means[used]
        self.cameras = [self.cameras[i] for i in places]
        self._features = [self._features[i] for i in places]

    def _learn(self) -> None:
        """Learn the whitening from the keyframes so far."""
        count = len(self)
        at = np.unique(np.linspace(0, max(count - 1, 0), min(count, MAX_ROWS)).astype(np.int64))
        self.whitening = Whitening(self.descriptors(at) - self._means[self._mean_of[at]])
        self._lengths = np.concatenate([np.zeros(0, np.float32), *[
            self._length(start, min(start + BLOCK, count))
            for start in range(0, count, BLOCK)]])
        self._due = min(max(count, LEARN_FIRST), LEARN_EVERY)

    def _length(self, start: int, stop: int) -> Float32:
        """Lengths (stop - start,) of the whitened descriptors of keyframes."""
        centred = self._rows[start:stop].astype(np.float32) - self._means[
            self._mean_of[start:stop]]
        changed = self.whitening.change(centred)
        return np.asarray(np.linalg.norm(changed, axis=1), dtype=np.float32)
