import threading
import time

import numpy as np
import pytest

from regvpr_core.errors import ImageError
from regvpr_core.live.decode_ahead import Arrival, DecodeAhead

PIXELS = np.zeros((2, 3, 3), np.uint8)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def decoded():
    """A thread that decodes ahead, the raw bytes that it decoded, and its clock."""
    seen: list[bytes] = []

    def decode(camera: str, raw: bytes):
        seen.append(raw)
        if raw == b'bad':
            raise ImageError('no picture')
        if raw == b'worse':
            raise RuntimeError('a bug')
        return PIXELS

    clock = Clock()
    ahead = DecodeAhead(decode, clock)
    yield ahead, seen, clock
    ahead.close()


def until(condition, seconds=5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


def turn(ahead: DecodeAhead, clock: Clock, seconds: float, looked: bool = True) -> None:
    ahead.began()
    clock.now += seconds
    ahead.ended(looked)


def test_pixels_are_decoded_once_by_whoever_comes_first():
    arrival, calls = Arrival(b'x', 0.0), []

    def decode():
        calls.append(threading.current_thread().name)
        time.sleep(0.05)
        return PIXELS

    other = threading.Thread(target=lambda: arrival.pixels(decode), name='other')
    other.start()
    assert until(lambda: calls == ['other'])
    assert arrival.pixels(decode) is PIXELS
    other.join()
    assert calls == ['other']


def test_an_image_that_cannot_be_decoded_is_tried_again_by_the_worker():
    arrival = Arrival(b'x', 0.0)

    def refuse():
        raise ImageError('no picture')

    for _ in range(2):
        with pytest.raises(ImageError, match='no picture'):
            arrival.pixels(refuse)
    assert arrival.pixels(lambda: PIXELS) is PIXELS


def test_while_the_worker_is_idle_nothing_is_decoded_ahead(decoded):
    ahead, seen, clock = decoded
    turn(ahead, clock, 0.01)
    assert not ahead.offer('', Arrival(b'1', clock.now))
    assert not ahead.offer('', Arrival(b'2', clock.now + 0.03))
    assert seen == []


def test_only_an_image_that_comes_within_a_period_of_the_end_of_a_turn_is_decoded_ahead(decoded):
    ahead, seen, clock = decoded
    turn(ahead, clock, 0.1)
    ahead.began()
    start = clock.now
    assert not ahead.offer('', Arrival(b'0', start - 0.03))  # its period is not known
    assert not ahead.offer('', Arrival(b'1', start))  # 0.1 s to go, the next comes in 0.03
    assert not ahead.offer('', Arrival(b'2', start + 0.03))
    assert ahead.offer('', Arrival(b'3', start + 0.07))
    assert until(lambda: seen == [b'3'] and ahead.decoded == 1)


def test_turns_in_which_no_image_was_looked_at_do_not_shorten_what_is_expected(decoded):
    ahead, seen, clock = decoded
    turn(ahead, clock, 0.1)
    for _ in range(100):
        turn(ahead, clock, 0.001, looked=False)
    ahead.began()
    ahead.offer('', Arrival(b'0', clock.now - 0.03))
    assert not ahead.offer('', Arrival(b'1', clock.now))
    assert ahead.offer('', Arrival(b'2', clock.now + 0.07))
    assert until(lambda: seen == [b'2'])


@pytest.mark.parametrize('raw', [b'bad', b'worse'])
def test_after_an_image_that_cannot_be_decoded_the_next_one_is_decoded_ahead(decoded, raw):
    ahead, seen, clock = decoded
    turn(ahead, clock, 0.01)
    ahead.began()
    ahead.offer('', Arrival(b'0', clock.now))
    for number, one in enumerate((raw, b'good'), 1):
        assert ahead.offer('', Arrival(one, clock.now + 0.03 * number))
        assert until(lambda one=one: seen[-1:] == [one])
    assert until(lambda: ahead.decoded == 1)
