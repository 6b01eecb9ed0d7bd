"""A localization as the messages that are published."""

from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped
import numpy as np

from regvpr_core.localization.localizer import Localization
from regvpr_core.localization.pose_prior import PosePrior
from regvpr_core.places.place_map import PlaceMap
from regvpr_ros.conversions import fill_pose, split_stamp
from regvpr_ros.msg import PlaceMatch, PlaceMatches


def place_matches(
    localization: Localization, place_map: PlaceMap, headers: Sequence[Any], map_frame: str,
    latency_s: float,
) -> PlaceMatches:
    """All matches of the images of one moment, best first.

    Args:
        localization: of the images.
        place_map: that they were matched against.
        headers: of the image messages, in the localization's order; their stamps are kept.
        map_frame: frame of the map.
        latency_s: since the images arrived.
    """
    message = PlaceMatches(map_id=place_map.map_id, state=int(localization.state),
                           reason=localization.reason,
                           off_map_probability=float(localization.off_map), latency_s=latency_s)
    message.header.stamp = headers[-1].stamp
    message.header.frame_id = map_frame
    for match in localization.matches:
        one = PlaceMatch(map_id=place_map.map_id, reference_id=match.keyframe_id,
                         similarity=match.similarity, probability=match.probability,
                         map_frame=map_frame)
        one.header.stamp = headers[match.view].stamp
        one.header.frame_id = headers[match.view].frame_id
        stamp = split_stamp(int(place_map.stamps_ns[match.keyframe_id]))
        one.reference_stamp.sec, one.reference_stamp.nanosec = stamp['sec'], stamp['nanosec']
        one.status = PlaceMatch.ACCEPTED if match.accepted else PlaceMatch.CANDIDATE
        fill_pose(one.reference_pose, place_map.T_map_cam[match.keyframe_id])
        message.matches.append(one)
    return message


def pose_prior(prior: PosePrior, stamp: Any, map_frame: str) -> PoseWithCovarianceStamped:
    """A pose prior with a diagonal covariance, as every SLAM stack takes it."""
    message = PoseWithCovarianceStamped()
    message.header.stamp = stamp
    message.header.frame_id = map_frame
    fill_pose(message.pose.pose, prior.T_map_base)
    message.pose.covariance = np.diag(prior.variances).reshape(-1)
    return message
