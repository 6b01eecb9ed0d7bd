"""Sources of a run's input: image files, or stored tokens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn, Tensor

from regvpr_core.arrays import Int64
from regvpr_core.datasets.dataset import Dataset, PictureFile
from regvpr_core.datasets.place_set import PlaceSet
from regvpr_core.errors import ImageError, TrainingError
from regvpr_core.models.backbones import BackboneWeights
from regvpr_core.models.descriptor_model import DescriptorModel
from regvpr_core.training.augmentation import Augmenter
from regvpr_core.training.batches import Batch
from regvpr_core.training.config import AugmentationConfig, TokensConfig, TrainConfig
from regvpr_core.training.loading import PictureLoader
from regvpr_core.training.networks import TokenNetwork
from regvpr_core.training.pictures import normalised, read_groups, unit_range
from regvpr_core.training.processes import Processes
from regvpr_core.training.recompute import recompute
from regvpr_core.training.tokens import keep_tokens, TokenPlan, TokenStore

Told = Callable[[str, int, int], None]
"""Called with the operation, the number done and the total; may raise to stop."""

NOTHING = AugmentationConfig(operations=0)


class Source(Protocol):
    """Input of training and validation, and the network for it.

    copies: number of stored copies per image, including the unaugmented one.
    unreadable: reasons of unreadable images by name.
    """

    network: nn.Module
    places: PlaceSet
    copies: int
    unreadable: dict[str, str]

    def batches(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch with its data."""

    def inputs(self, read: Tensor, random: torch.Generator) -> Tensor:
        """Convert the data of a batch to network input on the device."""

    def validation_inputs(
        self, number: int, chosen: Sequence[int], batch: int
    ) -> Iterator[Tensor]:
        """Network input of the images of a validation set (references first), in batches."""

    def tokens(self, images: Int64) -> tuple[Tensor, Tensor]:
        """Input of the head for unaugmented images: (B, width) and (B, width, h, w)."""


class PictureSource:
    """Reads images for each batch and augments them on the device."""

    def __init__(
        self, network: DescriptorModel, loader: PictureLoader, augmentation: AugmentationConfig,
        validation: Sequence[Sequence[Path]], device: torch.device,
    ) -> None:
        self.network: nn.Module = network
        self._model = network
        self.places = loader.places
        self.copies = 1
        self.unreadable = loader.unreadable
        self.batches = loader.batches
        self._loader = loader
        self._augment = None if augmentation == NOTHING else Augmenter(augmentation)
        self._validation = validation
        self._device = device

    def inputs(self, read: Tensor, random: torch.Generator) -> Tensor:
        """Augmented and normalised."""
        x = unit_range(read, self._device)
        if self._augment is not None:
            x = self._augment(x, random)
        return normalised(x, self._loader.preprocessing)

    def validation_inputs(
        self, number: int, chosen: Sequence[int], batch: int
    ) -> Iterator[Tensor]:
        """Preprocessed images.

        Raises:
            ImageError: one is unreadable, so recall cannot be computed.
        """
        paths = [self._validation[number][i] for i in chosen]
        groups = [paths[start:start + batch] for start in range(0, len(paths), batch)]
        for found in read_groups(groups, self._loader.preprocessing, self._loader.threads):
            for picture in found:
                if isinstance(picture, ImageError):
                    raise picture
            pictures = torch.stack([p for p in found if isinstance(p, Tensor)])
            yield normalised(unit_range(pictures, self._device), self._loader.preprocessing)

    def tokens(self, images: Int64) -> tuple[Tensor, Tensor]:
        """Input of the head for the readable images."""
        found = next(read_groups([[self.places.paths[i] for i in images]],
                                 self._loader.preprocessing, self._loader.threads))
        pictures = torch.stack([p for p in found if isinstance(p, Tensor)])
        x = normalised(unit_range(pictures, self._device), self._loader.preprocessing)
        config = self._model.config
        of_model: tuple[Tensor, Tensor] = self._model.backbone(x, config.last_block)
        return of_model


class TokenSource:
    """Reads stored tokens of augmented copies."""

    def __init__(
        self, network: TokenNetwork, places: PlaceSet, store: TokenStore,
        validation: Sequence[TokenStore], copies: int, window: int, device: torch.device,
    ) -> None:
        self.network: nn.Module = network
        self._behind = network
        self._store, self._window = store, window
        self.places = places.without(store.unreadable)
        self.copies = copies
        self.unreadable = {places.names[i]: why for i, why in store.unreadable.items()}
        self.batches = store.batches
        self._validation = validation
        self._device = device
        size = network.model.config.preprocessing
        self._grid = (size.height // 14, size.width // 14)

    def inputs(self, read: Tensor, random: torch.Generator) -> Tensor:
        """Convert to float32, and cut a window of the grid if configured."""
        x = read.to(self._device).float()
        return windows(x, self._grid, self._window, random) if self._window else x

    def tokens(self, images: Int64) -> tuple[Tensor, Tensor]:
        """Apply the blocks after the stored tokens."""
        read = self._store.read(images, np.zeros_like(images))
        return self._behind.tokens(read.to(self._device).float())

    def validation_inputs(
        self, number: int, chosen: Sequence[int], batch: int
    ) -> Iterator[Tensor]:
        """Input of the head from tokens of the unaugmented images."""
        for start in range(0, len(chosen), batch):
            images = np.asarray(chosen[start:start + batch], dtype=np.int64)
            read = self._validation[number].read(images, np.zeros_like(images))
            yield read.to(self._device).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceParts:
    """Arguments of a source. folder: of the run. told: called with the progress."""

    config: TrainConfig
    folder: Path
    model: DescriptorModel
    backbone: BackboneWeights
    places: PlaceSet
    validation: Sequence[Dataset]
    device: torch.device
    processes: Processes
    told: Told


def open_source(parts: SourceParts) -> Source:
    """Make the source: images, or tokens if configured (computed here if missing)."""
    config, model = parts.config, parts.model
    files = [validation_files(dataset) for dataset in parts.validation]
    if config.tokens is None:
        recompute(model.backbone, config.recompute_blocks, config.model.last_block)
        loader = PictureLoader(parts.places, config.model.preprocessing, config.workers)
        return PictureSource(model, loader, config.augmentation,
                             [[file.path for file in of_set] for of_set in files], parts.device)
    tokens = config.tokens
    root = Path(tokens.folder) if tokens.folder else parts.folder / 'tokens'
    places = parts.places
    store = keep(parts, tokens, root / 'train', places.paths, places.names, tokens.copies,
                 places.copies)
    checks = [keep(parts, tokens, root / f'validation-{number}',
                   [file.path for file in of_set], [file.name for file in of_set], 0)
              for number, of_set in enumerate(files)]
    for dataset, check in zip(parts.validation, checks, strict=True):
        if check.unreadable:
            raise TrainingError(f'{dataset.title}: {len(check.unreadable)} images cannot be '
                                f'read, e.g. {next(iter(check.unreadable.values()))}')
    return TokenSource(TokenNetwork(model, tokens.block), places, store, checks,
                       1 + tokens.copies, tokens.window, parts.device)


def windows(
    tokens: Tensor, grid: tuple[int, int], side: int, random: torch.Generator
) -> Tensor:
    """A random square of patches of each image: (B, 1 + h * w, width) to (B, 1 + side^2, width).

    Raises:
        TrainingError: the square is larger than the grid.
    """
    h, w = grid
    if side > min(h, w):
        raise TrainingError(f'tokens.window is {side}, but an image has {w} x {h} patches')
    top = torch.randint(h - side + 1, (len(tokens),), generator=random)
    left = torch.randint(w - side + 1, (len(tokens),), generator=random)
    steps = torch.arange(side)
    rows, columns = top[:, None] + steps, left[:, None] + steps  # (B, side)
    chosen = (1 + rows[:, :, None] * w + columns[:, None]).flatten(1)
    chosen = torch.cat([torch.zeros(len(tokens), 1, dtype=torch.long), chosen], dim=1)
    return torch.take_along_dim(tokens, chosen.to(tokens.device)[:, :, None], dim=1)


def keep(
    parts: SourceParts, tokens: TokensConfig, folder: Path, paths: Sequence[Path],
    names: Sequence[str], copies: int, most: Int64 | None = None,
) -> TokenStore:
    """Tokens of images; the first process computes them, the others wait."""
    config = parts.config
    plan = TokenPlan(paths=paths, names=names, model=config.model, block=tokens.block,
                     augmentation=config.augmentation, copies=copies, most=most,
                     seed=config.seed if tokens.seed is None else tokens.seed)

    def made() -> TokenStore:
        return keep_tokens(folder, plan, parts.backbone, parts.device, config.workers,
                           lambda done, total: parts.told(f'tokens of {folder.name}', done, total))

    store = made() if parts.processes.first else None
    parts.processes.wait()
    return made() if store is None else store


def validation_files(dataset: Dataset) -> list[PictureFile]:
    """Image files of a validation set: references, then queries."""
    pictures = [*dataset.references, *dataset.queries]
    files = [picture for picture in pictures if isinstance(picture, PictureFile)]
    if len(files) < len(pictures):
        raise TrainingError(f'{dataset.title} holds images that are no files')
    return files
