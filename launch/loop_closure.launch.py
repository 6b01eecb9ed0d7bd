"""Loop closures from the session's own past: ros2 launch regvpr_ros loop_closure.launch.py."""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

CONFIG = Path(__file__).resolve().parent.parent / 'config' / 'loop_closure.yaml'

ARGUMENTS = (
    ('params_file', str(CONFIG), 'YAML of parameters; the arguments here win over it'),
    ('outputs', '', 'stacks to feed, with commas between: lio_sam,rtabmap,hydra,swarm_slam'),
    ('map', '', 'folder of a place map: also localize on it (mode both)'),
    ('model', '', "model name, checkpoint or .onnx file; empty: the map's own, else the default"),
    ('backbone_weights', '', 'file with the weights of the backbone; empty: searched for'),
    ('fetch', '', 'true: fetch weights that are not on this machine'),
    ('image_topic', 'image', 'image topic without /compressed'),
    ('camera_info_topic', 'camera_info', 'its intrinsics; used where poses are verified'),
    ('odom_topic', 'odom', 'nav_msgs/Odometry of the robot'),
    ('compressed', '', 'true: subscribe to IMAGE_TOPIC/compressed'),
    ('image_transport', '', 'raw or compressed: the same, as image_transport names it'),
    ('namespace', '', 'namespace of the node'),
    ('name', 'regvpr', 'name of the node; its topics are /NAMESPACE/NAME/...'),
    ('base_frame', '', 'frame whose pose is published; default base_link'),
    ('odom_frame', '', 'frame of the odometry; empty: as its messages say'),
    ('use_odometry', '', 'true (default): move the belief with odom'),
    ('extrinsics', '', 'pose of each camera in base_frame, "x y z qx qy qz qw" in m, one after '
     'another; empty: from TF or the map'),
    ('device', '', 'auto (default), cpu, cuda, cuda:1'),
    ('autostart', '', 'true (default): configure and activate at start; false: leave it to a '
     'lifecycle manager'),
    ('use_sim_time', '', 'true: take time from /clock'),
    ('log_level', 'info', 'debug, info, warn, error'),
)

TEXTS = ('map', 'model', 'backbone_weights', 'base_frame', 'odom_frame', 'device',
         'image_transport')
FLAGS = ('autostart', 'compressed', 'fetch', 'use_odometry', 'use_sim_time')


def node(context):
    """The node, with the arguments that were given; others stay as the params_file has them."""
    value = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    given = {'mode': 'both' if value['map'] else 'loop_closure'}
    given |= {name: ParameterValue(value[name], value_type=str) for name in TEXTS if value[name]}
    given |= {name: ParameterValue(value[name], value_type=bool) for name in FLAGS if value[name]}
    if value['outputs']:
        given['outputs'] = [name.strip() for name in value['outputs'].split(',')]
    if value['extrinsics']:
        given['extrinsics'] = [float(number) for number in
                               value['extrinsics'].replace(',', ' ').split()]
    source = value['image_topic'].removesuffix('/compressed')
    return [LifecycleNode(
        package='regvpr_ros', executable='localize', name=value['name'],
        namespace=value['namespace'], output='screen',
        arguments=['--ros-args', '--log-level', value['log_level']],
        parameters=[value['params_file'], given],
        remappings=[('image', source), ('image/compressed', f'{source}/compressed'),
                    ('camera_info', value['camera_info_topic']),
                    ('odom', value['odom_topic'])])]


def generate_launch_description():
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, default, text in ARGUMENTS),
        OpaqueFunction(function=node)])
