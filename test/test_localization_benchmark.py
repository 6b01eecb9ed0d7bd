"""What the benchmark of localization drives on and counts, checked on a made-up lap."""

import numpy as np
import pytest

from benchmarks.belief import candidates, streets
from benchmarks.localization_runs import along, kidnapped, Raw, Ride, SEGMENTS, Track
from benchmarks.town_drives import TownDrive
from regvpr_core.geometry import inverse

COUNT = 100


@pytest.fixture
def lap() -> TownDrive:
    T = np.tile(np.eye(4), (COUNT, 1, 1))
    T[:, 0, 3] = 2.0 * np.arange(COUNT)
    nothing = np.zeros(0, np.uint8)
    return TownDrive('made', np.arange(COUNT) * 400_000_000, T, T.copy(), np.eye(3), nothing,
                     nothing)


def test_a_kidnapped_lap_holds_every_image_once_and_odometry_shows_no_seam(lap):
    ride = kidnapped(lap, None)
    assert sorted(ride.numbers.tolist()) == list(range(COUNT))
    assert len(ride.jumps) == SEGMENTS - 1
    true = np.linalg.norm(np.diff(ride.T_map_base[:, :3, 3], axis=0), axis=1)
    assert sorted(np.flatnonzero(true > 2.1) + 1) == list(ride.jumps)
    assert true[[j - 1 for j in ride.jumps]].min() >= 40.0
    steps = inverse(ride.T_odom_base[:-1]) @ ride.T_odom_base[1:]
    np.testing.assert_allclose(steps[:, 0, 3], 2.0, atol=1e-9)
    assert (np.diff(ride.stamps_ns) == 400_000_000).all()


def track(ride: Ride, fixed: list[int], wrong: list[int]) -> Track:
    mask, right = np.zeros(len(ride), bool), np.zeros(len(ride), bool)
    mask[fixed] = True
    right[np.setdiff1d(fixed, wrong)] = True
    return Track(sequence=ride, fixed=mask, right=right)


def test_recovery_is_counted_from_the_seam_and_wrong_fixes_do_not_end_it(lap):
    ride = kidnapped(lap, None)
    first, second = ride.jumps[:2]
    made = track(ride, [first, first + 3, second + 1], wrong=[first])
    assert made.recoveries()[:3] == [4, 2, None]
    assert made.false == 1


def test_the_way_of_a_kidnapped_lap_leaves_the_seams_out(lap):
    ride = kidnapped(lap, None)
    figures = track(ride, [5, 50], wrong=[50]).figures()
    driven_m = 2.0 * (COUNT - SEGMENTS)
    assert figures.false_fixes_per_km == pytest.approx(1000.0 / driven_m)
    assert figures.precision == 0.5
    assert along(lap, None).jumps == ()


def test_a_threshold_on_similarity_keeps_as_much_as_its_precision_allows():
    raw = Raw(similarity=np.array([0.9, 0.8, 0.7, 0.6]),
              right=np.array([True, True, False, True]))
    assert raw.recall_at(0.99) == 0.5
    assert raw.recall_at(0.7) == 0.75


def test_streets_of_the_belief_are_a_metre_apart_and_candidates_lie_at_the_place():
    T = streets(2000)
    assert len(T) == 2000
    assert np.linalg.norm(T[1, :3, 3] - T[0, :3, 3]) == 1.0
    assert T[600, 0, 0] == -1.0
    ids, odds = candidates(1000, 2000, np.random.default_rng(0))
    near = np.abs(ids - 1000) <= 6
    assert near.sum() >= 12
    assert odds[near].mean() > odds[~near].mean() + 1.0
