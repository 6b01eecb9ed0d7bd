"""Write config/sros2.policy.xml, the access policy of the node, from its table of interfaces.

From the root: python -m tools.make_policy; `--check` only compares."""

from collections.abc import Iterable
from pathlib import Path
import sys
from xml.sax.saxutils import escape

from regvpr_ros import interfaces

PATH = Path(__file__).resolve().parent.parent / 'config' / 'sros2.policy.xml'

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!-- Written by tools/make_policy.py from regvpr_ros/interfaces.py. What the node regvpr may say
     and hear, for `ros2 security create_permission`; how to use it: docs/security.md.
     Topics that you remap must be renamed here, too. -->
<policy version="0.2.0">
  <enclaves>
    <enclave path="/regvpr">
      <profiles>
        <profile ns="/" node="regvpr">
"""
TAIL = """        </profile>
      </profiles>
    </enclave>
  </enclaves>
</policy>
"""

EVERY_NODE_SAYS = ('/rosout', '/parameter_events')
EVERY_NODE_HEARS = ('/clock', '/parameter_events', '/tf', '/tf_static')
LIFECYCLE_SAYS = ('~/transition_event',)
EVERY_NODE_SERVES = (
    '~/describe_parameters', '~/get_parameter_types', '~/get_parameters', '~/list_parameters',
    '~/set_parameters', '~/set_parameters_atomically', '~/get_type_description')
LIFECYCLE_SERVES = (
    '~/change_state', '~/get_state', '~/get_available_states', '~/get_available_transitions',
    '~/get_transition_graph')


def policy() -> str:
    """Text of the file."""
    says = [topic.name for topic in interfaces.OUTPUTS]
    hears = [topic.name for topic in interfaces.INPUTS]
    serves = [service.name for service in interfaces.SERVICES]
    return ''.join([
        HEAD,
        _list('topics publish', 'topic', [*says, *LIFECYCLE_SAYS, *EVERY_NODE_SAYS, '/tf']),
        _list('topics subscribe', 'topic', [*hears, *EVERY_NODE_HEARS]),
        _list('services reply', 'service', [*serves, *LIFECYCLE_SERVES, *EVERY_NODE_SERVES]),
        TAIL])


def _list(rule: str, element: str, names: Iterable[str]) -> str:
    lines = [f'          <{rule}="ALLOW">']
    lines += [f'            <{element}>{escape(name)}</{element}>' for name in names]
    return '\n'.join([*lines, f'          </{rule.split()[0]}>', ''])


def main() -> int:
    if '--check' in sys.argv:
        return 0 if PATH.read_text() == policy() else 1
    PATH.write_text(policy())
    return 0


if __name__ == '__main__':
    sys.exit(main())
