"""Writes serialized messages to a rosbag2 folder (MCAP)."""

from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_typestore, Stores

from regvpr_core.errors import BagError


class BagWriter:
    """A bag that is written while the `with` block lasts."""

    def __init__(self, path: Path) -> None:
        """Set the folder to create.

        Raises:
            BagError: it exists.
        """
        if path.exists():
            raise BagError(f'{path} exists; choose another folder for the recording')
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._store = get_typestore(Stores.LATEST)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> 'BagWriter':
        self._writer.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._writer.close()

    def write(self, topic: str, kind: str, time_ns: int, cdr: bytes) -> None:
        """Write a serialized message (CDR) of a standard type such as nav_msgs/msg/Odometry."""
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self._store)
        self._writer.write(self._connections[topic], time_ns, cdr)
