"""Streets, and maps of descriptors that change smoothly along them, made without a network."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.verification.camera_rays import Intrinsics
from regvpr_core.verification.local_features import LocalFeatures

DIMENSION = 64


def street_poses(count: int, spacing_m: float = 2.0) -> np.ndarray:
    """Camera poses (count, 4, 4) along x, looking along it: z ahead, y down."""
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, :3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    T[:, 0, 3] = spacing_m * np.arange(count)
    return T


def walk_rows(count: int, seed: int = 0, step: float = 0.5) -> np.ndarray:
    """A random walk on the sphere (count, 64): neighbours are alike, distant rows are not."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=DIMENSION)]
    for _ in range(count - 1):
        row = rows[-1] / np.linalg.norm(rows[-1])
        rows.append(row + step * rng.normal(size=DIMENSION) / DIMENSION**0.5)
    rows = np.array(rows)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def street() -> Callable[..., np.ndarray]:
    """Poses along a straight street: `street(count, spacing_m)`."""
    return street_poses


@pytest.fixture
def walk() -> Callable[..., np.ndarray]:
    """Descriptors along a street: `walk(count, seed, step)`."""
    return walk_rows


@pytest.fixture
def rigid() -> np.ndarray:
    """Some rigid transform (4, 4) far from the identity."""
    G = np.eye(4)
    G[:3, :3] = Rotation.from_euler('zyx', [2.0, 0.4, -1.1]).as_matrix()
    G[:3, 3] = [300.0, -40.0, 7.0]
    return G


@pytest.fixture
def map_of(tmp_path: Path) -> Callable[..., PlaceMap]:
    """An open map of poses and descriptors: `map_of(T_map_cam, rows, fingerprint)`."""
    def make(T_map_cam: np.ndarray, rows: np.ndarray, fingerprint: str = 'f') -> PlaceMap:
        path = tmp_path / f'map{len(list(tmp_path.iterdir()))}'
        manifest = Manifest(map_id='a', model='m', fingerprint=fingerprint,
                            dimension=rows.shape[1])
        with MapWriter.create(path, manifest) as writer:
            writer.append([Keyframe(stamp_ns=i, camera='front', T_map_cam=T, descriptor=row)
                           for i, (T, row) in enumerate(zip(T_map_cam, rows, strict=True))])
        return PlaceMap.open(path)
    return make


class Scene:
    """Points along both sides of a street, each with a descriptor that only it has."""

    def __init__(self, count: int = 200, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.points = np.stack([rng.uniform(5.0, 30.0, count),
                                rng.choice([-5.0, 5.0], count) + rng.normal(0.0, 0.6, count),
                                rng.uniform(0.0, 6.0, count)], axis=1)
        rows = rng.normal(size=(count, 64)).astype(np.float32)
        self.descriptors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        self.camera = Intrinsics(width=640, height=480, K=np.array(
            [[420.0, 0.0, 319.5], [0.0, 420.0, 239.5], [0.0, 0.0, 1.0]]))
        self.rng = rng

    def pose(self, x: float, y: float = 0.0, turn: tuple[float, ...] = (0.0, 0.0, 0.0)):
        """Camera (4, 4) at a place of the street, 1.2 m up, that looks along x; turned."""
        T = street_poses(1)[0]
        T[:3, :3] = T[:3, :3] @ Rotation.from_rotvec(turn).as_matrix()
        T[:3, 3] = [x, y, 1.2]
        return T

    def rays(self, T_map_cam: np.ndarray) -> np.ndarray:
        """Exact rays x/z, y/z (N, 2) of all points."""
        local = (self.points - T_map_cam[:3, 3]) @ T_map_cam[:3, :3]
        return local[:, :2] / local[:, 2:]

    def features(self, T_map_cam: np.ndarray, noise_px: float = 0.0,
                 wrong: float = 0.0) -> LocalFeatures:
        """What a camera sees, in mixed order; a share of the points is somewhere else."""
        xy = self.rays(T_map_cam) * 420.0 + [319.5, 239.5]
        xy += self.rng.normal(0.0, noise_px, xy.shape) if noise_px else 0.0
        astray = self.rng.random(len(xy)) < wrong
        xy[astray] = self.rng.uniform([0.0, 0.0], [640.0, 480.0], (astray.sum(), 2))
        seen = np.flatnonzero(((xy > -0.5) & (xy < [639.5, 479.5])).all(axis=1))
        seen = self.rng.permutation(seen)
        return LocalFeatures(kind='xfeat', width=640, height=480, xy=xy[seen],
                             descriptors=self.descriptors[seen])


@pytest.fixture
def make_scene() -> type[Scene]:
    """Points of known place: `make_scene(count, seed)`."""
    return Scene
