"""The localize node as its own process, talked to over DDS."""

import array
from collections.abc import Callable
import json
from pathlib import Path
import signal
import time
from typing import Any
import zlib

from geometry_msgs.msg import PoseWithCovarianceStamped
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
import numpy as np
import pytest
from regvpr_ros.msg import LocalizationStatus, PlaceMatch, PlaceMatches
from regvpr_ros.srv import LoadMap, SaveMap
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from regvpr_core.cli import main


def image(rgb: np.ndarray, stamp_s: int) -> Image:
    """An rgb8 message."""
    message = Image(height=rgb.shape[0], width=rgb.shape[1], encoding='rgb8',
                    step=rgb.shape[1] * 3, data=array.array('B', rgb.tobytes()))
    message.header.stamp.sec = stamp_s
    message.header.frame_id = 'camera_optical'
    return message


@pytest.mark.parametrize('compressed', [False, True])
def test_a_second_drive_over_dds_is_localized_with_stamps_frames_and_positive_covariances(
    line, make_bag, frames, small_model, tmp_path, node, play, heard, wait_until, compressed,
):
    _, place_map = line
    drive = make_bag(tmp_path / 'drive', frames(30, start_s=5000), compressed=compressed)
    process = node(place_map, '-p', f'model:={small_model}', compressed=compressed)
    assert wait_until(lambda: heard.status), process.output
    play(drive)
    assert wait_until(lambda: heard.matches and heard.matches[-1].header.stamp.sec >= 5025)

    localized = [m for m in heard.matches if m.state == PlaceMatches.LOCALIZED]
    assert len(localized) >= 15  # of 30; the first metres are for being sure
    for message in localized:
        best = message.matches[0]
        assert best.status == PlaceMatch.ACCEPTED
        assert abs(best.reference_id - (message.header.stamp.sec - 5000)) <= 5
        assert best.reference_stamp.sec == 1000 + best.reference_id
        assert best.map_id == message.map_id
        assert best.header.frame_id == 'camera_optical'
        assert message.header.frame_id == best.map_frame == 'map'
        assert 0.9 <= best.probability <= 1.0
        assert all(m.status == PlaceMatch.CANDIDATE for m in message.matches[1:])
    assert wait_until(lambda: len(heard.priors) >= len(localized))
    for prior in heard.priors:
        covariance = prior.pose.covariance.reshape(6, 6)
        assert np.isfinite(covariance).all()
        assert (np.diag(covariance) > 0).all()
        assert np.count_nonzero(covariance - np.diag(np.diag(covariance))) == 0
        # The base, not the camera 0.3 m before and 1.2 m above it.
        assert abs(prior.pose.pose.position.z) < 0.01
        assert abs(prior.pose.pose.position.x - (prior.header.stamp.sec - 5000)) < 5.0
        assert prior.header.frame_id == 'map'
    stamps = {m.header.stamp.sec for m in localized}
    assert {p.header.stamp.sec for p in heard.priors} == stamps


def test_a_bad_image_is_counted_and_logged_and_the_next_one_is_localized(
    line, small_model, node, heard, listener, noise, wait_until,
):
    process = node(line[1], '-p', f'model:={small_model}')
    publisher = listener.node.create_publisher(Image, '/camera/image_raw', 10)
    assert wait_until(lambda: publisher.get_subscription_count() == 1), process.output

    def send(message: Image, done: Callable[[], bool]) -> bool:
        """Images are best effort and may be lost: publish until the node has seen one."""
        def again() -> bool:
            publisher.publish(message)
            time.sleep(0.1)
            return done()
        return wait_until(again)

    assert send(image(noise(1)[0], 100), lambda: bool(heard.matches)), process.output
    unknown = image(noise(1)[0], 101)
    unknown.encoding = 'holo13'
    truncated = image(noise(1)[0], 102)
    truncated.data = truncated.data[:100]
    empty = image(noise(1)[0], 103)
    empty.width = empty.height = 0
    huge = image(noise(1)[0], 104)
    huge.width = 2**31
    for message in (unknown, truncated, empty, huge):
        before = heard.count('bad: image')
        assert send(message, lambda before=before: heard.count('bad: image') > before), \
            process.output
    assert send(image(noise(2)[1], 105), lambda: heard.matches[-1].header.stamp.sec == 105)
    assert {m.header.stamp.sec for m in heard.matches} == {100, 105}
    assert "image encoding 'holo13' is not supported" in process.output
    assert process.process.poll() is None


@pytest.mark.parametrize(('spoil', 'message'), [
    (lambda path: path.with_name('nowhere'), 'is no place map'),
    (lambda path: _rewrite(path, {'format_version': 99}), 'has format 99'),
    (lambda path: _rewrite(path, {'fingerprint': 'f' * 64}), 'was built with small'),
    (lambda path: '', "parameter 'map' is empty"),
])
def test_a_wrong_map_ends_the_node_with_one_clear_line_and_code_1(
    line, small_model, start, spoil, message,
):
    path = spoil(line[1])
    chosen = ['-p', f'map:={path}'] if path else []
    process = start('localize', '--ros-args', *chosen, '-p', f'model:={small_model}')
    assert process.wait() == 1
    errors = [text for text in process.output.splitlines() if 'cannot configure' in text]
    assert len(errors) == 1
    assert message in errors[0]
    assert 'Traceback' not in process.output


def test_a_misspelt_parameter_ends_the_node_and_the_near_one_is_named(line, small_model, start):
    process = start('localize', '--ros-args', '-p', f'map:={line[1]}', '-p',
                    f'model:={small_model}', '-p', 'localiser.matches:=3')
    assert process.wait() == 1
    assert ("unknown parameter 'localiser.matches'; did you mean 'localizer.matches'?"
            in process.output)


def test_a_parameter_out_of_range_ends_the_node_and_is_named(line, small_model, start):
    process = start('localize', '--ros-args', '-p', f'map:={line[1]}', '-p',
                    f'model:={small_model}', '-p', 'localizer.accept_probability:=1.5')
    assert process.wait() == 1
    assert 'accept_probability is 1.5; expected 0.5 to 1.0' in process.output


def test_lifecycle_transitions_can_be_repeated_and_only_an_active_node_speaks(
    line, small_model, node, heard, listener, noise, wait_until,
):
    node(line[1], '-p', f'model:={small_model}', '-p', 'autostart:=false')
    publisher = listener.node.create_publisher(Image, '/camera/image_raw', 10)

    def change(transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        assert listener.call(ChangeState, '/regvpr/change_state', request).success

    def state() -> int:
        return listener.call(GetState, '/regvpr/get_state', GetState.Request()).current_state.id

    assert state() == State.PRIMARY_STATE_UNCONFIGURED
    for turn in range(4):
        change(Transition.TRANSITION_CONFIGURE)
        assert publisher.get_subscription_count() == 0
        change(Transition.TRANSITION_ACTIVATE)
        assert wait_until(lambda: publisher.get_subscription_count() == 1)
        def seen(turn: int = turn) -> bool:
            publisher.publish(image(noise(1)[0], 10 + turn))
            time.sleep(0.1)
            return any(m.header.stamp.sec == 10 + turn for m in heard.matches)

        assert wait_until(seen)
        change(Transition.TRANSITION_DEACTIVATE)
        assert wait_until(lambda: publisher.get_subscription_count() == 0)
        change(Transition.TRANSITION_CLEANUP)
    assert state() == State.PRIMARY_STATE_UNCONFIGURED


def test_services_swap_the_map_save_it_reset_and_fix_once(
    line, make_bag, frames, small_model, tmp_path, node, play, heard, listener, wait_until,
):
    bag, place_map = line
    other = tmp_path / 'other'
    assert main(['map', 'build', str(bag), '--out', str(other), '--model', str(small_model),
                 '--set', 'thumbnail_px=0']) == 0
    node_process = node(place_map, '-p', f'model:={small_model}')
    fixes = listener.listen(PoseWithCovarianceStamped, '/initialpose')
    assert wait_until(lambda: heard.status)

    refused = listener.call(LoadMap, '/regvpr/load_map', LoadMap.Request(path=str(tmp_path)))
    assert not refused.success
    assert 'is no place map' in refused.message
    too_long = listener.call(LoadMap, '/regvpr/load_map', LoadMap.Request(path='/x' * 3000))
    assert not too_long.success
    loaded = listener.call(LoadMap, '/regvpr/load_map', LoadMap.Request(path=str(other)))
    assert loaded.success
    assert loaded.keyframes == 30
    assert wait_until(lambda: heard.status[-1].map_id == loaded.map_id)

    saved = listener.call(SaveMap, '/regvpr/save_map',
                          SaveMap.Request(path=str(tmp_path / 'saved')))
    assert saved.success
    assert saved.keyframes == 30
    again = listener.call(SaveMap, '/regvpr/save_map',
                          SaveMap.Request(path=str(tmp_path / 'saved')))
    assert not again.success
    assert 'exists' in again.message

    assert listener.call(Trigger, '/regvpr/localize_once', Trigger.Request()).success
    drive = make_bag(tmp_path / 'drive', frames(30, start_s=5000))
    play(drive)
    assert wait_until(lambda: heard.priors), node_process.output
    assert listener.call(Trigger, '/regvpr/reset', Trigger.Request()).success
    assert len(fixes) == 1
    assert fixes[0].header.stamp == heard.priors[0].header.stamp


def test_the_status_is_latched_for_those_who_come_late(line, small_model, node, heard, listener,
                                                       wait_until):
    from rclpy.qos import DurabilityPolicy, QoSProfile

    node(line[1], '-p', f'model:={small_model}')
    assert wait_until(lambda: heard.status)
    late = listener.listen(LocalizationStatus, '/regvpr/status',
                           QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    assert wait_until(lambda: late)
    assert late[0].keyframes == 30
    assert late[0].map_path == str(line[1])
    assert late[0].state == PlaceMatches.INITIALISING
    assert not late[0].fix_valid


def test_a_flood_of_images_is_dropped_not_queued(line, small_model, node, heard, listener, noise,
                                                 wait_until):
    node(line[1], '-p', f'model:={small_model}')
    publisher = listener.node.create_publisher(Image, '/camera/image_raw', 1)
    assert wait_until(lambda: publisher.get_subscription_count() == 1)
    big = np.repeat(np.repeat(noise(1)[0], 4, axis=0), 4, axis=1)  # 640x480
    message = image(big, 0)
    for i in range(300):
        message.header.stamp.sec = 1 + i
        publisher.publish(message)
        time.sleep(0.004)

    def told() -> bool:
        """After the flood the next image is looked at at once, not behind a queue."""
        message.header.stamp.sec += 1
        publisher.publish(message)
        return any(m.header.stamp.sec > 300 for m in heard.matches)

    assert wait_until(told)
    stamps = [m.header.stamp.sec for m in heard.matches]
    assert stamps == sorted(stamps)
    assert max(m.latency_s for m in heard.matches) < 5.0  # a queue of 300 takes longer
    assert wait_until(lambda: heard.count('images received') == heard.count('images processed')
                      + heard.count('dropped for newer ones') > 0)
    assert wait_until(lambda: heard.count('images processed') == len(heard.matches))


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_node_cleanly(line, small_model, program, run_program, start, heard,
                                        wait_until, number):
    arguments = ['--ros-args', '-p', f'map:={line[1]}', '-p', f'model:={small_model}']
    process = run_program([program('localize'), *arguments]) if number == signal.SIGINT \
        else start('localize', *arguments)
    assert wait_until(lambda: heard.diagnostics)
    assert process.stop(number) == 0, process.output
    assert 'Traceback' not in process.output


def _rewrite(place_map: Path, changes: dict[str, Any]) -> Path:
    """Change the manifest of a map."""
    import sqlite3

    with sqlite3.connect(place_map / 'map.db') as database:
        values = json.loads(database.execute('SELECT value FROM manifest').fetchone()[0])
        text = json.dumps(values | changes)
        database.execute('UPDATE manifest SET value = ?, crc32 = ?',
                         (text, zlib.crc32(text.encode())))
    return place_map
