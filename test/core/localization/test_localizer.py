"""The whole of localization on a painted wall, with a real if tiny network."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from regvpr_core.errors import ConfigError, ImageError
from regvpr_core.localization.belief import BeliefConfig, LEAST_RADIUS_M
from regvpr_core.localization.frames import Description
from regvpr_core.localization.localizer import (
    Frame,
    image_config,
    Localizer,
    LocalizerConfig,
    State,
)
from regvpr_core.localization.one_image import Answer
from regvpr_core.maps.place_map import PlaceMap

COUNT = 60
SECOND = 10**9
CONFIG = LocalizerConfig(confirm_m=1.0, belief=BeliefConfig(place_radius_m=2.6, evidence_m=1.5))
"""The wall's places are half as long as a street's."""


def base_pose(x: float) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x
    return T


def dusk(rgb: np.ndarray, seed: int) -> np.ndarray:
    """The same view, darker and with noise."""
    noise = np.random.default_rng(seed).normal(scale=8.0, size=rgb.shape)
    return np.clip(0.7 * rgb + noise, 0, 255).astype(np.uint8)


@pytest.fixture
def wall(noise) -> list[np.ndarray]:
    return noise(COUNT)


@pytest.fixture
def wall_map(map_of, street, small_encoder, wall):
    """A keyframe each metre along the wall."""
    with map_of(street(COUNT, 1.0), small_encoder.describe_batch(wall),
                small_encoder.fingerprint) as place_map:
        yield place_map


def run(localizer: Localizer, wall, keyframes, *, odometry: bool = True, start_s: int = 0,
        T_base_cam: np.ndarray | None = None):
    """Drive along keyframes at dusk; gives the results."""
    results = []
    for i, k in enumerate(keyframes):
        frame = Frame(stamp_ns=(start_s + i) * SECOND, rgb=dusk(wall[k], k),
                      T_base_cam=np.eye(4) if T_base_cam is None else T_base_cam)
        results.append(localizer.localize(frame, T_OPTICAL @ base_pose(0.0) @ along(k)
                                          if odometry else None))
    return results


T_OPTICAL = np.array([[0, 0, 1.0, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])


def along(k: float) -> np.ndarray:
    """A camera that moved k metres along its own z."""
    T = np.eye(4)
    T[2, 3] = k
    return T


@pytest.mark.parametrize('odometry', [True, False])
def test_a_second_lap_at_dusk_finds_its_keyframes(small_encoder, wall_map, wall, odometry):
    truth = list(range(5, 45))
    results = run(Localizer(small_encoder, wall_map, CONFIG), wall, truth, odometry=odometry)
    assert [r.state for r in results[:2]] == [State.INITIALISING] * 2
    assert results[0].reason == '1 of 3 images from different spots'
    settled = list(zip(results, truth, strict=True))[10 if odometry else 20:]
    localized = [(r, k) for r, k in settled if r.state is State.LOCALIZED]
    assert len(localized) >= 0.8 * len(settled)
    for r, k in localized:
        assert abs(r.matches[0].keyframe_id - k) <= 2
        assert r.matches[0].accepted
        assert r.matches[0].probability >= CONFIG.keep_probability
        assert abs(r.pose_prior.T_map_base[0, 3] - k) < 3.0
        assert (r.pose_prior.variances > 0.0).all()
    for r in results:
        assert 0.0 <= r.off_map <= 1.0
        assert len(r.matches) == 5
        assert len({m.keyframe_id for m in r.matches}) == 5
        assert (r.pose_prior is not None) == (r.state is State.LOCALIZED)
        assert sum(m.accepted for m in r.matches) == (r.state is State.LOCALIZED)
        assert all(0.0 <= m.probability <= 1.0 + 1e-9 for m in r.matches)
        assert set(r.seconds) == {'describe', 'search', 'belief'}


def test_the_most_similar_keyframe_is_the_right_one_at_once(small_encoder, wall_map, wall):
    localizer = Localizer(small_encoder, wall_map, CONFIG)
    first = run(localizer, wall, [33])[0]
    assert first.matches[0].keyframe_id == 33
    assert first.matches[0].similarity > first.matches[1].similarity


def test_moving_the_map_moves_the_prior_by_it(
        small_encoder, map_of, street, wall, wall_map, rigid):
    rows = small_encoder.describe_batch(wall)
    truth = range(5, 20)
    plain = run(Localizer(small_encoder, wall_map, CONFIG), wall, truth)
    with map_of(rigid @ street(COUNT, 1.0), rows) as moved_map:
        moved = run(Localizer(small_encoder, moved_map, CONFIG), wall, truth)
    compared = 0
    for a, b in zip(plain, moved, strict=True):
        assert (a.state, a.reason) == (b.state, b.reason)
        assert [m.keyframe_id for m in a.matches] == [m.keyframe_id for m in b.matches]
        if a.pose_prior is not None:
            np.testing.assert_allclose(b.pose_prior.T_map_base, rigid @ a.pose_prior.T_map_base,
                                       atol=1e-6)
            compared += 1
    assert compared >= 5


def test_an_image_that_was_described_before_is_localized_just_so(
        small_encoder, wall_map, wall, monkeypatch):
    numbers = list(range(8, 16))
    plain = run(Localizer(small_encoder, wall_map, CONFIG), wall, numbers)
    localizer = Localizer(small_encoder, wall_map, CONFIG)
    monkeypatch.setattr(small_encoder, 'describe', None)
    for k, before in zip(numbers, plain, strict=True):
        after = localizer.localize(before.descriptions[0], T_OPTICAL @ base_pose(0.0) @ along(k))
        assert (after.state, after.reason, after.off_map) == (
            before.state, before.reason, before.off_map)
        assert after.matches == before.matches
        assert after.descriptions == before.descriptions


def test_another_camera_mount_moves_the_prior_of_the_base(small_encoder, wall_map, wall):
    T_base_cam = np.eye(4)
    T_base_cam[:3, 3] = [0.0, -1.0, 0.5]
    results = [run(Localizer(small_encoder, wall_map, CONFIG), wall, range(10, 25),
                   T_base_cam=mount)[-1] for mount in (np.eye(4), T_base_cam)]
    plain, mounted = (r.pose_prior.T_map_base for r in results)
    np.testing.assert_allclose(mounted @ T_base_cam, plain, atol=1e-6)


def test_the_same_image_again_does_not_sharpen_the_belief(small_encoder, wall_map, wall):
    for odometry in (True, False):
        localizer = Localizer(small_encoder, wall_map, CONFIG)
        once = run(localizer, wall, [20, 21], odometry=odometry)[-1]
        again = run(localizer, wall, [21] * 10, odometry=odometry, start_s=2)
        for r in again:
            assert r.state is State.INITIALISING
            assert r.off_map == once.off_map
            assert [m.probability for m in r.matches] == [m.probability for m in once.matches]


def test_stamps_that_jump_back_start_over(small_encoder, wall_map, wall):
    localizer = Localizer(small_encoder, wall_map, CONFIG)
    fresh = run(localizer, wall, range(5, 12), start_s=1000)
    assert fresh[-1].state is not State.INITIALISING
    again = run(localizer, wall, range(5, 12), start_s=10)
    assert [r.state for r in again] == [r.state for r in fresh]
    assert [r.off_map for r in again] == pytest.approx([r.off_map for r in fresh], abs=1e-5)


def test_an_image_that_came_late_is_given_no_pose(small_encoder, wall_map, wall):
    localizer = Localizer(small_encoder, wall_map, CONFIG)
    last = run(localizer, wall, range(5, 25))[-1]
    assert last.pose_prior is not None
    frame = Frame(stamp_ns=last.stamp_ns - SECOND // 2, rgb=dusk(wall[24], 24),
                  T_base_cam=np.eye(4))
    late = localizer.localize(frame, T_OPTICAL @ base_pose(0.0) @ along(23.5))
    assert late.pose_prior is None
    assert (late.state, late.off_map) == (last.state, last.off_map)
    assert run(localizer, wall, [25], start_s=20)[-1].pose_prior is not None


def test_a_descriptor_that_is_not_finite_is_refused_and_the_next_image_is_localized(
        small_encoder, wall_map, wall):
    localizer = Localizer(small_encoder, wall_map, CONFIG)
    last = run(localizer, wall, range(5, 25))[-1]
    broken = np.full_like(last.descriptions[0].descriptor, np.nan)
    frame = Frame(stamp_ns=20 * SECOND, rgb=wall[25], T_base_cam=np.eye(4))
    with pytest.raises(ImageError, match='not finite'):
        localizer.localize(Description(frame, broken))
    assert run(localizer, wall, [25], start_s=20)[-1].state is State.LOCALIZED


def test_a_place_that_was_not_found_is_not_localized_whatever_is_asked_of_the_score(
        small_encoder, wall_map, wall):
    config = dataclasses.replace(CONFIG, keep_score=0.0, least_score=0.0, candidates=1)
    results = run(Localizer(small_encoder, wall_map, config), wall,
                  [*range(5, 25), *[40] * 1, *range(26, 30)])
    assert any(r.state is State.LOCALIZED for r in results)
    for r in results:
        assert sum(m.accepted for m in r.matches) == (r.state is State.LOCALIZED)


def test_a_reset_forgets_where_the_robot_was(small_encoder, wall_map, wall):
    localizer = Localizer(small_encoder, wall_map, CONFIG)
    first = run(localizer, wall, range(5, 12))
    localizer.reset()
    second = run(localizer, wall, range(5, 12), start_s=100)
    assert [r.off_map for r in first] == pytest.approx([r.off_map for r in second], abs=1e-5)


def test_pictures_of_elsewhere_are_off_the_map_and_never_accepted(
        small_encoder, wall_map, noise):
    elsewhere = noise(COUNT, seed=99)
    results = run(Localizer(small_encoder, wall_map, CONFIG), elsewhere, range(40))
    assert sum(r.state is State.LOCALIZED for r in results) <= 2
    assert sum(r.state is State.OFF_MAP for r in results[10:]) > 15


def test_a_bad_image_is_refused_and_leaves_the_belief_as_it_was(small_encoder, wall_map, wall):
    localizers = [Localizer(small_encoder, wall_map, CONFIG) for _ in range(2)]
    run(localizers[0], wall, range(5, 10))
    run(localizers[1], wall, range(5, 10))
    for bad in (np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ImageError):
            localizers[0].localize(Frame(stamp_ns=7 * SECOND, rgb=bad, T_base_cam=np.eye(4)))
    a, b = (run(localizer, wall, range(10, 14), start_s=20)[-1] for localizer in localizers)
    assert (a.off_map, a.matches) == (b.off_map, b.matches)


def test_the_order_of_keyframes_changes_no_prior(small_encoder, map_of, street, wall, wall_map):
    order = np.random.default_rng(0).permutation(COUNT)
    rows = small_encoder.describe_batch(wall)
    with map_of(street(COUNT, 1.0)[order], rows[order]) as shuffled_map:
        plain = run(Localizer(small_encoder, wall_map, CONFIG), wall, range(5, 20))[-1]
        shuffled = run(Localizer(small_encoder, shuffled_map, CONFIG), wall, range(5, 20))[-1]
    assert plain.state is shuffled.state is State.LOCALIZED
    assert [order[m.keyframe_id] for m in shuffled.matches] == [
        m.keyframe_id for m in plain.matches]
    # Only the map's own paths follow the order of its keyframes, and with them the offset.
    np.testing.assert_allclose(shuffled.pose_prior.T_map_base, plain.pose_prior.T_map_base,
                               atol=0.2)


@pytest.mark.filterwarnings('error')
def test_an_empty_map_is_off_the_map_and_a_tiny_one_is_searched(
        small_encoder, map_of, street, wall):
    rows = small_encoder.describe_batch(wall[:2])
    with map_of(street(0), rows[:0]) as empty:
        r = run(Localizer(small_encoder, empty, CONFIG), wall, [0, 1])[-1]
        assert (r.state, r.reason, r.matches) == (
            State.OFF_MAP, 'the map holds no keyframe', ())
    with map_of(street(2), rows) as two:
        r = run(Localizer(small_encoder, two, CONFIG), wall, [0, 1])[-1]
        assert len(r.matches) == 2


def test_a_map_file_localizes_after_it_was_opened_again(small_encoder, wall_map, wall):
    with PlaceMap.open(wall_map.path, small_encoder.fingerprint) as again:
        a = run(Localizer(small_encoder, wall_map, CONFIG), wall, range(5, 15))[-1]
        b = run(Localizer(small_encoder, again, CONFIG), wall, range(5, 15))[-1]
    assert (a.state, a.off_map, a.matches) == (b.state, b.off_map, b.matches)


@pytest.mark.parametrize(('settings', 'message'), [
    ({'candidates': 0}, 'candidates is 0; expected 1 to 1000'),
    ({'accept_probability': 0.3}, 'accept_probability is 0.3; expected 0.5 to 1.0'),
    ({'still_cosine': 1.5}, 'still_cosine is 1.5; expected 0.5 to 1.0')])
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(CONFIG, **settings)


def test_the_public_objects_name_themselves(small_encoder, map_of, street, noise):
    with map_of(street(3, 1.0), small_encoder.describe_batch(noise(3)),
                small_encoder.fingerprint) as place_map:
        localizer = Localizer(small_encoder, place_map)  # every setting has a default
        frame = Frame(stamp_ns=7, rgb=noise(1)[0])
        localizer.localize(frame)
        assert 'keyframes=3' in repr(place_map)
        assert repr(localizer) == f'Localizer({place_map!r}, images=1)'
        assert repr(frame).startswith('Frame(stamp_ns=7, ')
        assert f"dimension={small_encoder.dimension}, device='cpu'" in repr(small_encoder)


def test_one_image_alone_is_answered_yes_or_no_and_leaves_the_belief_alone(
        small_encoder, map_of, street, noise):
    wall, other = noise(140)[:100], noise(140)[100:]
    with map_of(street(100, 1.0), small_encoder.describe_batch(wall),
                small_encoder.fingerprint) as place_map:
        localizer = Localizer(small_encoder, place_map, image_config(place_map, CONFIG))

        def ask(rgb):
            return localizer.localize_image(Frame(stamp_ns=0, rgb=rgb, T_base_cam=np.eye(4)))

        first = Frame(stamp_ns=0, rgb=wall[3], T_base_cam=np.eye(4))
        before = localizer.localize(first)
        shown, off = [ask(rgb) for rgb in wall[:80]], [ask(rgb) for rgb in other]
        again = localizer.localize(first)
    assert again.off_map == before.off_map
    assert sum(one.answer is not Answer.NO for one in shown) >= 60
    assert any(one.answer is Answer.YES for one in shown)
    assert sum(one.answer is Answer.YES for one in off) == 0
    for k, one in enumerate(shown):
        assert one.matches[0].keyframe_id == k
        assert one.matches[0].image_probability == one.probability
        assert (one.answer is Answer.NO) == (one.probability < 0.3)
        assert (one.pose_prior is not None) == (one.answer is Answer.YES)
        if one.pose_prior is not None:
            assert abs(one.pose_prior.T_map_base[0, 3] - k) < 3.0
            assert (one.pose_prior.variances > 0.0).all()


def test_places_that_may_be_are_given_with_a_pose_until_one_is_believed(
        small_encoder, map_of, street, wall):
    rows = small_encoder.describe_batch(wall)
    rows = np.concatenate([rows, rows])  # a second street, a kilometre off, looks the same
    T = np.concatenate([street(COUNT, 1.0), street(COUNT, 1.0)])
    T[COUNT:, 1, 3] += 1000.0
    with map_of(T, rows) as place_map:
        results = run(Localizer(small_encoder, place_map, CONFIG), wall, range(5, 25))
    assert all(r.state is not State.LOCALIZED for r in results)
    last = results[-1].hypotheses
    assert len(last) >= 2
    assert last[0].probability + last[1].probability > 0.5
    assert last[0].probability == pytest.approx(last[1].probability, abs=0.1)
    assert {round(one.prior.T_map_base[1, 3], -2) for one in last[:2]} == {0.0, 1000.0}
    for one in last:
        assert (np.linalg.eigvalsh(one.prior.covariance) > 0.0).all()


def test_the_believed_place_is_the_only_hypothesis(small_encoder, wall_map, wall):
    result = run(Localizer(small_encoder, wall_map, CONFIG), wall, range(5, 30))[-1]
    assert result.state is State.LOCALIZED
    assert [one.prior for one in result.hypotheses] == [result.pose_prior]
    assert result.hypotheses[0].probability >= CONFIG.keep_probability


def test_only_the_best_match_of_a_place_has_the_margin_of_the_best_one(
        small_encoder, map_of, street, wall):
    """Where all that is found lies at one place, the others of it are less sure than the first."""
    with map_of(street(COUNT, 0.05), small_encoder.describe_batch(wall),
                small_encoder.fingerprint) as place_map:
        localizer = Localizer(small_encoder, place_map, LocalizerConfig(
            belief=BeliefConfig(place_radius_m=50.0)))
        matches = localizer.localize(
            Frame(stamp_ns=0, rgb=wall[30], T_base_cam=np.eye(4))).matches
    likely = [match.image_probability for match in matches]
    assert all(a.score > b.score for a, b in pairwise(matches))
    assert all(a > b for a, b in pairwise(likely))


def test_an_image_without_odometry_does_not_hide_that_odometry_began_anew(
        small_encoder, wall_map, wall):
    localizer = Localizer(small_encoder, wall_map, CONFIG)
    run(localizer, wall, range(5, 20))
    for i, k in enumerate(range(20, 30)):
        frame = Frame(stamp_ns=(15 + i) * SECOND, rgb=dusk(wall[k], k), T_base_cam=np.eye(4))
        begun = T_OPTICAL @ base_pose(0.0) @ along(k - 20)
        begun[:3, 3] += 900.0
        result = localizer.localize(frame, None if i < 2 else begun)
    assert result.state is State.LOCALIZED
    assert abs(result.matches[0].keyframe_id - 29) <= 2


def test_a_robot_that_stands_for_minutes_without_odometry_keeps_its_place(
        small_encoder, wall_map, wall):
    localizer = Localizer(small_encoder, wall_map, CONFIG)
    before = run(localizer, wall, range(5, 30), odometry=False)[-1]
    assert before.state is State.LOCALIZED
    waiting = [localizer.localize(Frame(stamp_ns=(25 + i) * SECOND, rgb=dusk(wall[29], 29)))
               for i in range(120)]
    assert {one.state for one in waiting} == {State.LOCALIZED}
    moved = run(localizer, wall, [30], odometry=False, start_s=145)[-1]
    assert moved.state is State.LOCALIZED
    assert abs(moved.matches[0].keyframe_id - 30) <= 1


def test_a_robot_carried_while_its_wheels_stand_is_found_at_its_new_place(
        small_encoder, wall_map, wall):
    localizer = Localizer(small_encoder, wall_map, CONFIG)
    before = run(localizer, wall, range(5, 20))[-1]
    assert before.state is State.LOCALIZED
    standing = T_OPTICAL @ base_pose(0.0) @ along(19)
    for second, k in enumerate(range(40, 52)):
        result = localizer.localize(
            Frame(stamp_ns=(15 + second) * SECOND, rgb=dusk(wall[k], k)), standing)
        assert result.state is not State.LOCALIZED or abs(
            result.matches[0].keyframe_id - k) <= 3
    assert localizer._belief.masses(np.arange(38, 54)).sum() > 0.5


def test_in_a_map_of_one_spot_rounding_is_not_taken_for_an_uncertain_position(
        small_encoder, map_of, wall):
    poses = np.tile(np.eye(4), (8, 1, 1))
    poses[:, :3, 3] = 10.1, -3.3, 0.7
    rows = small_encoder.describe_batch(wall[:8])
    with map_of(poses, rows, small_encoder.fingerprint) as place_map:
        assert Localizer(small_encoder, place_map)._decider.exact_m == LEAST_RADIUS_M
