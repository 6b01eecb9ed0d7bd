"""Reads the settings of a run from a preset or file; the model may be a separate one."""

from collections.abc import Sequence
from pathlib import Path

from regvpr_core.config import find_settings, from_mapping, read_yaml, with_overrides
from regvpr_core.errors import ConfigError
from regvpr_core.training.config import TrainConfig


def read_train_config(name: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read `TrainConfig` from a YAML file or a preset of the package.

    `model` is a table, or the path of a file relative to this file. An override `model=FILE` is
    relative to the working folder, or the name of a model preset. Data folders are relative to
    `data_root`.

    Raises:
        ConfigError: a file, a key or a value is wrong.
    """
    path = find_settings('train', name)
    values = read_yaml(path)
    if isinstance(values.get('model'), str):
        values['model'] = read_yaml(path.parent / values['model'])
    others = []
    for override in overrides:
        key, _, value = override.partition('=')
        if key.strip() == 'model':
            values['model'] = read_yaml(find_settings('models', value.strip()))
        else:
            others.append(override)
    if 'model' not in values:
        raise ConfigError(f'{path} names no model; give a table, or a file such as '
                          f'../models/table1_regvpr.yaml')
    return with_overrides(from_mapping(TrainConfig, values), others)
