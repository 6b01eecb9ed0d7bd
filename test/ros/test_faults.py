"""What goes wrong on robots: clocks, disks, maps, cameras, listeners, signals. Over real DDS."""

from pathlib import Path
import random
import shutil
import signal
import subprocess
import sys
import time

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from regvpr_ros.msg import PlaceMatches
from regvpr_ros.srv import LoadMap, SaveMap
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import Trigger

from regvpr_core.cli import main
from regvpr_core.maps.place_map import PlaceMap


def newest(heard) -> float:
    """Stamp of the newest message of matches, s."""
    stamp = heard.matches[-1].header.stamp
    return stamp.sec + 1e-9 * stamp.nanosec


def goes_on(heard, camera, wait_until) -> bool:
    """An image from after now is looked at."""
    since = camera.stamp_s
    return wait_until(lambda: heard.matches and newest(heard) > since)


def test_clocks_that_jump_maps_that_vanish_and_loads_that_fail_do_not_stop_the_node(
    place_map, frames, small_model, node, heard, listener, camera, wait_until, tmp_path,
):
    process = node(place_map, '-p', f'model:={small_model}')
    camera.drive(frames(12), answers=heard.matches)
    assert wait_until(lambda: any(m.state == PlaceMatches.LOCALIZED for m in heard.matches)), \
        process.output

    # The bag is started again: stamps jump back, odometry too.
    camera.stamp_s -= 500.0
    assert wait_until(lambda: 'time jumped back by' in process.output), process.output
    assert wait_until(lambda: newest(heard) < camera.stamp_s + 1.0)
    assert goes_on(heard, camera, wait_until)
    # And an hour forward.
    camera.stamp_s += 3600.0
    assert goes_on(heard, camera, wait_until), process.output
    assert wait_until(lambda: heard.matches[-1].state == PlaceMatches.LOCALIZED), process.output

    # The map's folder is deleted under the node: what it has read is enough.
    kept = tmp_path / 'kept'
    shutil.copytree(place_map, kept)
    shutil.rmtree(place_map)
    assert goes_on(heard, camera, wait_until), process.output
    gone = listener.call(LoadMap, '/regvpr/load_map', LoadMap.Request(path=str(place_map)))
    assert not gone.success
    assert 'is no place map' in gone.message
    saved = listener.call(SaveMap, '/regvpr/save_map', SaveMap.Request(path=str(tmp_path / 's')))
    if saved.success:  # its files are still open
        assert len(PlaceMap.open(tmp_path / 's')) == 12
    else:
        assert str(place_map) in saved.message
    assert listener.call(Trigger, '/regvpr/reset', Trigger.Request()).success
    loaded = listener.call(LoadMap, '/regvpr/load_map', LoadMap.Request(path=str(kept)))
    assert loaded.success, loaded.message
    assert goes_on(heard, camera, wait_until), process.output
    assert process.process.poll() is None
    assert 'Traceback' not in process.output


SLOW = """
import sys, time
from regvpr_ros import localize_node

loads = []
open_localizer = localize_node.open_localizer

def slow(*arguments):
    loads.append(1)
    if len(loads) > 1:
        time.sleep(4.0)
    return open_localizer(*arguments)

localize_node.open_localizer = slow
sys.exit(localize_node.main())
"""


def test_images_are_localized_on_the_old_map_while_a_slow_one_is_read(
    place_map, made, frames, small_model, heard, listener, camera, wait_until, tmp_path,
    run_program,
):
    program = tmp_path / 'slow.py'
    program.write_text(SLOW)
    process = run_program([
        sys.executable, str(program), '--ros-args', '-p', f'map:={place_map}',
        '-p', f'model:={small_model}', '-r', 'image:=/camera/image_raw'])
    camera.drive(frames(12), period_s=0.1)
    assert wait_until(lambda: len(heard.matches) > 3), process.output
    first_map = heard.matches[-1].map_id
    other = tmp_path / 'other'
    assert main(['map', 'build', str(made(12)[0]), '--out', str(other),
                 '--model', str(small_model), '--set', 'thumbnail_px=0']) == 0
    before = len(heard.matches)
    started = time.monotonic()
    loaded = listener.call(LoadMap, '/regvpr/load_map', LoadMap.Request(path=str(other)))
    took_s = time.monotonic() - started
    assert loaded.success, loaded.message
    assert took_s >= 4.0
    meanwhile = [m for m in heard.matches[before:] if m.map_id == first_map]
    assert len(meanwhile) >= 5  # of some 40; none, if the load held them up
    assert max(m.latency_s for m in meanwhile) < took_s
    # The ids change once, and never back.
    assert wait_until(lambda: heard.matches[-1].map_id == loaded.map_id)
    ids = [m.map_id for m in heard.matches]
    assert ids == [first_map] * ids.count(first_map) + [loaded.map_id] * ids.count(loaded.map_id)


def full_disk(folder: Path, kilobytes: int) -> list[str]:
    """A command that runs another one with a disk of so many kB at `folder`."""
    script = f'mount -t tmpfs -o size={kilobytes}k none {folder} && exec "$@"'
    return ['unshare', '-Urm', 'sh', '-c', script, 'sh']


def test_a_full_disk_is_told_of_and_the_node_and_what_was_saved_go_on(
    frames, small_model, heard, listener, camera, wait_until, tmp_path, run_program, program,
):
    disk = tmp_path / 'disk'
    disk.mkdir()
    wrap = full_disk(disk, 400)
    if subprocess.run([*wrap, 'true'], capture_output=True, check=False).returncode:
        pytest.skip('no user namespaces here, so no small disk can be mounted')
    process = run_program([
        *wrap, program('localize'), '--ros-args', '-p', 'mode:=loop_closure',
        '-p', f'model:={small_model}', '-p', f'session_path:={disk}/session',
        '-r', 'image:=/camera/image_raw', '-p', 'session.keyframes.distance_m:=0.1'])
    camera.drive(frames(60), period_s=0.06)
    assert wait_until(lambda: heard.count('bad: session') > 0), process.output
    assert 'bad session:' in process.output
    assert wait_until(lambda: 'disk' in heard.diagnostics[-1].status[0].message
                      or 'space' in heard.diagnostics[-1].status[0].message), process.output
    saved = listener.call(SaveMap, '/regvpr/save_map',
                          SaveMap.Request(path=str(disk / 'saved')))
    assert not saved.success
    assert 'disk' in saved.message or 'space' in saved.message, saved.message
    before = heard.count('images processed')
    assert wait_until(lambda: heard.count('images processed') > before), process.output
    # The disk as the node sees it: what was committed is whole.
    camera.stop()
    shutil.copytree(f'/proc/{process.process.pid}/root{disk}/session', tmp_path / 'copy')
    assert process.stop() == 0, process.output
    assert 'Traceback' not in process.output
    with PlaceMap.open(tmp_path / 'copy' / 'part001') as session_map:
        assert len(session_map) > 0
        assert np.isfinite(session_map.T_map_cam).all()


NEVER_READS = """
import sys, time
import rclpy
from rclpy.qos import HistoryPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage
from visualization_msgs.msg import MarkerArray
from regvpr_ros.msg import PlaceMatches

rclpy.init()
node = rclpy.create_node('never_reads')
everything = QoSProfile(history=HistoryPolicy.KEEP_ALL, depth=0)
for kind, topic in ((PlaceMatches, '/regvpr/matches'), (MarkerArray, '/regvpr/markers'),
                    (CompressedImage, '/regvpr/debug/compressed')):
    node.create_subscription(kind, topic, print, everything)
print('ready', flush=True)
time.sleep(1000)
"""


@pytest.mark.parametrize('stopped', [False, True])
def test_a_subscriber_that_never_reads_does_not_hold_the_node_up(
    place_map, frames, small_model, node, heard, camera, wait_until, tmp_path, run_program,
    stopped,
):
    program = tmp_path / 'never.py'
    program.write_text(NEVER_READS)
    lazy = run_program([sys.executable, str(program)])
    process = node(place_map, '-p', f'model:={small_model}')
    assert wait_until(lambda: 'ready' in lazy.output), lazy.output
    camera.drive(frames(12), period_s=0.05)
    assert wait_until(lambda: len(heard.matches) > 3), process.output
    if stopped:
        lazy.process.send_signal(signal.SIGSTOP)
    try:
        before, since = len(heard.matches), time.monotonic()
        assert wait_until(lambda: len(heard.matches) >= before + 60), process.output
        assert time.monotonic() - since < 60.0
        assert max(m.latency_s for m in heard.matches[before:]) < 5.0
    finally:
        lazy.process.kill()


def test_a_camera_without_intrinsics_is_warned_of_and_wrong_ones_are_counted(
    frames, small_model, start, heard, listener, camera, wait_until,
):
    process = start('localize', '--ros-args', '-p', 'mode:=loop_closure',
                    '-p', f'model:={small_model}', '-p', 'session.verification.kind:=patch',
                    '-r', 'image:=/camera/image_raw')
    camera.drive(frames(12))
    info = listener.node.create_publisher(CameraInfo, '/camera_info', 1)

    def says(text: str) -> bool:
        return bool(heard.diagnostics) and text in heard.diagnostics[-1].status[0].message

    assert wait_until(lambda: says('no camera_info')), process.output
    wrong = CameraInfo(width=160, height=120, distortion_model='spherical',
                       k=np.array([100.0, 0, 80, 0, 100, 60, 0, 0, 1]))
    right = CameraInfo(width=160, height=120, distortion_model='plumb_bob',
                       k=np.array([100.0, 0, 80, 0, 100, 60, 0, 0, 1]), d=[0.0] * 5)
    assert repeat(wait_until, info, wrong, lambda: heard.count('bad: camera_info') > 0)
    assert "camera model 'spherical' is unknown" in process.output
    assert repeat(wait_until, info, right, lambda: not says('camera'))
    before = heard.count('images processed')
    assert wait_until(lambda: heard.count('images processed') > before + 5), process.output


def repeat(wait_until, publisher, message, done) -> bool:
    """Best effort may be lost: publish until it was heard."""
    def again() -> bool:
        publisher.publish(message)
        time.sleep(0.2)
        return bool(done())
    return wait_until(again)


def kill_and_restart(count: int, seed: int, start, program, run_program, heard, camera, frames,
                     wait_until, place_map, small_model, tmp_path) -> int:
    """End nodes by SIGINT or SIGKILL at random moments; how many keyframes sessions kept."""
    rng = random.Random(seed)
    camera.drive(frames(12), period_s=0.05)
    kept = 0
    for number in range(count):
        session = tmp_path / f'session{number}'
        arguments = ['--ros-args', '-p', f'map:={place_map}', '-p', f'model:={small_model}', '-p',
                     'mode:=both', '-p', f'session_path:={session}', '-r',
                     'image:=/camera/image_raw']
        early = number % 3 == 2  # only the executable has a start of its own
        process = run_program([program('localize'), *arguments]) if early \
            else start('localize', *arguments)
        if early:  # at any moment of the start
            time.sleep(rng.uniform(0.0, 6.0))
        else:
            assert goes_on(heard, camera, wait_until), process.output
            time.sleep(rng.uniform(0.0, 1.5))
        number_of_signal = signal.SIGKILL if number % 2 else signal.SIGINT
        code = process.stop(number_of_signal)
        if number_of_signal == signal.SIGINT:
            assert code in (0, 130) or (early and code == -signal.SIGINT), process.output
            assert 'Traceback' not in process.output
        for part in sorted(session.glob('part*')):
            with PlaceMap.open(part) as session_map:
                kept += len(session_map)
                assert np.isfinite(session_map.T_map_cam).all()
    return kept


def test_nodes_ended_at_random_moments_leave_whole_sessions_and_start_again(
    start, program, run_program, heard, camera, frames, wait_until, place_map, small_model,
    tmp_path,
):
    assert kill_and_restart(3, 0, start, program, run_program, heard, camera, frames, wait_until,
                            place_map, small_model, tmp_path) > 0


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_node_restarted_fifty_times_starts_every_time(
    start, program, run_program, heard, camera, frames, wait_until, place_map, small_model,
    tmp_path,
):
    assert kill_and_restart(50, 1, start, program, run_program, heard, camera, frames, wait_until,
                            place_map, small_model, tmp_path) > 50


def resources(pid: int) -> tuple[int, int, float]:
    """Open files, threads, and resident memory in MB."""
    process = Path(f'/proc/{pid}')
    pages = int((process / 'statm').read_text().split()[1])
    return (len(list((process / 'fd').iterdir())), len(list((process / 'task').iterdir())),
            pages * 4096 / 1e6)


def transitions(cycles: int, place_map, small_model, node, listener, tmp_path) -> None:
    """Walk through all transitions again and again, wrong maps among them; nothing may grow."""
    process = node(place_map, '-p', f'model:={small_model}', '-p', 'autostart:=false',
                   '-p', f'session_path:={tmp_path / "none"}')

    def change(transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return listener.call(ChangeState, '/regvpr/change_state', request).success

    def use(path: Path) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=str(path))
        request = SetParameters.Request(parameters=[Parameter(name='map', value=value)])
        assert listener.call(SetParameters, '/regvpr/set_parameters',
                             request).results[0].successful

    before: tuple[int, int, float] | None = None
    for cycle in range(cycles):
        if cycle == cycles // 4:
            before = resources(process.process.pid)
        if cycle % 5 == 4:
            use(tmp_path / 'nowhere')
            assert not change(Transition.TRANSITION_CONFIGURE)
            use(place_map)
        assert change(Transition.TRANSITION_CONFIGURE), process.output
        assert change(Transition.TRANSITION_ACTIVATE), process.output
        if cycle % 3 == 2:
            assert change(Transition.TRANSITION_DEACTIVATE)
            assert change(Transition.TRANSITION_ACTIVATE)
        assert change(Transition.TRANSITION_DEACTIVATE)
        assert change(Transition.TRANSITION_CLEANUP)
    after = resources(process.process.pid)
    assert before is not None
    assert after[0] <= before[0] + 2, (before, after)
    assert after[1] <= before[1] + 1, (before, after)
    assert after[2] <= before[2] + 20.0, (before, after)
    assert 'Traceback' not in process.output


def test_transitions_are_repeated_without_leaks(place_map, small_model, node, listener, tmp_path):
    transitions(10, place_map, small_model, node, listener, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_transitions_are_repeated_hundreds_of_times_without_leaks(
    place_map, small_model, node, listener, tmp_path,
):
    transitions(300, place_map, small_model, node, listener, tmp_path)


WATCHED = """
import sys

def watch(event, arguments):
    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.bind', 'socket.sendto',
                 'urllib.Request', 'http.client.connect'):
        print('NETWORK', event, arguments[1:], flush=True)

sys.addaudithook(watch)
from regvpr_ros import localize_node
sys.exit(localize_node.main())
"""


def test_python_opens_no_connection_at_run_time(
    place_map, frames, small_model, heard, camera, wait_until, tmp_path, run_program,
):
    """DDS alone talks, which is no Python."""
    program = tmp_path / 'watched.py'
    program.write_text(WATCHED)
    process = run_program([
        sys.executable, str(program), '--ros-args', '-p', f'map:={place_map}', '-p',
        f'model:={small_model}', '-p', 'mode:=both', '-r', 'image:=/camera/image_raw'])
    camera.drive(frames(12), answers=heard.matches)
    assert wait_until(lambda: any(m.state == PlaceMatches.LOCALIZED for m in heard.matches)), \
        process.output
    assert process.stop() == 0
    assert 'NETWORK' not in process.output


def test_images_at_200_hz_are_dropped_not_queued(
    place_map, frames, small_model, node, heard, camera, wait_until,
):
    process = node(place_map, '-p', f'model:={small_model}')
    assert wait_until(lambda: camera.images.get_subscription_count() == 1), process.output
    camera.step_s = 0.005
    camera.drive(frames(12), period_s=0.005)
    assert wait_until(lambda: len(heard.matches) > 30), process.output
    time.sleep(3.0)
    camera.stop()
    last = camera.stamp_s
    # One of the last images is looked at, not some old one out of a queue of thousands.
    assert wait_until(lambda: newest(heard) >= last - 2.0, 10.0), process.output
    assert max(m.latency_s for m in heard.matches) < 5.0
    assert wait_until(lambda: heard.count('dropped for newer ones') > 0)
    stamps = [m.header.stamp.sec + 1e-9 * m.header.stamp.nanosec for m in heard.matches]
    assert stamps == sorted(stamps)
