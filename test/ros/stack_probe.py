"""Runs in the stand-ins' environment: a node with every output, the stacks' side, and DDS between.

Prints as JSON what the stacks' side received.
"""

from collections.abc import Callable, Iterator
import contextlib
import json
import sys
import threading
import time
from typing import Any

from cslam_common_interfaces.msg import KeyframeRGB, LocalKeyframeMatch
from geometry_msgs.msg import PoseWithCovarianceStamped
import numpy as np
from pose_graph_tools_msgs.msg import PoseGraph
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future
from rtabmap_msgs.msg import MapData, Node as RtabMapNode
from rtabmap_msgs.srv import AddLink
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger

from regvpr_core.geometry import pose_matrix
from regvpr_core.live.trail import Trail
from regvpr_ros.stacks import make_stacks, STACKS
from regvpr_ros.stacks.closure import Closure

S = 1_000_000_000
TURN = (0.0, 0.0, 0.38268343236508984, 0.9238795325112867)  # 45 degrees about z


def until(condition: Callable[[], Any], timeout_s: float = 100.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(condition.__code__.co_names)
        time.sleep(0.02)


@contextlib.contextmanager
def spinning(*nodes: Node) -> Iterator[None]:
    """Spin nodes in a thread, and end it: no thread may be in rclpy when the interpreter ends."""
    executor = SingleThreadedExecutor()
    for node in nodes:
        executor.add_node(node)
    end = Future(executor=executor)
    thread = threading.Thread(target=executor.spin_until_future_complete, args=(end,))
    thread.start()
    try:
        yield
    finally:
        end.set_result(None)
        thread.join()
        executor.shutdown()
        for node in nodes:
            node.destroy_node()
        rclpy.try_shutdown()


def main() -> None:
    rclpy.init()
    ours, theirs = rclpy.create_node('ours'), rclpy.create_node('theirs')
    ours.declare_parameter('base_frame', 'base_link')
    with spinning(ours, theirs):
        heard = probe(ours, theirs)
    json.dump(heard, sys.stdout)


def probe(ours: Node, theirs: Node) -> dict[str, list[Any]]:
    """Feed every output of `ours`; what `theirs` heard."""
    # A robot that drives 1 m/s along x; RTAB-Map made nodes at 100.4 s and 200.7 s.
    trail = Trail()
    for tenth in range(0, 3000, 2):
        trail.put(tenth * S // 10, pose_matrix([tenth / 10, 0, 0], [0, 0, 0, 1]))
    stacks = make_stacks(tuple(STACKS), ours, trail)

    heard: dict[str, list[Any]] = {}

    def listen(kind: Any, topic: str, take: Callable[[Any], Any]) -> None:
        heard[topic] = []
        theirs.create_subscription(kind, topic, lambda m: heard[topic].append(take(m)), 10)

    def pose(p: Any) -> list[float]:
        return [p.position.x, p.position.y, p.position.z, p.orientation.x, p.orientation.y,
                p.orientation.z, p.orientation.w]

    listen(Float64MultiArray, 'lio_loop/loop_closure_detection', lambda m: list(m.data))
    listen(PoseGraph, 'external_loop_closures', lambda m: [
        [e.key_from, e.key_to, e.type, e.header.stamp.sec, pose(e.pose), list(e.covariance)]
        for e in m.edges])
    listen(LocalKeyframeMatch, 'cslam/local_keyframe_match',
           lambda m: [m.keyframe0_id, m.keyframe1_id])
    for topic in ('visual_localization/pose', 'sensing/gnss/pose_with_covariance'):
        listen(PoseWithCovarianceStamped, topic, lambda m: pose(m.pose.pose))
    listen(PoseWithCovarianceStamped, 'rtabmap/global_pose',
           lambda m: [m.header.frame_id, m.header.stamp.sec, m.pose.pose.position.x,
                      m.pose.covariance[0]])
    heard['add_link'] = []

    def add_link(request: Any, response: Any) -> Any:
        t = request.link.transform
        heard['add_link'].append([
            request.link.from_id, request.link.to_id, request.link.type,
            [t.translation.x, t.translation.y, t.translation.z, t.rotation.x, t.rotation.y,
             t.rotation.z, t.rotation.w], list(request.link.information)])
        return response

    theirs.create_service(AddLink, 'rtabmap/add_link', add_link)
    keyframes = theirs.create_publisher(KeyframeRGB, 'cslam/keyframe_data', 10)
    map_data = theirs.create_publisher(MapData, 'rtabmap/mapData', 10)
    until(lambda: keyframes.get_subscription_count() and map_data.get_subscription_count())
    until(lambda: all(theirs.count_publishers(topic) for topic in heard if topic != 'add_link'))
    until(lambda: all(ours.count_subscribers(topic) for topic in heard if topic != 'add_link'))
    until(stacks[list(STACKS).index('rtabmap')]._client.service_is_ready)

    def keyframe(number: int, stamp_s: float) -> None:
        message = KeyframeRGB(id=number)
        message.image.header.stamp.sec = int(stamp_s)
        message.image.header.stamp.nanosec = round((stamp_s % 1) * 1e9)
        keyframes.publish(message)

    covariance = np.diag([0.1, 0.2, 0.3, 0.01, 0.02, 0.03])
    closure = Closure(query_stamp_ns=200 * S, reference_stamp_ns=100 * S, probability=0.99,
                      T_reference_query=pose_matrix([2, 1, 0], TURN), covariance=covariance)
    keyframe(7, 100.2)
    map_data.publish(MapData(nodes=[RtabMapNode(id=41, stamp=100.4)]))
    until(lambda: len(stacks[list(STACKS).index('swarm_slam')]._ids) == 1)
    until(lambda: len(stacks[list(STACKS).index('rtabmap')]._ids) == 1)
    for stack in stacks:
        stack.loop_closure(closure)
    # Only now do the stacks make their keyframes of the query.
    keyframe(19, 200.1)
    map_data.publish(MapData(nodes=[RtabMapNode(id=83, stamp=200.7)]))
    for name in ('lio_loop/loop_closure_detection', 'external_loop_closures',
                 'cslam/local_keyframe_match', 'add_link'):
        until(lambda name=name: heard[name])

    # A place without a relative pose: only those who find it themselves are told.
    for stack in stacks:
        stack.loop_closure(Closure(query_stamp_ns=200 * S + 1, reference_stamp_ns=100 * S,
                                   probability=0.9))
    until(lambda: len(heard['lio_loop/loop_closure_detection']) == 2)

    prior = PoseWithCovarianceStamped()
    prior.header.frame_id = 'map'
    prior.header.stamp.sec = 300
    prior.pose.covariance[0] = 0.25
    prior.pose.pose.position.x = 5.0
    prior.pose.pose.orientation.w = 1.0
    for stack in stacks:  # nobody asked for this one
        stack.pose_prior(prior)
    until(lambda: len(heard['sensing/gnss/pose_with_covariance']) == 1)
    until(lambda: heard['rtabmap/global_pose'])
    client = theirs.create_client(Trigger, 'visual_localization/trigger_localization')
    client.wait_for_service(20.0)
    answer = client.call_async(Trigger.Request())
    until(answer.done)
    for x in (6.0, 7.0):
        prior.pose.pose.position.x = x
        for stack in stacks:
            stack.pose_prior(prior)
    until(lambda: heard['visual_localization/pose'])
    until(lambda: len(heard['sensing/gnss/pose_with_covariance']) == 3)
    for stack in stacks:
        stack.close()
    return heard


if __name__ == '__main__':
    main()
