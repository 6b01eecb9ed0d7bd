"""Record of a model file: JSON under one key of its metadata."""

from collections.abc import Mapping
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any

from regvpr_core.config import from_mapping
from regvpr_core.errors import CheckpointError, ConfigError
from regvpr_core.models.preprocessing import Preprocessing

METADATA_KEY = 'regvpr'


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """The record of an .onnx file.

    name, fingerprint: of the original model; maps identify the model by them.
    dimension: length D of a descriptor.
    precision: of weights and products, fp32, fp16 or int8.
    inputs, output: names of the graph's input and of its output with the descriptors.
    content: digest of the graph; '' if the fingerprint is that of the file itself.
    gate: test images and float32 descriptors, written by `gate.pack`, or None.
    """

    name: str
    fingerprint: str
    dimension: int
    preprocessing: Preprocessing
    precision: str = 'fp32'
    inputs: str = 'images'
    output: str = 'descriptors'
    content: str = ''
    gate: dict[str, Any] | None = None


def read_record(metadata: Mapping[str, str], path: Path) -> ModelRecord:
    """The record in the metadata of an .onnx file.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if METADATA_KEY not in metadata:
        raise CheckpointError(f'{path} holds no record of its model and preprocessing: make it '
                              f'known with `regvpr models add {path} --size PIXELS`, or export '
                              f'it with `regvpr export`')
    try:
        about: dict[str, Any] = json.loads(metadata[METADATA_KEY])
        return ModelRecord(
            name=str(about['name']), fingerprint=str(about['fingerprint']),
            dimension=int(about['dimension']),
            preprocessing=from_mapping(Preprocessing, about['preprocessing'], 'preprocessing.'),
            precision=str(about.get('precision', 'fp32')),
            inputs=str(about.get('inputs', 'images')),
            output=str(about.get('output', 'descriptors')),
            content=str(about.get('content', '')), gate=about.get('gate'))
    except (KeyError, ValueError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f'{path}: its record cannot be used ({error!r}); export or add it '
                              f'again') from error
