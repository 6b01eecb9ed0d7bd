"""Start the localize node with a map: ros2 launch regvpr_ros localize.launch.py map:=FOLDER."""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchDescription

CONFIG = Path(__file__).resolve().parent.parent / 'config' / 'localize.yaml'

ARGUMENTS = (
    ('map', '', 'folder of the place map'),
    ('model', '', "model name, checkpoint or .onnx file; empty: the map's own"),
    ('backbone_weights', '', 'file with the weights of the backbone; empty: searched for'),
    ('fetch', '', 'true: fetch weights that are not on this machine'),
    ('params_file', str(CONFIG), 'YAML of parameters; the arguments here win over it'),
    ('image_topic', 'image', 'image topic without /compressed'),
    ('camera_info_topic', 'camera_info', 'its intrinsics; used where poses are verified'),
    ('odom_topic', 'odom', 'nav_msgs/Odometry of the robot'),
    ('compressed', '', 'true: subscribe to IMAGE_TOPIC/compressed'),
    ('image_transport', '', 'raw or compressed: the same, as image_transport names it'),
    ('namespace', '', 'namespace of the node'),
    ('name', 'regvpr', 'name of the node; its topics are /NAMESPACE/NAME/...'),
    ('base_frame', '', 'frame whose pose is published; default base_link'),
    ('map_frame', '', 'frame_id of what is published; empty: as the map says'),
    ('odom_frame', '', 'frame of the odometry; empty: as its messages say'),
    ('use_odometry', '', 'true (default): move the belief with odom'),
    ('extrinsics', '', 'pose of each camera in base_frame, "x y z qx qy qz qw" in m, one after '
     'another; empty: from TF or the map'),
    ('device', '', 'auto (default), cpu, cuda, cuda:1'),
    ('initialpose', '', 'never, on_request (default) or first_fix'),
    ('broadcast_tf', '', 'true: publish map to odom on /tf; only one node may'),
    ('outputs', '', 'stacks to feed, with commas between: autoware,isaac_visual_slam,rtabmap'),
    ('rviz', 'false', 'true: also start rviz2 with config/regvpr.rviz'),
    ('autostart', '', 'true (default): configure and activate at start; false: leave it to a '
     'lifecycle manager'),
    ('use_sim_time', '', 'true: take time from /clock'),
    ('log_level', 'info', 'debug, info, warn, error'),
)


TEXTS = ('map', 'model', 'backbone_weights', 'base_frame', 'map_frame', 'odom_frame', 'device',
         'initialpose', 'image_transport')
FLAGS = ('autostart', 'broadcast_tf', 'compressed', 'fetch', 'use_odometry', 'use_sim_time')


def node(context):
    """The node (and RViz); what no argument gives stays as the params_file has it."""
    value = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    given = {name: ParameterValue(value[name], value_type=str) for name in TEXTS if value[name]}
    given |= {name: ParameterValue(value[name], value_type=bool) for name in FLAGS if value[name]}
    if value['extrinsics']:
        given['extrinsics'] = [float(number) for number in
                               value['extrinsics'].replace(',', ' ').split()]
    if value['outputs']:
        given['outputs'] = [name.strip() for name in value['outputs'].split(',')]
    source = value['image_topic'].removesuffix('/compressed')
    actions = [LifecycleNode(
        package='regvpr_ros', executable='localize', name=value['name'],
        namespace=value['namespace'], output='screen',
        arguments=['--ros-args', '--log-level', value['log_level']],
        parameters=[value['params_file'], given],
        remappings=[('image', source), ('image/compressed', f'{source}/compressed'),
                    ('camera_info', value['camera_info_topic']),
                    ('odom', value['odom_topic'])])]
    if value['rviz'].lower() in ('true', '1'):
        # The view's topics are relative; it follows the name of the node.
        own = [(f'regvpr/{topic}', f"{value['name']}/{topic}")
               for topic in ('markers', 'hypotheses', 'pose_prior', 'debug/compressed')]
        actions.append(Node(package='rviz2', executable='rviz2', namespace=value['namespace'],
                            remappings=own, parameters=[{'use_sim_time': value['use_sim_time']
                                                         in ('true', '1')}],
                            arguments=['-d', str(CONFIG.with_name('regvpr.rviz'))]))
    return actions


def generate_launch_description():
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, default, text in ARGUMENTS),
        OpaqueFunction(function=node)])
