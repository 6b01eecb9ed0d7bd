"""Laps through the town, rendered once and kept: what the benchmarks of localization drive on.

    lap = drive(TownConfig(seed=11), LapConfig(condition='dusk', seed=2))
    lap.rgb(7), lap.T_map_base[7], lap.T_odom_base[7]
"""

from collections.abc import Iterator
from dataclasses import dataclass
import hashlib
import os
from pathlib import Path

import cv2
import numpy as np

from examples.town import LapConfig, Town, TownConfig
from examples.town.camera import T_BASE_CAM
from regvpr_core.geometry import quat_xyzw
from regvpr_core.localization.local_extractor import LocalExtractor
from regvpr_core.localization.local_features import decode_features, LocalFeatures
from regvpr_core.models.encoder import Encoder
from regvpr_core.places.builder import build_map, BuildConfig
from regvpr_core.places.frames import PosedFrame
from regvpr_core.places.place_map import PlaceMap

CACHE = Path('build/town-cache')
QUALITY = 92
"""Of the JPEGs, as a robot's camera driver sends them."""

DAY = LapConfig(condition='day', seed=1)
"""The lap that becomes the map."""


def second_lap(condition: str) -> LapConfig:
    """A lap in other light: other cars, another part of the lane, another speed."""
    return LapConfig(condition=condition, seed=2, lateral_m=0.3, start_m=20.4, speed_mps=4.7)


@dataclass(frozen=True, slots=True, eq=False)
class TownDrive:
    """One lap. K: (3, 3). T_map_base, T_odom_base: (N, 4, 4). T_base_cam: (4, 4)."""

    name: str
    stamps_ns: np.ndarray
    T_map_base: np.ndarray
    T_odom_base: np.ndarray
    K: np.ndarray
    _jpeg: np.ndarray
    _ends: np.ndarray

    @property
    def T_base_cam(self) -> np.ndarray:
        """The one camera of the town."""
        return T_BASE_CAM

    @property
    def T_map_cam(self) -> np.ndarray:
        """True camera poses (N, 4, 4)."""
        return self.T_map_base @ T_BASE_CAM

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def rgb(self, number: int) -> np.ndarray:
        """Image (H, W, 3) uint8 RGB."""
        start = self._ends[number - 1] if number else 0
        data = np.asarray(self._jpeg[start:self._ends[number]])
        return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])

    def images(self) -> Iterator[np.ndarray]:
        """All images, in order."""
        return (self.rgb(number) for number in range(len(self)))


def drive(town: TownConfig, lap: LapConfig, cache: Path = CACHE) -> TownDrive:
    """A lap, from the cache where it was rendered before (about 0.15 s an image otherwise)."""
    key = f'{town!r} {lap!r} {QUALITY}'
    name = f'town{town.seed}-{lap.condition}-{hashlib.sha256(key.encode()).hexdigest()[:12]}'
    path = cache / f'{name}.npz'
    if not path.is_file():
        render(town, lap, path, key)
    with np.load(path, allow_pickle=False) as file:
        assert str(file['key']) == key
        return TownDrive(name, file['stamps_ns'], file['T_map_base'], file['T_odom_base'],
                         file['K'], file['jpeg'], file['ends'])


def render(config: TownConfig, lap: LapConfig, path: Path, key: str) -> None:
    """Render a lap; the file takes its name when it is whole."""
    town = Town(config)
    stamps, truth, odometry, pictures = [], [], [], []
    for frame in town.drive(lap):
        stamps.append(frame.stamp_ns)
        truth.append(frame.T_map_base)
        odometry.append(frame.T_odom_base)
        bgr = np.ascontiguousarray(frame.image[..., ::-1])
        pictures.append(cv2.imencode('.jpg', bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].ravel())
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{os.getpid()}.{path.name}')
    np.savez(part, key=key, stamps_ns=np.array(stamps, dtype=np.int64), K=town.camera.matrix,
             T_map_base=np.array(truth), T_odom_base=np.array(odometry),
             jpeg=np.concatenate(pictures), ends=np.cumsum([len(p) for p in pictures]))
    part.replace(path)


def town_map(
    lap: TownDrive, encoder: Encoder, features: str = '', cache: Path = CACHE
) -> PlaceMap:
    """The map that a lap becomes, with true poses; built once."""
    path = cache / f'{lap.name}-{encoder.fingerprint[:12]}-{features or "plain"}.map'
    if not path.is_dir():
        extractor = LocalExtractor(features, encoder)
        frames = (PosedFrame(
            stamp_ns=int(lap.stamps_ns[n]), camera='camera', T_map_cam=lap.T_map_cam[n],
            decode=lambda n=n: lap.rgb(n), source=lap.name) for n in range(len(lap)))
        K = lap.K.reshape(-1).tolist()
        build_map(
            frames, encoder, path, BuildConfig(thumbnail_px=0), map_frame='map',
            extrinsics={'camera': [*lap.T_base_cam[:3, 3], *quat_xyzw(lap.T_base_cam)]},
            intrinsics={'camera': {'width': lap.rgb(0).shape[1], 'height': lap.rgb(0).shape[0],
                                   'K': K, 'model': 'plumb_bob', 'D': []}},
            sources=[lap.name], describer=extractor)
    return PlaceMap.open(path, encoder.fingerprint)


def town_features(
    lap: TownDrive, encoder: Encoder, kind: str, cache: Path = CACHE
) -> tuple[np.ndarray, list[LocalFeatures]]:
    """Descriptors (N, D) and local features of a lap's images; made once."""
    path = cache / f'{lap.name}-{encoder.fingerprint[:12]}-{kind}.npz'
    if not path.is_file():
        extractor = LocalExtractor(kind, encoder)
        made = [extractor([extractor.prepare(rgb)]) for rgb in lap.images()]
        packed = [data[0] for _, data in made]
        part = path.with_name(f'.{os.getpid()}.{path.name}')
        np.savez(part, rows=np.concatenate([rows for rows, _ in made]),
                 data=np.frombuffer(b''.join(packed), np.uint8),
                 ends=np.cumsum([len(data) for data in packed]))
        part.replace(path)
    with np.load(path, allow_pickle=False) as file:
        rows, data, ends = file['rows'], file['data'].tobytes(), file['ends'].tolist()
    return rows, [decode_features(data[start:end])
                  for start, end in zip([0, *ends], ends, strict=False)]
