"""Isaac ROS visual SLAM: answers its request for a hint, in the place of visual localization."""

from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
from std_srvs.srv import Trigger

from regvpr_core.live.trail import Trail
from regvpr_ros.stacks.closure import Closure

POSE, TRIGGER = 'visual_localization/pose', 'visual_localization/trigger_localization'


class IsaacVisualSlam:
    """Publishes one pose for each trigger, by topic or by service of the same name."""

    def __init__(self, node: Any, trail: Trail) -> None:
        self._node = node
        self._wanted = False
        self._publisher = node.create_publisher(PoseWithCovarianceStamped, POSE, 10)
        self._subscription = node.create_subscription(
            PoseWithCovarianceStamped, TRIGGER, self._on_trigger, 100)
        self._service = node.create_service(Trigger, TRIGGER, self._on_call)

    def loop_closure(self, closure: Closure) -> None:
        """It has no input for edges."""

    def pose_prior(self, message: Any) -> None:
        """The next pose after a trigger; its covariance is not read there."""
        if self._wanted:
            self._wanted = False
            self._publisher.publish(message)

    def close(self) -> None:
        """Take all three back."""
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
