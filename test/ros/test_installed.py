"""What the build installed is what `ros2 run` and `ros2 launch` look for."""

import json
import os
from pathlib import Path
import subprocess

from ament_index_python.packages import get_package_share_directory, get_resources
import pytest
from regvpr_ros.msg import LocalizationStatus, PlaceMatch, PlaceMatches
from regvpr_ros.srv import LoadMap, SaveMap


def test_the_package_is_registered_with_its_launch_files_and_settings():
    assert 'regvpr_ros' in get_resources('packages')
    share = Path(get_package_share_directory('regvpr_ros'))
    assert (share / 'launch' / 'localize.launch.py').is_file()
    assert (share / 'config' / 'localize.yaml').is_file()
    assert (share / 'msg' / 'PlaceMatch.msg').is_file()


@pytest.mark.parametrize('name', ['localize', 'replay', 'build_map', 'regvpr'])
def test_executables_can_be_run(program, name):
    assert os.access(program(name), os.X_OK)


def test_build_map_makes_a_map_also_with_ros_arguments_behind(
    program, make_bag, frames, small_model, tmp_path,
):
    bag = make_bag(tmp_path / 'bag', frames(4))
    run = subprocess.run(
        [program('build_map'), str(bag), '--out', str(tmp_path / 'map'), '--model',
         str(small_model), '--json', '--ros-args', '-r', '__node:=x'],
        capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)['keyframes'] == 4


@pytest.mark.parametrize('kind', [PlaceMatch, PlaceMatches, LocalizationStatus])
def test_messages_have_their_header_first(kind):
    assert next(iter(kind.get_fields_and_field_types().items())) == ('header', 'std_msgs/Header')


def test_messages_carry_both_stamps_ids_similarity_probability_and_a_relative_pose():
    assert {'reference_stamp', 'reference_id', 'map_id', 'similarity', 'probability',
            'image_probability', 'status', 'relative_pose', 'relative_pose_valid'} <= set(
                PlaceMatch.get_fields_and_field_types())
    assert (PlaceMatch.CANDIDATE, PlaceMatch.ACCEPTED) == (0, 1)
    assert LoadMap.Request.get_fields_and_field_types() == {'path': 'string'}
    assert set(SaveMap.Response.get_fields_and_field_types()) == {
        'success', 'message', 'keyframes'}


def test_states_of_the_messages_are_those_of_the_localizer():
    from regvpr_core.localization.localizer import State

    assert {name: getattr(PlaceMatches, name) for name in State.__members__} == \
        {name: int(state) for name, state in State.__members__.items()}
