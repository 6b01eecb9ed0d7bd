"""Maps for the command line to look at."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from regvpr_core.maps.files import Manifest
from regvpr_core.maps.writer import Keyframe, MapWriter


@pytest.fixture
def make_small_map(tmp_path: Path) -> Callable[[int], Path]:
    """A map of so many keyframes, two metres apart along x, without a network."""
    def make(count: int) -> Path:
        manifest = Manifest(map_id='abc', model='m', fingerprint='f' * 64, dimension=16)
        with MapWriter.create(tmp_path / 'map', manifest) as writer:
            for i in range(count):
                T = np.eye(4)
                T[0, 3] = 2.0 * i
                writer.append([Keyframe(stamp_ns=i, camera='front', T_map_cam=T,
                                        descriptor=np.eye(16, dtype=np.float32)[i])])
        return tmp_path / 'map'
    return make
