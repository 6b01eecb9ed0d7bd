"""What `localize` says to people who call it in another way, and how it ends while it loads."""

import os
import signal
import subprocess
import sys
import time

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import pytest

from regvpr_ros.command_line import not_of_ros, refusal

SLOW_MODEL = """
import regvpr_core.models.encoder as encoder
import time
def slow(*arguments, **options):
    while True:
        try:
            time.sleep(0.05)
        except BaseException:
            if {swallows}:
                continue
            raise
encoder.load_encoder = slow
"""


@pytest.mark.parametrize(('words', 'form'), [
    (['--map', 'site/map'], "unknown argument '--map'; parameters and topics come after "
     '--ros-args: localize --ros-args -p map:=site/map '),
    (['--session-path=/tmp/s'], 'localize --ros-args -p session_path:=/tmp/s '),
    (['map:=site/map', 'model:=x'], 'localize --ros-args -p map:=site/map '),
    (['--fetch', '--map', 'm'], 'localize --ros-args -p fetch:=VALUE '),
    (['site/map'], 'localize --ros-args -p map:=FOLDER ')])
def test_an_argument_that_is_not_of_ros_is_refused_with_the_right_form(words, form):
    assert form in not_of_ros(words)
    assert refusal(['localize', *words, '--ros-args']) == not_of_ros(words)


def test_localize_ends_at_such_an_argument_with_code_2(start):
    process = start('localize', '--map', 'site/map', '--ros-args', '-p', 'mode:=localize')
    assert process.wait() == 2
    assert process.output.splitlines() == [not_of_ros(['--map', 'site/map'])]


@pytest.mark.parametrize('words', [
    ['-p', 'map'], ['--map', 'site/map'], ['--params-file', '/nowhere.yaml']])
def test_wrong_arguments_of_ros_are_one_line_without_lines_of_sources(words):
    text = refusal(['localize', '--ros-args', *words])
    assert text.startswith('localize: wrong ROS arguments: ')
    assert words[0] in text
    assert text.endswith('expected: localize --ros-args -p map:=FOLDER -r '
                         'image:=/camera/image_raw -r odom:=/odom (localize --help says more)')
    assert '.c:' not in text


def test_the_arguments_of_ros_alone_are_right():
    assert not refusal(['localize', '--ros-args', '-p', 'map:=site/map', '-r', 'odom:=/o'])
    assert not refusal(['localize', 'odom:=/o'])  # an old form of a remapping
    assert not refusal(['localize'])


def test_help_shows_both_forms_and_every_parameter(start):
    process = start('localize', '--help')
    assert process.wait() == 0
    assert 'usage: localize --ros-args -p map:=FOLDER' in process.output
    assert 'ros2 launch regvpr_ros localize.launch.py map:=FOLDER' in process.output
    assert '  image_timeout_s: Diagnostics warn after' in process.output


def test_packages_outputs_and_folders_are_checked_before_the_model_is_loaded(
    line, small_model, start, tmp_path,
):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'file').touch()
    for wrong, text in (
            (['-p', f'map:={tmp_path / "nowhere"}'], 'is no place map'),
            (['-p', f'map:={line[1]}', '-p', 'outputs:=[lio_samm]'], "did you mean 'lio_sam'?"),
            (['-p', f'map:={line[1]}', '-p', 'outputs:=[hydra]'], 'needs pose_graph_tools_msgs'),
            (['-p', 'mode:=loop_closure', '-p', f'session_path:={tmp_path / "full"}'],
             'is not empty')):
        process = start('localize', '--ros-args', '-p', f'model:={small_model}', *wrong)
        assert process.wait() == 1
        assert text in process.output
        assert 'loading model' not in process.output


@pytest.mark.parametrize(('number', 'swallows', 'autostart'), [
    (signal.SIGINT, False, True), (signal.SIGTERM, True, True), (signal.SIGTERM, False, False)])
def test_a_signal_ends_the_node_while_it_loads(
    line, small_model, start, listener, wait_until, monkeypatch, tmp_path, number, swallows,
    autostart,
):
    (tmp_path / 'sitecustomize.py').write_text(SLOW_MODEL.format(swallows=swallows))
    with monkeypatch.context() as patch:
        patch.setenv('PYTHONPATH', f'{tmp_path}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
        process = start('localize', '--ros-args', '-p', f'map:={line[1]}',
                        '-p', f'model:={small_model}', '-p',
                        f'autostart:={str(autostart).lower()}')
    if not autostart:  # a lifecycle manager configures it
        manager = listener.node.create_client(ChangeState, '/regvpr/change_state')
        assert manager.wait_for_service(60.0), process.output
        manager.call_async(ChangeState.Request(
            transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
    assert wait_until(lambda: f'loading model {small_model} (map {line[1]})' in process.output), \
        process.output
    since = time.monotonic()
    assert process.stop(number) == 0, process.output
    assert time.monotonic() - since < 15.0  # 3 s on an idle machine
    assert 'rosout' not in process.output
    assert 'Traceback' not in process.output


DESTRUCTOR = """
import os, signal
from regvpr_ros.stopping import noted_interrupts

found = noted_interrupts()

class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))

Last()
print('runs on', found)
"""


def test_an_interrupt_that_python_drops_in_a_destructor_is_noted(tmp_path):
    program = tmp_path / 'destructor.py'
    program.write_text(DESTRUCTOR)
    ended = subprocess.run([sys.executable, str(program)], capture_output=True, text=True,
                           timeout=60, check=True)
    assert 'KeyboardInterrupt' in ended.stderr
    assert ended.stdout == 'runs on [2]\n'
