"""`regvpr quickstart`: a recording becomes a map with its page, node parameters and figures."""

import argparse
import dataclasses
import importlib
import json
from pathlib import Path
import shlex
import shutil
import sys
from typing import Any, TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from regvpr_core.cli.console import as_step, bar, cell, say, say_next
from regvpr_core.cli.parsing import add_command
from regvpr_core.config import DEFAULT_MODEL

if TYPE_CHECKING:
    from regvpr_core.mapping.expectation import Expectation
    from regvpr_core.recordings.bags import Bag, Topic

NOT_COLOUR = ('depth', 'disparity', 'mask', 'label')
"""Image topics whose names contain one of these words have no camera images."""


TABLE_ADVICE = ('put it into the folder of images and give the folder, or build the map alone: '
                'regvpr map build FOLDER --table {path} --out MAP')


def add_parser(commands: Any) -> None:
    """Add `quickstart` to the command line."""
    parser = add_command(
        commands, 'quickstart', 'build a map from a bag or a folder of images, and test it',
        'regvpr quickstart DRIVE.mcap --out site', 'regvpr quickstart PHOTOS/ --out site',
        'regvpr quickstart --record-s 60 --image-topic /camera/image_raw --pose-topic /odom',
        description='Find the images and poses of a recording, build and calibrate a map, hold '
                    'out a part of the drive to estimate recall, and write the page of the '
                    'map and the parameters of the node. Without a recording, live topics are '
                    'recorded first.')
    parser.add_argument('source', type=Path, nargs='?', metavar='SOURCE',
                        help='ROS 1 .bag, rosbag2 folder, .mcap, .db3 or folder of images')
    parser.add_argument('-o', '--out', type=Path, metavar='DIR',
                        help='folder to create (default: the name of SOURCE, here)')
    parser.add_argument('--image-topic', metavar='TOPIC', help='where a bag has several')
    parser.add_argument('--pose-topic', metavar='TOPIC', help='where a bag has several')
    parser.add_argument('--record-s', type=float, metavar='SECONDS',
                        help='record live topics for so long first; needs ROS 2')
    parser.add_argument('--model', default=DEFAULT_MODEL,
                        help=f'model name or checkpoint file (default: {DEFAULT_MODEL})')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                        help='one setting of the build, e.g. keyframes.distance_m=2')
    parser.add_argument('--json', action='store_true', help='print the figures as JSON')
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Record if requested, choose topics, build, measure, write files, print the next command."""
    from regvpr_core.errors import ConfigError
    from regvpr_core.recordings.source_kinds import check_source

    if (options.source is None) == (options.record_s is None):
        raise ConfigError('give a bag or a folder of images, or --record-s SECONDS with '
                          '--image-topic and --pose-topic to record live topics first')
    if options.source is not None:
        check_source(options.source, TABLE_ADVICE)
    out: Path = options.out or Path(options.source.resolve().stem if options.source else 'site')
    if out.exists():
        raise ConfigError(f'{out} exists; choose another folder with --out DIR')
    from regvpr_core.recordings.sources import is_folder

    console = Console(stderr=True)
    source = options.source or _recorded(options, out, console)
    topics = {} if is_folder(source) else _topics(options, source, console)
    out.mkdir(parents=True, exist_ok=True)
    site = out / 'map'
    try:
        _build(options, source, topics, site)
    except BaseException:
        if not any(out.iterdir()):
            out.rmdir()
        raise
    expectation = _expect(site, options.model, odometry=bool(topics))
    _write_page(site, out / 'map.html')
    command = ''
    if topics:
        (out / 'params.yaml').write_text(_parameters(site, options.model), encoding='utf-8')
        command = launch_command(site, out / 'params.yaml', topics)
    record = {'map': str(site), **topics,
              'expectation': expectation and dataclasses.asdict(expectation),
              'command': command}
    (out / 'expectation.json').write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    if options.json:
        print(json.dumps(record, indent=1))  # noqa: T201
        return
    _print(out, expectation, drive=bool(topics))
    if command:
        say(Console(), 'start the node:', 'bold')
        print(command)  # noqa: T201
        say(Console(), 'and play a drive to it, in another shell:', 'bold')
        player = 'ros2 bag play' if has_ros2() else 'replay'
        print(f'{player} {shlex.quote(str(source))}')  # noqa: T201
    say_next(console, f'regvpr localize {site} QUERY.jpg   (an image that is not of the map)')


def _recorded(options: argparse.Namespace, out: Path, console: Console) -> Path:
    """A bag of the live topics, made by the ROS side of the package."""
    from regvpr_core.errors import ConfigError

    if not (options.image_topic and options.pose_topic):
        raise ConfigError('--record-s needs --image-topic and --pose-topic; `ros2 topic list` '
                          'shows what there is')
    try:
        # regvpr_core never imports ROS: this module exists only with the ROS package.
        recorder = importlib.import_module('regvpr_ros.recorder')
    except ImportError as error:
        raise ConfigError(f'live topics need ROS 2 and this package built in it: {error}') \
            from error
    out.mkdir(parents=True)
    say(console, f'recording {options.record_s:g} s: drive once through the place', 'bold')
    with bar('messages') as told:
        path: Path = recorder.record(
            out / 'drive', options.image_topic, options.pose_topic, options.record_s, told)
    return path


def _topics(options: argparse.Namespace, source: Path, console: Console) -> dict[str, str]:
    """The image topic and the pose topic with their types; asks if there are several."""
    from regvpr_core.recordings.bags import Bag, camera_name, IMAGE_TYPES, NAVSAT_TYPE
    from regvpr_core.recordings.pose_messages import POSE_TYPES

    with Bag(source) as bag:
        images = [t for t in bag.topics(*IMAGE_TYPES)
                  if t.count and not any(word in t.name.lower() for word in NOT_COLOUR)]
        # If a camera has a raw and a compressed topic, the raw one is used.
        raw = {camera_name(t.name) for t in images if t.type == IMAGE_TYPES[0]}
        images = [t for t in images if t.type == IMAGE_TYPES[0] or camera_name(t.name) not in raw]
        poses = [t for t in bag.topics(*POSE_TYPES, NAVSAT_TYPE) if t.count]
        image = _chosen(bag, 'image', images, options.image_topic, '--image-topic', console)
        pose = _chosen(bag, 'pose', poses, options.pose_topic, '--pose-topic', console)
    if image is None:
        from regvpr_core.errors import BagError
        raise BagError(f'{source} has no images of a camera; regvpr map build {source} --list '
                       f'shows what it holds')
    chosen = {'image_topic': image.name, 'image_type': image.type}
    return chosen | ({'pose_topic': pose.name, 'pose_type': pose.type} if pose else {})


def _chosen(bag: 'Bag', kind: str, there: 'list[Topic]', wanted: str | None, option: str,
            console: Console) -> 'Topic | None':
    """The named topic, the only topic, or one that the user picks from a list."""
    from regvpr_core.config import nearest
    from regvpr_core.errors import BagError

    by_name = {topic.name: topic for topic in there}
    if wanted is not None:
        if wanted not in by_name and f'{wanted}/compressed' not in by_name:
            raise BagError(f'{bag.path} has no {kind} topic {wanted!r}{nearest(wanted, by_name)}')
        return by_name.get(wanted) or by_name[f'{wanted}/compressed']
    if len(there) < 2:
        return there[0] if there else None
    if not (sys.stdin.isatty() and console.is_terminal):
        listed = ', '.join(f'{t.name} ({t.count})' for t in there)
        raise BagError(f'{bag.path} has {len(there)} {kind} topics; choose one with {option}: '
                       f'{listed}')
    from rich.prompt import IntPrompt

    for number, topic in enumerate(there, 1):
        say(console, f'{number:3}  {topic.name}  {topic.type}  {topic.count} messages')
    number = IntPrompt.ask(f'which {kind} topic?', console=console, default=1,
                           choices=[str(n) for n in range(1, len(there) + 1)])
    return there[number - 1]


def _build(options: argparse.Namespace, source: Path, topics: dict[str, str], site: Path) -> None:
    """Build the map as `regvpr map build` does."""
    from regvpr_core.cli.map_build import add_build_arguments, run_build

    parser = argparse.ArgumentParser()
    add_build_arguments(parser)
    words = [str(source), '--out', str(site), '--model', options.model]
    # Images of a folder are localized one by one, and local features verify the matches.
    if not topics and options.model == DEFAULT_MODEL:
        words += ['--features', 'patch']
    for option, name in (('--image-topic', 'image_topic'), ('--pose-topic', 'pose_topic')):
        words += [option, topics[name]] if name in topics else []
    for override in options.set:
        words += ['--set', override]
    with as_step():
        run_build(parser.parse_args(words))


def _expect(site: Path, model: str, *, odometry: bool) -> 'Expectation | None':
    from regvpr_core.mapping.expectation import expect
    from regvpr_core.models.encoder import load_encoder

    with bar('held out') as told:
        return expect(site, load_encoder(model), odometry=odometry, progress=told)


def _write_page(site: Path, page: Path) -> None:
    """The page of the map, as `regvpr map show` writes it."""
    from regvpr_core.cli.map_show import add_parser as add_show
    from regvpr_core.cli.parsing import Parser

    parser = Parser()
    add_show(parser.add_subparsers())
    asked = parser.parse_args(['show', str(site), '-o', str(page)])
    with as_step():
        asked.run(asked)


def _parameters(site: Path, model: str) -> str:
    """A file of parameters for the node."""
    return (f'# Parameters of the localize node for this map. All of them: '
            f'ros2 param describe /regvpr NAME\n'
            f'/**:\n  ros__parameters:\n    map: {json.dumps(str(site.resolve()))}\n'
            f'    model: {json.dumps(model)}\n')


def has_ros2() -> bool:
    """Whether nodes are started by `ros2`.

    A clone with ROS from PyPI has no `ros2`; tools/env.sh puts the node itself on the path. On a
    machine with neither, the command printed is for a robot, which has `ros2`.
    """
    return shutil.which('ros2') is not None or shutil.which('localize') is None


def launch_command(site: Path, params: Path, topics: dict[str, str]) -> str:
    """The command that starts the node on the topics that the map was built from."""
    compressed = topics['image_type'].endswith('CompressedImage')
    image = topics['image_topic'].removesuffix('/compressed')
    odometry = topics.get('pose_type') == 'nav_msgs/msg/Odometry'
    if not has_ros2():
        words = ['localize', '--ros-args', '--params-file', str(params.resolve())]
        words += ['-p', 'compressed:=true'] if compressed else []
        words += ['-r', f'image/compressed:={image}/compressed' if compressed
                  else f'image:={image}']
        return shlex.join(words + (['-r', f'odom:={topics["pose_topic"]}'] if odometry else []))
    words = ['ros2', 'launch', 'regvpr_ros', 'localize.launch.py', f'map:={site.resolve()}',
             f'params_file:={params.resolve()}',
             f'image_topic:={image}']
    if compressed:
        words.append('compressed:=true')
    if odometry:
        words.append(f'odom_topic:={topics["pose_topic"]}')
    return shlex.join(words)


def _print(out: Path, expectation: 'Expectation | None', *, drive: bool) -> None:
    """Print the files written and the expected recall, at most 80 columns wide."""
    console = Console()
    table = Table(show_header=False, title='what to expect', title_justify='left')
    if expectation is None:
        say(console, 'too few keyframes to hold some out: nothing can be said of this map yet')
    else:
        e = expectation
        rows = [
            ('held out', f'{e.queries} images, {e.how}'),
            ('right at first', f'{100 * e.recall_at_1:.1f} % of images find a place within '
                               f'{e.radius_m:g} m (recall@1)'),
            ('answered', f'{100 * e.localized:.1f} % of images give a pose'
                         + (', each asked alone' if not drive else '' if e.localized else
                            ' in this thinned map; the whole map is denser')),
            ('of these right', 'none' if e.precision is None else
             f'{100 * e.precision:.1f} % (precision)'
             + ('' if e.error_m is None else f', median error {e.error_m:.2f} m')),
            *([] if e.unsure_right is None else [
                ('unsure', f'{100 * e.unsure:.1f} % of images name a place without a pose; '
                           f'{100 * e.unsure_right:.1f} % of these are right')]),
            ('look-alikes', f'{e.look_alike} of {e.compared} places look more like one elsewhere '
                            f'than like their neighbours'),
            ('one direction', f'{100 * e.one_way:.0f} % of places were seen from one direction '
                              f'only: from the other side expect no match')]
        for name, value in rows:
            table.add_row(Text(name), cell(value))
        console.print(table)
    if expectation is not None and not expectation.localized:
        say(console, 'no pose was given: '
            + ('the held-out drive is short, or its keyframes lie too far apart; '
               if drive else 'images asked alone are rarely sure enough, where places are far '
                             'apart or look alike; ')
            + 'take images more densely'
            + ('' if drive else ', or ask a drive as a whole: regvpr localize MAP DRIVE/ --drive, '
                                'or the node with odometry'), 'yellow')
    say(console, f'map: {out / "map"}, page: {out / "map.html"}')
