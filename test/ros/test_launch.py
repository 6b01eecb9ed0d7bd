"""The launch files, where launch is installed; how they read, everywhere."""

import ast
from pathlib import Path
import shutil

import pytest

from regvpr_core.cli import main

LAUNCH = Path(__file__).resolve().parents[2] / 'launch'
WANTED = {'map', 'params_file', 'image_topic', 'compressed', 'namespace', 'base_frame',
          'odom_topic', 'device', 'autostart', 'use_sim_time', 'log_level'}


def arguments(file: str) -> dict[str, str]:
    """Names and texts of the launch arguments, read off the source."""
    tree = ast.parse((LAUNCH / file).read_text())
    table = next(node.value for node in tree.body if isinstance(node, ast.Assign)
                 and getattr(node.targets[0], 'id', '') == 'ARGUMENTS')
    return {row.elts[0].value: row.elts[2].value for row in table.elts}


@pytest.mark.parametrize(('file', 'more'), [('localize.launch.py', {'map_frame'}),
                                             ('loop_closure.launch.py', {'outputs'})])
def test_every_launch_argument_is_there_and_described(file, more):
    found = arguments(file)
    assert set(found) >= WANTED | more
    assert all(len(text) > 8 for text in found.values())


def test_ros2_launch_starts_the_node_with_a_map(
    make_bag, frames, small_model, tmp_path, heard, wait_until, run_program,
):
    pytest.importorskip('launch_ros',
                        reason='launch_ros is not on PyPI; a ROS 2 installation has it')
    if not shutil.which('ros2'):
        pytest.skip('the ros2 command is not installed')
    place_map = tmp_path / 'map'
    assert main(['map', 'build', str(make_bag(tmp_path / 'bag', frames(12))), '--out',
                 str(place_map), '--model', str(small_model)]) == 0
    settings = tmp_path / 'settings.yaml'
    settings.write_text(f'/**:\n  ros__parameters:\n    model: {small_model}\n')
    process = run_program(['ros2', 'launch', str(LAUNCH / 'localize.launch.py'),
                           f'map:={place_map}', f'params_file:={settings}'])
    assert wait_until(lambda: heard.status and heard.status[-1].reason == 'active'), process.output
    assert heard.status[-1].keyframes == 12
