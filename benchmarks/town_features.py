"""Descriptors and local features of laps through the town, computed once and cached.

    seen = described(drive(TownConfig(seed=11), DAY), encoder)
    seen.descriptors[7], seen.features(7), seen.lap.T_map_base[7]
"""

from collections.abc import Iterable
from dataclasses import dataclass
import os
from pathlib import Path

import numpy as np

from benchmarks.town_drives import CACHE, TownDrive
from regvpr_core.geometry import quat_xyzw
from regvpr_core.localization.stored_calibration import calibrate_and_store
from regvpr_core.maps.files import Manifest, new_folder, new_map_id
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.models.encoder import Encoder
from regvpr_core.verification.local_extractor import LocalExtractor
from regvpr_core.verification.local_features import decode_features, LocalFeatures

BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class Described:
    """Descriptors (N, D), float32 unit rows, and local features of a sequence of images."""

    kind: str
    descriptors: np.ndarray
    _data: np.ndarray
    _ends: np.ndarray

    def __len__(self) -> int:
        return len(self.descriptors)

    def packed(self, number: int) -> bytes:
        """Local features of an image in the format of a map."""
        start = self._ends[number - 1] if number else 0
        return self._data[start:self._ends[number]].tobytes()

    def features(self, number: int) -> LocalFeatures:
        """Local features of an image."""
        return decode_features(self.packed(number))


def describe_pictures(
    name: str, pictures: Iterable[np.ndarray], encoder: Encoder, kind: str = 'patch',
    cache: Path = CACHE,
) -> Described:
    """Describe images, or read the result of an earlier call with this name from the cache."""
    model = f'{encoder.fingerprint[:12]}-{encoder.precision}'
    path = cache / 'described' / f'{name}-{model}-{kind}.npz'
    if not path.is_file():
        extractor = LocalExtractor(kind, encoder)
        rows, packed, batch = [], [], []

        def flush() -> None:
            if batch:
                made, data = extractor([extractor.prepare(rgb) for rgb in batch])
                rows.append(made)
                packed.extend(one or b'' for one in data)
                batch.clear()

        for rgb in pictures:
            if batch and rgb.shape != batch[0].shape:
                flush()
            batch.append(rgb)
            if len(batch) == BATCH:
                flush()
        flush()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'.{os.getpid()}.{path.name}')
        np.savez(part, rows=np.concatenate(rows), data=np.frombuffer(b''.join(packed), np.uint8),
                 ends=np.cumsum([len(data) for data in packed]))
        part.replace(path)
    with np.load(path, allow_pickle=False) as file:
        return Described(kind, file['rows'], file['data'], file['ends'])


def described(
    lap: TownDrive, encoder: Encoder, kind: str = 'patch', cache: Path = CACHE
) -> Described:
    """Descriptors and local features of the images of a lap."""
    return describe_pictures(lap.name, lap.images(), encoder, kind, cache)


def town_map(
    lap: TownDrive, encoder: Encoder, features: str = 'patch', cache: Path = CACHE
) -> PlaceMap:
    """Calibrated map of a lap with true poses; built once."""
    path = cache / f'{lap.name}-{encoder.fingerprint[:12]}-{features or "plain"}.map'
    if not path.is_dir():
        made = described(lap, encoder, features or 'patch', cache)
        height, width = lap.rgb(0).shape[:2]
        manifest = Manifest(
            map_id=new_map_id(), model=encoder.name, fingerprint=encoder.fingerprint,
            dimension=encoder.dimension, map_frame='map', sources=[lap.name], features=features,
            extrinsics={'camera': [float(v) for v in (*lap.T_base_cam[:3, 3],
                                                      *quat_xyzw(lap.T_base_cam))]},
            intrinsics={'camera': {'width': width, 'height': height,
                                   'K': lap.K.reshape(-1).tolist(), 'model': 'plumb_bob',
                                   'D': []}})
        with new_folder(path) as folder, MapWriter.create(folder, manifest) as writer:
            writer.append([Keyframe(
                stamp_ns=int(lap.stamps_ns[n]), camera='camera', T_map_cam=lap.T_map_cam[n],
                descriptor=made.descriptors[n], source=lap.name,
                local_features=made.packed(n) if features else None) for n in range(len(lap))])
        calibrate_and_store(path)
    return PlaceMap.open(path, encoder.fingerprint)
