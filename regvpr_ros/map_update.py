"""Updates the map on disk by the session that the node recorded."""

from dataclasses import dataclass

from regvpr_core.errors import ConfigError, MapError
from regvpr_core.map_tools.update import UpdateConfig
from regvpr_core.map_tools.update_map import update_map
from regvpr_core.maps.place_map import PlaceMap
from regvpr_ros.node_state import NodeState

LEAST_KEYFRAMES = 10
"""Least number of keyframes of a part of a session that is used."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Result of an update. used: parts of the session."""

    used: int = 0
    added: int = 0
    dropped: int = 0
    keyframes: int = 0
    text: str = ''


def update_by_session(state: NodeState, dry_run: bool) -> Outcome:
    """Update the map in use, on disk, by each part of the session.

    Only stretches with several matches that agree with the map are used
    (`map_tools.session_poses`). The node's own fixes are not used, so a wrong fix cannot corrupt
    the map. A part that does not agree with the map is omitted, with the reason.

    Raises:
        ConfigError: the parameter `update` is off.
    """
    place_map, session = state.place_map, state.session
    if state.config.update == 'off' or place_map is None or session is None:
        raise ConfigError("the parameter 'update' is off: no session is kept for an update")
    with state.turn:
        parts = session.parts()
    outcome, texts = Outcome(keyframes=len(place_map)), []
    for part in parts:
        try:
            with PlaceMap.open(part, index='none') as one:
                count = len(one)
            if count < LEAST_KEYFRAMES:
                texts.append(f'{part.name}: left out, {count} keyframes are too few')
                continue
            report = update_map(place_map.path, [(part, f'{part.parent.name}/{part.name}')],
                                UpdateConfig(), dry_run=dry_run)
        except MapError as error:
            texts.append(f'{part.name}: left out, {error}')
            continue
        plan = report.plans[0]
        outcome.used += 1
        outcome.added += len(plan.add)
        outcome.dropped += int(plan.drop.sum())
        outcome.keyframes = report.after
        texts.append(f'{part.name}: {plan.note}')
    outcome.text = '; '.join(texts) or 'the session has no keyframes with poses yet'
    return outcome
