import numpy as np
import pytest

from regvpr_core.localization.calibration import (
    _own_pairs,
    alike_m,
    calibrate,
    Calibration,
    CHANGED,
    FALLBACK_MATCH,
    fit_logistic,
    MOST_RAISED,
    SAMPLE,
    sample,
    scores,
    stand_out,
)
from regvpr_core.localization.model_evidence import known, model_evidence, POOLED
from regvpr_core.maps.place_map import unit


def assert_taught_nothing(found: Calibration) -> None:
    """What is known of models alone."""
    assert (found.offset, found.gain) == POOLED[1:]
    assert (found.match, found.bins) == (FALLBACK_MATCH, ())


def test_a_place_stands_out_by_spreads_of_the_map_and_by_its_similarity():
    background = np.random.default_rng(0).normal(0.0, 0.05, 20_001).astype(np.float32)
    got = stand_out(np.array([0.0, 0.2, 0.4], np.float32), background, 5.0)
    np.testing.assert_allclose(got, [0.0, 4.0 + 1.0, 8.0 + 2.0], rtol=0.02)
    assert stand_out(np.array([0.2]), np.zeros(0), 5.0) == 0.0


def test_similarities_that_all_shrink_lose_only_what_similarity_itself_says():
    """By dusk all similarities are smaller: the spread is too."""
    background = np.random.default_rng(0).normal(0.0, 0.1, 1000)
    day = stand_out(np.array([0.6]), background, 5.0)
    dusk = stand_out(np.array([0.3]), 0.5 * background, 5.0)
    assert day - dusk == pytest.approx(5.0 * 0.3)


def test_an_unknown_model_takes_the_pooled_shape_on_the_scale_of_its_map():
    some = model_evidence('nobody knows', 0.5)
    assert (some.weight, some.offset, some.gain) == (POOLED[0] / 0.5, *POOLED[1:])
    assert not some.measured
    assert np.isfinite(model_evidence('nobody knows', float('nan')).weight)


def test_no_measured_model_is_looser_than_the_pooled_shape_by_much():
    assert known()
    for one in known().values():
        assert one.measured
        assert 3.5 < one.offset <= POOLED[1] + 0.5
        assert 0.5 < one.gain < 5.0


@pytest.mark.parametrize(('every', 'step'), [(1, 0.5), (2, 0.5), (1, 0.25)])
def test_the_distance_of_half_the_similarity_is_a_length_of_the_site_and_not_of_its_keyframes(
        map_of, street, walk, every, step):
    """Along the walk the cosine falls by a factor a step; half of it is left after 12 m or 46."""
    with map_of(street(3000)[::every], walk(3000, step=step)[::every]) as place_map:
        half_m = 2.0 * np.log(0.5) / np.log((1.0 + step**2)**-0.5)
        assert alike_m(place_map) == pytest.approx(half_m, rel=0.15)


def test_the_distance_of_half_the_similarity_of_a_tiny_map_is_finite(map_of, street, walk):
    for count in (0, 1, 2):
        with map_of(street(count), walk(2)[:count]) as place_map:
            assert 0.0 <= alike_m(place_map) <= 2.0


@pytest.mark.parametrize('twin_m', [500.0, 0.0])
def test_a_map_with_a_look_alike_street_asks_for_more(map_of, street, walk, twin_m):
    """A second street that looks the same raises the offset; a street by itself does not."""
    rows, poses = walk(120), street(120)
    if twin_m:
        poses = np.concatenate([poses, poses])
        poses[120:, 1, 3] += twin_m
        rows = np.concatenate([rows, rows])
    with map_of(poses, rows) as place_map:
        offset = calibrate(place_map, 5.0, 0.9).offset
    assert offset == pytest.approx(POOLED[1] + (MOST_RAISED if twin_m else 0.0), abs=0.3)


def test_a_score_is_in_robust_standard_deviations_above_the_background():
    background = np.random.default_rng(0).normal(0.2, 0.05, 20_001).astype(np.float32)
    background[:500] = 0.99  # a few true places do not matter
    got = scores(np.array([0.2, 0.3, 0.1], np.float32), background)
    np.testing.assert_allclose(got, [0.0, 2.0, -2.0], atol=0.15)


def test_a_background_without_spread_gives_finite_scores():
    got = scores(np.array([0.5, 0.7], np.float32), np.full(9, 0.5, np.float32))
    np.testing.assert_allclose(got, [0.0, 20.0], rtol=1e-5)


def test_scores_do_not_change_when_similarities_are_shifted_and_scaled():
    rng = np.random.default_rng(1)
    similarities, background = rng.normal(size=5), rng.normal(size=100)
    np.testing.assert_allclose(scores(0.3 * similarities + 0.4, 0.3 * background + 0.4),
                               scores(similarities, background), atol=1e-9)


@pytest.mark.parametrize('count', [0, 1, 5, SAMPLE, SAMPLE + 1, 700])
def test_the_sample_is_spread_all_over_the_map(map_of, street, walk, count):
    with map_of(street(count), walk(max(count, 1))[:count]) as place_map:
        ids = sample(place_map)
    assert len(ids) == len(set(ids.tolist())) == min(count, SAMPLE)
    if count:
        assert (ids[0], ids[-1]) == (0, count - 1)
        assert np.diff(ids).max(initial=1) <= 2


@pytest.mark.parametrize('count', [120, 900])
def test_a_street_teaches_which_scores_are_those_of_a_place(map_of, street, walk, count):
    with map_of(street(count), walk(count)) as place_map:
        calibration = calibrate(place_map, 5.0, 0.9)
        assert calibration.queries == min(count, SAMPLE)
        assert calibration.gain > 0.0
        # Each place seen again by noise of its own: it is told from the places far away.
        rng = np.random.default_rng(5)
        d = place_map.descriptors()
        d = unit(d + 0.3 * rng.normal(size=d.shape) / 8.0)
        similarities = unit(d - place_map.centre) @ place_map.centred(np.arange(count)).T
        z = calibration.scores(similarities, similarities)
        apart = np.abs(np.arange(count)[:, None] - np.arange(count)) > 10
        true, false = calibration.log_odds(np.diagonal(z)), calibration.log_odds(z[apart])
        assert np.mean(true > 0.0) > 0.9
        assert np.mean(false < 0.0) > 0.95
        # An image whose place is not in the map has a best keyframe, too: it seldom speaks for it.
        best_other = calibration.log_odds(np.where(apart, z, -np.inf).max(axis=1))
        assert np.mean(best_other > 0.0) < 0.35
        assert float(true.mean()) > 1.0
        assert float(false.mean()) < -1.0


def test_log_odds_are_a_line_through_the_offset():
    calibration = Calibration(offset=3.0, gain=2.0)
    np.testing.assert_allclose(calibration.log_odds(np.array([2.0, 3.0, 4.5])), [-2.0, 0.0, 3.0])


def test_two_normals_of_one_width_give_their_log_likelihood_ratio():
    """Means 3 and 0, variance 1: log p/q is 3 * (z - 1.5)."""
    rng = np.random.default_rng(0)
    offset, gain = fit_logistic(rng.normal(3.0, 1.0, 20_000), rng.normal(0.0, 1.0, 200_000))
    assert offset == pytest.approx(1.5, abs=0.05)
    assert gain == pytest.approx(3.0, rel=0.1)


def test_samples_that_do_not_overlap_give_a_finite_gain_and_turned_ones_a_negative():
    true, false = np.full(20, 9.0), np.full(50, 1.0)
    offset, gain = fit_logistic(true, false)
    assert 1.0 < offset < 9.0
    assert 0.1 < gain < 100.0
    assert fit_logistic(false, true)[1] < 0.0
    assert fit_logistic(true, true)[1] == pytest.approx(0.0, abs=1e-6)


def test_calibration_does_not_depend_on_where_the_map_lies(map_of, street, walk, rigid):
    d = walk(100)
    with map_of(street(100), d) as plain, map_of(rigid @ street(100), d) as moved:
        a, b = calibrate(plain, 5.5, 0.9), calibrate(moved, 5.5, 0.9)
    assert (a.offset, a.gain) == pytest.approx((b.offset, b.gain), rel=1e-6)


@pytest.mark.parametrize('case', ['empty', 'small', 'all alike', 'no neighbours', 'noise'])
def test_a_map_that_teaches_nothing_gets_the_fallback(map_of, street, walk, case):
    poses, rows = {
        'empty': (street(0), walk(1)[:0]),
        'small': (street(9), walk(9)),
        'all alike': (street(40), np.repeat(walk(1), 40, axis=0)),
        'no neighbours': (street(40, 50.0), walk(40)),
        'noise': (street(40, 0.1), walk(40)),  # one place only
    }[case]
    with map_of(poses, rows) as place_map:
        assert_taught_nothing(calibrate(place_map, 5.0, 0.9))


def test_a_map_of_two_places_only_is_calibrated_by_scores_though_it_has_no_third_to_compare(
        map_of, street, walk):
    poses = np.concatenate([street(12, 0.1), street(12, 0.1)])
    poses[12:, 0, 3] += 1000.0
    rows = np.concatenate([np.repeat(walk(1, seed=s), 12, axis=0) for s in (1, 2)])
    rows = rows + np.random.default_rng(0).normal(scale=0.02, size=rows.shape)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with map_of(poses, rows.astype(np.float32)) as place_map:
        found = calibrate(place_map, 5.0, 0.9)
    assert np.isfinite([found.offset, found.gain]).all()
    assert found.gain > 0.0
    assert found.match == FALLBACK_MATCH
    assert found.bins == ()


def test_held_out_examples_of_an_image_are_never_among_those_that_were_learnt_from(
        map_of, street, walk):
    """Each image is in the examples several times; a half holds all of an image or none."""
    with map_of(street(64), walk(64)) as place_map:
        examples = _own_pairs(place_map, 5.0, 0.9, 5.0)
    assert examples.times == len(CHANGED)
    assert examples.image.max() == 63
    halves = (examples.image * 8 // 64) % 2
    for image in range(64):
        assert len(set(halves[examples.image == image])) == 1
        assert (examples.image == image).sum() >= examples.times


def test_few_places_that_show_again_teach_nothing_however_often_they_are_weakened(
        map_of, street, walk):
    poses = street(40, 50.0)
    poses[1, :3, 3] = poses[0, :3, 3]  # two keyframes of one place, forty of others
    with map_of(poses, walk(40)) as place_map:
        assert_taught_nothing(calibrate(place_map, 5.0, 0.9))


def test_scores_without_any_spread_give_a_finite_gain(map_of, street):
    """Places of two equal keyframes each, all places at right angles."""
    poses = street(40, 100.0)
    poses[1::2, :3, 3] = poses[::2, :3, 3] + [1.0, 0.0, 0.0]
    rows = np.repeat(np.eye(20, 64, dtype=np.float32), 2, axis=0)
    with map_of(poses, rows) as place_map:
        calibration = calibrate(place_map, 5.0, 0.9)
    assert np.isfinite([calibration.offset, calibration.gain]).all()
    assert calibration.gain > 0.0
