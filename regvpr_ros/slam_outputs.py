"""Converts localizations to messages."""

from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import PoseArray, PoseWithCovariance, PoseWithCovarianceStamped
import numpy as np

from regvpr_core.geometry import Array, inverse, quat_xyzw
from regvpr_core.localization.localizer import Localization
from regvpr_core.localization.pose_prior import PosePrior
from regvpr_core.localization.session import LoopClosure
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.recordings.messages import fill_pose, split_stamp
from regvpr_core.verification.metric_pose import of_base
from regvpr_ros.msg import PlaceMatch, PlaceMatches
from regvpr_ros.stacks.closure import Closure


def place_matches(
    localization: Localization, place_map: PlaceMap, headers: Sequence[Any], map_frame: str,
    latency_s: float, spare: list[PlaceMatch],
) -> PlaceMatches:
    """All matches of the images of one moment, best first.

    Args:
        localization: of the images.
        place_map: the matched map.
        headers: of the image messages, in the localization's order; their stamps are kept.
        map_frame: frame of the map.
        latency_s: time since the arrival of the images.
        spare: messages of matches to fill, because creating one is slower than filling it; more
            are appended as needed.
    """
    message = PlaceMatches(map_id=place_map.map_id, state=int(localization.state),
                           reason=localization.reason, reason_code=localization.reason.code,
                           off_map_probability=float(localization.off_map), latency_s=latency_s)
    message.header.stamp = headers[-1].stamp
    message.header.frame_id = map_frame
    while len(spare) < len(localization.matches):
        spare.append(PlaceMatch())
    for match, one in zip(localization.matches, spare, strict=False):
        number = match.keyframe_id
        one.map_id, one.map_frame, one.reference_id = place_map.map_id, map_frame, number
        one.similarity, one.probability = match.similarity, match.probability
        one.image_probability = match.image_probability
        one.header.stamp = headers[match.view].stamp
        one.header.frame_id = headers[match.view].frame_id
        stamp = split_stamp(int(place_map.stamps_ns[number]))
        one.reference_stamp.sec, one.reference_stamp.nanosec = stamp['sec'], stamp['nanosec']
        one.status = PlaceMatch.ACCEPTED if match.accepted else PlaceMatch.CANDIDATE
        fill_pose(one.reference_pose, place_map.T_map_cam[number],
                  place_map.quats_xyzw[number])
        message.matches.append(one)
    # All quaternions in one call, because each call is slow.
    quaternions = quat_xyzw(np.stack([one.prior.T_map_base for one in localization.hypotheses])) \
        if localization.hypotheses else np.zeros((0, 4))
    for hypothesis, quaternion in zip(localization.hypotheses, quaternions, strict=True):
        pose = PoseWithCovariance()
        fill_pose(pose.pose, hypothesis.prior.T_map_base, quaternion)
        pose.covariance = hypothesis.prior.covariance.reshape(-1)
        message.hypotheses.append(pose)
        message.hypothesis_probabilities.append(hypothesis.probability)
    return message


def pose_array(matches: PlaceMatches) -> PoseArray:
    """The hypotheses of a message as a PoseArray."""
    return PoseArray(header=matches.header, poses=[one.pose for one in matches.hypotheses])


def loop_closure(
    found: LoopClosure, map_id: str, header: Any, odom_frame: str, T_odom_cam: Array
) -> PlaceMatch:
    """A loop closure of the session, with both stamps.

    Args:
        found: the closure.
        map_id: of the session.
        header: of the query's image message.
        odom_frame: frame of the odometry.
        T_odom_cam: (4, 4) of the reference's camera in it.
    """
    message = PlaceMatch(map_id=map_id, reference_id=found.reference_id,
                         status=PlaceMatch.ACCEPTED, similarity=found.similarity,
                         probability=found.probability, image_probability=found.probability,
                         map_frame=odom_frame)
    message.header.stamp, message.header.frame_id = header.stamp, header.frame_id
    stamp = split_stamp(found.reference_stamp_ns)
    message.reference_stamp.sec = stamp['sec']
    message.reference_stamp.nanosec = stamp['nanosec']
    if np.isfinite(T_odom_cam).all():
        fill_pose(message.reference_pose, T_odom_cam)
    if found.T_reference_query is not None and found.covariance is not None:
        message.relative_pose_valid = True
        fill_pose(message.relative_pose.pose, found.T_reference_query)
        message.relative_pose.covariance = found.covariance.reshape(-1)
    return message


def base_closure(found: LoopClosure, T_base_cam: Array) -> Closure:
    """The closure between poses of the base frame, for SLAM stacks.

    Rotations of the covariance are about the axes of the reference's base.
    """
    T, covariance = None, None
    if found.T_reference_query is not None and found.covariance is not None:
        # Rotation errors of the camera move the base by the lever arm.
        T_cam_base, covariance = of_base(
            found.T_reference_query, found.covariance, inverse(T_base_cam))
        T = T_base_cam @ T_cam_base
        turn = np.kron(np.eye(2), T_base_cam[:3, :3])
        covariance = turn @ covariance @ turn.T
    return Closure(query_stamp_ns=found.query_stamp_ns,
                   reference_stamp_ns=found.reference_stamp_ns, probability=found.probability,
                   T_reference_query=T, covariance=covariance)


def pose_prior(prior: PosePrior, stamp: Any, map_frame: str) -> PoseWithCovarianceStamped:
    """A pose prior with a diagonal covariance, which every SLAM stack accepts."""
    message = PoseWithCovarianceStamped()
    message.header.stamp = stamp
    message.header.frame_id = map_frame
    fill_pose(message.pose.pose, prior.T_map_base)
    message.pose.covariance = np.diag(prior.variances).reshape(-1)
    return message
