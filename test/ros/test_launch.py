"""The launch files, where launch is installed; how they read, everywhere."""

import ast
from pathlib import Path
import shutil
import subprocess
import sys

import pytest
from rclpy.qos import DurabilityPolicy, QoSProfile
from regvpr_ros.msg import LocalizationStatus
from sensor_msgs.msg import Image

from regvpr_core.cli import main

LAUNCH = Path(__file__).resolve().parents[2] / 'launch'
WANTED = {'map', 'params_file', 'image_topic', 'camera_info_topic', 'compressed', 'base_frame',
          'odom_topic', 'device', 'model', 'backbone_weights', 'fetch', 'use_odometry',
          'extrinsics', 'autostart', 'use_sim_time', 'log_level'}
FILES = {'localize.launch.py': {'map_frame', 'odom_frame', 'namespace', 'name', 'rviz',
                                'initialpose', 'broadcast_tf', 'outputs'},
         'loop_closure.launch.py': {'outputs', 'odom_frame', 'namespace', 'name'},
         'two_maps.launch.py': {'second_map', 'first', 'second', 'initialpose', 'broadcast_tf'}}


@pytest.fixture
def ros2() -> str:
    """The ros2 command with launch; the test is skipped where there is none."""
    pytest.importorskip('launch_ros',
                        reason='launch_ros is not on PyPI; a ROS 2 installation has it')
    if not shutil.which('ros2'):
        pytest.skip('the ros2 command is not installed')
    return 'ros2'


def arguments(file: str) -> dict[str, str]:
    """Names and texts of the launch arguments, read off the source."""
    tree = ast.parse((LAUNCH / file).read_text())
    table = next(node.value for node in tree.body if isinstance(node, ast.Assign)
                 and getattr(node.targets[0], 'id', '') == 'ARGUMENTS')
    return {row.elts[0].value: row.elts[2].value for row in table.elts}


def test_every_launch_file_is_known_here():
    assert {file.name for file in LAUNCH.glob('*.py')} == set(FILES)


@pytest.mark.parametrize('file', FILES)
def test_every_launch_argument_is_there_and_described(file):
    found = arguments(file)
    assert set(found) >= WANTED | FILES[file]
    assert all(len(text) > 8 for text in found.values())


@pytest.mark.parametrize('file', FILES)
def test_ros2_launch_lists_the_arguments(ros2, file):
    run = subprocess.run([ros2, 'launch', str(LAUNCH / file), '-s'], capture_output=True,
                         text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    for name, text in arguments(file).items():
        assert f"'{name}':" in run.stdout
        assert text.split(';')[0][:60] in ' '.join(run.stdout.split())


@pytest.fixture
def settings(small_model, tmp_path) -> Path:
    """A params_file that names the small model."""
    path = tmp_path / 'settings.yaml'
    path.write_text(f'/**:\n  ros__parameters:\n    model: {small_model}\n')
    return path


def test_ros2_launch_starts_the_node_under_a_name_in_a_namespace_on_the_cameras_topic(
    ros2, make_bag, frames, small_model, settings, tmp_path, listener, wait_until, run_program,
):
    place_map = tmp_path / 'map'
    assert main(['map', 'build', str(make_bag(tmp_path / 'bag', frames(12))), '--out',
                 str(place_map), '--model', str(small_model)]) == 0
    status = listener.listen(LocalizationStatus, '/robot/places/status', latched())
    images = listener.node.create_publisher(Image, '/camera/image_raw', 1)
    process = run_program([ros2, 'launch', str(LAUNCH / 'localize.launch.py'),
                           f'map:={place_map}', f'params_file:={settings}', 'namespace:=robot',
                           'name:=places', 'image_topic:=/camera/image_raw'])
    assert wait_until(lambda: status and status[-1].reason == 'active'), process.output
    assert status[-1].keyframes == 12
    assert wait_until(lambda: images.get_subscription_count() == 1), process.output


def test_one_launch_composes_two_nodes_with_two_maps(
    ros2, make_bag, frames, small_model, settings, tmp_path, listener, wait_until, run_program,
):
    for count, name in ((12, 'a'), (9, 'b')):
        assert main(['map', 'build', str(make_bag(tmp_path / f'bag_{name}', frames(count))),
                     '--out', str(tmp_path / name), '--model', str(small_model)]) == 0
    first = listener.listen(LocalizationStatus, '/first/regvpr/status', latched())
    second = listener.listen(LocalizationStatus, '/second/regvpr/status', latched())
    images = listener.node.create_publisher(Image, '/camera/image_raw', 1)
    process = run_program([ros2, 'launch', str(LAUNCH / 'two_maps.launch.py'),
                           f'map:={tmp_path / "a"}', f'second_map:={tmp_path / "b"}',
                           f'params_file:={settings}', 'image_topic:=/camera/image_raw'])
    assert wait_until(lambda: first and second and {first[-1].reason, second[-1].reason}
                      == {'active'}), process.output
    assert (first[-1].keyframes, second[-1].keyframes) == (12, 9)
    assert wait_until(lambda: images.get_subscription_count() == 2), process.output


def test_the_component_test_passes_under_launch_testing(
    make_bag, frames, small_model, settings, tmp_path,
):
    pytest.importorskip('launch_testing.launch_test',
                        reason='launch_testing is not on PyPI; a ROS 2 installation has it')
    assert main(['map', 'build', str(make_bag(tmp_path / 'bag', frames(6))), '--out',
                 str(tmp_path / 'map'), '--model', str(small_model)]) == 0
    run = subprocess.run(
        [sys.executable, '-m', 'launch_testing.launch_test',
         str(Path(__file__).with_name('node_component.py')), f'map:={tmp_path / "map"}',
         f'params_file:={settings}'], capture_output=True, text=True, check=False, timeout=150)
    assert run.returncode == 0, run.stdout + run.stderr
    assert 'Ran 1 test' in run.stderr + run.stdout


def latched() -> QoSProfile:
    return QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
