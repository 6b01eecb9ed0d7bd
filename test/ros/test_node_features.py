"""Several cameras, what people look at, live parameters, rates: over DDS, in few node starts."""

import array
import time

import cv2
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
import numpy as np
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from regvpr_ros.msg import PlaceMatches
from sensor_msgs.msg import CompressedImage, Image
from visualization_msgs.msg import MarkerArray


def raw(rgb: np.ndarray, stamp_s: int, frame: str = 'camera_optical') -> Image:
    message = Image(height=rgb.shape[0], width=rgb.shape[1], encoding='rgb8',
                    step=rgb.shape[1] * 3, data=array.array('B', rgb.tobytes()))
    message.header.stamp.sec = stamp_s
    message.header.frame_id = frame
    return message


def packed(rgb: np.ndarray, stamp_s: int, frame: str) -> CompressedImage:
    message = CompressedImage(format='jpeg')
    message.data = cv2.imencode('.jpg', rgb[..., ::-1])[1].tobytes()
    message.header.stamp.sec = stamp_s
    message.header.frame_id = frame
    return message


def odometry(stamp_s: int, x: float) -> Odometry:
    message = Odometry(child_frame_id='base_link')
    message.header.stamp.sec = stamp_s
    message.header.frame_id = 'odom'
    message.pose.pose.position.x = x
    message.pose.pose.orientation.w = 1.0
    return message


def setting(name: str, value) -> Parameter:
    kind = {float: ('double_value', ParameterType.PARAMETER_DOUBLE),
            str: ('string_value', ParameterType.PARAMETER_STRING)}[type(value)]
    return Parameter(name=name, value=ParameterValue(type=kind[1], **{kind[0]: value}))


def test_two_cameras_of_one_moment_give_one_message_and_people_can_watch(
    place_map, frames, small_model, start, heard, listener, wait_until,
):
    process = start(
        'localize', '--ros-args', '-p', f'map:={place_map}', '-p', f'model:={small_model}',
        '-p', 'camera_names:=[front, rig/rear]', '-p', 'compressed_cameras:=[rig/rear]',
        '-p', 'initialpose:=first_fix', '-p', 'extrinsics:=[0.3, 0.0, 1.2, -0.5, 0.5, -0.5, 0.5, '
        '-0.3, 0.0, 1.2, -0.5, 0.5, -0.5, 0.5]')
    front = listener.node.create_publisher(Image, '/front/image', 1)
    rear = listener.node.create_publisher(CompressedImage, '/rig/rear/image/compressed', 1)
    odom = listener.node.create_publisher(Odometry, '/odom', 10)
    assert wait_until(lambda: front.get_subscription_count() and rear.get_subscription_count()
                      and odom.get_subscription_count()), process.output
    debug = listener.listen(CompressedImage, '/regvpr/debug/compressed')
    drawn = listener.listen(MarkerArray, '/regvpr/markers')
    fixes = listener.listen(PoseWithCovarianceStamped, '/initialpose')
    images = [frame.rgb for frame in frames(12)]
    seen_together = []

    def drive() -> bool:
        """A lap; images are best effort, so laps go on until all has been heard."""
        for i, rgb in enumerate(images):
            drive.now += 1
            odom.publish(odometry(drive.now, float(i)))
            front.publish(raw(rgb, drive.now))
            rear.publish(packed(rgb, drive.now, 'rear_optical'))
            time.sleep(0.12)
        seen_together.extend(
            m for m in heard.matches
            if {one.header.frame_id for one in m.matches} == {'camera_optical', 'rear_optical'})
        names = {marker.ns for array in drawn for marker in array.markers}
        return bool(seen_together and debug and fixes and names >= {'map', 'matches', 'belief'})

    drive.now = 1000
    assert wait_until(drive), process.output
    picture = cv2.imdecode(np.frombuffer(debug[-1].data, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[0] == 268
    keyframes = next(m for a in drawn for m in a.markers if m.ns == 'map')
    assert len(keyframes.points) == 12
    assert keyframes.header.frame_id == 'map'
    assert any(m.state == PlaceMatches.LOCALIZED for m in heard.matches)
    assert len(fixes) == 1
    assert fixes[0].header.stamp == heard.priors[0].header.stamp


def test_live_parameters_act_at_once_and_fixed_ones_are_refused_with_the_reason(
    place_map, frames, small_model, node, heard, listener, wait_until,
):
    process = node(place_map, '-p', f'model:={small_model}', '-p', 'use_odometry:=false')
    images = listener.node.create_publisher(Image, '/camera/image_raw', 1)
    assert wait_until(lambda: images.get_subscription_count()), process.output

    def change(name, value):
        request = SetParameters.Request(parameters=[setting(name, value)])
        return listener.call(SetParameters, '/regvpr/set_parameters', request).results[0]

    refused = change('map', '/elsewhere')
    assert not refused.successful
    assert 'map is fixed while the node is configured' in refused.reason
    refused = change('min_interval_s', -1.0)
    assert not refused.successful
    assert 'Min: 0.0, Max: 3600.0, value: -1.0' in refused.reason

    stamp = [100]

    def send() -> None:
        stamp[0] += 1
        images.publish(raw(frames(1)[0].rgb, stamp[0]))
        time.sleep(0.1)

    def looked_at() -> bool:
        send()
        return bool(heard.matches)

    assert wait_until(looked_at), process.output
    assert change('min_interval_s', 3600.0).successful
    before = heard.count('held back by rate or trigger')

    def held_back() -> bool:
        send()
        return heard.count('held back by rate or trigger') >= before + 3

    assert wait_until(held_back), process.output
    count = len(heard.matches)
    assert change('min_interval_s', 0.0).successful

    def again() -> bool:
        send()
        return len(heard.matches) > count

    assert wait_until(again), process.output
    described = listener.call(DescribeParameters, '/regvpr/describe_parameters',
                              DescribeParameters.Request(names=['min_distance_m', 'autostart']))
    assert described.descriptors[0].description.startswith('Least distance by odometry')
    assert described.descriptors[1].read_only


def test_an_output_without_its_messages_ends_the_node_with_one_line(
    place_map, small_model, start,
):
    process = start('localize', '--ros-args', '-p', f'map:={place_map}', '-p',
                    f'model:={small_model}', '-p', 'outputs:=[lio_sam, hydra]')
    assert process.wait() == 1
    assert "cannot configure: output 'hydra' needs pose_graph_tools_msgs" in process.output
    assert 'Traceback' not in process.output
