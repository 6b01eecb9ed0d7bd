"""Start the localize node with a map: ros2 launch regvpr_ros localize.launch.py map:=FOLDER."""

from pathlib import Path

from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition, UnlessCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

from launch import LaunchDescription

CONFIG = Path(__file__).resolve().parent.parent / 'config' / 'localize.yaml'

ARGUMENTS = (
    ('map', '', 'folder of the place map'),
    ('params_file', str(CONFIG), 'YAML of parameters; the arguments here win over it'),
    ('image_topic', 'image', 'image topic without /compressed'),
    ('odom_topic', 'odom', 'nav_msgs/Odometry of the robot'),
    ('compressed', 'false', 'subscribe to IMAGE_TOPIC/compressed'),
    ('namespace', '', 'namespace of the node'),
    ('base_frame', 'base_link', 'frame whose pose is published'),
    ('map_frame', '', 'frame_id of what is published; empty: as the map says'),
    ('device', 'auto', 'auto, cpu, cuda, cuda:1'),
    ('autostart', 'true', 'configure and activate at start; false for a lifecycle manager'),
    ('use_sim_time', 'false', 'take time from /clock'),
    ('log_level', 'info', 'debug, info, warn, error'),
)


def generate_launch_description():
    value = {name: LaunchConfiguration(name) for name, _, _ in ARGUMENTS}
    common = {
        'package': 'regvpr_ros',
        'executable': 'localize',
        'name': 'regvpr',
        'namespace': value['namespace'],
        'output': 'screen',
        'arguments': ['--ros-args', '--log-level', ['regvpr:=', value['log_level']]],
    }
    parameters = [value['params_file'], {
        name: value[name] for name in ('map', 'base_frame', 'map_frame', 'device', 'autostart',
                                       'compressed', 'use_sim_time')}]
    odometry = ('odom', value['odom_topic'])
    raw = LifecycleNode(
        **common, parameters=parameters, condition=UnlessCondition(value['compressed']),
        remappings=[('image', value['image_topic']), odometry])
    compressed = LifecycleNode(
        **common, parameters=parameters, condition=IfCondition(value['compressed']),
        remappings=[('image/compressed', [value['image_topic'], '/compressed']), odometry])
    return LaunchDescription([
        *(DeclareLaunchArgument(name, default_value=default, description=text)
          for name, default, text in ARGUMENTS),
        raw, compressed])
