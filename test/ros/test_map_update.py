"""A session improves the map on disk: by the service, or when the node is deactivated."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from std_srvs.srv import Trigger

from regvpr_core.cli import main
from regvpr_core.errors import ConfigError
from regvpr_core.live.turn import Turn
from regvpr_core.maps.place_map import PlaceMap
from regvpr_ros.map_update import update_by_session
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
    with PlaceMap.open(place_map) as loaded:
        state = SimpleNamespace(
            config=SimpleNamespace(update='propose'), place_map=loaded, turn=Turn(),
            session=SimpleNamespace(parts=lambda: parts))
        before = (place_map / 'map.db').read_bytes()
        planned = update_by_session(state, dry_run=True)
        assert (place_map / 'map.db').read_bytes() == before
        done = update_by_session(state, dry_run=False)
        assert len(loaded) == 25  # what is loaded stays as it is
    assert (planned.used, planned.added) == (done.used, done.added)
    assert done.used == 1
    assert done.added >= 5
    assert 'part002: left out, 4 keyframes are too few' in done.text
    with PlaceMap.open(place_map) as updated:
        assert len(updated) == done.keyframes > 25
        assert updated.T_map_cam[:, 0, 3].max() > 30.0


def test_an_update_that_is_off_is_refused():
    state = SimpleNamespace(config=SimpleNamespace(update='off'), place_map=None, session=None)
    with pytest.raises(ConfigError, match="the parameter 'update' is off"):
        update_by_session(state, dry_run=True)


def test_the_services_answer_with_what_the_session_brings_and_a_plan_writes_nothing(
    make_bag, frames, small_model, tmp_path, start, heard, listener, camera, wait_until,
):
    whole = frames(30)
    place_map = tmp_path / 'map'
    assert main(['map', 'build', str(make_bag(tmp_path / 'bag', whole)), '--out',
                 str(place_map), '--model', str(small_model)]) == 0
    before = (place_map / 'map.db').read_bytes()
    process = start(
        'localize', '--ros-args', '-p', f'map:={place_map}', '-p', f'model:={small_model}',
        '-p', 'mode:=both', '-p', f'session_path:={tmp_path / "session"}',
        '-p', 'update:=propose', '-r', 'image:=/camera/image_raw')
    camera.drive(whole, period_s=0.15)
    assert wait_until(lambda: heard.count('session keyframes') > 25), process.output
    camera.stop()

    def says(service: str) -> str:
        answer = listener.call(Trigger, f'/regvpr/{service}', Trigger.Request())
        # The part is used, or left out with the reason that `regvpr map update` gives.
        assert ('part001: left out, ' in answer.message) is not answer.success, answer.message
        assert 'part001: ' in answer.message
        return str(answer.message)

    says('plan_update')
    assert (place_map / 'map.db').read_bytes() == before
    used = 'left out' not in says('update_map')
    with PlaceMap.open(place_map) as updated:
        assert len(updated) >= 24
    assert (len(list(tmp_path.glob('.map.history/*'))) > 0) is used
    assert process.stop() == 0, process.output
    assert 'improves the map by it' in process.output
    assert 'Traceback' not in process.output
