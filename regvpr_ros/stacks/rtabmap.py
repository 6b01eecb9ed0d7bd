"""RTAB-Map: loop closures by its AddLink service, and pose priors on global_pose."""

from collections import deque
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
import numpy as np

from regvpr_core.geometry import Array, inverse, quat_xyzw
from regvpr_core.live.stamp_ids import StampIds
from regvpr_core.live.trail import Trail
from regvpr_ros.stacks.closure import Closure
from regvpr_ros.stacks.messages import interface

MAP_DATA, ADD_LINK, GLOBAL_POSE = 'rtabmap/mapData', 'rtabmap/add_link', 'rtabmap/global_pose'
GLOBAL_CLOSURE = 1
TOLERANCE_NS = 1_500_000_000
"""Largest time from an image to a node of RTAB-Map, ns, if odometry is known. RTAB-Map adds one
node per second; odometry moves the link from the image to the node."""
SAME_NS = 20_000_000
"""Largest time from an image to its node, ns, if odometry is unknown."""
WAITING = 20


class RtabMap:
    """Adds a link between two nodes of RTAB-Map for each closure with a relative pose.

    Node numbers come from its map data. Pose priors are published in its convention:
    `header.frame_id` is the frame whose pose the message contains.
    """

    def __init__(self, node: Any, trail: Trail) -> None:
        """Subscribe to nodes, and create the client.

        Raises:
            ConfigError: rtabmap_msgs is not installed.
        """
        self._node = node
        self._trail = trail
        self._link = interface('rtabmap_msgs', 'msg', 'Link', 'rtabmap')
        self._add_link = interface('rtabmap_msgs', 'srv', 'AddLink', 'rtabmap')
        self._ids = StampIds()
        self._waiting: deque[Closure] = deque(maxlen=WAITING)
        self._client = node.create_client(self._add_link, ADD_LINK)
        self._subscription = node.create_subscription(
            interface('rtabmap_msgs', 'msg', 'MapData', 'rtabmap'), MAP_DATA,
            self._on_map_data, 10)
        self._publisher = node.create_publisher(PoseWithCovarianceStamped, GLOBAL_POSE, 1)
        self._base_frame = str(node.get_parameter('base_frame').value)

    def loop_closure(self, closure: Closure) -> None:
        """Store a closure with a relative pose until RTAB-Map has a node after the query."""
        if not closure.metric:
            return
        self._waiting.append(closure)
        self._send()

    def pose_prior(self, message: Any) -> None:
        """Publish a prior of the base; RTAB-Map ignores it by default."""
        prior = PoseWithCovarianceStamped(pose=message.pose)
        prior.header.stamp, prior.header.frame_id = message.header.stamp, self._base_frame
        self._publisher.publish(prior)

    def close(self) -> None:
        """Destroy publisher, subscription and client."""
        self._node.destroy_publisher(self._publisher)
        self._node.destroy_subscription(self._subscription)
        self._node.destroy_client(self._client)

    def _on_map_data(self, message: Any) -> None:
        for one in message.nodes:
            self._ids.put(round(one.stamp * 1e9), int(one.id))
        self._send()

    def _send(self) -> None:
        for closure in list(self._waiting):
            if self._ids.newest_ns < closure.query_stamp_ns:
                continue
            self._waiting.remove(closure)
            link = self._between_nodes(closure)
            if link is not None and self._client.service_is_ready():
                # The response is empty: only RTAB-Map's log says whether it accepted the link.
                self._client.call_async(self._add_link.Request(link=link))

    def _between_nodes(self, closure: Closure) -> Any:
        """Make the link, moved by odometry from the stamps of images to those of nodes."""
        query = self._ids.nearest(closure.query_stamp_ns, TOLERANCE_NS)
        reference = self._ids.nearest(closure.reference_stamp_ns, TOLERANCE_NS)
        if query is None or reference is None or query[1] == reference[1] \
                or closure.T_reference_query is None:
            return None
        to_query = self._motion(closure.query_stamp_ns, query[0])
        to_reference = self._motion(closure.reference_stamp_ns, reference[0])
        if to_query is None or to_reference is None:
            return None
        T = inverse(to_reference) @ closure.T_reference_query @ to_query
        link = self._link(from_id=reference[1], to_id=query[1], type=GLOBAL_CLOSURE,
                          information=closure.information.reshape(-1))
        move, turn = link.transform.translation, link.transform.rotation
        move.x, move.y, move.z = map(float, T[:3, 3])
        turn.x, turn.y, turn.z, turn.w = map(float, quat_xyzw(T))
        return link

    def _motion(self, start_ns: int, end_ns: int) -> Array | None:
        """`T_start_end` (4, 4) of the base, by odometry."""
        start, end = self._trail.at(start_ns), self._trail.at(end_ns)
        if start is None or end is None:
            return np.eye(4) if abs(end_ns - start_ns) <= SAME_NS else None
        return inverse(start) @ end
