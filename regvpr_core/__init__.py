"""RegVPR: visual place recognition with registers. Torch and faiss load on first use."""

import importlib
from typing import Any

_HOMES = {
    'Encoder': 'regvpr_core.models.encoder',
    'Localizer': 'regvpr_core.localization.localizer',
    'PlaceMap': 'regvpr_core.maps.place_map',
    'RegvprError': 'regvpr_core.errors',
    'load_encoder': 'regvpr_core.models.encoder',
}

__all__ = ['Encoder', 'Localizer', 'PlaceMap', 'RegvprError', 'load_encoder']
__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_HOMES[name]), name)
