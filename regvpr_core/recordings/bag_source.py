"""A bag as a source of posed images: which topics, poses and extrinsics are taken, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from regvpr_core.errors import BagError
from regvpr_core.geometry import Array, quat_xyzw
from regvpr_core.recordings.bags import (
    Bag,
    bag_files,
    Camera,
    CAMERA_INFO_TYPE,
    camera_name,
    IMAGE_TYPES,
    NAVSAT_TYPE,
    parse_extrinsics,
    PoseSource,
    TF_TYPES,
    Topic,
)
from regvpr_core.recordings.frames import GPS_WORLD, PosedSource
from regvpr_core.recordings.geodesy import GpsConfig, Origin
from regvpr_core.recordings.gps_poses import gps_poses
from regvpr_core.recordings.messages import stamp_ns
from regvpr_core.recordings.pose_messages import POSE_TYPES
from regvpr_core.recordings.trajectory import make_trajectory, Trajectory

BASE_FRAMES = ('base_link', 'base_footprint')
DIGEST_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class BagOptions:
    """What the user says of a bag; None or empty leaves it to what is found.

    image_topics: one a camera. pose_topic: of one of the pose types, or NavSatFix. tf_frame: the
    poses are those of the camera in this frame of TF. trajectory: poses by time, of the base.
    ordered: poses (N, 4, 4) of the first image, the second, …; stamps_ns: (N,) of them, if known.
    poses_name: what to call these. base_frame: the frame whose poses are known. extrinsics:
    x y z qx qy qz qw of each camera in that frame. camera_poses: trajectory and ordered are of
    the (first) camera, not of the base. bag_time: stamps are the times of recording, not those
    in the messages. max_gap_s: an image between poses further apart has none, s.
    """

    image_topics: Sequence[str] = ()
    pose_topic: str | None = None
    tf_frame: str | None = None
    trajectory: Trajectory | None = None
    ordered: Array | None = None
    stamps_ns: Sequence[int] | None = None
    poses_name: str = ''
    base_frame: str | None = None
    extrinsics: Sequence[Sequence[float]] = ()
    camera_poses: bool = False
    bag_time: bool = False
    max_gap_s: float = 1.0


def open_bag(
    bag: Bag, options: BagOptions, gps: GpsConfig, origin: Origin | None = None
) -> PosedSource:
    """Choose topics, poses and extrinsics of an open bag.

    Raises:
        BagError: there is nothing to choose or too much; says what there is and which option
            chooses. Or the poses are of another time than the images.
    """
    topics = choose_images(bag, options.image_topics)
    cameras, poses, origin_of_extrinsics = _cameras(bag, topics, options, gps, origin)
    for camera in cameras:
        _check_coverage(bag, camera, options.bag_time)
    world = GPS_WORLD if poses.origin else poses.world_frame
    notes = list(poses.notes)
    if not options.bag_time and not bag.first_header(topics[0])[0]:
        notes.append(f'the stamps on {topics[0].name} are 0: the times of recording are taken')
    return PosedSource(
        name=bag.name, poses=f'{poses.name}, extrinsics {origin_of_extrinsics}', world=world,
        frames=lambda: bag.camera_frames(cameras, options.max_gap_s, bag_time=options.bag_time),
        total=sum(topic.count for topic in topics),
        cameras=[camera_name(topic.name) for topic in topics],
        extrinsics={camera_name(camera.topic.name): _seven(camera.T_base_cam)
                    for camera in cameras if camera.T_base_cam is not None},
        intrinsics=_intrinsics(bag, topics), origin=poses.origin,
        identity=_identity(bag, topics, poses, options), notes=notes)


def choose_images(bag: Bag, wanted: Sequence[str]) -> list[Topic]:
    """The image topics that the user named, else the only one.

    Raises:
        BagError: none or several; or two of them would be one camera.
    """
    names_wanted: Sequence[str | None] = wanted or [None]
    topics = [bag.choose('image', IMAGE_TYPES, name, '--image-topic') for name in names_wanted]
    names = [camera_name(topic.name) for topic in topics]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise BagError(f'{topics[names.index(name)].name} and {topics[i].name} are both '
                           f'camera {name!r}; name one of them')
    return topics


def choose_poses(
    bag: Bag, options: BagOptions, gps: GpsConfig, origin: Origin | None
) -> PoseSource | None:
    """The poses that the user named, else those of the only topic with poses.

    None where there is no such topic: TF may know then.

    Raises:
        BagError: several; lists them.
    """
    if options.trajectory is not None:
        return PoseSource(options.trajectory, '', '', options.poses_name)
    there = [topic for topic in bag.topics(*POSE_TYPES, NAVSAT_TYPE) if topic.count]
    if options.pose_topic is None and not there:
        return None
    topic = bag.choose('pose', (*POSE_TYPES, NAVSAT_TYPE), options.pose_topic,
                       '--pose-topic (or give --tf-frame FRAME, --tum FILE)')
    if topic.type == NAVSAT_TYPE:
        return gps_poses(bag, topic, gps, origin, bag_time=options.bag_time)
    return bag.poses(topic, bag_time=options.bag_time)


def _cameras(
    bag: Bag, topics: list[Topic], options: BagOptions, gps: GpsConfig, origin: Origin | None
) -> tuple[list[Camera], PoseSource, str]:
    """The cameras with their poses, the poses, and where the extrinsics are from."""
    if options.extrinsics and len(options.extrinsics) != len(topics):
        raise BagError(f'{len(options.extrinsics)} extrinsics for {len(topics)} image topics; '
                       f'give --extrinsics once for each --image-topic, in their order')
    given = [parse_extrinsics(list(values)) for values in options.extrinsics]
    if options.ordered is not None:
        poses: PoseSource | None = PoseSource(
            _ordered(bag, topics, options), '', '', options.poses_name)
    elif options.tf_frame is not None:
        poses = None
    else:
        poses = choose_poses(bag, options, gps, origin)
    if poses is None:
        return _cameras_in_tf(bag, topics, options)
    cameras: list[Camera] = []
    words: list[str] = []
    for number, topic in enumerate(topics):
        if given:
            T: Array | None = given[number]
            word = 'as given'
        else:
            T, word = _find_extrinsics(bag, topic, options.base_frame or poses.body_frame)
        T_body_cam = np.eye(4) if T is None else T
        if options.camera_poses:
            T_body_cam = _beside(bag, topic, cameras, T)
        cameras.append(Camera(topic, poses, T_body_cam, T))
        words.append(word)
    return cameras, poses, '; '.join(dict.fromkeys(words))


def _beside(bag: Bag, topic: Topic, cameras: list[Camera], T_base_cam: Array | None) -> Array:
    """`T_first_cam`: the pose of a camera in the first one, whose poses are known."""
    if not cameras:
        return np.eye(4)
    first = cameras[0].T_base_cam
    if first is None or T_base_cam is None:
        raise BagError(f'{bag.path}: the poses are those of {cameras[0].topic.name}; where '
                       f'{topic.name} sits beside it is not known: give --extrinsics for both')
    return np.asarray(np.linalg.inv(first) @ T_base_cam)


def _cameras_in_tf(
    bag: Bag, topics: list[Topic], options: BagOptions
) -> tuple[list[Camera], PoseSource, str]:
    """Each camera with its own way through TF; the extrinsics are those of the base, if known."""
    tree = bag.transforms(moving=True, bag_time=options.bag_time)
    notes = [f'{tree.bad} transforms make no sense: left out'] if tree.bad else []
    cameras: list[Camera] = []
    for number, topic in enumerate(topics):
        frame = bag.first_header(topic)[1]
        world = options.tf_frame or tree.root(frame)
        chain = tree.chain(world, frame)
        if chain is None or not chain.moves:
            if options.tf_frame is None:
                raise BagError(f'{bag.path} has no pose topics, and no TF in which the camera '
                               f'({frame or "no frame_id"}) moves; it has: {bag.listed()}; give '
                               f'--tum FILE or --kitti FILE')
            raise BagError(f'TF in {bag.path} knows no moving chain from {world!r} to the camera '
                           f'{frame!r}; its frames: {", ".join(tree.frames) or "none"}')
        source = PoseSource(chain, chain.parent, chain.child,
                            f'TF {chain.parent} -> {chain.child}', notes=notes)
        bases = [options.base_frame] if options.base_frame else list(BASE_FRAMES)
        T_base_cam = next((T for base in bases if (T := tree.static(base, frame)) is not None),
                          None)
        if options.extrinsics:
            T_base_cam = parse_extrinsics(list(options.extrinsics[number]))
        cameras.append(Camera(topic, source, np.eye(4), T_base_cam))
    first = cameras[0].poses
    name = ', '.join(camera.poses.name for camera in cameras)
    return cameras, replace(first, name=name), (
        'in TF' if all(camera.T_base_cam is not None for camera in cameras)
        else 'of the base unknown')


def _find_extrinsics(bag: Bag, topic: Topic, body_frame: str) -> tuple[Array | None, str]:
    """`T_body_cam` and where it came from; None where it is not known."""
    camera_frame = bag.first_header(topic)[1]
    bases = [body_frame] if body_frame else list(BASE_FRAMES)
    tree = bag.transforms(moving=False)
    for base in bases:
        T = tree.static(base, camera_frame)
        if T is not None:
            return T, f'from /tf_static ({base} -> {camera_frame})'
    # Transforms that never change are on /tf in older recordings.
    if any(not topic.name.endswith('tf_static') for topic in bag.topics(*TF_TYPES)):
        tree = bag.transforms(moving=True)
        for base in bases:
            chain = tree.chain(base, camera_frame)
            T = chain.constant() if chain else None
            if T is not None:
                return T, f'from /tf ({base} -> {camera_frame})'
    return None, 'unknown (--extrinsics): the poses are taken as those of the camera'


def _ordered(bag: Bag, topics: list[Topic], options: BagOptions) -> Trajectory:
    """Poses in the order of the images, at the times given, else at the images' own."""
    poses, times = options.ordered, options.stamps_ns
    if times is None:
        times = [time_ns if options.bag_time else stamp_ns(message.header.stamp) or time_ns
                 for _, _, time_ns, message in bag.messages(topics[0].name)]
        what = f'images on {topics[0].name}'
    else:
        what = 'times'
    if poses is None or len(poses) != len(times):
        count = 0 if poses is None else len(poses)
        raise BagError(f'{options.poses_name} has {count} poses, but there are {len(times)} '
                       f'{what}')
    return make_trajectory(list(times), poses)


def _check_coverage(bag: Bag, camera: Camera, bag_time: bool) -> None:
    """Refuse poses that cover no image, before any weights are loaded."""
    start, _ = bag.first_header(camera.topic)
    if bag_time or not start:
        start = bag.start_ns
    end = start + bag.duration_ns
    span = camera.poses.trajectory.stamps_ns
    first, last = (int(span[0]), int(span[-1])) if len(span) else (0, 0)
    if end < first or start > last:
        raise BagError(
            f'{camera.poses.name} covers {first / 1e9:.3f} to {last / 1e9:.3f} s, but the images '
            f'on {camera.topic.name} are from {start / 1e9:.3f} to about {end / 1e9:.3f} s; if '
            f'their clocks differ, --bag-time takes the times of recording')


def _intrinsics(bag: Bag, topics: list[Topic]) -> dict[str, dict[str, Any]]:
    """The first CameraInfo beside each image topic, by camera."""
    infos = {topic.name for topic in bag.topics(CAMERA_INFO_TYPE) if topic.count}
    found = {}
    for topic in topics:
        parts = topic.name.removesuffix('/compressed').split('/')
        name = '/'.join([*parts[:-1], 'camera_info'])
        if name not in infos:
            if len(infos) > 1 or len(topics) > 1 or not infos:
                continue
            name = next(iter(infos))
        message = next(message for *_, message in bag.messages(name))
        K = [float(v) for v in getattr(message, 'k', getattr(message, 'K', ()))]
        D = [float(v) for v in getattr(message, 'd', getattr(message, 'D', ()))]
        # K[0] is 0 where a driver was never calibrated.
        if len(K) == 9 and K[0] > 0.0 and np.isfinite([*K, *D]).all() and len(D) <= 14:
            found[camera_name(topic.name)] = {
                'width': int(message.width), 'height': int(message.height), 'K': K,
                'model': str(message.distortion_model)[:64], 'D': D}
    return found


def _identity(bag: Bag, topics: list[Topic], poses: PoseSource, options: BagOptions
              ) -> dict[str, Any]:
    """What tells this bag from a changed one: size, and the ends of its files."""
    digest, size = hashlib.sha256(), 0
    for file in _all_files(bag.path):
        length = file.stat().st_size
        size += length
        with file.open('rb') as data:
            digest.update(data.read(DIGEST_BYTES))
            data.seek(max(0, length - DIGEST_BYTES))
            digest.update(data.read(DIGEST_BYTES))
    trajectory = poses.trajectory
    if isinstance(trajectory, Trajectory) and (
            options.trajectory is not None or options.ordered is not None):
        digest.update(np.ascontiguousarray(trajectory.stamps_ns).tobytes())
        digest.update(np.ascontiguousarray(trajectory.poses).tobytes())
    return {'name': bag.name, 'bytes': size, 'images': [topic.name for topic in topics],
            'poses': poses.name, 'bag time': options.bag_time, 'digest': digest.hexdigest()[:16]}


def _all_files(path: Path) -> list[Path]:
    if path.is_dir() and (path / 'metadata.yaml').exists():
        return sorted(file for file in path.iterdir() if file.is_file())
    return bag_files(path)


def _seven(T: Array) -> list[float]:
    return [float(v) for v in (*T[:3, 3], *quat_xyzw(T))]
