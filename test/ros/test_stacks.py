"""Outputs in the words of SLAM stacks, over real DDS, with messages built from their fields."""

import json
import math
import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed (make test installs it)')

from regvpr_core.errors import ConfigError
from regvpr_core.live.trail import Trail
from regvpr_ros.stacks import make_stacks

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
S = 1_000_000_000


@pytest.fixture(scope='module')
def workspace() -> Path:
    """The stand-ins, as `make stand-ins` builds them."""
    folder = ROOT / 'build' / 'stack_ws' / 'install'
    if not (folder / 'local_setup.bash').is_file():
        pytest.fail('the stand-ins of SLAM stacks are not built; run `make stand-ins`')
    return folder


@pytest.fixture(scope='module')
def heard(workspace: Path) -> dict[str, list]:
    """What the stacks' side received from a node with every output."""
    run = subprocess.run(
        ['bash', '-c', f'. {workspace}/local_setup.bash && exec {sys.executable} '
         f'{HERE / "stack_probe.py"}'], capture_output=True, text=True, check=False, timeout=150,
        cwd=ROOT, env=_environment())
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def _environment() -> dict[str, str]:
    return {**os.environ, 'PYTHONPATH': f'{ROOT}:{os.environ.get("PYTHONPATH", "")}'}


def test_lio_sam_hears_the_two_stamps_in_seconds_also_of_a_place_without_a_pose(heard):
    assert heard['lio_loop/loop_closure_detection'][0] == [200.0, 100.0]
    assert len(heard['lio_loop/loop_closure_detection']) == 2


def test_hydra_hears_stamps_as_keys_and_the_pose_from_then_to_now(heard):
    (edges,) = heard['external_loop_closures']
    ((key_from, key_to, kind, sec, pose, covariance),) = edges
    assert (key_from, key_to) == (200 * S, 100 * S)
    assert kind == 1
    assert sec == 200
    half = math.pi / 8
    assert pose == pytest.approx([2, 1, 0, 0, 0, math.sin(half), math.cos(half)])
    assert covariance == list(np.diag([0.1, 0.2, 0.3, 0.01, 0.02, 0.03]).reshape(-1))


def test_rtabmap_is_asked_for_a_link_between_its_nodes_moved_there_by_odometry(heard):
    ((from_id, to_id, kind, transform, information),) = heard['add_link']
    assert (from_id, to_id, kind) == (41, 83, 1)
    # 0.4 m forward of the reference image, and 0.7 m forward of the query, which looks at 45 deg.
    c = math.cos(math.pi / 4)
    assert transform[:3] == pytest.approx([2 - 0.4 + 0.7 * c, 1 + 0.7 * c, 0], abs=1e-9)
    assert transform[5] == pytest.approx(math.sin(math.pi / 8))
    assert np.reshape(information, (6, 6)) == pytest.approx(
        np.diag([10, 5, 1 / 0.3, 100, 50, 1 / 0.03]))


def test_rtabmap_hears_priors_named_by_the_frame_whose_pose_they_are(heard):
    assert heard['rtabmap/global_pose'][0] == ['base_link', 300, 5.0, 0.25]


def test_swarm_slam_hears_its_own_keyframe_numbers_once_it_has_both(heard):
    assert heard['cslam/local_keyframe_match'] in ([[7, 19]], [[7, 19], [7, 19]])


def test_isaac_gets_one_pose_a_trigger_and_autoware_gets_them_all(heard):
    assert [pose[0] for pose in heard['visual_localization/pose']] == [6.0]
    assert [pose[0] for pose in heard['sensing/gnss/pose_with_covariance']] == [5.0, 6.0, 7.0]


def test_an_output_whose_messages_are_missing_or_unknown_is_refused_with_what_to_do():
    class Nothing:
        """A node is not reached."""

    with pytest.raises(ConfigError, match=r"output 'hydra' needs pose_graph_tools_msgs/msg/"
                                          r'PoseGraph, which cannot be imported here'):
        make_stacks(('hydra',), Nothing(), Trail())
    with pytest.raises(ConfigError, match="unknown output 'rtab_map'; did you mean 'rtabmap'"):
        make_stacks(('rtab_map',), Nothing(), Trail())
