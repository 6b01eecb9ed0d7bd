"""Laps through the synthetic town for the benchmarks of localization; rendered once and cached.

    lap = drive(TownConfig(seed=11), LapConfig(condition='dusk', seed=2))
    lap.rgb(7), lap.T_map_base[7], lap.T_odom_base[7]
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
import hashlib
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from examples.town import LapConfig, Town, TownConfig
from examples.town.camera import T_BASE_CAM

CACHE = Path('build/town-cache')
QUALITY = 92
"""JPEG quality of the images, as of a camera driver."""

RATE_HZ = 2.5
"""Image rate, Hz. Images are about 2 m apart; 1 m takes twice the time, with similar results."""

DAY = LapConfig(condition='day', seed=1, rate_hz=RATE_HZ)
"""The lap that becomes the map."""


def second_lap(condition: str, **changes: Any) -> LapConfig:
    """A lap in another condition, with other cars, another lateral offset and another speed."""
    return replace(LapConfig(condition=condition, seed=2, lateral_m=0.3, start_m=20.4,
                             speed_mps=4.7, rate_hz=RATE_HZ), **changes)


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
        """Extrinsics of the camera of the town."""
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
    """A lap from the cache; it is rendered first if it is not there, about 0.15 s per image."""
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
    """Render a lap; the file gets its name once it is complete."""
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
