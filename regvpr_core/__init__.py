"""RegVPR: visual place recognition with registers. Torch and faiss load on first use."""

import importlib
from typing import Any, TYPE_CHECKING

if TYPE_CHECKING:
    from regvpr_core.errors import RegvprError
    from regvpr_core.localization.frames import Frame
    from regvpr_core.localization.localizer import Localizer
    from regvpr_core.localization.settings import LocalizerConfig
    from regvpr_core.localization.states import State
    from regvpr_core.maps.place_map import PlaceMap
    from regvpr_core.models.encoder import Encoder, load_encoder

_HOMES = {
    'Encoder': 'regvpr_core.models.encoder',
    'Frame': 'regvpr_core.localization.frames',
    'Localizer': 'regvpr_core.localization.localizer',
    'LocalizerConfig': 'regvpr_core.localization.settings',
    'PlaceMap': 'regvpr_core.maps.place_map',
    'RegvprError': 'regvpr_core.errors',
    'State': 'regvpr_core.localization.states',
    'load_encoder': 'regvpr_core.models.encoder',
}

__all__ = ['Encoder', 'Frame', 'Localizer', 'LocalizerConfig', 'PlaceMap', 'RegvprError', 'State',
           'load_encoder']
__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted((*__all__, '__version__'))
