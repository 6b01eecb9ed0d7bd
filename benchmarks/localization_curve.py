"""Effect on real drives of halving and doubling each constant of localization.

    python -m benchmarks.localization_curve [MODEL]

prints the table of docs/localization.md. Drives: floors 1 and 4 of multi_floor on their own maps,
corridor_changes run2, campus_track d24_lap1 and pepper_office test_gray, with and without
odometry. The last column counts fixes of floors 2 and 4 on the map of the other; all are false.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
import sys
from typing import Any
from unittest import mock

from benchmarks.localization_runs import follow
from benchmarks.real_drives import drive, open_map
from benchmarks.real_sequences import floors, MappedDrive, REPORT, sequence
from benchmarks.town_drives import CACHE
from regvpr_core.config import DEFAULT_MODEL
from regvpr_core.localization import belief, localizer, model_evidence, states, views
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.encoder import Encoder, load_encoder

CONSTANTS: tuple[tuple[Any, str], ...] = (
    (views, 'MISSED'), (views, 'PLACES'), (views, 'PLACES_ODOMETRY'), (views, 'BETWEEN'),
    (belief, 'MOTION_SPACINGS'), (belief, 'ODOMETRY_SPACINGS'), (belief, 'PLACE_SPACINGS'),
    (belief, 'KEEPS_SPEED'), (belief, 'SPEED_ERROR'), (states, 'MOST_RIVAL'),
    (states, 'CLEAR_RIVAL'), (localizer, 'EXACT_SPACINGS'), (localizer, 'CONFIRM_IMAGES'),
    (localizer, 'REACH_RADII'), (localizer, 'NEW_VIEW'), (localizer, 'MOST_OFF_MAP'))
EVIDENCE = ('weight', 'gain')
OFFSET_STEP = 0.5


@contextmanager
def evidence_of(encoder: Encoder, **changes: float) -> Iterator[None]:
    """Context in which the model's entry in `model_evidence` is changed."""
    known = model_evidence.known()
    changed = {**known, encoder.fingerprint: replace(known[encoder.fingerprint], **changes)}
    with mock.patch.object(model_evidence, 'known', return_value=changed):
        yield


def row(name: str, own: list[tuple[MappedDrive, PlaceMap]],
        crossed: list[tuple[MappedDrive, PlaceMap]], encoder: Encoder) -> str:
    """One line: precision / recall of each drive, and false fixes."""
    driven = [drive(one, place_map, encoder) for one, place_map in own]
    cells = [f'{p:.2f} / {r:.2f}' for one in driven for p, r in (one.with_odometry, one.without)]
    false = sum(int(follow(encoder, place_map, replace(one.ride, T_odom_base=odometry)
                           ).fixed.sum())
                for one, place_map in crossed for odometry in (None, one.ride.T_odom_base))
    return f'| {name} | ' + ' | '.join(cells) + f' | {false} |'


def main() -> None:
    """Print the table."""
    encoder = load_encoder(sys.argv[1] if len(sys.argv) > 1 else DEFAULT_MODEL, 'cpu')
    own = [floors(1, 1, encoder), floors(4, 4, encoder),
           *(sequence(name, encoder) for name in REPORT)]
    drives = [(one, open_map(one, encoder, CACHE)) for one in own]
    crossed = [(one, open_map(one, encoder, CACHE)) for one in (
        floors(2, 4, encoder), floors(4, 2, encoder))]

    def show(name: str) -> None:
        print(row(name, drives, crossed, encoder), flush=True)

    names = [f'{one.name}, {way}' for one in own for way in ('odometry', 'without')]
    print('| constant | ' + ' | '.join(names) + ' | false of 200 |\n|---'
          + '|---:' * (len(names) + 1) + '|')
    show('as shipped')
    shipped = model_evidence.known()[encoder.fingerprint]
    for field in EVIDENCE:
        for factor, word in ((0.5, 'halved'), (2.0, 'doubled')):
            with evidence_of(encoder, **{field: factor * getattr(shipped, field)}):
                show(f'`{field}` {word}')
    for step in (-OFFSET_STEP, OFFSET_STEP):
        with evidence_of(encoder, offset=shipped.offset + step):
            show(f'`offset` {step:+}')
    for module, name in CONSTANTS:
        for factor, word in ((0.5, 'halved'), (2.0, 'doubled')):
            value = min(factor * getattr(module, name), 0.99) if name == 'KEEPS_SPEED' \
                else factor * getattr(module, name)
            with mock.patch.object(module, name, value):
                show(f'`{name}` {word}' if name != 'KEEPS_SPEED' else f'`{name}` {value}')


if __name__ == '__main__':
    main()
