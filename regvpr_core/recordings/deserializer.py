"""Deserializes messages by the definitions in the bag."""

import functools
from typing import Any

from rosbags.serde import SerdeError
from rosbags.typesys import (
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
    Stores,
    TypesysError,
)

from regvpr_core.errors import BagError
from regvpr_core.recordings.storage import CDR, Channel, ROS1

STABLE = frozenset({'builtin_interfaces', 'std_msgs', 'geometry_msgs', 'nav_msgs', 'sensor_msgs',
                    'tf2_msgs', 'tf'})
"""Packages whose messages have the same fields in all ROS distributions."""

_BAR = '=' * 80 + '\n'


class Deserializer:
    """Deserializes messages in CDR (ROS 2) and in the format of ROS 1."""

    def __init__(self) -> None:
        self._stores: dict[tuple[str, str, str], Any] = {}

    def __call__(self, channel: Channel, raw: bytes) -> Any:
        """Deserialize a message.

        Raises:
            BagError: the type is unknown, or the bytes are not a message of this type.
        """
        store = self._store(channel)
        try:
            if channel.serialization == ROS1:
                return store.deserialize_ros1(raw, channel.type)
            return store.deserialize_cdr(raw, channel.type)
        except SerdeError as error:
            raise BagError(f'a message on {channel.topic} is no {channel.type}: '
                           f'{error}') from error

    def _store(self, channel: Channel) -> Any:
        key = (channel.serialization, channel.type, channel.definition)
        if key not in self._stores:
            self._stores[key] = self._make(channel)
        return self._stores[key]

    @staticmethod
    def _make(channel: Channel) -> Any:
        """A type store for a channel, by the definition in the bag, else by that of ROS."""
        if channel.serialization not in (CDR, ROS1):
            raise BagError(f'the messages on {channel.topic} are {channel.serialization!r}, not '
                           f'of ROS: they cannot be read')
        if channel.definition:
            store = _defined(channel.type, channel.encoding, channel.definition)
            if store is not None:
                return _with_fields_of_ros(store, channel)
        store = _standard(channel.serialization)
        if channel.type not in store.fielddefs:
            raise BagError(f'the type {channel.type} of {channel.topic} is not known: the bag '
                           f'has no definition of it that can be read')
        return store


@functools.lru_cache(maxsize=2)
def _standard(serialization: str) -> Any:
    """The types of ROS itself; a store compiles its reader of a type once."""
    return get_typestore(Stores.ROS1_NOETIC if serialization == ROS1 else Stores.LATEST)


@functools.lru_cache(maxsize=32)
def _defined(type_name: str, encoding: str, definition: str) -> Any:
    """The types of a definition in a bag; None if it is invalid. Most bags share definitions."""
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(_types(type_name, encoding, definition))
    except (TypesysError, ValueError, KeyError, AssertionError, TypeError):
        return None
    return store if type_name in store.fielddefs else None


def _with_fields_of_ros(store: Any, channel: Channel) -> Any:
    """Return the store if its types have all fields of the ROS definitions.

    Raises:
        BagError: the definition in the bag lacks a field, so it is damaged.
    """
    standard = _standard(channel.serialization)
    for name in store.fielddefs.keys() & standard.fielddefs.keys():
        if name.split('/')[0] in STABLE:
            there = {field for field, _ in store.fielddefs[name][1]}
            missing = [field for field, _ in standard.fielddefs[name][1] if field not in there]
            if missing:
                raise BagError(f'the definition of {name} for {channel.topic} lacks the field '
                               f'{missing[0]!r}: it is damaged')
    return store


def _types(type_name: str, encoding: str, definition: str) -> Any:
    if 'idl' not in encoding:
        return get_types_from_msg(definition, type_name)
    types: dict[str, Any] = {}
    for part in definition.split(_BAR) if definition.startswith(_BAR) else [definition]:
        if part.strip():
            types.update(get_types_from_idl(part.split('\n', 1)[1]
                                            if part.startswith('IDL: ') else part))
    return types
