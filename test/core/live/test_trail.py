import numpy as np
import pytest

from regvpr_core.geometry import pose_matrix
from regvpr_core.live.stamp_ids import StampIds
from regvpr_core.live.trail import Trail

S = 1_000_000_000


def test_stamps_are_found_within_the_tolerance_and_the_oldest_go_first():
    ids = StampIds(capacity=3)
    for number, stamp in enumerate((10, 20, 20, 30, 40)):
        ids.put(stamp, number)
    assert len(ids) == 3
    assert ids.newest_ns == 40
    assert ids.nearest(34, 5) == (30, 3)
    assert ids.nearest(36, 5) == (40, 4)
    assert ids.nearest(9, 5) is None
    assert ids.nearest(46, 5) is None


def test_the_trail_interpolates_thins_the_old_half_and_knows_no_gap():
    trail = Trail(capacity=100)
    for i in range(101):
        trail.put(i * S // 2, pose_matrix([i, 0, 0], [0, 0, 0, 1]))
    assert len(trail) == 76
    assert trail.at(40 * S)[0, 3] == 80
    assert trail.at(40 * S + S // 4)[0, 3] == pytest.approx(80.5)
    assert trail.at(5 * S // 2)[0, 3] == pytest.approx(5.0)  # between 2 s and 3 s
    trail.put(80 * S, np.eye(4))
    assert trail.at(60 * S) is None
    assert trail.at(-S) is None
    trail.put(70 * S, np.eye(4))  # out of order
    assert trail.at(80 * S) is not None
    assert len(trail) == 77
