"""Opens bags and folders as sources of posed images."""

from collections.abc import Iterator, Sequence
import contextlib
from dataclasses import dataclass
import os
from pathlib import Path
from typing import Any

from regvpr_core.errors import ConfigError
from regvpr_core.geometry import pose_matrix
from regvpr_core.recordings.bag_names import bag_suffix
from regvpr_core.recordings.bag_source import BagOptions, open_bag
from regvpr_core.recordings.bags import Bag
from regvpr_core.recordings.camera_conflicts import refuse_conflicts
from regvpr_core.recordings.folders import FolderOptions, open_folder
from regvpr_core.recordings.frames import common_world, PosedSource
from regvpr_core.recordings.geodesy import GpsConfig, Origin
from regvpr_core.recordings.runs import refuse_jumping
from regvpr_core.recordings.source_names import distinct
from regvpr_core.recordings.trajectory import make_trajectory, read_kitti, read_times, read_tum

FOR_BAGS = ('image_topics', 'pose_topic', 'pose_frame', 'tf_topic', 'tf_frame', 'base_frame',
            'bag_time')
NAMES = {'image_topics': '--image-topic'}


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """Options of the sources: selection of images, and origin of poses.

    None, False or empty: chosen automatically.

    image_topics: one for each camera. pose_topic: of one of the pose types, or NavSatFix.
    pose_frame: world frame of its poses, or WORLD:BODY, if there are several. tf_topic: a TF
    topic of the namespace to use. tf_frame: poses of the camera in this frame, from TF.
    tum, kitti, times: files of poses. table: of a folder. extrinsics: x y z qx qy qz qw of each
    camera in the base frame. base_frame: the frame whose poses are known. bag_time: stamps are the
    times of recording. map_frame: name of the world frame; '' takes that of the sources, which
    must agree.
    """

    image_topics: Sequence[str] = ()
    pose_topic: str | None = None
    pose_frame: str | None = None
    tf_topic: str | None = None
    tf_frame: str | None = None
    tum: Path | None = None
    kitti: Path | None = None
    times: Path | None = None
    table: Path | None = None
    extrinsics: Sequence[Sequence[float]] = ()
    base_frame: str | None = None
    bag_time: bool = False
    map_frame: str = ''

    def __post_init__(self) -> None:
        if sum(getattr(self, name) is not None for name in
               ('pose_topic', 'tf_frame', 'tum', 'kitti', 'table')) > 1:
            raise ConfigError('poses come from one of --pose-topic, --tf-frame, --tum, --kitti '
                              'and --table')
        if self.times is not None and self.kitti is None:
            raise ConfigError('--times goes with --kitti')


@contextlib.contextmanager
def open_sources(
    paths: Sequence[str | Path], options: SourceOptions | None = None,
    gps: GpsConfig | None = None, max_gap_s: float = 1.0,
) -> Iterator[list[PosedSource]]:
    """Open bags and folders; bags stay open while the `with` block lasts.

    Positions on the Earth share the origin of the first source that has any.

    Args:
        paths: bags and folders, in the order of the map.
        options: options of the sources.
        gps: settings for GPS fixes.
        max_gap_s: largest gap between poses for interpolation, s.

    Raises:
        BagError: one of them cannot be used, or they do not fit one map.
        ConfigError: an option does not apply to these sources.
    """
    options, gps = options or SourceOptions(), gps or GpsConfig()
    files = [Path(path) for path in paths]
    _refuse_what_does_not_fit(files, options)
    with contextlib.ExitStack() as stack:
        found: list[PosedSource] = []
        origin: Origin | None = None
        for path in files:
            source = stack.enter_context(open_source(path, options, gps, max_gap_s, origin))
            origin = origin or source.origin
            found.append(source)
        found = distinct(found, files)
        if not options.map_frame and common_world(found) == 'odom' and len(found) > 1:
            found[-1].notes.append(
                "the poses of all recordings are in 'odom', which most robots start anew at each "
                'drive; if these are several drives, build a map of each and join them by regvpr '
                'map merge --estimate')
        refuse_conflicts(found)
        yield found


@contextlib.contextmanager
def open_source(
    path: Path, options: SourceOptions, gps: GpsConfig, max_gap_s: float,
    origin: Origin | None = None,
) -> Iterator[PosedSource]:
    """Open one bag or folder; a bag stays open while the `with` block lasts."""
    if is_folder(path):
        T = None
        if options.extrinsics:
            values = options.extrinsics[0]
            try:
                T = pose_matrix(values[:3], values[3:])
            except ValueError as error:
                raise ConfigError(f'--extrinsics {values}: {error}') from error
        yield open_folder(
            path, FolderOptions(table=options.table, T_base_cam=T, max_gap_s=max_gap_s,
                                **_pose_file(options, of_bag=False)), gps, origin)
        return
    with Bag(path) as bag:
        yield open_bag(bag, BagOptions(
            image_topics=options.image_topics, pose_topic=options.pose_topic,
            pose_frame=options.pose_frame, tf_topic=options.tf_topic,
            tf_frame=options.tf_frame, extrinsics=options.extrinsics,
            base_frame=options.base_frame, bag_time=options.bag_time, max_gap_s=max_gap_s,
            **_pose_file(options, of_bag=True)), gps, origin)


def is_folder(path: Path) -> bool:
    """Whether a path is a folder without a bag, so of images."""
    if not os.path.isdir(path) or (path / 'metadata.yaml').exists():
        return False
    return not any(bag_suffix(file) for file in path.iterdir())


def summary(source: PosedSource) -> str:
    """Summary of a source in one line."""
    images = source.identity.get('images')
    where = f'images {", ".join(images)}' if images else f'{source.total} images'
    world = f' in {source.world}' if source.world else ''
    world = f' of {source.body}{world}' if source.body else world
    world = ' on the Earth' if source.origin else world
    return f'{where}, poses {source.poses}{world}'


def merged_by_camera(tables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge the tables of cameras of all sources.

    Cameras of one name agree; `open_sources` refuses conflicts.
    """
    merged: dict[str, Any] = {}
    for table in tables:
        for camera, values in table.items():
            merged.setdefault(camera, values)
    return merged


def _refuse_what_does_not_fit(paths: Sequence[Path], options: SourceOptions) -> None:
    folders = [is_folder(path) for path in paths]
    if options.table is not None and not all(folders):
        raise ConfigError('--table is for folders of images')
    for name in FOR_BAGS:
        if getattr(options, name) and all(folders):
            raise ConfigError(f'{NAMES.get(name, "--" + name.replace("_", "-"))} is for bags')
    if options.kitti is not None and len(paths) > 1:
        raise ConfigError(f'--kitti is for one source, not for {len(paths)}')


def _pose_file(options: SourceOptions, *, of_bag: bool) -> dict[str, Any]:
    """Read --tum or --kitti into the fields shared by BagOptions and FolderOptions."""
    if options.tum is not None:
        trajectory = read_tum(options.tum)
        refuse_jumping(trajectory, str(options.tum))
        return {'trajectory': trajectory, 'poses_name': str(options.tum)}
    if options.kitti is None:
        return {}
    poses = read_kitti(options.kitti)
    known = {'camera_poses': True, 'poses_name': str(options.kitti)}
    if options.times is None or not of_bag:
        times = None if options.times is None else read_times(options.times)
        return {'ordered': poses, 'stamps_ns': times, **known}
    times = read_times(options.times)
    if len(times) != len(poses):
        raise ConfigError(f'{options.kitti} has {len(poses)} poses, {options.times} {len(times)} '
                          f'times')
    trajectory = make_trajectory(times, poses)
    refuse_jumping(trajectory, str(options.kitti))
    return {'trajectory': trajectory, **known}
