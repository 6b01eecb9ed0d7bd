"""Isaac ROS visual SLAM: answers its trigger with a pose hint, as Isaac's own visual localization
node does."""

from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from std_srvs.srv import Trigger

from regvpr_core.live.trail import Trail
from regvpr_ros.stacks.closure import Closure

POSE, TRIGGER = 'visual_localization/pose', 'visual_localization/trigger_localization'


class IsaacVisualSlam:
    """Publishes one pose per trigger, which is a topic or a service of the same name."""

    def __init__(self, node: Any, trail: Trail) -> None:
        self._node = node
        self._wanted = False
        self._publisher = node.create_publisher(PoseWithCovarianceStamped, POSE, 10)
        self._subscription = node.create_subscription(
            PoseWithCovarianceStamped, TRIGGER, self._on_trigger, 100)
        self._service = node.create_service(Trigger, TRIGGER, self._on_call)

    def loop_closure(self, closure: Closure) -> None:
        """Ignored: it has no input for loop closures."""

    def pose_prior(self, message: Any) -> None:
        """Publish the next pose after a trigger; its covariance is not used."""
        if self._wanted:
            self._wanted = False
            self._publisher.publish(message)

    def close(self) -> None:
        """Destroy publisher, subscription and service."""
        self._node.destroy_service(self._service)
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_publisher(self._publisher)

    def _on_trigger(self, message: Any) -> None:
        self._wanted = True

    def _on_call(self, request: Any, response: Any) -> Any:
        self._wanted = True
        response.success = True
        response.message = f'the next localized image will be published on {POSE}'
        return response
