"""Sessions that a map was updated by: each counts once, as a drive of its own.

A session that still grows may be given again. Its keyframes in the map are no evidence of where
its further keyframes are, since they are images of the same drive.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from regvpr_core.arrays import Mask
from regvpr_core.errors import MapError
from regvpr_core.maps.place_map import PlaceMap

MOST = 500
"""Sessions that a map remembers, the last ones."""


@dataclass(frozen=True, slots=True)
class Used:
    """A session that a map was updated by. source: its name in the map. keyframes: it had then."""

    source: str
    keyframes: int


def used_sessions(place_map: PlaceMap) -> dict[str, Used]:
    """The sessions that a map was updated by, by their map_id, the last one last."""
    noted = place_map.manifest.config.get('update')
    table = noted.get('sessions') if isinstance(noted, dict) else None
    return {str(key): Used(row[0], row[1]) for key, row in
            (table if isinstance(table, dict) else {}).items()
            if isinstance(row, list) and len(row) == 2
            and isinstance(row[0], str) and isinstance(row[1], int)}


def noted(place_map: PlaceMap, session: PlaceMap, source: str) -> dict[str, Any]:
    """The sessions for the manifest of a map that is updated by a session of a source."""
    known = used_sessions(place_map)
    known.pop(session.map_id, None)
    known[session.map_id] = Used(source, len(session))
    return {key: [one.source, one.keyframes] for key, one in list(known.items())[-MOST:]}


def refuse_used(place_map: PlaceMap, session: PlaceMap) -> None:
    """Refuse a session that a map was updated by, unless it has grown since.

    Raises:
        MapError: it has no further keyframes.
    """
    used = used_sessions(place_map).get(session.map_id)
    if used is not None and len(session) <= used.keyframes:
        raise MapError(f'map {place_map.path} was updated by session {session.path} already, as '
                       f'{used.source!r}; a session counts once')


def own_keyframes(place_map: PlaceMap, session: PlaceMap) -> Mask:
    """Keyframes (N,) of a map that were added from a session."""
    used = used_sessions(place_map).get(session.map_id)
    own = np.zeros(len(place_map), dtype=bool)
    if used is not None:
        own |= np.array([source == used.source for source in place_map.sources], dtype=bool)
    return own


def source_name(place_map: PlaceMap, session: PlaceMap, source: str) -> str:
    """Name of a session among the sources of a map.

    Each start of a node names its parts alike: a name that is taken gets a number. Recordings keep
    their names, by which `map convert` finds their images.
    """
    used = used_sessions(place_map).get(session.map_id)
    if used is not None:
        return used.source
    taken = {*place_map.manifest.sources, *place_map.sources}
    if source not in taken or source in session.manifest.sources:
        return source
    number = 2
    while f'{source}_{number}' in taken:
        number += 1
    return f'{source}_{number}'
