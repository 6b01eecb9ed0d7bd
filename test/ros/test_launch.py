"""The launch files, where launch is installed; how they read, everywhere."""

import ast
import importlib.util
from pathlib import Path

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / 'launch'
WANTED = {'map', 'params_file', 'image_topic', 'compressed', 'namespace', 'base_frame', 'map_frame',
          'device', 'autostart', 'use_sim_time', 'log_level'}


def arguments() -> dict[str, str]:
    """Names and texts of the launch arguments, read off the source."""
    tree = ast.parse((LAUNCH / 'localize.launch.py').read_text())
    table = next(node.value for node in tree.body if isinstance(node, ast.Assign)
                 and getattr(node.targets[0], 'id', '') == 'ARGUMENTS')
    return {row.elts[0].value: row.elts[2].value for row in table.elts}


def test_every_launch_argument_is_there_and_described():
    found = arguments()
    assert set(found) >= WANTED
    assert all(len(text) > 8 for text in found.values())


def test_the_launch_file_starts_the_node_and_it_configures():
    pytest.importorskip('launch', reason='launch is not on PyPI; a ROS 2 installation has it')
    pytest.importorskip('launch_ros', reason='launch_ros is not on PyPI; a ROS 2 installation has it')
    from launch.actions import DeclareLaunchArgument

    from launch import LaunchService

    spec = importlib.util.spec_from_file_location('launch_file', LAUNCH / 'localize.launch.py')
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    description = module.generate_launch_description()
    declared = [e for e in description.entities if isinstance(e, DeclareLaunchArgument)]
    assert {one.name for one in declared} >= WANTED
    assert all(one.description for one in declared)
    # Without a map the node says so and ends with code 1; the launch ends with it.
    service = LaunchService(argv=[])
    service.include_launch_description(description)
    assert service.run() in (0, 1)
