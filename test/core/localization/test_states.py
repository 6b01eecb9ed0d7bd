import math

import pytest

from regvpr_core.localization.settings import LocalizerConfig
from regvpr_core.localization.states import Decider, Evidence, State

CONFIG = LocalizerConfig(accept_probability=0.9, keep_probability=0.7, least_score=2.0,
                         keep_score=1.0, confirm_m=4.0, least_images=3)
SURE = Evidence(images=9, off_map=0.02, here=0.95, elsewhere=0.01, seen=5.0, way_m=2.0)


def evidence(**changes) -> Evidence:
    values = {name: getattr(SURE, name) for name in Evidence.__slots__}
    return Evidence(**{**values, **changes})


@pytest.mark.parametrize(('changes', 'state', 'reason'), [
    ({'images': 2}, State.INITIALISING, '2 of 3 images from different spots'),
    ({'off_map': 0.8, 'here': 0.1}, State.OFF_MAP, 'off the map with 0.80'),
    ({'here': 0.45, 'elsewhere': 0.4}, State.AMBIGUOUS, 'two places: 0.45 and 0.40'),
    ({'here': 0.6}, State.LOST, 'best place has 0.60'),
    ({'seen': 1.2}, State.LOST, 'the believed place is not seen (score 1.2)'),
    ({'seen': -math.inf}, State.LOST, 'the believed place is not seen (not found)'),
    ({}, State.LOST, 'nearly there: one place has 0.95, confirmed over 0.0 of 4.0 m so far')])
def test_each_state_has_its_reason(changes, state, reason):
    assert Decider(CONFIG).decide(evidence(**changes)) == (state, reason)


def test_a_place_must_be_believed_over_some_way():
    decider = Decider(CONFIG)
    # The way to the first image that shows it says nothing of it, however long.
    assert decider.decide(evidence(way_m=50.0))[0] is State.LOST
    assert decider.decide(SURE) == (
        State.LOST, 'nearly there: one place has 0.95, confirmed over 2.0 of 4.0 m so far')
    assert decider.decide(SURE) == (State.LOCALIZED, 'one place has 0.95')


def test_standing_still_does_not_confirm():
    decider = Decider(CONFIG)
    for _ in range(50):
        assert decider.decide(evidence(way_m=0.0))[0] is State.LOST


def test_a_doubt_on_the_way_begins_the_confirmation_anew():
    decider = Decider(CONFIG)
    decider.decide(SURE)
    decider.decide(evidence(here=0.85))
    assert decider.decide(SURE)[0] is State.LOST
    assert decider.decide(SURE)[0] is State.LOST
    assert decider.decide(SURE)[0] is State.LOCALIZED


def test_a_short_doubt_near_the_last_fix_does_not_begin_the_confirmation_anew():
    decider = Decider(CONFIG)
    for _ in range(3):
        assert decider.decide(SURE)[0] is not State.OFF_MAP
    assert decider.decide(evidence(here=0.65, continued=True))[0] is State.LOST
    assert decider.decide(evidence(continued=True))[0] is State.LOST
    for _ in range(2):
        decider.decide(SURE)
    assert decider.decide(evidence(seen=0.5, here=0.75, continued=True))[0] is State.LOST
    assert decider.decide(evidence(continued=True))[0] is State.LOCALIZED


def test_a_believed_place_is_kept_with_less_and_lost_below_that():
    decider = Decider(CONFIG)
    for _ in range(3):
        decider.decide(SURE)
    assert decider.decide(evidence(here=0.75, seen=1.2))[0] is State.LOCALIZED
    assert decider.decide(evidence(here=0.65))[0] is State.LOST
    # Below the keeping threshold once, the higher one counts again.
    assert decider.decide(evidence(here=0.75))[0] is State.LOST


def test_a_reset_forgets_that_a_place_was_believed():
    decider = Decider(CONFIG)
    for _ in range(3):
        decider.decide(SURE)
    decider.reset()
    assert decider.decide(evidence(here=0.75))[0] is State.LOST


def test_without_odometry_an_image_that_shows_another_place_better_gives_no_fix():
    believed = [Decider(CONFIG) for _ in range(2)]
    for decider in believed:
        for _ in range(3):
            assert decider.decide(evidence(odometry=False))[1].code in ('too_short_a_way',
                                                                        'one_place')
    assert believed[0].decide(evidence(odometry=False, rival=0.4))[0] is State.LOCALIZED
    state, reason = believed[0].decide(evidence(odometry=False, rival=0.6))
    assert (state, reason.code) == (State.LOST, 'not_seen')
    assert reason == ('the image shows another place better (score 0.6 above that of the believed '
                      'place)')
    # Odometry tells which of two places that look alike it is.
    assert believed[1].decide(evidence(rival=0.6))[0] is State.LOCALIZED
    # But not of a robot that was carried: its image shows another place much better.
    assert believed[1].decide(evidence(rival=3.1))[0] is State.LOST


def test_without_odometry_a_position_that_is_too_uncertain_gives_no_fix():
    decider = Decider(CONFIG, exact_m=3.0)
    for _ in range(3):
        decider.decide(evidence(odometry=False, spread_m=2.9))
    assert decider.decide(evidence(odometry=False, spread_m=2.9))[0] is State.LOCALIZED
    state, reason = decider.decide(evidence(odometry=False, spread_m=3.2))
    assert (state, reason.code) == (State.LOST, 'unsure')
    assert reason == ('best place has 0.95, but its position is uncertain by 3.2 m (at most '
                      '3.0 m)')
    assert Decider(CONFIG, exact_m=3.0).decide(evidence(spread_m=9.0))[1].code != 'unsure'
