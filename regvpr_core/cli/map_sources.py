"""Bags and folders named on the command line, as sources of posed images; and `--list`."""

import argparse
from collections.abc import Sequence
import contextlib
import os
from pathlib import Path
from typing import Any, TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from regvpr_core.cli.console import cell, say

if TYPE_CHECKING:
    from regvpr_core.mapping.builder import BuildConfig
    from regvpr_core.recordings.frames import PosedSource
    from regvpr_core.recordings.geodesy import GpsConfig, Origin

SHOWN_TABLES = 20


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Which images, and where their poses come from."""
    parser.add_argument('sources', type=Path, nargs='+', metavar='SOURCE',
                        help='ROS 1 .bag, rosbag2 folder, .mcap, .db3, or folder of pictures')
    parser.add_argument('--image-topic', action='append', default=[], metavar='TOPIC',
                        help='once for each camera')
    poses = parser.add_mutually_exclusive_group()
    poses.add_argument('--pose-topic', metavar='TOPIC', help='Odometry, PoseStamped, '
                       'PoseWithCovarianceStamped or NavSatFix')
    poses.add_argument('--tf-frame', metavar='FRAME',
                       help='poses of the camera in this frame of the TF in the bag')
    poses.add_argument('--tum', type=Path, metavar='FILE',
                       help='poses of the base frame: stamp x y z qx qy qz qw')
    poses.add_argument('--kitti', type=Path, metavar='FILE',
                       help='poses of the camera, 12 numbers a line, in the order of the images')
    poses.add_argument('--table', type=Path, metavar='FILE',
                       help='of a folder: image x y z qx qy qz qw, or image x y yaw, …')
    parser.add_argument('--times', type=Path, metavar='FILE', help='times of the poses of --kitti')
    parser.add_argument('--extrinsics', type=float, nargs=7, action='append', default=[],
                        metavar=('X', 'Y', 'Z', 'QX', 'QY', 'QZ', 'QW'),
                        help="camera (optical) in the base frame; else from the bag's TF; once "
                             'for each camera')
    parser.add_argument('--base-frame', metavar='FRAME',
                        help='frame whose poses are known, where the poses do not say')
    parser.add_argument('--bag-time', action='store_true',
                        help='go by the times of recording, not by the stamps in the messages')


class Sources:
    """The sources in the order given; bags are open while the `with` block lasts."""

    def __init__(self, options: argparse.Namespace, config: 'BuildConfig') -> None:
        self._options = options
        self._config = config
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> 'Sources':
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def open(self) -> 'list[PosedSource]':
        """Open all of them; positions on the Earth share the origin of the first.

        Raises:
            BagError: one cannot be used, or they do not fit one map.
        """
        from regvpr_core.recordings.camera_conflicts import refuse_conflicts
        from regvpr_core.recordings.frames import common_world
        from regvpr_core.recordings.source_names import distinct

        found: list[PosedSource] = []
        origin: Origin | None = None
        for path in self._options.sources:
            source = self.open_one(path, origin)
            origin = origin or source.origin
            found.append(source)
        found = distinct(found, self._options.sources)
        if self._options.map_frame is None and common_world(found) == 'odom' and len(found) > 1:
            found[-1].notes.append(
                "the poses of all recordings are in 'odom', which most robots begin anew at each "
                'drive; if these are several drives, build a map of each and join them by regvpr '
                'map merge --estimate')
        refuse_conflicts(found)
        return found

    def open_one(self, path: Path, origin: 'Origin | None') -> 'PosedSource':
        """Open one bag or folder."""
        if is_folder(path):
            return self._folder(path, origin)
        from regvpr_core.recordings.bag_source import open_bag
        from regvpr_core.recordings.bags import Bag

        bag = self._stack.enter_context(Bag(path))
        source: PosedSource = open_bag(bag, self._bag_options(), self._gps, origin)
        return source

    @property
    def _gps(self) -> 'GpsConfig':
        return self._config.gps

    def _bag_options(self) -> Any:
        from regvpr_core.recordings.bag_source import BagOptions

        options = self._options
        _refuse(options.table, '--table is for folders of pictures')
        return BagOptions(
            image_topics=options.image_topic, pose_topic=options.pose_topic,
            tf_frame=options.tf_frame, extrinsics=options.extrinsics,
            base_frame=options.base_frame, bag_time=options.bag_time,
            max_gap_s=self._config.max_pose_gap_s, **self._pose_file())

    def _folder(self, path: Path, origin: 'Origin | None') -> 'PosedSource':
        from regvpr_core.errors import ConfigError
        from regvpr_core.geometry import pose_matrix
        from regvpr_core.recordings.folders import FolderOptions, open_folder

        options = self._options
        if all(map(is_folder, options.sources)):
            for name in ('image_topic', 'pose_topic', 'tf_frame', 'base_frame', 'bag_time'):
                _refuse(getattr(options, name), f'--{name.replace("_", "-")} is for bags')
        T = None
        if options.extrinsics:
            values = options.extrinsics[0]
            try:
                T = pose_matrix(values[:3], values[3:])
            except ValueError as error:
                raise ConfigError(f'--extrinsics {values}: {error}') from error
        return open_folder(
            path, FolderOptions(table=options.table, T_base_cam=T, **_renamed(self._pose_file()),
                                max_gap_s=self._config.max_pose_gap_s), self._gps, origin)

    def _pose_file(self) -> dict[str, Any]:
        """The poses of --tum or --kitti, read."""
        from regvpr_core.recordings.trajectory import (
            make_trajectory,
            read_kitti,
            read_times,
            read_tum,
        )

        options = self._options
        if options.kitti is None:
            _refuse(options.times, '--times goes with --kitti')
        if options.tum is not None:
            return {'trajectory': read_tum(options.tum), 'file_name': str(options.tum)}
        if options.kitti is None:
            return {}
        if len(options.sources) > 1:
            _refuse(True, f'--kitti is for one source, not for {len(options.sources)}')
        poses = read_kitti(options.kitti)
        known = {'camera_poses': True, 'file_name': str(options.kitti)}
        if options.times is None or is_folder(options.sources[0]):
            times = None if options.times is None else read_times(options.times)
            return {'ordered': poses, 'times': times, **known}
        times = read_times(options.times)
        if len(times) != len(poses):
            _refuse(True, f'{options.kitti} has {len(poses)} poses, {options.times} {len(times)} '
                          f'times')
        return {'trajectory': make_trajectory(times, poses), **known}


def is_folder(path: Path) -> bool:
    """Whether a path is a folder of pictures: one without a bag in it."""
    if not os.path.isdir(path) or (path / 'metadata.yaml').exists():
        return False
    return not any(file.suffix in ('.bag', '.mcap', '.db3') for file in path.iterdir())


def print_list(options: argparse.Namespace, sources: Sources) -> None:
    """What each source holds, and what a build would take of it."""
    from regvpr_core.errors import RegvprError

    console = Console()
    for path in options.sources:
        if len(options.sources) > 1:
            say(console, str(path), 'bold')
        if is_folder(path):
            _print_folder(console, path)
        else:
            _print_topics(console, path)
        try:
            source = sources.open_one(path, None)
        except RegvprError as error:
            say(console, f'not yet: {" ".join(str(error).split())}')
            continue
        say(console, f'would use: {summary(source)}')
        for note in source.notes:
            say(console, note)


def summary(source: 'PosedSource') -> str:
    """What is taken of a source, in a line."""
    images = source.identity.get('images')
    where = f'images {", ".join(images)}' if images else f'{source.total} pictures'
    world = f' in {source.world}' if source.world else ''
    world = ' on the Earth' if source.origin else world
    return f'{where}, poses {source.poses}{world}'


def _print_folder(console: Console, path: Path) -> None:
    from regvpr_core.recordings.folders import find_pictures, find_tables

    table = Table('in the folder', 'number', 'usable as')
    table.add_row('pictures', str(len(find_pictures(path))), 'images')
    for file in find_tables(path)[:SHOWN_TABLES]:
        table.add_row(cell(file.name), '', 'poses (--table)')
    console.print(table)


def _print_topics(console: Console, path: Path) -> None:
    from regvpr_core.recordings.bags import (
        Bag,
        CAMERA_INFO_TYPE,
        IMAGE_TYPES,
        NAVSAT_TYPE,
        TF_TYPES,
    )
    from regvpr_core.recordings.pose_messages import POSE_TYPES

    uses = {**dict.fromkeys(IMAGE_TYPES, 'images'), **dict.fromkeys(POSE_TYPES, 'poses'),
            NAVSAT_TYPE: 'poses (GPS)', CAMERA_INFO_TYPE: 'intrinsics',
            **dict.fromkeys(TF_TYPES, 'poses (--tf-frame), extrinsics')}
    table = Table('topic', 'type', 'messages', 'usable as')
    with Bag(path) as bag:
        for topic in bag.topics():
            use = uses.get(topic.type, '')
            if topic.type in TF_TYPES and topic.name.endswith('tf_static'):
                use = 'extrinsics'
            table.add_row(cell(topic.name), cell(topic.type), str(topic.count), use)
    console.print(table)


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    names = {'file_name': 'poses_name', 'times': 'stamps_ns'}
    return {names.get(key, key): value for key, value in values.items()}


def _refuse(given: Any, why: str) -> None:
    from regvpr_core.errors import ConfigError

    if given not in (None, False) and not (isinstance(given, Sequence) and not given):
        raise ConfigError(why)
