"""Tables of the node's topics and services, used for wiring and for the docs."""

from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from regvpr_ros.msg import LocalizationStatus, PlaceMatch, PlaceMatches
from regvpr_ros.srv import LoadMap, SaveMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """A topic. text: description. depth, reliable, latched: quality of service.

    managed: published only while the node is active.
    """

    name: str
    kind: type
    text: str
    depth: int = 10
    reliable: bool = True
    latched: bool = False
    managed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service. text: description. slow: takes seconds, so it runs beside callbacks."""

    name: str
    kind: Any
    text: str
    slow: bool = False


IMAGE = Topic(name='image', kind=Image, depth=1, reliable=False,
              text='raw images; with `camera_names`: `NAME/image` of each camera')
COMPRESSED = Topic(name='image/compressed', kind=CompressedImage, depth=1, reliable=False,
                   text='compressed images instead, with `compressed`; `NAME/image/compressed` of '
                        'each camera')
CAMERA_INFO = Topic(name='camera_info', kind=CameraInfo, depth=1, reliable=False,
                    text="only with `verification`: intrinsics; without them those of the map's "
                         'camera are used; `NAME/camera_info` of each')
ODOM = Topic(name='odom', kind=Odometry, depth=50, reliable=False,
             text='odometry, with `use_odometry`')
INPUTS = (IMAGE, COMPRESSED, CAMERA_INFO, ODOM)

MATCHES = Topic(name='~/matches', kind=PlaceMatches,
                text='for each processed image: state, reason, best keyframes')
PRIOR = Topic(name='~/pose_prior', kind=PoseWithCovarianceStamped,
              text='pose of `base_frame` in the map; only while localized, and only if it '
                   'agrees with odometry')
HYPOTHESES = Topic(name='~/hypotheses', kind=PoseArray,
                   text='poses of `base_frame` where the robot may be, most likely first; their '
                        'covariances and probabilities are in `~/matches`')
LOOPS = Topic(name='~/loop_closures', kind=PlaceMatch,
              text='the robot has returned to a place; modes `loop_closure` and `both`')
INITIAL = Topic(name='initialpose', kind=PoseWithCovarianceStamped,
                text='one pose for each `~/localize_once`, or the first fix '
                     '(`initialpose: first_fix`)')
STATUS = Topic(name='~/status', kind=LocalizationStatus, depth=1, latched=True, managed=False,
               text='state, map and last fix; published when the state or the map changes')
MARKERS = Topic(name='~/markers', kind=MarkerArray, managed=False,
                text='map, belief, matches and loop closures for RViz; only while there is a '
                     'subscriber')
DEBUG = Topic(name='~/debug/compressed', kind=CompressedImage, depth=1, managed=False,
              text='query beside match; only while there is a subscriber')
DIAGNOSTICS = Topic(name='/diagnostics', kind=DiagnosticArray, managed=False,
                    text='health of the node, once a second while active')
OUTPUTS = (MATCHES, PRIOR, HYPOTHESES, LOOPS, INITIAL, STATUS, MARKERS, DEBUG, DIAGNOSTICS)

LOAD_MAP = Service(name='~/load_map', kind=LoadMap, slow=True,
                   text='load another map; the current map is used until the new one is read, '
                        'and kept if that fails')
SAVE_MAP = Service(name='~/save_map', kind=SaveMap, slow=True,
                   text='write the session as a map in the odometry frame to a new folder; in '
                        'the mode `localize`, the map in use')
PLAN_UPDATE = Service(name='~/plan_update', kind=Trigger, slow=True,
                      text='say what `~/update_map` would change; nothing is written')
UPDATE_MAP = Service(name='~/update_map', kind=Trigger, slow=True,
                     text='improve the map on disk by the session (parameter `update`); the node '
                          'continues with the map that it has loaded')
RESET = Service(name='~/reset', kind=Trigger, slow=True,
                text='forget the position of the robot; start a new session')
LOCALIZE_ONCE = Service(name='~/localize_once', kind=Trigger,
                        text='publish the next fix on `initialpose` too; if the robot stands '
                             'still, publish the pose of a single image if it is certain')
SERVICES = (LOAD_MAP, SAVE_MAP, PLAN_UPDATE, UPDATE_MAP, RESET, LOCALIZE_ONCE)


def of_camera(camera: str, topic: Topic) -> str:
    """The topic's name for a camera; '' is the only, unnamed camera."""
    return f'{camera}/{topic.name}' if camera else topic.name
