"""A component test for launch_testing: launch_test node_component.py map:=MAP params_file:=YAML.

It starts the node by its launch file, asks it over DDS, and looks at how it ended.
"""

from pathlib import Path
import unittest

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
import launch_testing.actions
import launch_testing.asserts
import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from regvpr_ros.msg import LocalizationStatus
from std_srvs.srv import Trigger

from launch import LaunchDescription

LOCALIZE = Path(__file__).resolve().parents[2] / 'launch' / 'localize.launch.py'
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def generate_test_description():
    arguments = ('map', 'params_file')
    return LaunchDescription([
        *(DeclareLaunchArgument(name) for name in arguments),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(LOCALIZE)),
            launch_arguments=[(name, LaunchConfiguration(name)) for name in arguments]),
        launch_testing.actions.ReadyToTest()])


class TestRunning(unittest.TestCase):

    def setUp(self):
        rclpy.init()
        self.node = rclpy.create_node('component_test')

    def tearDown(self):
        self.node.destroy_node()
        rclpy.shutdown()

    def test_it_is_active_with_its_map_and_takes_an_order(self):
        status = []
        self.node.create_subscription(LocalizationStatus, 'regvpr/status', status.append, LATCHED)
        for _ in range(600):
            rclpy.spin_once(self.node, timeout_sec=0.1)
            if status and status[-1].reason == 'active':
                break
        assert status[-1].reason == 'active'
        assert status[-1].keyframes > 0
        client = self.node.create_client(Trigger, 'regvpr/localize_once')
        assert client.wait_for_service(20.0)
        answer = client.call_async(Trigger.Request())
        rclpy.spin_until_future_complete(self.node, answer, timeout_sec=20.0)
        assert answer.result().success


@launch_testing.post_shutdown_test()
class TestEnded(unittest.TestCase):

    def test_it_ended_cleanly(self, proc_info):
        launch_testing.asserts.assertExitCodes(proc_info)
