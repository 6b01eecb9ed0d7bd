"""A long day of a robot: all that may happen, again and again, and nothing grows.

`make soak` takes SOAK_S seconds for it (21 minutes unless set); `make test` a short form."""

from collections.abc import Callable
import os
from pathlib import Path
import random
import time

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from regvpr_ros.srv import LoadMap, SaveMap
from sensor_msgs.msg import CompressedImage
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from regvpr_core.cli import main
from regvpr_core.maps.place_map import PlaceMap

RATE_HZ = 30.0
QUIET_S = 30.0
"""A node that is being switched off, or reads a map on a busy machine, says nothing so long."""


class Day:
    """One node, one camera, and what befalls them."""

    def __init__(self, seed: int, maps: list[Path], folder: Path, listener, camera, heard) -> None:
        self.random = random.Random(seed)
        self.maps, self.folder = maps, folder
        self.listener, self.camera, self.heard = listener, camera, heard
        self.done: dict[str, int] = {}
        self.saved = 0
        self.events: list[Callable[[], None]] = [
            self.bad_images, self.clock_jumps, self.reset, self.other_map, self.wrong_map,
            self.save, self.people_look, self.parameters, self.off_and_on, self.once]

    def next(self) -> None:
        """Whatever comes next; each comes before one comes again."""
        fewest = min(self.done.get(e.__name__, 0) for e in self.events)
        event = self.random.choice(
            [e for e in self.events if self.done.get(e.__name__, 0) == fewest])
        event()
        self.done[event.__name__] = self.done.get(event.__name__, 0) + 1

    def bad_images(self) -> None:
        message = self.camera.message(np.zeros((120, 160, 3), np.uint8))
        message.encoding = 'holo13'
        self.camera.images.publish(message)
        message.encoding, message.data = 'rgb8', message.data[:99]
        self.camera.images.publish(message)
        message.width = message.height = 0
        self.camera.images.publish(message)

    def clock_jumps(self) -> None:
        self.camera.stamp_s += self.random.choice((-300.0, 300.0))

    def reset(self) -> None:
        assert self.listener.call(Trigger, '/regvpr/reset', Trigger.Request()).success

    def once(self) -> None:
        assert self.listener.call(Trigger, '/regvpr/localize_once', Trigger.Request()).success

    def other_map(self) -> None:
        path = str(self.random.choice(self.maps))
        assert self.listener.call(LoadMap, '/regvpr/load_map', LoadMap.Request(path=path)).success

    def wrong_map(self) -> None:
        request = LoadMap.Request(path=str(self.folder / 'nowhere'))
        assert not self.listener.call(LoadMap, '/regvpr/load_map', request).success

    def save(self) -> None:
        self.saved += 1
        path = self.folder / f'saved{self.saved}'
        answer = self.listener.call(SaveMap, '/regvpr/save_map', SaveMap.Request(path=str(path)))
        if answer.success:  # a session that has just begun has nothing to save
            with PlaceMap.open(path) as place_map:
                assert len(place_map) == answer.keyframes

    def people_look(self) -> None:
        node, seen = self.listener.node, []
        looking = [node.create_subscription(CompressedImage, '/regvpr/debug/compressed',
                                            seen.append, 1),
                   node.create_subscription(MarkerArray, '/regvpr/markers', seen.append, 1)]
        time.sleep(1.0)
        for subscription in looking:
            self.listener.forget(subscription)

    def parameters(self) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_DOUBLE,
                               double_value=self.random.choice((0.0, 0.05)))
        request = SetParameters.Request(parameters=[Parameter(name='min_interval_s', value=value)])
        assert self.listener.call(SetParameters, '/regvpr/set_parameters',
                                  request).results[0].successful

    def off_and_on(self) -> None:
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=transition))
            assert self.listener.call(ChangeState, '/regvpr/change_state', request).success


def run(seconds: float, pause_s: float, limit_mb: float, make_bag, frames, small_model, tmp_path,
        start, listener, camera, heard, wait_until) -> Day:
    """Live through `seconds`, with something every `pause_s`."""
    maps = []
    for name, count in (('a', 40), ('b', 30)):
        maps.append(tmp_path / name)
        assert main(['map', 'build', str(make_bag(tmp_path / f'bag_{name}', frames(count))),
                     '--out', str(maps[-1]), '--model', str(small_model)]) == 0
    process = start(
        'localize', '--ros-args', '-p', f'map:={maps[0]}', '-p', f'model:={small_model}',
        '-p', 'mode:=both', '-p', f'session_path:={tmp_path / "session"}',
        '-p', 'session.max_keyframes:=500', '-r', 'image:=/camera/image_raw')
    camera.step_s = 1.0 / RATE_HZ
    camera.drive(frames(40), period_s=1.0 / RATE_HZ)
    assert wait_until(lambda: heard.matches), process.output

    day = Day(0, maps, tmp_path, listener, camera, heard)
    used: list[tuple[int, int, float]] = []
    latencies: list[float] = []
    begun = heard_at = time.monotonic()
    next_event = begun + pause_s
    while time.monotonic() - begun < seconds or len(day.done) < len(day.events):
        if time.monotonic() >= next_event:
            day.next()
            next_event = time.monotonic() + pause_s
        time.sleep(0.25)
        used.append(resources(process.process.pid))
        if heard.matches:
            heard_at = time.monotonic()
            latencies += [m.latency_s for m in heard.matches]
        heard.matches.clear()
        heard.priors.clear()
        del heard.diagnostics[:-1]
        assert process.process.poll() is None, process.output
        assert time.monotonic() - heard_at < QUIET_S, process.output

    warm = used[len(used) // 4:]
    third = len(warm) // 3
    files, threads, memory = (np.array(column) for column in zip(*warm, strict=True))
    # A part of the session (database, its log, rows) is open at one moment and not at another.
    assert np.median(files[-third:]) <= np.median(files[:third]) + 6
    assert np.median(threads[-third:]) <= np.median(threads[:third]) + 1
    growth_mb = np.median(memory[-third:]) - np.median(memory[:third])
    assert growth_mb <= limit_mb, f'{growth_mb:.1f} MB in {seconds:.0f} s'
    assert np.percentile(latencies, 95) < 1.0
    assert 'Traceback' not in process.output
    print(f'{len(latencies)} images, p95 {1e3 * np.percentile(latencies, 95):.0f} ms, '
          f'{growth_mb:+.1f} MB, {sum(day.done.values())} events')

    camera.stop()
    assert process.stop() == 0, process.output
    parts = sorted((tmp_path / 'session').glob('part*'))
    assert parts
    for part in parts:
        with PlaceMap.open(part) as place_map:
            assert len(place_map) > 0
    return day


def resources(pid: int) -> tuple[int, int, float]:
    """Open files, threads, and resident memory in MB."""
    process = Path(f'/proc/{pid}')
    pages = int((process / 'statm').read_text().split()[1])
    return (len(list((process / 'fd').iterdir())), len(list((process / 'task').iterdir())),
            pages * 4096 / 1e6)


def test_a_short_day_with_all_that_may_happen(
    make_bag, frames, small_model, tmp_path, start, listener, camera, heard, wait_until,
):
    day = run(15.0, 0.5, 60.0, make_bag, frames, small_model, tmp_path, start, listener, camera,
              heard, wait_until)
    assert len(day.done) == len(day.events)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_long_day_with_all_that_may_happen(
    make_bag, frames, small_model, tmp_path, start, listener, camera, heard, wait_until,
):
    seconds = float(os.environ.get('SOAK_S', '1260'))
    day = run(seconds, 3.0, 20.0, make_bag, frames, small_model, tmp_path, start, listener,
              camera, heard, wait_until)
    assert min(day.done.values()) >= 3
