"""Descriptors of laps through the town, made once and kept beside the rendered laps.

    lap = described(drive(TownConfig(seed=11), DAY), encoder)
    lap.descriptors[7], lap.drive.T_map_base[7]
"""

from dataclasses import dataclass
import os

import numpy as np

from benchmarks.town_drives import CACHE, TownDrive
from regvpr_core.models.encoder import Encoder

BATCH = 8


@dataclass(frozen=True, slots=True, eq=False)
class DescribedDrive:
    """A lap and its descriptors (N, D) float32, unit rows."""

    drive: TownDrive
    descriptors: np.ndarray

    def __len__(self) -> int:
        return len(self.drive)


def described(drive: TownDrive, encoder: Encoder) -> DescribedDrive:
    """Describe all images of a lap, or read what was kept from the last time."""
    folder = CACHE / 'descriptors'
    path = folder / f'{drive.name}-{encoder.fingerprint[:12]}-{encoder.precision}.npy'
    if not path.is_file():
        rows = []
        for start in range(0, len(drive), BATCH):
            stop = min(start + BATCH, len(drive))
            rows.append(encoder.describe_batch([drive.rgb(i) for i in range(start, stop)]))
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'.{os.getpid()}.{path.name}')
        np.save(part, np.concatenate(rows))
        part.replace(path)
    return DescribedDrive(drive, np.load(path, allow_pickle=False))
