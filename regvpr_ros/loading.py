"""Model and map, as the parameters name them."""

from pathlib import Path
from typing import Any

import numpy as np

from regvpr_core.errors import MapError
from regvpr_core.localization.localizer import Localizer
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder, load_encoder
from regvpr_ros.parameters import NodeConfig


def open_encoder(config: NodeConfig, log: Any) -> Encoder:
    """The network, warm.

    Raises:
        CheckpointError: it or its weights are not there.
    """
    weights = config.backbone_weights
    encoder = load_encoder(config.model, config.device, config.precision,
                           threads=config.threads or None,
                           backbone_path=Path(weights) if weights else None)
    encoder.describe(np.zeros((480, 640, 3), dtype=np.uint8))
    log.info(f'{encoder.notice}; on {encoder.device} in {encoder.precision}')
    return encoder


def open_localizer(path: str, encoder: Encoder, config: NodeConfig, log: Any) -> Localizer:
    """A localizer on the map in a folder.

    Raises:
        MapError: no map, or a map of another model.
    """
    if not path:
        raise MapError("parameter 'map' is empty; give the folder of a place map (map:=...)")
    place_map = PlaceMap.open(Path(path).expanduser(), fingerprint=encoder.fingerprint)
    log.info(f'map {path}: {len(place_map)} keyframes')
    return Localizer(encoder, place_map, config.localizer)
