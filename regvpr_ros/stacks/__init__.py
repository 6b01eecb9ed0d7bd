"""Outputs for SLAM stacks, by the values of the parameter `outputs`."""

from typing import Any, Protocol

from regvpr_core.config import nearest
from regvpr_core.errors import ConfigError
from regvpr_core.live.trail import Trail
from regvpr_ros.stacks.autoware import Autoware
from regvpr_ros.stacks.closure import Closure
from regvpr_ros.stacks.hydra import Hydra
from regvpr_ros.stacks.isaac import IsaacVisualSlam
from regvpr_ros.stacks.lio_sam import LioSam
from regvpr_ros.stacks.rtabmap import RtabMap
from regvpr_ros.stacks.swarm_slam import SwarmSlam


class Stack(Protocol):
    """One output, created by configure; called only while the node is active."""

    def loop_closure(self, closure: Closure) -> None:
        """Publish a loop closure."""

    def pose_prior(self, message: Any) -> None:
        """Publish the pose of the base frame in the map, a PoseWithCovarianceStamped."""

    def close(self) -> None:
        """Destroy publishers, subscriptions and clients."""


STACKS: dict[str, Any] = {
    'autoware': Autoware,
    'hydra': Hydra,
    'isaac_visual_slam': IsaacVisualSlam,
    'lio_sam': LioSam,
    'rtabmap': RtabMap,
    'swarm_slam': SwarmSlam,
}


def make_stacks(names: tuple[str, ...], node: Any, trail: Trail) -> list[Stack]:
    """Create the chosen outputs; if one fails, all are destroyed.

    Raises:
        ConfigError: an unknown name, or messages that are not installed.
    """
    for name in names:
        if name not in STACKS:
            raise ConfigError(f'unknown output {name!r}{nearest(name, STACKS)}')
    made: list[Stack] = []
    try:
        for name in dict.fromkeys(names):
            made.append(STACKS[name](node, trail))
    except BaseException:
        for stack in made:
            stack.close()
        raise
    return made
