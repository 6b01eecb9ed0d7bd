"""Two nodes on two maps: ros2 launch regvpr_ros two_maps.launch.py map:=A second_map:=B.

They answer as /first/regvpr/... and /second/regvpr/...; both hear the same camera.
Only one of them may write initialpose or /tf: the first, where it is told to.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

HERE = Path(__file__).resolve().parent

ARGUMENTS = (
    ('map', '', 'folder of the first place map'),
    ('second_map', '', 'folder of the second place map'),
    ('first', 'first', 'namespace of the node on the first map'),
    ('second', 'second', 'namespace of the node on the second map'),
    ('params_file', str(HERE.parent / 'config' / 'localize.yaml'), 'YAML of parameters, for both'),
    ('image_topic', '/image', 'image topic without /compressed; absolute, as both hear it'),
    ('camera_info_topic', '/camera_info', 'its intrinsics; used where poses are verified'),
    ('odom_topic', '/odom', 'nav_msgs/Odometry of the robot; absolute, as both hear it'),
    ('compressed', '', 'true: subscribe to IMAGE_TOPIC/compressed'),
    ('image_transport', '', 'raw or compressed: the same, as image_transport names it'),
    ('base_frame', '', 'frame whose pose is published; default base_link'),
    ('model', '', "model of both; empty: each map's own"),
    ('backbone_weights', '', 'file with the weights of the backbone; empty: searched for'),
    ('fetch', '', 'true: fetch weights that are not on this machine'),
    ('use_odometry', '', 'true (default): move the belief with odom'),
    ('extrinsics', '', 'pose of each camera in base_frame, "x y z qx qy qz qw" in m, one after '
     'another; empty: from TF or the map'),
    ('device', '', 'auto (default), cpu, cuda, cuda:1'),
    ('initialpose', '', 'of the first node: never, on_request (default) or first_fix'),
    ('broadcast_tf', '', 'true: the first node publishes map to odom on /tf'),
    ('autostart', '', 'true (default): configure and activate at start'),
    ('use_sim_time', '', 'true: take time from /clock'),
    ('log_level', 'info', 'debug, info, warn, error'),
)

SHARED = ('params_file', 'image_topic', 'camera_info_topic', 'odom_topic', 'compressed',
          'image_transport', 'base_frame', 'model', 'backbone_weights', 'fetch', 'use_odometry',
          'extrinsics', 'device', 'autostart', 'use_sim_time', 'log_level')


def localize(place_map, namespace, initialpose, broadcast_tf):
    """localize.launch.py with one of the maps; what it sets ends with the group."""
    return GroupAction([IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(HERE / 'localize.launch.py')),
        launch_arguments={
            **{name: LaunchConfiguration(name) for name in SHARED},
            'map': place_map, 'namespace': namespace, 'initialpose': initialpose,
            'broadcast_tf': broadcast_tf}.items())])


def generate_launch_description():
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, default, text in ARGUMENTS),
        localize(LaunchConfiguration('map'), LaunchConfiguration('first'),
                 LaunchConfiguration('initialpose'), LaunchConfiguration('broadcast_tf')),
        localize(LaunchConfiguration('second_map'), LaunchConfiguration('second'), 'never', '')])
