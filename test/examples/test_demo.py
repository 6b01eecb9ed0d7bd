"""What the demo decides by itself; the whole of it is `make demo`."""

import subprocess
import sys

import pytest

pytest.importorskip('rclpy', reason='the demo watches topics')

from examples import demo


@pytest.mark.parametrize(('images_per_s', 'rate'), [
    (100.0, 2.0), (13.0, 1.82), (9.0, 1.26), (3.0, 0.42), (0.9, 0.2)])
def test_the_lap_is_replayed_as_fast_as_the_machine_keeps_up(images_per_s, rate):
    assert demo.replay_rate(images_per_s, 5.0) == rate


def test_a_node_that_does_not_listen_is_ended_all_the_same(monkeypatch):
    monkeypatch.setattr(demo, 'NODE_STOP_S', 0.5)
    deaf = subprocess.Popen(
        [sys.executable, '-c', 'import signal, time; signal.signal(signal.SIGTERM, '
                               'signal.SIG_IGN); print("up", flush=True); time.sleep(60)'],
        stdout=subprocess.PIPE)
    assert deaf.stdout is not None
    assert deaf.stdout.readline() == b'up\n'
    demo.stop(deaf)
    assert deaf.returncode == -9
    deaf.stdout.close()
