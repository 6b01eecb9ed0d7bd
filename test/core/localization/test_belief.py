import numpy as np
import pytest

from regvpr_core.errors import ConfigError
from regvpr_core.localization.belief import Belief, BeliefConfig


def forward(metres: float) -> np.ndarray:
    """The camera moves along its z."""
    T = np.eye(4)
    T[2, 3] = metres
    return T


def total(belief: Belief) -> float:
    return float(belief.places.sum()) + belief.off_map


def drive(belief: Belief, truth: list[int], rng: np.random.Generator, *, metres: float = 2.0,
          clutter: int = 4) -> None:
    """See the true keyframe strongly and some others weakly, moving on between."""
    for i, keyframe in enumerate(truth):
        if i:
            belief.predict(forward(metres), 1.0)
        others = rng.choice(len(belief.places), clutter, replace=False)
        ids = np.array([keyframe, *others[others != keyframe]])
        belief.update(ids, np.array([2.0, *[-0.5] * (len(ids) - 1)]))


def test_it_begins_knowing_nothing(street):
    belief = Belief(street(40), BeliefConfig(off_map_prior=0.3))
    assert belief.off_map == 0.3
    np.testing.assert_allclose(belief.places, 0.7 / 40)
    assert belief.spacing_m == 2.0


def test_probabilities_sum_to_one_and_stay_in_range_whatever_comes(street):
    rng = np.random.default_rng(0)
    belief = Belief(street(60), BeliefConfig())
    for _ in range(200):
        motion = None if rng.random() < 0.3 else forward(rng.normal(scale=30.0))
        belief.predict(motion, rng.uniform(-1.0, 100.0))
        assert total(belief) == pytest.approx(1.0, abs=1e-9)
        ids = rng.choice(60, 10, replace=False)
        belief.update(ids, rng.normal(scale=30.0, size=10))
        assert total(belief) == pytest.approx(1.0, abs=1e-9)
        assert belief.places.min() >= 0.0
        assert 0.0 <= belief.off_map <= 1.0


def test_cameras_side_by_side_do_not_make_the_keyframes_of_a_map_denser(street):
    T = street(20, spacing_m=5.0)
    beside = T.copy()
    beside[:, 1, 3] += 0.2
    both = np.concatenate([T, beside])
    assert Belief(both, BeliefConfig(), ['left'] * 20 + ['right'] * 20).spacing_m == 5.0
    assert Belief(both, BeliefConfig()).spacing_m == pytest.approx(0.2)
    assert Belief(T[:2], BeliefConfig(), ['left', 'right']).spacing_m == 0.0


def test_bayes_rule_worked_out_by_hand(street):
    T = street(6)
    T[:, 0, 3] = [0.0, 1.0, 1000.0, 1001.0, 2000.0, 2001.0]  # three places of two keyframes
    belief = Belief(T, BeliefConfig(off_map_prior=0.4))
    belief.update(np.array([2, 0]), np.array([np.log(4.0), np.log(0.5)]))
    # 0.1 each; times 4, and 0.5 for the others, found or not; off the map keeps 0.4.
    want = np.array([0.05, 0.05, 0.4, 0.05, 0.05, 0.05, 0.4]) / 1.05
    np.testing.assert_allclose([*belief.places, belief.off_map], want, atol=1e-12)
    assert belief.probability(3) == pytest.approx(0.45 / 1.05)
    assert belief.best() == pytest.approx((2, 0.45 / 1.05, 0.1 / 1.05))


def test_a_limit_on_what_an_image_says_for_the_map_does_not_blur_where_on_it_the_robot_is(street):
    ids = np.arange(40)
    clear = np.where(ids == 20, 9.0, np.where(abs(ids - 20) == 6, 5.0, -6.0))
    limited = np.clip(clear, -2.0, 4.0)
    blurred, sharp = Belief(street(40), BeliefConfig()), Belief(street(40), BeliefConfig())
    blurred.update(ids, limited)
    sharp.update(ids, clear, -6.0, limited, -2.0)
    # Both believe equally in the map; three places are equal only where all ratios are limited.
    assert sharp.off_map == pytest.approx(blurred.off_map, rel=1e-9)
    assert blurred.places[20] == pytest.approx(blurred.places[26])
    assert sharp.places[20] / sharp.places[26] == pytest.approx(np.exp(4.0), rel=1e-6)
    assert total(sharp) == pytest.approx(1.0, abs=1e-12)


def test_the_belief_follows_the_camera(street):
    belief = Belief(street(100), BeliefConfig())
    drive(belief, list(range(20, 32)), np.random.default_rng(0))
    first, here, elsewhere = belief.best()
    assert first == 31
    assert here > 0.95
    assert elsewhere < 0.02
    belief.predict(forward(10.0), 5.0)
    assert belief.best()[0] in range(35, 38)  # five keyframes on, without an image


def test_without_odometry_it_follows_as_far_as_a_robot_may_have_gone(street):
    belief = Belief(street(100), BeliefConfig(drift_mps=2.0))
    for i in range(20, 30):
        belief.predict(None, 1.0)
        belief.update(np.array([i, 90, 3]), np.array([2.0, 0.0, -0.5]))
    first, here, elsewhere = belief.best()
    assert abs(first - 29) <= 1
    assert here > 0.7
    assert elsewhere < 0.05


def test_a_rigid_move_of_the_map_changes_nothing(street, rigid):
    T = street(50)
    beliefs = [Belief(poses, BeliefConfig()) for poses in (T, rigid @ T)]
    for belief in beliefs:
        drive(belief, list(range(10, 18)), np.random.default_rng(3))
    np.testing.assert_allclose(beliefs[0].places, beliefs[1].places, atol=1e-9)
    assert beliefs[0].off_map == pytest.approx(beliefs[1].off_map, abs=1e-9)
    assert beliefs[0].best()[0] == beliefs[1].best()[0]


def test_the_order_of_keyframes_changes_nothing(street):
    T = street(50)
    order = np.random.default_rng(1).permutation(50)  # new id j is old id order[j]
    new_id = np.argsort(order)
    plain, shuffled = Belief(T, BeliefConfig()), Belief(T[order], BeliefConfig())
    rng = np.random.default_rng(2)
    for i in range(10, 20):
        ids = np.array([i, *rng.choice(np.arange(25, 50), 4, replace=False)])
        for belief, seen in ((plain, ids), (shuffled, new_id[ids])):
            belief.predict(forward(2.0), 1.0)
            belief.update(seen, np.array([1.5, 0.2, 0.0, -0.3, -0.6]))
    np.testing.assert_allclose(shuffled.places, plain.places[order], atol=1e-12)
    assert order[shuffled.best()[0]] == plain.best()[0]


def test_an_image_without_evidence_for_any_place_speaks_for_off_the_map(street):
    belief = Belief(street(50), BeliefConfig())
    rng = np.random.default_rng(0)
    before = belief.off_map
    for _ in range(6):
        belief.update(rng.choice(50, 10, replace=False), np.full(10, -2.0))
        belief.predict(forward(2.0), 1.0)
        assert belief.off_map > before
        before = belief.off_map
    assert before > 0.95


def test_a_robot_that_drives_off_the_end_of_the_map_is_off_it(street):
    belief = Belief(street(30), BeliefConfig())
    drive(belief, list(range(20, 30)), np.random.default_rng(0))
    assert belief.off_map < 0.05
    belief.predict(forward(60.0), 10.0)
    assert belief.off_map > 0.8


def test_a_kidnapped_robot_is_found_again(street):
    belief = Belief(street(200), BeliefConfig())
    drive(belief, list(range(20, 30)), np.random.default_rng(0))
    assert belief.best()[0] == 29
    drive(belief, list(range(150, 162)), np.random.default_rng(1))
    assert belief.best()[0] == 161
    assert belief.best()[1] > 0.9


def test_two_streets_that_look_alike_stay_two_places(street):
    T = np.concatenate([street(20), street(20)])
    T[20:, 1, 3] = 500.0
    belief = Belief(T, BeliefConfig())
    for i in range(5, 15):
        belief.predict(forward(2.0), 1.0)
        belief.update(np.array([i, i + 20]), np.array([2.0, 2.0]))
    first, here, elsewhere = belief.best()
    assert first in (14, 34)
    assert here == pytest.approx(elsewhere, rel=1e-6)
    assert here > 0.4


def test_a_place_is_what_is_near_and_looks_the_same_way(street):
    T = street(9, spacing_m=2.0)
    back = T[4].copy()
    back[:3, :3] = back[:3, :3] @ np.diag([-1.0, 1.0, -1.0])  # the other way round
    belief = Belief(np.concatenate([T, back[None]]), BeliefConfig(place_radius_m=5.0))
    assert belief.around(4).tolist() == [2, 3, 4, 5, 6]
    assert belief.around(0).tolist() == [0, 1, 2]
    assert belief.around(9).tolist() == [9]


def test_the_spread_of_a_position_is_that_of_the_place_alone(street):
    belief = Belief(street(100), BeliefConfig())
    belief.update(np.array([40, 42, 90]), np.array([9.0, 9.0, 9.0]), others=-9.0)
    # Two keyframes 4 m apart are equally likely; the one 96 m away is another place.
    assert belief.spread_m(41) == pytest.approx(2.0, abs=0.01)
    assert belief.spread_m(90) == pytest.approx(0.0, abs=0.1)


def test_in_a_sparse_map_a_place_holds_its_neighbours(street):
    belief = Belief(street(9, spacing_m=20.0), BeliefConfig(place_radius_m=5.0))
    assert (belief.spacing_m, belief.radius_m) == (20.0, 30.0)
    assert belief.around(4).tolist() == [3, 4, 5]


def test_a_reset_forgets(street):
    belief = Belief(street(20), BeliefConfig())
    drive(belief, [3, 4, 5], np.random.default_rng(0))
    belief.reset()
    np.testing.assert_allclose(belief.places, 0.5 / 20)
    assert belief.off_map == 0.5


def test_nothing_found_moves_nothing(street):
    belief = Belief(street(20), BeliefConfig())
    belief.update(np.zeros(0, np.int64), np.zeros(0))
    np.testing.assert_allclose(belief.places, 0.5 / 20)


def test_a_map_of_one_keyframe_and_an_empty_one_are_legal(street):
    one = Belief(street(1), BeliefConfig())
    for _ in range(5):
        one.predict(forward(0.2), 1.0)
        one.update(np.array([0]), np.array([2.0]))
    assert one.best()[0] == 0
    assert one.best()[1] > 0.9
    none = Belief(np.zeros((0, 4, 4)), BeliefConfig())
    none.predict(None, 1.0)
    none.update(np.zeros(0, np.int64), np.zeros(0))
    assert (none.off_map, len(none.places)) == (1.0, 0)


@pytest.mark.parametrize(('settings', 'message'), [
    ({'place_radius_m': -0.1}, 'belief.place_radius_m is -0.1; expected 0.0 to 1000.0'),
    ({'kidnap': 0.6}, 'belief.kidnap is 0.6; expected 1e-06 to 0.5'),
    ({'off_map_prior': 1.0}, 'belief.off_map_prior is 1.0; expected 0.01 to 0.99')])
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        BeliefConfig(**settings)
