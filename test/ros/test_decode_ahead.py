import threading
import time

import numpy as np
import pytest

from regvpr_core.errors import ImageError
from regvpr_ros.decode_ahead import Arrival, DecodeAhead

PIXELS = np.zeros((2, 3, 3), np.uint8)


@pytest.fixture
def decoded():
    """Raw bytes that were decoded ahead, and the thread that does it."""
    seen: list[bytes] = []

    def decode(camera: str, raw: bytes):
        seen.append(raw)
        if raw == b'bad':
            raise ImageError('no picture')
        if raw == b'worse':
            raise RuntimeError('a bug')
        return PIXELS

    ahead = DecodeAhead(decode)
    yield ahead, seen
    ahead.close()


def until(condition, seconds=5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.002)
    return condition()


def turn(ahead: DecodeAhead, seconds: float) -> None:
    ahead.began()
    time.sleep(seconds)
    ahead.ended()


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
    ahead, seen = decoded
    turn(ahead, 0.01)
    now = time.monotonic()
    assert not ahead.offer('', Arrival(b'1', now))
    assert not ahead.offer('', Arrival(b'2', now + 0.03))
    assert seen == []


def test_only_an_image_that_comes_within_a_period_of_the_end_of_a_turn_is_decoded_ahead(decoded):
    ahead, seen = decoded
    turn(ahead, 0.1)
    ahead.began()
    start = time.monotonic()
    assert not ahead.offer('', Arrival(b'0', start - 0.03))  # its period is not known
    assert not ahead.offer('', Arrival(b'1', start))  # 0.1 s to go, the next comes in 0.03
    assert not ahead.offer('', Arrival(b'2', start + 0.03))
    assert ahead.offer('', Arrival(b'3', start + 0.07))
    assert until(lambda: seen == [b'3'])


@pytest.mark.parametrize('raw', [b'bad', b'worse'])
def test_after_an_image_that_cannot_be_decoded_the_next_one_is_decoded_ahead(decoded, raw):
    ahead, seen = decoded
    turn(ahead, 0.01)
    ahead.began()
    start = time.monotonic()
    ahead.offer('', Arrival(b'0', start))
    for number, one in enumerate((raw, b'good'), 1):
        assert ahead.offer('', Arrival(one, start + 0.03 * number))
        assert until(lambda one=one: seen[-1:] == [one])
