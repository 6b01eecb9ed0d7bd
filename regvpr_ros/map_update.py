"""The map on disk is improved by the session that the node recorded."""

from dataclasses import dataclass

from regvpr_core.errors import ConfigError, MapError
from regvpr_core.map_tools.update import UpdateConfig
from regvpr_core.map_tools.update_map import update_map
from regvpr_core.maps.place_map import PlaceMap
from regvpr_ros.node_state import NodeState

LEAST_KEYFRAMES = 10
"""Shorter parts of a session are left out: too little can agree with the map."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What an update did, or would do. used: parts of the session."""

    used: int = 0
    added: int = 0
    dropped: int = 0
    keyframes: int = 0
    text: str = ''


def update_by_session(state: NodeState, dry_run: bool) -> Outcome:
    """Update the map in use, on disk, by each part of the session.

    Only stretches count in which several matches agree with the map (`map_tools.session_poses`);
    the node's own fixes are not asked, so a wrong one cannot poison the map. A part that does not
    agree with the map is left out, with the reason.

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
