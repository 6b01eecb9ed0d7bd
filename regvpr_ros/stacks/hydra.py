"""Hydra: loop closures as edges of a pose graph whose keys are stamps."""

from typing import Any

import numpy as np

from regvpr_core.geometry import Array
from regvpr_core.live.trail import Trail
from regvpr_core.recordings.messages import fill_pose, split_stamp
from regvpr_ros.stacks.closure import Closure
from regvpr_ros.stacks.messages import interface

TOPIC = 'external_loop_closures'


class Hydra:
    """Publishes loop closures as pose graph edges.

    key_from and key_to are stamps in ns; the pose takes points in the first frame to the second.
    """

    def __init__(self, node: Any, trail: Trail) -> None:
        """Create the publisher.

        Raises:
            ConfigError: pose_graph_tools_msgs is not installed.
        """
        self._node = node
        self._graph = interface('pose_graph_tools_msgs', 'msg', 'PoseGraph', 'hydra')
        self._edge = interface('pose_graph_tools_msgs', 'msg', 'PoseGraphEdge', 'hydra')
        self._publisher = node.create_publisher(self._graph, TOPIC, 100)

    def loop_closure(self, closure: Closure) -> None:
        """Publish a closure with a relative pose; Hydra does not read the covariance."""
        if not closure.metric:
            return
        stamp = split_stamp(closure.query_stamp_ns)
        edge = self._edge(key_from=closure.query_stamp_ns, key_to=closure.reference_stamp_ns,
                          type=self._edge.LOOPCLOSE,
                          covariance=np.asarray(closure.covariance).reshape(-1))
        fill_pose(edge.pose, _known(closure.T_reference_query))
        graph = self._graph(edges=[edge])
        for header in (graph.header, edge.header):
            header.stamp.sec, header.stamp.nanosec = stamp['sec'], stamp['nanosec']
        self._publisher.publish(graph)

    def pose_prior(self, message: Any) -> None:
        """Ignored: Hydra has no input for pose priors."""

    def close(self) -> None:
        """Destroy the publisher."""
        self._node.destroy_publisher(self._publisher)


def _known(T: Array | None) -> Array:
    if T is None:
        raise ValueError('a closure without a relative pose')
    return T
