"""What the node says of clocks that do not fit together."""

import time
from types import SimpleNamespace

from diagnostic_msgs.msg import DiagnosticStatus
import pytest

from regvpr_ros.health import Health, MISSED_IMAGES
from regvpr_ros.pipeline import Pipeline

SECOND = 10**9


def driven(ahead_s: float, images: int, comes: bool = True) -> Health:
    """Health after some images that odometry did not cover."""
    health = Health()
    for k in range(images):
        if comes:
            health.odometry_at = time.monotonic()
            health.odometry_ns = 100 * SECOND + k * SECOND // 2 + round(ahead_s * SECOND)
        health.odometry_at_image(100 * SECOND + k * SECOND // 2, known=False)
    return health


@pytest.mark.parametrize(('ahead_s', 'words'), [
    (812.5, '812.5 s ahead of theirs'), (-3.25, '3.2 s behind theirs')])
def test_odometry_of_another_clock_is_a_warning_with_the_offset(ahead_s, words):
    level, text = driven(ahead_s, MISSED_IMAGES).level(10.0, wants_odometry=True)
    assert level == DiagnosticStatus.WARN
    assert 'odometry never covers the images' in text
    assert words in text


def test_a_few_images_before_odometry_or_one_that_it_covers_are_no_warning():
    assert driven(50.0, MISSED_IMAGES - 1).level(10.0, wants_odometry=True)[1] == ''
    assert driven(50.0, 20).level(10.0, wants_odometry=False)[1] == ''
    assert 'never covers' not in driven(50.0, 20, comes=False).level(10.0, wants_odometry=True)[1]
    health = driven(50.0, 20)
    health.odometry_at_image(100 * SECOND, known=True)
    assert health.level(10.0, wants_odometry=True)[1] == ''


def test_stamps_of_zero_are_times_of_arrival_and_a_warning():
    state = SimpleNamespace(health=Health(), now_ns=lambda: 1234 * SECOND)
    pipeline = object.__new__(Pipeline)
    pipeline._state = state
    stamp = SimpleNamespace(sec=0, nanosec=0)
    message = SimpleNamespace(header=SimpleNamespace(stamp=stamp))
    pipeline._stamped(message, waited_s=0.25)
    assert (stamp.sec, stamp.nanosec) == (1233, 750_000_000)
    level, text = state.health.level(10.0, wants_odometry=False)
    assert level == DiagnosticStatus.WARN
    assert 'stamps of images are 0' in text
    assert state.health.values(0)['images with a stamp of 0'] == '1'
    stamp.sec = 7
    pipeline._stamped(message, waited_s=0.25)
    assert stamp.sec == 7
    assert state.health.zero_stamps == 1
