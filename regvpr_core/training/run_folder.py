"""The files of a run: state for resuming, checkpoints, record. Written atomically.

    RUN/config.yaml            settings as they were used
    RUN/state.safetensors      everything that resuming needs
    RUN/last.safetensors       checkpoint of the last save, RUN/best.safetensors of the best recall
    RUN/record.json            config, data, versions, curve
"""

from collections.abc import Iterator
import contextlib
import json
import os
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save
from torch import Tensor
import yaml

from regvpr_core.errors import TrainingError
from regvpr_core.models.backbones import BackboneWeights
from regvpr_core.models.checkpoints import MAX_CHECKPOINT_BYTES, save_checkpoint
from regvpr_core.models.descriptor_model import DescriptorModel

STATE_KEY = 'regvpr_training'
STATE_VERSION = 1


class RunFolder:
    """The folder of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / 'state.safetensors'
        self.last = path / 'last.safetensors'
        self.best = path / 'best.safetensors'
        self.record = path / 'record.json'

    def begin(self, config: dict[str, Any]) -> None:
        """Create the folder.

        Raises:
            TrainingError: it contains a run already, or cannot be written.
        """
        if self.state.exists():
            raise TrainingError(f'{self.path} holds a run already: go on with --resume, or choose '
                                f'another folder')
        with saving(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / 'config.yaml',
                        yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False).encode())

    def write_state(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        """Replace the state; after an error the previous one is kept.

        Raises:
            TrainingError: the disk is full or not writable.
        """
        text = json.dumps({'version': STATE_VERSION, **about})
        held = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        with saving(self.state):
            write_whole(self.state, save(held, metadata={STATE_KEY: text}))

    def read_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read the tensors of the state and their metadata.

        Raises:
            TrainingError: the state is missing, damaged or of a newer version.
        """
        if not self.state.is_file():
            raise TrainingError(f'{self.path} holds no run to resume ({self.state.name} is '
                                f'missing); start without --resume')
        try:
            if self.state.stat().st_size > 4 * MAX_CHECKPOINT_BYTES:
                raise TrainingError(f'{self.state} is too large to be a state')
            with safetensors.safe_open(self.state, framework='pt') as file:
                about = json.loads((file.metadata() or {})[STATE_KEY])
            if about['version'] > STATE_VERSION:
                raise TrainingError(f'{self.state} is of version {about["version"]}; this one '
                                    f'reads up to {STATE_VERSION}: update regvpr_ros')
            return load_file(self.state), about
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            raise TrainingError(f'{self.state} is damaged ({error}); start anew in another '
                                f'folder') from error

    def write_checkpoint(
        self, path: Path, model: DescriptorModel, name: str, backbone: BackboneWeights,
        record: dict[str, Any], second: BackboneWeights | None = None,
    ) -> None:
        """Replace a checkpoint; after an error the previous one is kept.

        Args:
            path: of the checkpoint. model, name, backbone, record, second: as `save_checkpoint`.

        Raises:
            TrainingError: the disk is full or not writable.
        """
        part = path.with_name(f'{path.name}.part')
        with saving(path):
            try:
                save_checkpoint(part, model, name=name, backbone=backbone, record=record,
                                second=second)
                with part.open('rb+') as file:
                    os.fsync(file.fileno())
                take_name(part, path)
            finally:
                part.unlink(missing_ok=True)

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace the record."""
        with saving(self.record):
            write_whole(self.record, (json.dumps(record, indent=1) + '\n').encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a temporary file, sync it and rename it.

    Raises:
        OSError: as raised; the temporary file is deleted.
    """
    part = path.with_name(f'{path.name}.part')
    try:
        with part.open('wb') as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        take_name(part, path)
    finally:
        part.unlink(missing_ok=True)


def take_name(part: Path, path: Path) -> None:
    """Rename a finished file and sync its folder."""
    part.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Convert an OSError to a message of one line.

    Raises:
        TrainingError: names the file and says that the previous one is kept.
    """
    try:
        yield
    except (OSError, safetensors.SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TrainingError(f'cannot save {path}: {why}; what was saved before is kept: make room '
                            f'and go on with --resume') from error
