"""Kinds of data sets by name, and the training and validation sets of a run."""

from collections.abc import Callable
from pathlib import Path

from regvpr_core.datasets.clips import clips_validation, read_clips
from regvpr_core.datasets.config import DataConfig, ValidationConfig
from regvpr_core.datasets.dataset import Dataset
from regvpr_core.datasets.gsv_cities import read_gsv_cities
from regvpr_core.datasets.manifest import manifest_validation, read_manifest
from regvpr_core.datasets.msls import load_validation
from regvpr_core.datasets.place_folders import read_place_folders
from regvpr_core.datasets.place_set import joined, PlaceSet
from regvpr_core.datasets.posed_pictures import read_msls, read_utm
from regvpr_core.datasets.utm_folders import load_utm
from regvpr_core.errors import TrainingError
from regvpr_core.training.config import TrainConfig

READERS: dict[str, Callable[[Path, DataConfig], PlaceSet]] = {
    'gsv_cities': read_gsv_cities,
    'msls': read_msls,
    'utm': read_utm,
    'folders': read_place_folders,
    'clips': read_clips,
    'manifest': read_manifest,
}


def training_set(config: TrainConfig) -> PlaceSet:
    """The training data of a run as one set, without places with too few images.

    Raises:
        TrainingError: a folder is missing, or there are fewer places than a batch has.
    """
    needed = config.batch.least or config.batch.images
    whole = joined([READERS[data.kind](find(config, data.folder), data)
                    .repeated(data.repeat).with_copies(data.copies) for data in config.data])
    kept = whole.with_at_least(needed)
    if len(kept.members) < config.batch.places:
        raise TrainingError(
            f'{kept.name} has {len(kept.members)} places of {needed} or more images '
            f'({kept.dropped} have fewer), and a batch has {config.batch.places}: take more data, '
            f'or lower batch.places or '
            f'batch.least')
    return kept


def validation_sets(config: TrainConfig) -> list[Dataset]:
    """The validation sets of a run."""
    return [validation_set(find(config, one.folder), one) for one in config.validation]


def validation_set(root: Path, config: ValidationConfig) -> Dataset:
    """One set for validation.

    Raises:
        TrainingError, EvaluationError: it is missing or incomplete.
    """
    if config.kind == 'msls':
        return load_validation(root, 'MSLS-val', 'MSLS-val-740')
    if config.kind == 'utm':
        return load_utm(root, root.name, f'{root.name} {config.split}',
                        splits=(config.split,), radius_m=config.radius)
    read = clips_validation if config.kind == 'clips' else manifest_validation
    return read(root, config)


def find(config: TrainConfig, folder: str) -> Path:
    """A data set's folder or file.

    Raises:
        TrainingError: it does not exist, or neither the config nor the user names a folder.
    """
    if not config.data_root and Path(folder) == Path():
        raise TrainingError(f'{config.name} does not say where its images are; give their folder '
                            f'with --set data_root=FOLDER')
    path = Path(config.data_root).expanduser() / Path(folder).expanduser()
    if not path.exists():
        raise TrainingError(f'{path} does not exist; give the folder of the data sets with '
                            f'--set data_root=FOLDER, or its own path in the config')
    return path
