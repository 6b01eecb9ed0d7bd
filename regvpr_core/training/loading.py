"""Loads the images of batches; unreadable ones are replaced, counted and named."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from regvpr_core.arrays import Int64
from regvpr_core.datasets.place_set import PlaceSet
from regvpr_core.errors import ImageError, TrainingError
from regvpr_core.models.preprocessing import Preprocessing
from regvpr_core.training.batches import Batch
from regvpr_core.training.pictures import read_groups


@dataclass(slots=True)
class PictureLoader:
    """Reads images at the network's input size.

    unreadable: reasons of unreadable images by name.
    """

    places: PlaceSet
    preprocessing: Preprocessing
    threads: int
    unreadable: dict[str, str] = field(default_factory=dict)

    def batches(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, Tensor]]:
        """Each batch with its images (B, 3, height, width) uint8.

        An unreadable image is replaced by another one of its place or, if all of these are
        unreadable, by another image of the batch with its label.

        Raises:
            TrainingError: no image of a batch can be read.
        """
        groups = [[self.places.paths[i] for i in batch.images] for batch in batches]
        for batch, found in zip(batches, read_groups(groups, self.preprocessing, self.threads),
                                strict=True):
            for number, picture in zip(batch.images, found, strict=True):
                if isinstance(picture, ImageError):
                    self.unreadable[self.places.names[number]] = str(picture)
            there = {i: picture for i, picture in enumerate(found) if isinstance(picture, Tensor)}
            if not there:
                raise TrainingError(f'none of the {len(found)} images of a batch can be read, '
                                    f'e.g. {next(iter(self.unreadable.values()))}')
            source = fillers(batch.places, list(there))
            yield (Batch(batch.images[source], batch.copies[source], batch.places[source]),
                   torch.stack([there[int(i)] for i in source]))


def fillers(places: Int64, there: Sequence[int]) -> Int64:
    """Index of the replacement of each image of a batch: itself, one of its place, or any."""
    source = np.arange(len(places))
    good = np.asarray(there)
    for slot in np.setdiff1d(source, good):
        same = good[places[good] == places[slot]]
        those = same if len(same) else good
        source[slot] = those[slot % len(those)]
    return source
