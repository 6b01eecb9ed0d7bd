"""Parameters of the ROS node: declared from the fields of NodeConfig, and read back."""

import array
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterValueException

from regvpr_core.config import nearest
from regvpr_core.errors import ConfigError
from regvpr_ros.parameters import declared, LIVE, NodeConfig, Parameter, to_config

OF_RCLPY = ('use_sim_time', 'qos_overrides', 'start_type_description_service')
NAMES = frozenset(parameter.name for parameter in declared(NodeConfig))


def declare(node: Any) -> None:
    """Declare `autostart` and the parameters of NodeConfig."""
    node.declare_parameter('autostart', True, ParameterDescriptor(
        description='configure and activate at start, for use without a lifecycle manager',
        read_only=True))
    for parameter in declared(NodeConfig):
        try:
            node.declare_parameter(parameter.name, parameter.default, _descriptor(parameter))
        except InvalidParameterValueException:
            # Out of range at the start: configure reports it in one line.
            node.declare_parameter(parameter.name, parameter.default, ParameterDescriptor(
                description=parameter.description, dynamic_typing=True))


def read(node: Any, changed: dict[str, Any] | None = None) -> NodeConfig:
    """The config from the current parameters, with new values from `changed`.

    Raises:
        ConfigError: names the invalid parameter.
    """
    values = {name: node.get_parameter(name).value for name in NAMES} | (changed or {})
    return to_config({name: _plain(value) for name, value in values.items()})


def refuse_unknown(node: Any) -> None:
    """Raise ConfigError if a given parameter does not exist."""
    known = {'autostart', *NAMES}
    for name in node._parameter_overrides:
        if name not in known and not name.startswith(OF_RCLPY):
            raise ConfigError(f'unknown parameter {name!r}{nearest(name, known)}')


def fixed(names: set[str]) -> str:
    """Why these cannot change while the node is configured; empty if they can."""
    wrong = sorted(names - set(LIVE))
    if not wrong:
        return ''
    return (f'{wrong[0]} is fixed while the node is configured; clean it up, set it and '
            f'configure again')


def _descriptor(parameter: Parameter) -> ParameterDescriptor:
    """Descriptor with dynamic typing; `to_config` checks types and accepts integers for floats."""
    descriptor = ParameterDescriptor(
        description=parameter.description, dynamic_typing=True, additional_constraints=(
            'acts at once' if parameter.name in LIVE else 'fixed while configured'))
    if parameter.limits is not None:
        low, high = parameter.limits
        descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high)]
        if low == int(low) and high == int(high):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    return descriptor


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (array.array, tuple)) else value
