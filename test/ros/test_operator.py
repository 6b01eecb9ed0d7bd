"""What an operator is told: what the node waits for, why it says nothing, what it found."""

import time

from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
import pytest
from rclpy.qos import QoSProfile, ReliabilityPolicy
from regvpr_ros.msg import PlaceMatches
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import Trigger

from regvpr_core.cli import main


@pytest.fixture
def place_map(make_bag, frames, small_model, tmp_path):
    assert main(['map', 'build', str(make_bag(tmp_path / 'bag', frames(12))), '--out',
                 str(tmp_path / 'map'), '--model', str(small_model)]) == 0
    return tmp_path / 'map'


def test_the_log_says_what_is_waited_for_and_why_nothing_comes(
    place_map, frames, small_model, start, heard, listener, camera, wait_until,
):
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    listener.node.create_publisher(CompressedImage, '/packed', 1)
    listener.node.create_publisher(CompressedImage, '/other', 1)
    wrong = listener.node.create_publisher(Image, '/wrong', best_effort)
    process = start(
        'localize', '--ros-args', '-p', f'map:={place_map}', '-p', f'model:={small_model}',
        '-p', 'image_timeout_s:=0.5', '-p', 'camera_names:=[typo, packed, wrong, good, unheard]',
        '-p', 'compressed_cameras:=[unheard]', '-r', 'unheard/image/compressed:=/nowhere',
        '-p', 'qos_overrides./wrong.subscription.reliability:=reliable',
        '-r', 'typo/image:=/camera/image_row', '-r', 'packed/image:=/packed',
        '-r', 'wrong/image:=/wrong', '-r', 'good/image:=/camera/image_raw')
    camera.drive(frames(12), period_s=0.2)

    def says(text: str) -> bool:
        return text in process.output

    assert wait_until(lambda: says('still waiting for')), process.output
    assert says('waiting for /camera/image_row (image), /packed (image), /wrong (image), '
                '/camera/image_raw (image), /nowhere (image), /odom (odom)')
    assert wait_until(lambda: says(
        '/camera/image_row (image): no publisher; sensor_msgs/msg/Image is published on ')), \
        process.output
    assert says('/camera/image_raw')
    assert wait_until(lambda: says('/nowhere (image): no publisher; '
                                   'sensor_msgs/msg/CompressedImage is published on /')), \
        process.output
    assert 'debug' not in process.output  # what the node itself publishes is no candidate
    assert says('/packed (image): 1 publisher(s) of sensor_msgs/msg/CompressedImage, not of '
                'sensor_msgs/msg/Image; set compressed:=true')
    assert says('/wrong (image): the QoS of its publisher listener does not fit')
    assert wrong.get_subscription_count() == 0
    last = process.output.rpartition('still waiting for')[2].splitlines()[0]
    assert '/odom' not in last  # what has come is not waited for


def test_fixes_states_and_hypotheses_are_told_with_place_reason_and_code(
    place_map, frames, small_model, node, heard, listener, camera, wait_until,
):
    process = node(place_map, '-p', f'model:={small_model}')
    poses = listener.listen(PoseArray, '/regvpr/hypotheses')
    camera.drive(frames(12), answers=heard.matches)
    assert wait_until(lambda: any(m.state == PlaceMatches.LOCALIZED for m in heard.matches)), \
        process.output
    assert wait_until(lambda: 'first fix: x ' in process.output), process.output
    assert wait_until(lambda: '-> localized at keyframe ' in process.output), process.output
    assert 'initialising -> ' in process.output
    codes = {m.reason_code for m in heard.matches}
    assert codes >= {'few_images', 'one_place'}
    assert codes <= {'few_images', 'one_place', 'off_map', 'two_places', 'unsure', 'not_seen',
                     'too_short_a_way', 'jump_gated'}
    localized = next(m for m in heard.matches if m.state == PlaceMatches.LOCALIZED)
    assert len(localized.hypotheses) == 1
    assert localized.hypothesis_probabilities[0] >= 0.7
    for message in heard.matches:
        assert len(message.hypotheses) == len(message.hypothesis_probabilities)
    assert wait_until(lambda: any(p.poses for p in poses)), process.output


def test_a_robot_that_stands_still_gets_the_pose_of_one_image_that_is_sure(
    place_map, frames, small_model, node, heard, listener, camera, wait_until,
):
    process = node(place_map, '-p', f'model:={small_model}')
    fixes = listener.listen(PoseWithCovarianceStamped, '/initialpose')
    assert wait_until(lambda: camera.images.get_subscription_count() == 1), process.output
    assert listener.call(Trigger, '/regvpr/localize_once', Trigger.Request()).success
    frame = frames(12)[6]

    def stand() -> bool:
        camera.stamp_s += 0.5
        camera.send(frame)
        time.sleep(0.1)
        return bool(fixes) or len(heard.matches) > 20

    assert wait_until(stand), process.output
    assert not heard.priors  # the belief was never sure
    # Sure or not, what was said is what the image says alone.
    if fixes:
        assert 'localize_once, standing still: ' in process.output
        assert abs(fixes[0].pose.pose.position.x - 6.0) < 1.0
    else:
        assert 'standing still' not in process.output
