"""A place map opened for reading: poses in memory, descriptors memory-mapped, search."""

from collections.abc import Iterable, Iterator
import contextlib
import functools
from pathlib import Path
import sqlite3
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Float32, Ids
from regvpr_core.errors import MapError
from regvpr_core.geometry import pose_matrix, quat_xyzw
from regvpr_core.maps.files import (
    attachment_names,
    committed,
    connect,
    Manifest,
    MAX_KEYFRAMES,
    memory_map,
    new_folder,
    read_attachment,
    read_manifest,
)
from regvpr_core.maps.records import (
    blob,
    changed_descriptors,
    descriptors_digest,
    MAX_LOCAL_FEATURES_BYTES,
    MAX_THUMBNAIL_BYTES,
    RecordError,
    SMALL,
    small_records,
)
from regvpr_core.maps.writer import Keyframe
from regvpr_core.search.index import Index, open_index
from regvpr_core.search.milvus import Model
from regvpr_core.search.projection import read_projection
from regvpr_core.search.rows import CENTRE_PRIOR, CentredRows, unit

if TYPE_CHECKING:
    from regvpr_core.images import RGB

LOAD_ROWS = 4096

__all__ = ['CENTRE_PRIOR', 'Float32', 'PlaceMap', 'unit']

_STAMP, _CAMERA, _COVARIANCE, _SOURCE, _DESCRIPTOR = map(
    SMALL.index, ('stamp_ns', 'camera', 'covariance', 'source', 'descriptor_crc32'))


class PlaceMap:
    """An open map. Many readers and one writer may use a map at the same time."""

    def __init__(self, path: Path, manifest: Manifest, database: sqlite3.Connection,
                 index: str = 'auto') -> None:
        """Use `open`, which reads the folder first."""
        self.path = path
        self.manifest = manifest
        self._database = database
        self._load_records()
        if index != 'none':
            self._load_index(index)

    @classmethod
    def open(cls, path: str | Path, fingerprint: str | None = None,
             index: str = 'auto') -> 'PlaceMap':
        """Open a map for reading.

        Every record (poses, stamps, names) is checked at once; descriptors are checked when read.

        Args:
            path: the map's folder.
            fingerprint: of the model that will query it; None accepts any.
            index: search index: auto, exact, rabitq, gpu, milvus:URI. `none` reads no descriptor;
                such a map has neither `centre` nor `search`.

        Raises:
            MapError: not a map, damaged, of a newer format or of another model; the message says
                what to do.
        """
        path = Path(path)
        at_least = committed(path)
        database = connect(path, writable=False)
        try:
            manifest = read_manifest(path, database)
            if fingerprint is not None and manifest.fingerprint != fingerprint:
                raise MapError(
                    f'map {path} was built with {manifest.model} '
                    f'({manifest.fingerprint[:12]}), not with the model in use '
                    f'({fingerprint[:12]}); set model to {manifest.model}, or bring the map '
                    f'to the model in use: `regvpr map convert {path} --model MODEL --out NEW`')
            place_map = cls(path, manifest, database, index)
            if len(place_map) < at_least:
                raise MapError(f'map {path} is damaged: {at_least} keyframes were committed and '
                               f'{len(place_map)} are there; `regvpr map verify {path}` says more')
            return place_map
        except BaseException:
            database.close()
            raise

    def __repr__(self) -> str:
        return (f'PlaceMap({str(self.path)!r}, keyframes={len(self)}, '
                f'model={self.manifest.model!r})')

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def model(self) -> Model:
        """Model of the descriptors and their length."""
        return Model(name=self.manifest.model, fingerprint=self.manifest.fingerprint,
                     dimension=self.manifest.dimension, compress=self.manifest.compress)

    @property
    def drives(self) -> list[str]:
        """Name of the drive of each keyframe: its source and camera."""
        return [f'{source}\0{camera}'
                for source, camera in zip(self.sources, self.cameras, strict=True)]

    @functools.cached_property
    def quats_xyzw(self) -> npt.NDArray[np.float64]:
        """Rotations of `T_map_cam` (N, 4), xyzw."""
        return quat_xyzw(self.T_map_cam)

    @property
    def map_id(self) -> str:
        """Identifier of this map; it never changes."""
        return self.manifest.map_id

    def search(
        self, descriptor: Float32, k: int, centre: Float32 | None = None
    ) -> tuple[Float32, npt.NDArray[np.int64]]:
        """The keyframes most similar to an image.

        Args:
            descriptor: (D,) of the image, after `project`.
            k: number of keyframes.
            centre: (D,) mean descriptor of the image's session; None: that of the map.

        Returns:
            similarities (cosine of the centred descriptors) and ids, best first, min(k, N) each.

        Raises:
            MapError: the descriptor has another length than the map's or is not finite, or a
                keyframe's descriptor has changed on the disk.
        """
        return self.nearest(self.query(descriptor, centre), k)

    def nearest(self, query: Float32, k: int) -> tuple[Float32, npt.NDArray[np.int64]]:
        """As `search`, for a centred descriptor (D,) that `query` made."""
        similarities, ids = self.index.search(query[None], k)
        return similarities[0], ids[0]

    def query(self, descriptor: Float32, centre: Float32 | None = None) -> Float32:
        """The centred unit descriptor (D,) of an image; arguments and errors as for `search`."""
        if descriptor.shape != self.centre.shape:
            raise MapError(f'a descriptor of shape {descriptor.shape} cannot be searched in a map '
                           f'of {self.manifest.dimension} numbers a place')
        away = descriptor - (self.centre if centre is None else centre)
        if not np.isfinite(away).all():
            raise MapError('a descriptor that is not finite cannot be searched; try the precision '
                           'fp32')
        # A descriptor equal to the session's mean is equally similar to every place.
        return unit(away) if away.any() else np.zeros_like(away, dtype=np.float32)

    @property
    def centre(self) -> Float32:
        """Mean of the map's descriptors (D,), subtracted before comparison."""
        return self._centred.centre

    def project(self, descriptor: Float32) -> Float32:
        """Bring a model's descriptor (..., D) to the form stored in this map (compressed or not).

        Raises:
            MapError: it has another length than the model's.
        """
        return self._projection.apply(descriptor)

    def centred(self, ids: npt.NDArray[np.int64]) -> Float32:
        """Centred descriptors (len(ids), D) of keyframes, unit rows."""
        return self._centred.centred(np.asarray(ids, dtype=np.int64))

    def thumbnail(self, keyframe_id: int) -> 'RGB | None':
        """The thumbnail of a keyframe, or None.

        Raises:
            MapError: it has changed since it was written.
            ImageError: it is not an image.
        """
        jpeg = self._blob('thumbnail', MAX_THUMBNAIL_BYTES, keyframe_id)
        from regvpr_core.images import decode  # here: OpenCV is slow to load

        return None if jpeg is None else decode(jpeg, f'thumbnail {keyframe_id} of {self.path}')

    def local_features(self, keyframe_id: int) -> bytes | None:
        """The encoded local features of a keyframe, or None.

        Raises:
            MapError: they have changed since they were written.
        """
        return self._blob('local_features', MAX_LOCAL_FEATURES_BYTES, keyframe_id)

    def attachment(self, name: str) -> bytes | None:
        """The attachment of a name, or None.

        Raises:
            MapError: it has changed since it was written.
        """
        return read_attachment(self.path, self._database, name)

    def attachments(self) -> list[str]:
        """Names of the attachments."""
        try:
            return attachment_names(self._database)
        except sqlite3.Error as error:
            raise MapError(f'map {self.path} is damaged: {error}') from error

    def keyframes(self, ids: Iterable[int]) -> Iterator[Keyframe]:
        """Keyframes in stored form, to be written to another map; all checksums are checked.

        Raises:
            MapError: one has changed since it was written.
        """
        for i in map(int, ids):
            if changed_descriptors(self._rows[i:i + 1], self.descriptor_crcs[i:i + 1]):
                raise self._changed(i)
            covariance = self._covariances[i]
            yield Keyframe(
                stamp_ns=int(self.stamps_ns[i]), camera=self.cameras[i],
                T_map_cam=self.T_map_cam[i], source=self.sources[i], image=self.images[i],
                descriptor=np.asarray(self._rows[i], dtype=np.float32),
                covariance=None if covariance is None
                else np.frombuffer(covariance, '<f8').reshape(3, 3),
                thumbnail=self._blob('thumbnail', MAX_THUMBNAIL_BYTES, i),
                local_features=self.local_features(i))

    @property
    def descriptors_digest(self) -> str:
        """Checksum of all descriptors; a derived index with another one is stale."""
        return descriptors_digest(self.descriptor_crcs)

    def descriptors(self, start: int = 0, stop: int | None = None) -> Float32:
        """Descriptors (stop - start, D) of keyframes, unit rows."""
        return unit(np.asarray(self._rows[start:stop], dtype=np.float32))

    def descriptors_of(self, ids: npt.NDArray[np.int64]) -> Float32:
        """Descriptors (len(ids), D) of keyframes, unit rows."""
        return unit(np.asarray(self._rows[ids], dtype=np.float32))

    @property
    def stored_descriptors(self) -> npt.NDArray[np.float16]:
        """Stored descriptors (N, D), memory-mapped."""
        return self._rows

    def check_descriptors(self) -> None:
        """Read all descriptors and check them.

        Raises:
            MapError: one has changed since it was written.
        """
        for start in range(0, len(self), LOAD_ROWS):
            block = self._rows[start:start + LOAD_ROWS]
            for offset in changed_descriptors(block, self.descriptor_crcs[start:][:len(block)]):
                raise self._changed(start + offset)

    def copy_to(self, path: Path) -> None:
        """Write this map to a new folder, which appears only once it is complete.

        Raises:
            MapError: the folder exists or cannot be written.
        """
        try:
            with new_folder(path) as folder:
                with contextlib.closing(sqlite3.connect(folder / 'map.db')) as copy:
                    self._database.backup(copy)
                    # A writer may have appended since this map was opened.
                    copy.execute('DELETE FROM keyframe WHERE id >= ?', (len(self),))
                    copy.commit()
                with (folder / 'descriptors.f16').open('wb') as file:
                    for start in range(0, len(self), LOAD_ROWS):
                        file.write(self._rows[start:start + LOAD_ROWS].tobytes())
        except sqlite3.Error as error:
            raise MapError(f'cannot write map {path}: {error}') from error

    def close(self) -> None:
        """Release the database."""
        self._database.close()

    def __enter__(self) -> 'PlaceMap':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load_records(self) -> None:
        """Read and check the small columns of every keyframe."""
        stamps, values, crcs = [], [], []
        self.cameras: list[str] = []
        self.sources: list[str] = []
        self.images: list[str] = []
        self._covariances: list[bytes | None] = []
        names: dict[str, str] = {}  # one string object for each camera name
        try:
            for row in small_records(self._database, MAX_KEYFRAMES):
                stamps.append(row[_STAMP])
                values.append(row[_STAMP + 2:_STAMP + 9])
                crcs.append(row[_DESCRIPTOR])
                self.cameras.append(names.setdefault(row[_CAMERA], row[_CAMERA]))
                self.sources.append(names.setdefault(row[_SOURCE], row[_SOURCE]))
                self.images.append(row[_SOURCE + 1])
                self._covariances.append(row[_COVARIANCE])
            self.stamps_ns = np.array(stamps, dtype=np.int64)
            poses = np.array(values, dtype=np.float64).reshape(-1, 7)
            self.T_map_cam = pose_matrix(poses[:, :3], poses[:, 3:])
            self.descriptor_crcs = np.array(crcs, dtype=np.uint32)
            known = b''.join(filter(None, self._covariances))
            if not np.isfinite(np.frombuffer(known, '<f8')).all():
                raise ValueError('a covariance holds a value that is not finite')
        except (sqlite3.Error, ValueError, TypeError, OverflowError) as error:
            raise MapError(f'map {self.path} is damaged: {error}; `regvpr map verify {self.path}` '
                           f'says what is lost') from error
        self._rows = memory_map(self.path, len(stamps), self.manifest.dimension)

    def _load_index(self, kind: str) -> None:
        """Create the search index; each descriptor is checked before its first use."""
        self._centred = CentredRows(self._rows, self._check_descriptors, str(self.path))
        self._projection = read_projection(self.manifest.compress, self.attachment('pca'),
                                           self.manifest.dimension, str(self.path))
        self.index: Index = open_index(
            kind, self._centred, self.path, self.map_id, self.descriptors_digest, self.model)

    def _check_descriptors(self, ids: Ids, rows: npt.NDArray[np.float16]) -> None:
        for wrong in changed_descriptors(rows, self.descriptor_crcs[ids]):
            raise self._changed(int(ids[wrong]))

    def _blob(self, column: str, limit: int, keyframe_id: int) -> bytes | None:
        try:
            return blob(self._database, column, limit, int(keyframe_id))
        except (sqlite3.Error, RecordError) as error:
            raise MapError(f'map {self.path} is damaged: {error}') from error

    def _changed(self, keyframe_id: int) -> MapError:
        return MapError(f'map {self.path} is damaged: the descriptor of keyframe {keyframe_id} '
                        f'has changed; `regvpr map verify {self.path}` says what is lost')
