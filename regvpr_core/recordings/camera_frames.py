"""The images of a bag's cameras, each with the pose of its camera."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from regvpr_core.errors import ImageError
from regvpr_core.geometry import Array
from regvpr_core.images.pixels import RGB
from regvpr_core.recordings.bags import Bag, camera_name, PoseSource, Topic
from regvpr_core.recordings.frames import NO_POSE, PosedFrame
from regvpr_core.recordings.messages import image_rgb, stamp_ns
from regvpr_core.recordings.trajectory import gap_limit_s
from regvpr_core.recordings.transforms import plain, TransformChain

OTHER_FRAME = 'of another frame than most images of its topic'
NOT_THERE = 'in the table of contents of the bag, and not in it'


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """An image topic, the poses of a body, and the pose of the camera on the body.

    mount: `T_body_cam`, or a chain of transforms if it moves. T_base_cam: extrinsics to store in
    the map; None if unknown. frame: frame of its images, '' for any. bits: used bits of 16-bit
    pixels, 0 if unknown.
    """

    topic: Topic
    poses: PoseSource
    mount: Array | TransformChain
    T_base_cam: Array | None = None
    frame: str = ''
    bits: int = 0

    def pose(self, stamp: int, max_gap_s: float, recorded_ns: int) -> Array | None:
        """`T_map_cam` (4, 4) at a stamp; None if unknown."""
        body = self.poses.trajectory
        T = body.at(stamp, gap_limit_s(body.spacing_s, max_gap_s), recorded_ns)
        mount: Array | None
        if isinstance(self.mount, TransformChain):
            mount = self.mount.at(stamp, max_gap_s, recorded_ns)
        else:
            mount = self.mount
        return None if T is None or mount is None else T @ mount


def camera_frames(
    bag: Bag, cameras: Sequence[Camera], max_gap_s: float, *, bag_time: bool = False
) -> Iterator[PosedFrame]:
    """The images of several topics in the order of recording, with the cameras' poses.

    The stamp is that of the header, or the time of recording if it is zero or with `bag_time`.
    Images that are listed in the index but missing in the bag come last, without a pose.

    Raises:
        BagError: the bag is damaged.
    """
    by_topic = {camera.topic.name: camera for camera in cameras}
    given: Counter[str] = Counter()
    for name, _, time_ns, message in bag.messages(*(camera.topic for camera in cameras)):
        given[name] += 1
        stamp = time_ns if bag_time else stamp_ns(message.header.stamp) or time_ns
        camera, frame = by_topic[name], plain(str(message.header.frame_id))
        other = bool(frame and camera.frame and frame != camera.frame)
        T = None if other else camera.pose(stamp, max_gap_s, time_ns)
        yield PosedFrame(
            stamp_ns=stamp, camera=camera_name(name), T_map_cam=T,
            covariance=None if T is None else camera.poses.trajectory.covariance_at(
                stamp, time_ns),
            decode=partial(image_rgb, message, camera.bits), source=bag.name, image=name,
            held_bytes=len(message.data), refused=OTHER_FRAME if other else NO_POSE)
    for camera in cameras:
        for _ in range(given[camera.topic.name], camera.topic.count):
            yield PosedFrame(stamp_ns=0, camera=camera_name(camera.topic.name), T_map_cam=None,
                             decode=_absent, source=bag.name, refused=NOT_THERE)


def _absent() -> RGB:
    raise ImageError(NOT_THERE)
