"""`regvpr map build | info`."""

import argparse
from pathlib import Path
from typing import Any, TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from regvpr_core.cli.console import download_bar, print_facts, say

if TYPE_CHECKING:
    from regvpr_core.places.builder import BuildReport

DEFAULT_MODEL_HELP = 'model name or checkpoint file (default: gem_vits14)'


def add_parser(commands: Any) -> None:
    """Add `map` to the command line."""
    parser = commands.add_parser('map', help='place maps: build, info')
    verbs = parser.add_subparsers(metavar='VERB', required=True)
    verb = verbs.add_parser('build', help='a bag becomes a place map')
    add_build_arguments(verb)
    verb.set_defaults(run=run_build)
    verb = verbs.add_parser('info', help='what a map holds')
    verb.add_argument('map', type=Path, metavar='MAP')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_info)


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `map build`, also those of the ROS executable `build_map`."""
    parser.add_argument('bag', type=Path, metavar='BAG',
                        help='ROS 1 .bag, rosbag2 folder, .mcap or .db3')
    parser.add_argument('--out', type=Path, metavar='MAP', help='folder to create')
    parser.add_argument('--list', action='store_true', help="show the bag's topics and stop")
    parser.add_argument('--image-topic', metavar='TOPIC')
    poses = parser.add_mutually_exclusive_group()
    poses.add_argument('--pose-topic', metavar='TOPIC', help='nav_msgs/Odometry')
    poses.add_argument('--tum', type=Path, metavar='FILE',
                       help='poses of the base frame: stamp x y z qx qy qz qw')
    parser.add_argument('--extrinsics', type=float, nargs=7,
                        metavar=('X', 'Y', 'Z', 'QX', 'QY', 'QZ', 'QW'),
                        help="camera (optical) in the base frame; else from the bag's /tf_static")
    parser.add_argument('--map-frame', default='map', metavar='FRAME',
                        help='name of the world frame of the poses (default: map)')
    parser.add_argument('--model', default='gem_vits14', help=DEFAULT_MODEL_HELP)
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, mps')
    parser.add_argument('--config', type=Path, metavar='FILE', help='YAML of the build settings')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='one setting, e.g. keyframes.distance_m=2')
    parser.add_argument('--json', action='store_true', help='print the result as JSON')


def run_build(options: argparse.Namespace) -> None:
    """Build a map from a bag."""
    import numpy as np

    from regvpr_core.config import from_mapping, read_yaml, with_overrides
    from regvpr_core.errors import ConfigError, MapError
    from regvpr_core.places.builder import build_map, BuildConfig
    from regvpr_ros.bags import Bag, IMAGE_TYPES

    values = read_yaml(options.config) if options.config else {}
    config = with_overrides(from_mapping(BuildConfig, values), options.set)
    console = Console(stderr=True)
    with Bag(options.bag) as bag:
        if options.list:
            _print_topics(bag)
            return
        if options.out is None:
            raise ConfigError('--out MAP is missing: the folder for the map')
        if options.out.exists():
            raise MapError(f'{options.out} exists; choose a new folder for the map or remove it')
        image_topic = bag.choose('image', IMAGE_TYPES, options.image_topic, '--image-topic')
        poses = _poses(bag, options)
        T_body_cam, origin = _extrinsics(bag, image_topic, poses.body_frame, options)
        _check_coverage(bag, image_topic, poses)
        say(console, f'images {image_topic.name}, poses {poses.name}, extrinsics {origin}')
        encoder = _encoder(options, console)
        with _progress(console, image_topic.count) as told:
            report = build_map(
                bag.frames(image_topic, poses, np.eye(4) if T_body_cam is None else T_body_cam,
                           config.max_pose_gap_s),
                encoder, options.out, config,
                map_frame=options.map_frame,
                extrinsics=_extrinsics_record(image_topic, T_body_cam),
                sources=[options.bag.name], progress=told)
    _print_report(options, report)


def run_info(options: argparse.Namespace) -> None:
    """Print what a map holds."""
    import numpy as np

    from regvpr_core.places.map_files import map_bytes
    from regvpr_core.places.place_map import PlaceMap
    from regvpr_core.trajectory import make_trajectory

    with PlaceMap.open(options.map) as place_map:
        manifest = place_map.manifest
        path = make_trajectory(place_map.stamps_ns, place_map.T_map_cam)
        extent = np.ptp(place_map.T_map_cam[:, :3, 3], axis=0) if len(place_map) else np.zeros(3)
        facts = {
            'map': str(options.map),
            'map_id': manifest.map_id,
            'format': manifest.format_version,
            'keyframes': len(place_map),
            'cameras': sorted(set(place_map.cameras)),
            'model': manifest.model,
            'fingerprint': manifest.fingerprint[:16],
            'descriptor': manifest.dimension,
            'frame': manifest.map_frame,
            'path_m': round(path.length_m, 1),
            'extent_m': [round(float(v), 1) for v in extent],
            'sources': manifest.sources,
            'size_mb': round(map_bytes(options.map) / 1e6, 2),
        }
    print_facts(facts, options.json)


def _poses(bag: Any, options: argparse.Namespace) -> Any:
    from regvpr_core.trajectory import read_tum
    from regvpr_ros.bags import ODOMETRY_TYPE, PoseSource

    if options.tum:
        return PoseSource(read_tum(options.tum), 'map', '', str(options.tum))
    return bag.odometry(bag.choose('odometry', (ODOMETRY_TYPE,), options.pose_topic,
                                   '--pose-topic (or give --tum FILE)'))


def _extrinsics(bag: Any, image_topic: Any, body_frame: str,
                options: argparse.Namespace) -> tuple[Any, str]:
    """`T_body_cam` and where it came from; None where it is not known."""
    from regvpr_ros.bags import parse_extrinsics

    if options.extrinsics:
        return parse_extrinsics(options.extrinsics), 'as given'
    _, camera_frame = bag.first_header(image_topic)
    for base in (body_frame,) if body_frame else ('base_link', 'base_footprint'):
        T = bag.static_transform(base, camera_frame)
        if T is not None:
            return T, f'from /tf_static ({base} -> {camera_frame})'
    return None, 'unknown (--extrinsics): the poses are taken as those of the camera'


def _extrinsics_record(image_topic: Any, T: Any) -> dict[str, list[float]]:
    """What the map keeps: nothing where the extrinsics are not known."""
    from regvpr_core.geometry import quat_xyzw
    from regvpr_ros.bags import camera_name

    if T is None:
        return {}
    return {camera_name(image_topic.name): [float(v) for v in (*T[:3, 3], *quat_xyzw(T))]}


def _check_coverage(bag: Any, image_topic: Any, poses: Any) -> None:
    """Refuse poses that cover no image, before any weights are loaded."""
    from regvpr_core.errors import BagError

    start, _ = bag.first_header(image_topic)
    end = start + bag.duration_ns
    first, last = int(poses.trajectory.stamps_ns[0]), int(poses.trajectory.stamps_ns[-1])
    if end < first or start > last:
        raise BagError(
            f'{poses.name} covers {first / 1e9:.3f} to {last / 1e9:.3f} s, but the images on '
            f'{image_topic.name} are from {start / 1e9:.3f} to about {end / 1e9:.3f} s')


def _encoder(options: argparse.Namespace, console: Console) -> Any:
    from regvpr_core.models.encoder import load_encoder

    with download_bar(console) as progress:
        encoder = load_encoder(options.model, options.device, download=True, progress=progress,
                               notice=lambda line: say(console, line, 'dim'))
    say(console, f'{encoder.notice}; on {encoder.device} in {encoder.precision}')
    return encoder


def _progress(console: Console, total: int) -> Any:
    import contextlib

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    @contextlib.contextmanager
    def bar() -> Any:
        with Progress('images', BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                      '{task.fields[rate]}', console=console, transient=True,
                      disable=not console.is_terminal) as progress:
            task = progress.add_task('build', total=total, rate='')

            def told(report: 'BuildReport') -> None:
                rate = report.kept / max(report.seconds, 1e-9)
                progress.update(task, completed=report.seen, rate=f'{rate:.1f} places/s')

            yield told

    return bar()


def _print_topics(bag: Any) -> None:
    from regvpr_ros.bags import IMAGE_TYPES, ODOMETRY_TYPE

    uses = {**dict.fromkeys(IMAGE_TYPES, 'images'), ODOMETRY_TYPE: 'poses'}
    table = Table('topic', 'type', 'messages', 'usable as')
    for topic in bag.topics():
        table.add_row(Text(topic.name), Text(topic.type), str(topic.count),
                      uses.get(topic.type, ''))
    Console().print(table)


def _print_report(options: argparse.Namespace, report: 'BuildReport') -> None:
    facts: dict[str, Any] = {
        'map': str(options.out),
        'frames_seen': report.seen,
        'keyframes': report.kept,
        **{f'dropped: {reason}': count for reason, count in sorted(report.dropped.items())},
        'path_m': round(report.length_m, 1),
        'seconds': round(report.seconds, 1),
        'size_mb': round(report.size_bytes / 1e6, 2),
    }
    if report.first_image_error:
        facts['first image error'] = report.first_image_error
    print_facts(facts, options.json)
