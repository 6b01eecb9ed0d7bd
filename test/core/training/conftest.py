"""Small places, a random backbone, and runs of seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors.torch import save_file
import torch

from regvpr_core.config import from_mapping
from regvpr_core.models.vit import (
    DinoVisionTransformer,
    initialise,
    VIT_CONFIGS,
    VitConfig,
)
from regvpr_core.training.config import TrainConfig

HEAD = {'clusters': 2, 'cluster_dim': 8, 'token_dim': 8, 'hidden_dim': 16}


SHALLOW = VitConfig(width=384, depth=2, heads=6)
"""What takes the place of a ViT-S/14 here: twelve blocks cost half a second to make."""


@pytest.fixture(scope='session')
def shallow_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a shallow ViT."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp('backbone') / 'random.safetensors'
    vit = initialise(DinoVisionTransformer(SHALLOW))
    save_file({key: value.contiguous() for key, value in vit.state_dict().items()}, path)
    return path


@pytest.fixture
def backbone_file(shallow_weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of `vits14`, which is shallow while a test asks for them."""
    monkeypatch.setitem(VIT_CONFIGS, 'vits14', SHALLOW)
    return shallow_weights


def write_picture(path: Path, seed: int, noise: int = 0) -> None:
    """Eight by eight random tiles, a little different for each `noise`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tiles = np.random.default_rng(seed).integers(0, 256, (8, 8, 3))
    tiles = tiles + np.random.default_rng([seed, noise]).integers(-20, 21, tiles.shape)
    pixels = cv2.resize(tiles.clip(0, 255).astype(np.uint8), (64, 48))
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture(scope='session')
def place_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve places of five images, two groups, and a manifest for validation."""
    root = tmp_path_factory.mktemp('places')
    lines = ['image,place,split']
    for place in range(12):
        for number in range(5):
            name = f'train/group{place % 2}/place{place}/{number}.png'
            write_picture(root / name, place, number)
        for number, split in ((7, 'gallery'), (8, 'query')):
            name = f'val/{place}-{number}.png'
            write_picture(root / name, 100 + place, number)
            lines.append(f'{name},{place},{split}')
    (root / 'val.csv').write_text('\n'.join(lines) + '\n', encoding='utf-8')
    return root


@pytest.fixture
def settings(backbone_file: Path, place_folder: Path) -> Callable[..., TrainConfig]:
    """A run of some seconds; keywords replace whole sections."""
    def make(**changes: Any) -> TrainConfig:
        values: dict[str, Any] = {
            'name': 'tiny', 'backbone_path': str(backbone_file), 'data_root': str(place_folder),
            'model': {'last_block': 0, 'aggregator': 'salad', 'aggregator_config': HEAD,
                      'preprocessing': {'height': 28, 'width': 42}},
            'data': [{'kind': 'folders', 'folder': 'train'}],
            'validation': [{'kind': 'manifest', 'folder': 'val.csv'}],
            'batch': {'places': 4, 'images': 4}, 'optimiser': {'lr': 1e-3},
            'augmentation': {'operations': 1, 'night': 0.2, 'homography': 0.5},
            'epochs': 2, 'save_steps': 2, 'device': 'cpu', 'workers': 1, 'seed': 3}
        return from_mapping(TrainConfig, values | changes)
    return make


class Listener:
    """Remembers what a run tells."""

    def __init__(self, at_step: Callable[[int], None] | None = None) -> None:
        self.facts: dict[str, Any] = {}
        self.losses: dict[int, float] = {}
        self.rates: list[float] = []
        self.recalls: dict[int, dict[str, dict[int, float]]] = {}
        self.read: list[tuple[str, int, int]] = []
        self._at_step = at_step

    def begin(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def reading(self, what: str, done: int, total: int) -> None:
        self.read.append((what, done, total))

    def step(self, step: int, steps: int, loss: float, rate: float) -> None:
        self.losses[step] = loss
        self.rates.append(rate)
        if self._at_step:
            self._at_step(step)

    def recall(self, step: int, recalls: dict[str, dict[int, float]]) -> None:
        self.recalls[step] = recalls


@pytest.fixture
def listener() -> type[Listener]:
    """`Listener`, for tests."""
    return Listener


@pytest.fixture
def picture() -> Callable[..., None]:
    """`write_picture`, for tests."""
    return write_picture
