"""Write the tables of docs/node.md that come from the code. `--check` only compares.

From the root: python -m tools.make_docs"""

from collections.abc import Callable, Iterable
from pathlib import Path
import re
import sys

from regvpr_ros import interfaces
from regvpr_ros.parameters import declared, LIVE, NodeConfig

PAGE = Path(__file__).resolve().parent.parent / 'docs' / 'node.md'


def kind(of: type) -> str:
    """Name of a message or service type, such as sensor_msgs/Image."""
    return f'{of.__module__.split(".")[0]}/{of.__name__}'


def qos(topic: interfaces.Topic) -> str:
    """Quality of service in words."""
    words = ['reliable' if topic.reliable else 'best effort', f'depth {topic.depth}']
    return ', '.join([*words, 'latched'] if topic.latched else words)


def topics() -> Iterable[str]:
    """Rows of the table of topics."""
    yield '| | topic | type | QoS | what |'
    yield '|---|---|---|---|---|'
    for direction, table in (('in', interfaces.INPUTS), ('out', interfaces.OUTPUTS)):
        for topic in table:
            yield (f'| {direction} | `{topic.name}` | `{kind(topic.kind)}` | {qos(topic)} '
                   f'| {topic.text} |')
    yield ('| out | `/tf` | `tf2_msgs/TFMessage` | reliable, depth 100 | `map_frame` to '
           '`odom_frame`, with `broadcast_tf`; 10 Hz after the first fix |')


def services() -> Iterable[str]:
    """Rows of the table of services."""
    yield '| service | type | what |'
    yield '|---|---|---|'
    for service in interfaces.SERVICES:
        yield f'| `{service.name}` | `{kind(service.kind)}` | {service.text} |'


def parameters() -> Iterable[str]:
    """Rows of the table of parameters, with their defaults."""
    yield '| parameter | default | live | what |'
    yield '|---|---|---|---|'
    for parameter in declared(NodeConfig):
        default = parameter.default
        shown = str(default).lower() if isinstance(default, bool) else repr(default)
        live = 'yes' if parameter.name in LIVE else ''
        yield f'| `{parameter.name}` | `{shown}` | {live} | {parameter.description} |'


TABLES: dict[str, Callable[[], Iterable[str]]] = {
    'topics': topics, 'services': services, 'parameters': parameters}


def page(text: str) -> str:
    """The page with its tables written from the code."""
    for name, rows in TABLES.items():
        begin = f'<!-- {name}: written by tools/make_docs.py -->'
        table = '\n'.join([begin, *rows(), '<!-- end -->'])
        pattern = rf'{re.escape(begin)}.*?<!-- end -->'
        if not re.search(pattern, text, re.DOTALL):
            raise ValueError(f'{PAGE} has no place for the table of {name}: {begin}')
        text = re.sub(pattern, lambda _, table=table: table, text, flags=re.DOTALL)
    return text


def main() -> int:
    text = PAGE.read_text()
    new = page(text)
    if '--check' in sys.argv:
        return 0 if new == text else 1
    PAGE.write_text(new)
    return 0


if __name__ == '__main__':
    sys.exit(main())
