"""Updates the map on disk by the session that the node recorded."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from regvpr_core.errors import ConfigError, MapError
from regvpr_core.geometry import Array
from regvpr_core.map_tools.update import NO_POSES, UpdateConfig
from regvpr_core.map_tools.update_map import localized_poses, update_map
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

    A stretch is used only if several matches agree with the map, and if local features or a second
    pass confirm it (`map_tools.trust`). The node's own fixes are not used, so that a wrong one
    cannot damage the map. A part without such a stretch is left out, with the reason.

    Raises:
        ConfigError: the parameter `update` is off.
        MapError: another update is running, the map would shrink too far, or the disk is full.
    """
    place_map, session = state.place_map, state.session
    if state.config.update == 'off' or place_map is None or session is None:
        raise ConfigError("the parameter 'update' is off: no session is kept for an update")
    with state.turn:
        parts = session.parts()
    outcome, texts = Outcome(keyframes=len(place_map)), []
    reached: dict[Path, Array] = {}
    config = UpdateConfig(trust='confirmed')
    for part in parts:
        try:
            with PlaceMap.open(part, index='none') as one:
                count = len(one)
            if count < LEAST_KEYFRAMES:
                texts.append(f'{part.name}: left out, {count} keyframes are too few')
            else:
                reached[part] = localized_poses(place_map.path, part, config)
        except MapError as error:
            texts.append(f'{part.name}: left out, {error}')
    if reached:
        witnesses = [
            np.concatenate([NO_POSES, *(poses for other, poses in reached.items()
                                        if other != part)]) for part in reached]
        # One update by all parts, so that one undo takes the session back.
        report = update_map(
            place_map.path, [(part, f'{part.parent.name}/{part.name}') for part in reached],
            config, dry_run=dry_run, witnesses=witnesses, left_out=lambda part, error:
            texts.append(f'{part.name}: left out, {error}'))
        for part, plan in zip(report.sessions, report.plans, strict=True):
            outcome.used += 1
            outcome.added += len(plan.add)
            outcome.dropped += int(plan.drop.sum())
            outcome.keyframes = report.after
            texts.append(f'{part.name}: {plan.note}')
    outcome.text = '; '.join(texts) or 'the session has no keyframes with poses yet'
    return outcome
