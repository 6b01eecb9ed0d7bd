"""Small maps made without a network, and pages in headless Chromium."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
import shutil
import tempfile

import cv2
import numpy as np
import pytest

from regvpr_core.maps.files import Manifest
from regvpr_core.maps.writer import Keyframe, MapWriter

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--disable-sync')


class Tab:
    """One tab. page: playwright's. errors: of console and script. requests: addresses."""

    def __init__(self, page) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.dialogs: list[str] = []
        page.on('console', lambda message: self.errors.append(message.text)
                if message.type in ('error', 'warning') else None)
        page.on('pageerror', lambda error: self.errors.append(str(error)))
        page.on('request', lambda request: self.requests.append(request.url))
        page.on('dialog', self._dismiss)

    def open(self, file: Path) -> None:
        """Load a file afresh; what was noted before is forgotten."""
        self.errors.clear()
        self.requests.clear()
        self.dialogs.clear()
        self.page.goto(file.resolve().as_uri())
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
def tab() -> Iterator[Tab]:
    """A tab of 1400 x 900 in a browser of its own; tests are skipped where there is none."""
    playwright = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    found = [path for name in NAMES if (path := shutil.which(name))]
    if not found:
        pytest.skip(f'no Chromium here (looked for {", ".join(NAMES)})')
    with tempfile.TemporaryDirectory() as profile, playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            profile, executable_path=found[0], args=list(FLAGS), timeout=90_000,
            viewport={'width': 1400, 'height': 900})
        context.set_default_timeout(60_000)
        yield Tab(context.pages[0])
        context.close()


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
    """A small picture of smooth noise, the same for a seed."""
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
    """Write `images/test/database|queries` with pictures at positions (x, y), seeds by place."""
    def make(references: Sequence[tuple[float, float]], queries: Sequence[tuple[float, float]],
             name: str = 'set', split: str = 'images/test', query_folder: str = 'queries') -> Path:
        root = tmp_path / name
        for side, positions in (('database', references), (query_folder, queries)):
            (root / split / side).mkdir(parents=True, exist_ok=True)
            for i, (x, y) in enumerate(positions):
                write_picture(root / split / side / utm_name(x, y, f'{side}{i}'), int(x))
        return root
    return make
