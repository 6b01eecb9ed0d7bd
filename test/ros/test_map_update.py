"""A session improves the map on disk: by the service, or when the node is deactivated."""

import multiprocessing
from pathlib import Path
import shutil
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
from regvpr_ros.srv import LoadMap
from std_srvs.srv import Trigger

from regvpr_core.cli import main
from regvpr_core.errors import ConfigError
from regvpr_core.live.camera_health import CameraHealth, Note
from regvpr_core.live.turn import Turn
from regvpr_core.map_tools.history import versions
from regvpr_core.maps.place_map import PlaceMap
from regvpr_ros.camera_infos import CameraInfos
from regvpr_ros.map_update import update_by_session
from regvpr_ros.node_state import NodeState
from regvpr_ros.parameters import to_config


@pytest.mark.parametrize('values', [
    {'update': 'on'}, {'update': 'propose', 'mode': 'both'},
    {'update': 'on', 'session_path': '/s'}])
def test_an_update_without_a_session_on_disk_is_refused(values):
    with pytest.raises(ConfigError, match="expected mode 'both' and a folder for the session"):
        to_config(values)


def test_each_part_that_agrees_improves_the_map_on_disk_and_others_are_left_out_with_a_reason(
    make_bag, frames, noise, small_model, tmp_path,
):
    def build(name: str, images) -> Path:
        path = tmp_path / name
        bag = make_bag(tmp_path / f'bag_{path.name}', images)
        assert main(['map', 'build', str(bag), '--out', str(path), '--model',
                     str(small_model)]) == 0
        return path

    whole = frames(40)
    (tmp_path / 'session').mkdir()
    place_map = build('map', whole[:25])
    parts = [build('session/part001', whole), build('session/part002', whole[:4])]
    once = list(parts)
    parts.append(build('session/part003', whole[:30]))
    with PlaceMap.open(place_map) as loaded:
        state = SimpleNamespace(
            config=SimpleNamespace(update='propose'), place_map=loaded, turn=Turn(),
            session=SimpleNamespace(parts=lambda: parts))
        before = (place_map / 'map.db').read_bytes()
        # One pass that nothing confirms changes nothing, whatever its matches say.
        state.session.parts = lambda: once
        unsure = update_by_session(state, dry_run=False)
        assert unsure.used == 0
        assert 'part001: left out, no stretch of ' in unsure.text
        assert (place_map / 'map.db').read_bytes() == before
        state.session.parts = lambda: parts
        planned = update_by_session(state, dry_run=True)
        assert (place_map / 'map.db').read_bytes() == before
        done = update_by_session(state, dry_run=False)
        assert len(loaded) == 25  # what is loaded stays as it is
        again = update_by_session(state, dry_run=False)
    # One undo takes the whole session back, and it counts once.
    assert [version.number for version in versions(place_map)] == [0, 1]
    assert again.used == 0
    assert 'part001: left out, map ' in again.text
    assert 'a session counts once' in again.text
    assert planned.used == done.used == 2
    assert done.added >= 5
    assert 'part002: left out, 4 keyframes are too few' in done.text
    with PlaceMap.open(place_map) as updated:
        assert len(updated) == done.keyframes > 25
        assert updated.T_map_cam[:, 0, 3].max() > 30.0


@pytest.mark.parametrize('kills', [6, pytest.param(50, marks=pytest.mark.soak)])
def test_a_process_that_is_killed_in_the_nodes_update_leaves_the_old_or_the_new_map(
    make_bag, frames, small_model, tmp_path, kills,
):
    whole, paths = frames(40), {}
    for name, images in (('map', whole[:25]), ('session/part001', whole),
                         ('session/part002', whole[:30])):
        paths[name] = tmp_path / name
        paths[name].parent.mkdir(exist_ok=True)
        assert main(['map', 'build', str(make_bag(tmp_path / f'bag_{paths[name].name}', images)),
                     '--out', str(paths[name]), '--model', str(small_model)]) == 0
    old, first = paths.pop('map'), tmp_path / 'first'
    shutil.copytree(old, first)

    def update() -> None:
        with PlaceMap.open(old) as loaded:
            update_by_session(SimpleNamespace(
                config=SimpleNamespace(update='on'), place_map=loaded, turn=Turn(),
                session=SimpleNamespace(parts=lambda: [*paths.values()])), dry_run=False)

    context = multiprocessing.get_context('fork')

    def run(seconds: float | None) -> tuple[int, float]:
        """Keyframes of the map after an update that is killed after so many seconds."""
        shutil.rmtree(old)
        shutil.copytree(first, old)
        begun, process = time.monotonic(), context.Process(target=update)
        process.start()
        process.join(seconds)
        took_s = time.monotonic() - begun
        process.kill()
        process.join()
        with PlaceMap.open(old) as place_map:
            place_map.check_descriptors()
            return len(place_map), took_s

    # The longest of two whole updates: two of the parts are taken in, one after the other.
    after, took_s = max(run(None) for _ in range(2))
    assert after > 25
    rng = np.random.default_rng(2)
    counts = [run(float(rng.uniform(0.0, 1.2 * took_s)))[0] for _ in range(kills)]
    assert all(25 <= count <= after for count in counts)
    if kills >= 50:  # some came before an exchange of the maps and some after it
        assert counts.count(25) >= 5
        assert sum(count > 25 for count in counts) >= 5


def test_an_update_that_is_off_is_refused():
    state = SimpleNamespace(config=SimpleNamespace(update='off'), place_map=None, session=None)
    with pytest.raises(ConfigError, match="the parameter 'update' is off"):
        update_by_session(state, dry_run=True)


@pytest.fixture
def driven_session(make_bag, frames, small_model, tmp_path, start, heard, camera, wait_until):
    """Start a node on a map of the first 30 of 40 places, and drive all of them there and back.

    Gives a function of a name for the session; it returns the node's process.
    """
    whole = frames(40)
    assert main(['map', 'build', str(make_bag(tmp_path / 'bag', whole[:30])), '--out',
                 str(tmp_path / 'map'), '--model', str(small_model), '--features', 'patch']) == 0

    def shown(frame) -> bool:
        """Send an image and wait for the answer; again, while a node that starts misses it."""
        camera.stamp_s += 1.0
        answers = len(heard.matches)
        camera.send(frame)
        return wait_until(lambda: len(heard.matches) > answers, 1.0)

    def run(name: str):
        heard.diagnostics.clear()
        process = start(
            'localize', '--ros-args', '-p', f'map:={tmp_path / "map"}', '-p',
            f'model:={small_model}', '-p', 'mode:=both', '-p',
            f'session_path:={tmp_path / name}', '-p', 'update:=propose', '-p',
            'session.verification.kind:=patch', '-r', 'image:=/camera/image_raw')
        # On a busy machine the model alone takes a minute to load.
        assert wait_until(lambda: shown(whole[0]), 300.0), process.output
        for frame in [*whole[1:], *whole[::-1]]:
            assert wait_until(lambda frame=frame: shown(frame)), process.output
        assert wait_until(lambda: heard.count('session keyframes') >= 75), process.output
        return process

    return run


def test_a_live_session_improves_the_map_on_disk_which_the_node_then_loads(
    driven_session, listener, tmp_path,
):
    process, place_map = driven_session('session'), tmp_path / 'map'
    before = (place_map / 'map.db').read_bytes()
    plan = listener.call(Trigger, '/regvpr/plan_update', Trigger.Request())
    assert plan.success, plan.message
    assert (place_map / 'map.db').read_bytes() == before
    update = listener.call(Trigger, '/regvpr/update_map', Trigger.Request())
    assert update.success, update.message
    with PlaceMap.open(place_map) as updated:
        assert len(updated) >= 37
        # The last ten metres were not in the map; they lie where they were driven.
        assert 37.0 <= updated.T_map_cam[:, 0, 3].max() <= 41.0
    loaded = listener.call(LoadMap, '/regvpr/load_map', LoadMap.Request(path=str(place_map)))
    assert loaded.success, loaded.message
    assert loaded.keyframes >= 37
    assert process.stop() == 0, process.output
    assert 'Traceback' not in process.output


@pytest.mark.soak
def test_a_node_that_is_killed_while_it_updates_leaves_the_old_or_the_new_map(
    driven_session, listener, tmp_path, wait_until,
):
    rng, old, first = np.random.default_rng(2), tmp_path / 'map', tmp_path / 'first'
    shutil.copytree(old, first)
    process, begun = driven_session('session'), time.monotonic()
    assert listener.call(Trigger, '/regvpr/update_map', Trigger.Request()).success
    middle_s = time.monotonic() - begun
    process.stop()
    counts = []
    for number in range(50):
        shutil.rmtree(old)
        shutil.copytree(first, old)
        process = driven_session(f'session{number}')
        client = listener.node.create_client(Trigger, '/regvpr/update_map')
        assert client.wait_for_service(60.0)
        client.call_async(Trigger.Request())
        # The time follows the load of the machine, so that half of the kills are early.
        time.sleep(float(rng.uniform(0.0, 2.0 * middle_s)))
        process.stop(signal.SIGKILL)
        with PlaceMap.open(old) as place_map:
            place_map.check_descriptors()
            counts.append(len(place_map))
        middle_s *= 1.2 if counts[-1] == 30 else 1.0 / 1.2
        print(f'{len(counts)} kills: {counts.count(30)} left the old map; middle {middle_s:.2f} s')
    # Some kills came before the exchange of the maps and some after it.
    assert counts.count(30) > 5, counts
    assert sum(count >= 37 for count in counts) > 5, counts
    assert len(counts) == counts.count(30) + sum(count >= 37 for count in counts), counts


def test_what_a_camera_showed_before_is_forgotten_when_the_node_starts_again():
    state = NodeState(config=to_config({}), encoder=None, log=None, localizer=None, session=None,
                      infos=CameraInfos())
    watched = state.cameras[''] = CameraHealth(None)
    watched.notes = (Note('view_blocked', 'clean the lens'),)
    assert 'view_blocked' in state.notes()
    state.begin()
    assert state.notes() == {}
