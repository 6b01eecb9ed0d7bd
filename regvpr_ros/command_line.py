"""Help text of the command `localize`, and messages for wrong arguments."""

import re

from rclpy.utilities import remove_ros_args

from regvpr_ros.parameters import declared, NodeConfig

FORM = 'localize --ros-args -p map:=FOLDER -r image:=/camera/image_raw -r odom:=/odom'
LAUNCH = ('ros2 launch regvpr_ros localize.launch.py map:=FOLDER image_topic:=/camera/image_raw '
          'odom_topic:=/odom')
KNOWN = frozenset(one.name for one in declared(NodeConfig)) | {'autostart'}


def usage() -> str:
    """The help text."""
    lines = [
        f'usage: {FORM}',
        f'   or: {LAUNCH}',
        '',
        'Localizes camera images on a place map, or finds loop closures (-p mode:=loop_closure).',
        'Parameters are given with -p NAME:=VALUE or --params-file FILE, topics with -r FROM:=TO, '
        'all after --ros-args.',
        '',
        'parameters:',
        '  autostart: configure and activate at start (default True)']
    lines += [f'  {one.name}: {one.description} (default {one.default!r})'
              for one in declared(NodeConfig) if '.' not in one.name]
    return '\n'.join([*lines, '  localizer.*, session.*: docs/node.md'])


def refusal(given: list[str]) -> str:
    """One line that says what is wrong with the words of a command; empty if nothing is."""
    before = given[1:given.index('--ros-args')] if '--ros-args' in given else given[1:]
    # ROS still takes NAME:=VALUE before --ros-args, as a remapping.
    launch = [word for word in before if word.partition(':=')[0] in KNOWN and ':=' in word]
    if launch:
        return not_of_ros(launch)
    try:
        others = remove_ros_args(given)[1:]
    except RuntimeError as error:
        text = re.sub(r', at /\S+:\d+', '', str(error))  # line numbers of rcl's source files
        return (f'localize: wrong ROS arguments: {text}; expected: {FORM} (localize --help says '
                f'more)')
    return not_of_ros(others) if others else ''


def not_of_ros(words: list[str]) -> str:
    """One line for arguments that are not those of ROS, with the right form.

    Args:
        words: such as `--map site/map`, `--map=site/map` or `map:=site/map`; at least one.
    """
    first = words[0]
    if ':=' in first:
        name, _, value = first.partition(':=')
    else:
        name, joined, value = first.lstrip('-').partition('=')
        if not joined and len(words) > 1 and not words[1].startswith('-'):
            value = words[1]
    name = name.replace('-', '_')
    form = f'localize --ros-args -p {name}:={value or "VALUE"}' if name in KNOWN else FORM
    return (f'localize: unknown argument {first!r}; parameters and topics come after --ros-args: '
            f'{form} (all of them: localize --help)')
