"""Small maps made without a network, and pages in headless Chromium."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
from pathlib import Path
import shutil
import tempfile
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.verification.camera_rays import Intrinsics
from regvpr_core.verification.local_features import LocalFeatures

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync')


class Tab:
    """One tab. page: playwright's. errors: of console and script. requests: addresses."""

    def __init__(self, browse: Callable[[], Any]) -> None:
        """browse: starts a browser, and ends the one before."""
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        self._browse = browse
        self._begin()

    def _begin(self) -> None:
        self.page = page = self._browse().pages[0]
        page.on('console', lambda message: self.errors.append(message.text)
                if message.type in ('error', 'warning') else None)
        page.on('pageerror', lambda error: self.errors.append(str(error)))
        page.on('request', lambda request: self.requests.append(request.url))
        page.on('dialog', self._dismiss)

    def open(self, file: Path) -> None:
        """Load a file afresh; what was noted before is forgotten.

        Now and then Chromium hangs before it reads the file, so a page that does not load is
        opened once more in a new browser. A page that hangs by itself fails there again.
        """
        from playwright.sync_api import TimeoutError as TookTooLong

        try:
            self._load(file, timeout_ms=20_000)
        except TookTooLong:
            self._begin()
            self._load(file, timeout_ms=30_000)

    def _load(self, file: Path, timeout_ms: int) -> None:
        self.errors.clear()
        self.requests.clear()
        self.dialogs.clear()
        self.page.goto(file.resolve().as_uri(), timeout=timeout_ms)
        self.page.wait_for_function('document.readyState === "complete"')

    def assert_clean(self) -> None:
        """No error, no dialog, and nothing but files and data was asked for."""
        assert self.errors == []
        assert self.dialogs == []
        assert self.requests
        assert [url for url in self.requests if not url.startswith(('file:', 'data:'))] == []

    def _dismiss(self, dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()


@pytest.fixture(scope='session')
def driver() -> Iterator[Any]:
    """Playwright, started once a process: a second one beside it is refused."""
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    with playwright.sync_playwright() as running:
        yield running


@pytest.fixture(scope='session')
def tab(driver) -> Iterator[Tab]:
    """A tab of 1400 x 900 in a browser of its own; tests are skipped where there is none."""
    found = [path for name in NAMES if (path := shutil.which(name))]
    if not found:
        pytest.skip(f'no Chromium here (looked for {", ".join(NAMES)})')
    with contextlib.ExitStack() as running:
        def browse() -> Any:
            running.close()
            profile = running.enter_context(
                tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            context = driver.chromium.launch_persistent_context(
                profile, executable_path=found[0], args=list(FLAGS), timeout=90_000,
                viewport={'width': 1400, 'height': 900})
            running.callback(context.close)
            context.set_default_timeout(60_000)
            return context

        yield Tab(browse)


DIMENSION = 16


def descriptors(count: int, seed: int = 0, dimension: int = DIMENSION) -> np.ndarray:
    """Rows (count, dimension) of length 1 that lean to one side, as a network's do."""
    rows = np.random.default_rng(seed).normal(size=(count, dimension)) + 0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def keyframe(i: int, descriptor: np.ndarray, **more) -> Keyframe:
    """Keyframe i, i metres along x."""
    T = np.eye(4)
    T[0, 3] = i
    return Keyframe(**({'stamp_ns': 1_700_000_000_000_000_000 + i, 'camera': 'front',
                        'T_map_cam': T, 'descriptor': descriptor, 'source': 'lap'} | more))


@pytest.fixture
def manifest() -> Manifest:
    """Of a map with `DIMENSION` numbers a descriptor."""
    return Manifest(map_id='abc', model='m', fingerprint='f' * 64, dimension=DIMENSION)


@pytest.fixture
def rows() -> Callable[..., np.ndarray]:
    """Unit descriptors: `rows(count, seed)`."""
    return descriptors


@pytest.fixture
def place() -> Callable[..., Keyframe]:
    """A keyframe: `place(i, descriptor, **fields)`."""
    return keyframe


@pytest.fixture
def make_map(tmp_path: Path, manifest: Manifest) -> Callable[..., Path]:
    """A map of so many keyframes along a line: `make_map(count, name)`."""
    def make(count: int, name: str = 'map', seed: int = 0) -> Path:
        with MapWriter.create(tmp_path / name, manifest) as writer:
            writer.append([keyframe(i, row) for i, row in enumerate(descriptors(count, seed))])
        return tmp_path / name
    return make


def write_picture(path: Path, seed: int = 0) -> Path:
    """A small image of smooth noise, the same for a seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(small, (64, 48), interpolation=cv2.INTER_CUBIC))
    return path


@pytest.fixture
def picture() -> Callable[..., Path]:
    """`picture(path, seed)` writes one."""
    return write_picture


def utm_name(east: float, north: float, note: str = '', suffix: str = 'jpg') -> str:
    """A file name of the convention; the note is its seventh field."""
    return f'@{east:010.2f}@{north:010.2f}@10@S@037.00000@-122.00000@{note}@@@@@@@@.{suffix}'


@pytest.fixture
def utm_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write `images/test/database|queries` with images at positions (x, y), seeds by place."""
    def make(references: Sequence[tuple[float, float]], queries: Sequence[tuple[float, float]],
             name: str = 'set', split: str = 'images/test', query_folder: str = 'queries') -> Path:
        root = tmp_path / name
        for side, positions in (('database', references), (query_folder, queries)):
            (root / split / side).mkdir(parents=True, exist_ok=True)
            for i, (x, y) in enumerate(positions):
                write_picture(root / split / side / utm_name(x, y, f'{side}{i}'), int(x))
        return root
    return make


STREET_DIMENSION = 64


def street_poses(count: int, spacing_m: float = 2.0) -> np.ndarray:
    """Camera poses (count, 4, 4) along x, looking along it: z ahead, y down."""
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, :3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    T[:, 0, 3] = spacing_m * np.arange(count)
    return T


def walk_rows(count: int, seed: int = 0, step: float = 0.5) -> np.ndarray:
    """A random walk on the sphere (count, 64): neighbours are alike, distant rows are not."""
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=STREET_DIMENSION)]
    for _ in range(count - 1):
        row = rows[-1] / np.linalg.norm(rows[-1])
        rows.append(row + step * rng.normal(size=STREET_DIMENSION) / STREET_DIMENSION**0.5)
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
