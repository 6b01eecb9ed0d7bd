"""A bag as a source of posed images: choice of topics, poses and extrinsics."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
import hashlib
from typing import Any

import numpy as np

from regvpr_core.errors import BagError
from regvpr_core.geometry import Array, quat_xyzw
from regvpr_core.recordings.bag_files import bag_files
from regvpr_core.recordings.bags import (
    Bag,
    CAMERA_INFO_TYPE,
    camera_name,
    IMAGE_TYPES,
    NAVSAT_TYPE,
    parse_extrinsics,
    PoseSource,
    Topic,
)
from regvpr_core.recordings.camera_axes import axes_notes
from regvpr_core.recordings.camera_frames import Camera, camera_frames
from regvpr_core.recordings.frames import GPS_WORLD, PosedSource
from regvpr_core.recordings.geodesy import GpsConfig, Origin
from regvpr_core.recordings.gps_poses import gps_poses
from regvpr_core.recordings.heads import clock_notes, Head, head_of
from regvpr_core.recordings.messages import stamp_ns
from regvpr_core.recordings.pose_messages import POSE_TYPES
from regvpr_core.recordings.runs import RunPoses
from regvpr_core.recordings.tf_choice import TfChoice
from regvpr_core.recordings.trajectory import gap_limit_s, make_trajectory, Trajectory
from regvpr_core.recordings.transforms import plain, TransformChain, TransformTree

BASE_FRAMES = ('base_link', 'base_footprint')
DIGEST_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class BagOptions:
    """Options of a bag; None or empty: chosen automatically.

    image_topics: one per camera.
    pose_topic: of one of the pose types, or NavSatFix.
    pose_frame: world frame of the poses to read from that topic.
    tf_frame: take the poses of the camera in this frame from TF.
    tf_topic: a TF topic of the namespace to use.
    trajectory: poses of the base over time.
    ordered, stamps_ns: poses (N, 4, 4) of the images in order, and their stamps (N,) if known.
    poses_name: name of `trajectory` or `ordered` in messages.
    base_frame: the frame whose poses are known.
    extrinsics: x y z qx qy qz qw of each camera in the base frame.
    camera_poses: `trajectory` and `ordered` are poses of the (first) camera, not of the base.
    bag_time: stamps are the times of recording, not those in the messages.
    max_gap_s: poses further apart than this are not interpolated, s.
    """

    image_topics: Sequence[str] = ()
    pose_topic: str | None = None
    pose_frame: str | None = None
    tf_frame: str | None = None
    tf_topic: str | None = None
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
    """Choose topics, poses and extrinsics of an open bag, and check that they fit together.

    Raises:
        BagError: there is no candidate or more than one; the message lists them and the option
            that chooses. Or the poses do not cover the time of the images.
    """
    # 1. The image topics, and their first messages.
    topics = choose_images(bag, options.image_topics)
    heads = {topic.name: head_of(bag, topic) for topic in topics}
    # 2. The poses, and the extrinsics of each camera.
    cameras, poses, origin_of_extrinsics = _cameras(bag, topics, heads, options, gps, origin)
    # 3. Check clocks, spacing and axes: refuse the impossible, note the unusual.
    notes = [*bag.notes, *poses.notes]
    for camera in cameras:
        _check_coverage(bag, camera, heads[camera.topic.name], options.bag_time)
    if not options.bag_time:
        notes += clock_notes(heads[topics[0].name], _pose_head(bag, poses))
    notes += [note for camera in cameras for note in (
        *_gap_notes(camera, options.max_gap_s), *axes_notes(
            camera_name(camera.topic.name), _axes(camera)))]
    if isinstance(poses.trajectory, RunPoses):
        notes.append(f'the clock of {poses.name} was set back: its stamps are of '
                     f'{len(poses.trajectory.runs)} runs, kept apart by the times of recording '
                     f'(--bag-time goes by these alone)')
    return PosedSource(
        name=bag.name, poses=f'{poses.name}, extrinsics {origin_of_extrinsics}',
        world=GPS_WORLD if poses.origin else poses.world_frame, body=poses.body_frame,
        frames=lambda: camera_frames(bag, cameras, options.max_gap_s, bag_time=options.bag_time),
        total=sum(topic.count for topic in topics),
        cameras=[camera_name(topic.name) for topic in topics],
        extrinsics={camera_name(camera.topic.name): _seven(camera.T_base_cam)
                    for camera in cameras if camera.T_base_cam is not None},
        intrinsics=_intrinsics(bag, topics), origin=poses.origin,
        identity=_identity(bag, topics, poses, options), notes=list(dict.fromkeys(notes)))


def choose_images(bag: Bag, wanted: Sequence[str]) -> list[Topic]:
    """The image topics that the user named, else the only one.

    Raises:
        BagError: none or several; or two of them have the same camera name.
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

    None if there is no such topic; then TF is tried.

    Raises:
        BagError: several; lists them.
    """
    if options.trajectory is not None:
        return PoseSource(options.trajectory, '', '', options.poses_name,
                          notes=list(options.trajectory.notes))
    there = [topic for topic in bag.topics(*POSE_TYPES, NAVSAT_TYPE) if topic.count]
    if options.pose_topic is None and not there:
        return None
    topic = bag.choose('pose', (*POSE_TYPES, NAVSAT_TYPE), options.pose_topic,
                       '--pose-topic (or give --tf-frame FRAME, --tum FILE)')
    if topic.type == NAVSAT_TYPE:
        return gps_poses(bag, topic, gps, origin, bag_time=options.bag_time,
                         frame=options.pose_frame)
    return bag.poses(topic, bag_time=options.bag_time, frame=options.pose_frame)


def _cameras(
    bag: Bag, topics: list[Topic], heads: dict[str, Head], options: BagOptions, gps: GpsConfig,
    origin: Origin | None,
) -> tuple[list[Camera], PoseSource, str]:
    """The cameras with their poses, the poses, and the origin of the extrinsics."""
    if options.extrinsics and len(options.extrinsics) != len(topics):
        raise BagError(f'{len(options.extrinsics)} extrinsics for {len(topics)} image topics; '
                       f'give --extrinsics once for each --image-topic, in their order')
    given = [parse_extrinsics(list(values)) for values in options.extrinsics]
    tf = TfChoice(bag, options.tf_topic, bag_time=options.bag_time)
    if options.ordered is not None:
        poses: PoseSource | None = PoseSource(
            _ordered(bag, topics, options), '', '', options.poses_name)
    elif options.tf_frame is not None:
        poses = None
    else:
        poses = choose_poses(bag, options, gps, origin)
    if poses is None:
        return _cameras_in_tf(bag, topics, heads, options, tf)
    cameras: list[Camera] = []
    words: list[str] = []
    for number, topic in enumerate(topics):
        head, mount = heads[topic.name], None
        if given:
            T: Array | None = given[number]
            word = 'as given'
        else:
            T, mount, word = _find_extrinsics(tf.tree(topic.name), head.frame,
                                              options.base_frame or poses.body_frame)
        if mount is not None and not options.camera_poses:
            cameras.append(Camera(topic, poses, mount, None, head.frame, head.bits))
        else:
            T_body_cam = np.eye(4) if T is None else T
            if options.camera_poses:
                T_body_cam = _beside(bag, topic, cameras, T)
            cameras.append(Camera(topic, poses, T_body_cam, T, head.frame, head.bits))
        words.append(word)
        if not given:
            poses.notes.extend(tf.tree(topic.name).contradictions)
    return cameras, poses, '; '.join(dict.fromkeys(words))


def _beside(bag: Bag, topic: Topic, cameras: list[Camera], T_base_cam: Array | None) -> Array:
    """`T_first_cam`: pose of a camera relative to the first one, whose poses are known."""
    if not cameras:
        return np.eye(4)
    first = cameras[0].T_base_cam
    if first is None or T_base_cam is None:
        raise BagError(f'{bag.path}: the poses are those of {cameras[0].topic.name}; where '
                       f'{topic.name} sits beside it is not known: give --extrinsics for both')
    return np.asarray(np.linalg.inv(first) @ T_base_cam)


def _cameras_in_tf(
    bag: Bag, topics: list[Topic], heads: dict[str, Head], options: BagOptions, tf: TfChoice,
) -> tuple[list[Camera], PoseSource, str]:
    """Cameras with poses from TF; extrinsics are relative to the base, if it is known."""
    notes: list[str] = []
    cameras: list[Camera] = []
    for number, topic in enumerate(topics):
        tree, head = tf.tree(topic.name), heads[topic.name]
        notes += [f'{tree.bad} transforms make no sense: left out'] if tree.bad else []
        notes += tree.contradictions
        chain = _chain_from(bag, tree, head.frame, options)
        chain.refuse_jumping()
        if chain.runs > 1:
            notes.append(f'the clock of TF was set back: its stamps are of {chain.runs} runs, '
                         f'kept apart by the times of recording (--bag-time goes by these alone)')
        source = PoseSource(chain, chain.parent, chain.child,
                            f'TF {chain.parent} -> {chain.child}')
        T_base_cam = None
        for base in [options.base_frame] if options.base_frame else BASE_FRAMES:
            mount = tree.chain(base, head.frame)
            T_base_cam = None if mount is None else mount.constant()
            if mount is not None and T_base_cam is None:
                notes.append(f'{base} -> {head.frame} moves: the poses follow it, and the map '
                             f'keeps no extrinsics of the camera')
            if mount is not None:
                break
        if options.extrinsics:
            T_base_cam = parse_extrinsics(list(options.extrinsics[number]))
        cameras.append(Camera(topic, source, np.eye(4), T_base_cam, head.frame, head.bits))
    first = cameras[0].poses
    name = ', '.join(camera.poses.name for camera in cameras)
    return cameras, replace(first, name=name, notes=list(dict.fromkeys(notes))), (
        'in TF' if all(camera.T_base_cam is not None for camera in cameras)
        else 'of the base unknown')


def _chain_from(bag: Bag, tree: TransformTree, frame: str, options: BagOptions) -> TransformChain:
    """The chain of transforms from the world to a camera.

    Raises:
        BagError: there is no chain, or several world frames.
    """
    worlds = [options.tf_frame] if options.tf_frame else tree.roots(frame)
    chains = [chain for world in worlds
              if (chain := tree.chain(world, frame)) is not None and chain.moves]
    if len(chains) > 1:
        picks = ' or '.join(f'--tf-frame {chain.parent}' for chain in chains)
        raise BagError(f'TF in {bag.path} leads to the camera {frame!r} from several frames: '
                       f'{", ".join(chain.parent for chain in chains)}; choose one with {picks}')
    if chains:
        return chains[0]
    if options.tf_frame is None:
        raise BagError(f'{bag.path} has no pose topics, and no TF in which the camera '
                       f'({frame or "no frame_id"}) moves; it has: {bag.listed()}; give '
                       f'--tum FILE or --kitti FILE')
    raise BagError(f'TF in {bag.path} knows no moving chain from {options.tf_frame!r} to the '
                   f'camera {frame!r}; its frames: {", ".join(tree.frames) or "none"}')


def _find_extrinsics(tree: TransformTree, camera_frame: str, body_frame: str
                     ) -> tuple[Array | None, TransformChain | None, str]:
    """`T_body_cam`, or a chain if the camera moves, and its origin; None if unknown."""
    for base in [body_frame] if body_frame else BASE_FRAMES:
        if camera_frame and plain(base) == camera_frame:
            return np.eye(4), None, f'none: the poses are those of {camera_frame}'
        T = tree.static(base, camera_frame)
        if T is not None:
            return T, None, f'from /tf_static ({base} -> {camera_frame})'
        chain = tree.chain(base, camera_frame)
        if chain is None:
            continue
        T = chain.constant()
        if T is not None:
            return T, None, f'from /tf ({base} -> {camera_frame})'
        return None, chain, (f'from /tf at each stamp: {base} -> {camera_frame} moves, and the '
                             f'map keeps none')
    return None, None, 'unknown (--extrinsics): the poses are taken as those of the camera'


def _pose_head(bag: Bag, poses: PoseSource) -> Head | None:
    """The first pose messages; None if poses come from TF or a file."""
    topic = next((topic for topic in bag.topics(*POSE_TYPES, NAVSAT_TYPE)
                  if topic.name == poses.name), None)
    return head_of(bag, topic) if topic else None


def _gap_notes(camera: Camera, max_gap_s: float) -> list[str]:
    """A note if poses are so rare that images between them have none."""
    spacing = camera.poses.trajectory.spacing_s
    limit = gap_limit_s(spacing, max_gap_s)
    if spacing <= limit:
        return []
    return [f'the poses of {camera.poses.name} come every {spacing:.1f} s; images between poses '
            f'more than {limit:.1f} s apart have none: --set max_pose_gap_s={1.5 * spacing:.0f} '
            f'takes them']


def _axes(camera: Camera) -> Array | None:
    """A rotation whose third column is the viewing direction, in a frame with z up."""
    if camera.T_base_cam is not None:
        return camera.T_base_cam
    chain = camera.poses.trajectory
    if not isinstance(chain, TransformChain) or not len(chain.stamps_ns):
        return None
    return chain.at(int(chain.stamps_ns[0]), 0.0)


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
    whole = np.isfinite(poses).all(axis=(1, 2))
    return make_trajectory(np.asarray(times)[whole], poses[whole])


def _check_coverage(bag: Bag, camera: Camera, head: Head, bag_time: bool) -> None:
    """Refuse poses that do not cover the time of any image."""
    start = bag.start_ns
    if not bag_time and head.offset_s is not None:
        start -= round(head.offset_s * 1e9)
    end = start + bag.duration_ns
    span = camera.poses.trajectory.stamps_ns
    first, last = (int(span[0]), int(span[-1])) if len(span) else (0, 0)
    if end < first or start > last:
        raise BagError(
            f'{camera.poses.name} covers {first / 1e9:.3f} to {last / 1e9:.3f} s, but the images '
            f'on {camera.topic.name} are from {start / 1e9:.3f} to about {end / 1e9:.3f} s; if '
            f'their clocks differ, --bag-time takes the times of recording')


def _intrinsics(bag: Bag, topics: list[Topic]) -> dict[str, dict[str, Any]]:
    """The first CameraInfo of each image topic, by camera."""
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
        # K[0] is 0 if the camera is not calibrated.
        if len(K) == 9 and K[0] > 0.0 and np.isfinite([*K, *D]).all() and len(D) <= 14:
            found[camera_name(topic.name)] = {
                'width': int(message.width), 'height': int(message.height), 'K': K,
                'model': str(message.distortion_model)[:64], 'D': D}
    return found


def _identity(bag: Bag, topics: list[Topic], poses: PoseSource, options: BagOptions
              ) -> dict[str, Any]:
    """Digest to detect changes of a bag: size, and the ends of its files."""
    digest, size = hashlib.sha256(), 0
    for file in bag_files(bag.path):
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


def _seven(T: Array) -> list[float]:
    return [float(v) for v in (*T[:3, 3], *quat_xyzw(T))]
