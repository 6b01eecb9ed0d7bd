"""Bags and folders named on the command line, as sources of posed images; and `--list`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from regvpr_core.cli.console import cell, say

if TYPE_CHECKING:
    from regvpr_core.mapping.options import BuildConfig
    from regvpr_core.recordings.sources import SourceOptions

SHOWN_TABLES = 20


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that select images and the source of their poses."""
    parser.add_argument('sources', type=Path, nargs='+', metavar='SOURCE',
                        help='ROS 1 .bag, rosbag2 folder, .mcap, .db3, or folder of images')
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
    parser.add_argument('--pose-frame', metavar='FRAME', help='world frame of the poses to take, '
                        'where one topic has poses in several (or WORLD:BODY)')
    parser.add_argument('--tf-topic', metavar='TOPIC', help='a TF topic of the namespace to take, '
                        'where the bag has TF of several robots')
    parser.add_argument('--times', type=Path, metavar='FILE', help='times of the poses of --kitti')
    parser.add_argument('--extrinsics', type=float, nargs=7, action='append', default=[],
                        metavar=('X', 'Y', 'Z', 'QX', 'QY', 'QZ', 'QW'),
                        help="camera (optical) in the base frame; else from the bag's TF; once "
                             'for each camera')
    parser.add_argument('--base-frame', metavar='FRAME',
                        help='frame whose poses are known, where the poses do not say')
    parser.add_argument('--bag-time', action='store_true',
                        help='go by the times of recording, not by the stamps in the messages')


def source_options(options: argparse.Namespace) -> 'SourceOptions':
    """Options of the sources from the command line.

    Raises:
        ConfigError: two options contradict each other.
    """
    from regvpr_core.recordings.sources import SourceOptions

    return SourceOptions(
        image_topics=options.image_topic, pose_topic=options.pose_topic,
        pose_frame=options.pose_frame, tf_topic=options.tf_topic,
        tf_frame=options.tf_frame, tum=options.tum, kitti=options.kitti, times=options.times,
        table=options.table, extrinsics=options.extrinsics, base_frame=options.base_frame,
        bag_time=options.bag_time, map_frame=options.map_frame or '')


def print_list(
    paths: Sequence[Path], options: 'SourceOptions', config: 'BuildConfig'
) -> None:
    """Print the contents of each source, and what a build would use of them."""
    from regvpr_core.errors import RegvprError
    from regvpr_core.recordings.sources import is_folder, open_sources, summary

    console = Console()
    for path in paths:
        if len(paths) > 1:
            say(console, str(path), 'bold')
        if is_folder(path):
            _print_folder(console, path)
        else:
            _print_topics(console, path)
        try:
            with open_sources([path], options, config.gps, config.max_pose_gap_s) as (source,):
                say(console, f'would use: {summary(source)}')
                for note in source.notes:
                    say(console, note)
        except RegvprError as error:
            say(console, f'not yet: {" ".join(str(error).split())}')


def _print_folder(console: Console, path: Path) -> None:
    from regvpr_core.recordings.folders import find_pictures, find_tables

    table = Table('in the folder', 'number', 'usable as')
    table.add_row('pictures', str(len(find_pictures(path).names)), 'images')
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
