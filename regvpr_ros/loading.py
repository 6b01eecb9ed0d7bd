"""Loads the model and the map named by the parameters."""

from pathlib import Path
from typing import Any

import numpy as np

from regvpr_core.config import DEFAULT_MODEL
from regvpr_core.errors import CheckpointError, MapError
from regvpr_core.localization.localizer import Localizer
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder, load_encoder
from regvpr_ros.parameters import NodeConfig


def open_encoder(config: NodeConfig, log: Any) -> Encoder:
    """Load and warm up the encoder: the model of the parameter, else that of the map.

    Raises:
        CheckpointError: the model or its weights are missing.
        MapError: the map cannot be opened.
    """
    weights = config.backbone_weights
    name = model_of(config)
    where = '' if config.mode == 'loop_closure' else f' (map {config.map})'
    log.info(f'loading model {name}{where} ...')
    try:
        encoder = load_encoder(name, config.device, config.precision,
                               threads=config.threads or None,
                               backbone_path=Path(weights) if weights else None,
                               download=config.fetch, notice=log.info)
    except CheckpointError as error:
        if config.model:
            raise
        raise CheckpointError(f'the map was built with {name}, which cannot be loaded: {error}; '
                              f'or give its file by the parameter model, or let the node fetch '
                              f'it (fetch:=true)') from error
    encoder.describe(np.zeros((480, 640, 3), dtype=np.uint8))
    log.info(f'{encoder.notice}; on {encoder.device} in {encoder.precision}')
    return encoder


def model_of(config: NodeConfig) -> str:
    """The model of the parameter, else that of the map; without a map the default model.

    The map is always opened, so that an error in it is reported before the model is loaded, which
    takes longer.

    Raises:
        MapError: no map is given, or it cannot be opened.
    """
    if config.mode == 'loop_closure':
        return config.model or DEFAULT_MODEL
    with PlaceMap.open(_folder(config.map), index='none') as place_map:
        return config.model or place_map.manifest.model


def _folder(path: str) -> Path:
    if not path:
        raise MapError("parameter 'map' is empty; give the folder of a place map: localize "
                       "--ros-args -p map:=FOLDER, or ros2 launch regvpr_ros localize.launch.py "
                       "map:=FOLDER")
    return Path(path).expanduser()


def open_localizer(path: str, encoder: Encoder, config: NodeConfig, log: Any) -> Localizer:
    """Make a localizer on the map in a folder.

    Raises:
        MapError: not a map, or a map of another model.
    """
    place_map = PlaceMap.open(_folder(path), fingerprint=encoder.fingerprint)
    log.info(f'map {path}: {len(place_map)} keyframes')
    return Localizer(encoder, place_map, config.localizer)
