import threading
import time

import numpy as np
import pytest

from regvpr_core.live.mailbox import Mailbox, OdometryBuffer

SECOND = 10**9


def pose(x: float) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x
    return T


def x_of(T: np.ndarray | None) -> float | None:
    return None if T is None else float(T[0, 3])


def test_the_newest_item_wins_and_the_others_are_counted():
    mailbox: Mailbox[int] = Mailbox()
    for item in range(5):
        mailbox.put(item)
    assert mailbox.take() == {'': 4}
    assert mailbox.dropped == 4
    mailbox.put(7)
    assert mailbox.take() == {'': 7}
    assert mailbox.dropped == 4


def test_each_camera_has_its_own_slot():
    mailbox: Mailbox[int] = Mailbox()
    for camera, item in (('front', 1), ('rear', 2), ('front', 3)):
        mailbox.put(item, camera)
    assert mailbox.take() == {'front': 3, 'rear': 2}
    assert mailbox.dropped == 1


def test_taking_waits_for_an_item():
    mailbox: Mailbox[str] = Mailbox()
    threading.Timer(0.05, mailbox.put, ['late']).start()
    start = time.monotonic()
    assert mailbox.take() == {'': 'late'}
    assert 0.03 < time.monotonic() - start < 5.0


def test_closing_ends_a_waiting_take_and_all_later_ones():
    mailbox: Mailbox[int] = Mailbox()
    taken: list[dict[str, int] | None] = []
    worker = threading.Thread(target=lambda: taken.append(mailbox.take()))
    worker.start()
    time.sleep(0.02)
    mailbox.close()
    worker.join(5.0)
    assert taken == [None]
    mailbox.put(1)
    assert mailbox.take() is None


def test_an_item_left_before_closing_is_not_taken():
    mailbox: Mailbox[int] = Mailbox()
    mailbox.put(1)
    mailbox.close()
    assert mailbox.take() is None


def test_every_item_is_either_taken_or_counted_under_load():
    mailbox: Mailbox[int] = Mailbox()
    taken: list[int] = []

    def work() -> None:
        while (items := mailbox.take()) is not None:
            taken.append(items[''])

    worker = threading.Thread(target=work)
    worker.start()
    for item in range(1, 2001):
        mailbox.put(item)
    deadline = time.monotonic() + 5.0
    while (not taken or taken[-1] != 2000) and time.monotonic() < deadline:
        time.sleep(0.001)
    mailbox.close()
    worker.join(5.0)
    assert taken[-1] == 2000
    assert taken == sorted(set(taken))
    assert len(taken) + mailbox.dropped == 2000


def filled(count: int = 5, horizon_s: float = 10.0, gap_s: float = 1.0) -> OdometryBuffer:
    buffer = OdometryBuffer(horizon_s, gap_s)
    for i in range(count):
        buffer.put((100 + i) * SECOND, pose(2.0 * i))
    return buffer


def test_odometry_is_interpolated_at_the_stamp_of_an_image():
    buffer = filled()
    assert x_of(buffer.at(101 * SECOND, 0.0)) == 2.0
    assert x_of(buffer.at(101 * SECOND + SECOND // 4, 0.0)) == pytest.approx(2.5)


def test_the_newest_pose_serves_for_an_image_that_is_little_newer():
    buffer = filled()
    assert x_of(buffer.at(105 * SECOND, 0.0)) == 8.0
    assert buffer.at(105 * SECOND + 1, 0.0) is None


def test_what_is_older_than_all_odometry_is_not_known():
    assert filled().at(100 * SECOND - 1, 0.0) is None
    start = time.monotonic()
    assert OdometryBuffer(10.0, 1.0).at(0, 5.0) is None  # nothing ever came: no waiting
    assert time.monotonic() - start < 1.0


def test_a_gap_is_not_bridged():
    buffer = filled(gap_s=0.9)
    assert buffer.at(101 * SECOND + 1, 0.0) is None
    assert x_of(buffer.at(101 * SECOND, 0.0)) == 2.0


def test_an_image_waits_for_odometry_to_catch_up_and_no_longer():
    buffer = filled()
    threading.Timer(0.05, buffer.put, [106 * SECOND, pose(12.0)]).start()
    buffer_gap = OdometryBuffer(10.0, 5.0)
    assert buffer.at(105 * SECOND, 5.0) is None  # 104 to 106 is a gap
    for stamp, x in ((100 * SECOND, 0.0), (101 * SECOND, 1.0)):
        buffer_gap.put(stamp, pose(x))
    threading.Timer(0.05, buffer_gap.put, [103 * SECOND, pose(3.0)]).start()
    assert x_of(buffer_gap.at(102 * SECOND, 5.0)) == pytest.approx(2.0)
    start = time.monotonic()
    assert x_of(buffer_gap.at(104 * SECOND, 0.05)) == 3.0
    assert 0.04 < time.monotonic() - start < 1.0


def test_odometry_out_of_order_is_sorted_in():
    buffer = OdometryBuffer(10.0, 1.0)
    for i in (2, 0, 1, 3):
        buffer.put(i * SECOND, pose(i))
    assert x_of(buffer.at(SECOND + SECOND // 2, 0.0)) == pytest.approx(1.5)


def test_old_odometry_is_forgotten():
    buffer = filled(30)
    assert buffer.at(110 * SECOND, 0.0) is None
    assert x_of(buffer.at(119 * SECOND, 0.0)) == 38.0


def test_time_that_jumps_back_starts_over():
    buffer = filled()
    buffer.put(10 * SECOND, pose(-1.0))
    assert buffer.at(102 * SECOND, 0.0) is None
    assert x_of(buffer.at(10 * SECOND, 0.0)) == -1.0


def test_time_that_jumps_back_within_the_horizon_starts_over_too():
    buffer = filled()
    buffer.put(100 * SECOND + 1, pose(-1.0))
    assert buffer.at(103 * SECOND, 0.0) is None
    assert x_of(buffer.at(100 * SECOND + 1, 0.0)) == -1.0


def test_clearing_ends_the_wait_of_an_image():
    buffer = filled()
    threading.Timer(0.05, buffer.put, [1, pose(0.0)]).start()  # back in time: the rest is dropped
    start = time.monotonic()
    assert buffer.at(105 * SECOND, 0.3) is None
    assert time.monotonic() - start < 5.0
    buffer.clear()
    assert buffer.at(1, 5.0) is None
