"""Record of the sessions that were used to update a map. Each session is used once.

A session that has grown since may be used again. The keyframes that the map took from it are not
used to localize its new keyframes, because they are images of the same drive.
"""

from dataclasses import dataclass
import itertools
from typing import Any

import numpy as np

from regvpr_core.arrays import Mask
from regvpr_core.errors import MapError
from regvpr_core.map_tools.history import update_note
from regvpr_core.maps.place_map import PlaceMap

MOST = 500
"""Largest number of recorded sessions; the oldest ones are dropped."""


@dataclass(frozen=True, slots=True)
class Used:
    """A session that was used to update a map.

    source: its name in the map. keyframes: number of keyframes that it had at that update.
    """

    source: str
    keyframes: int


def used_sessions(place_map: PlaceMap) -> dict[str, Used]:
    """Sessions that were used to update a map, by the map_id of the session; oldest first."""
    table = update_note(place_map).get('sessions')
    return {str(key): Used(row[0], row[1]) for key, row in
            (table if isinstance(table, dict) else {}).items()
            if isinstance(row, list) and len(row) == 2
            and isinstance(row[0], str) and isinstance(row[1], int)}


def noted(place_map: PlaceMap, session: PlaceMap, source: str) -> dict[str, Any]:
    """Entry of the manifest that records this session in addition to the earlier ones."""
    known = used_sessions(place_map)
    known.pop(session.map_id, None)
    known[session.map_id] = Used(source, len(session))
    return {key: [one.source, one.keyframes] for key, one in list(known.items())[-MOST:]}


def refuse_used(place_map: PlaceMap, session: PlaceMap) -> None:
    """Refuse a session that was used for the map already, unless it has grown since.

    Raises:
        MapError: the session has no new keyframes.
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

    Every run of the node gives its sessions the same names, so a number is appended to a name that
    the map has already. Recordings keep their names, because `map convert` finds their images by
    them.
    """
    used = used_sessions(place_map).get(session.map_id)
    if used is not None:
        return used.source
    taken = {*place_map.manifest.sources, *place_map.sources}
    return source if source in session.manifest.sources else free_name(source, taken)


def free_name(name: str, taken: set[str]) -> str:
    """A name, with the least number from 2 appended that is free if the name is taken."""
    if name not in taken:
        return name
    return next(numbered for n in itertools.count(2) if (numbered := f'{name}_{n}') not in taken)
