"""Reads ROS 1 bags by their index, or sequentially if a killed recorder wrote none."""

import bz2
from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
import struct

from lz4.frame import decompress as lz4_decompress
from rosbags.rosbag1 import Reader, ReaderError

from regvpr_core.errors import BagError
from regvpr_core.recordings.storage import Block, Channel, in_order, Message, ROS1, ros2_name

MAGIC = b'#ROSBAG V2.0'
MAX_CHUNK_BYTES = 2_000_000_000
_MESSAGE, _CHUNK, _CONNECTION = 2, 5, 7


class Bag1:
    """One open file with an index."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            ReaderError: it has no index, or is damaged.
        """
        self.notes: list[str] = []
        self._reader = Reader(path)
        self._reader.open()
        self.channels = [Channel(c.id, c.topic, c.msgtype, ROS1, 'ros1msg', c.msgdef.data,
                                 c.msgcount) for c in self._reader.connections]

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """First and last time of recording."""
        if not self._reader.message_count:
            return None
        return int(self._reader.start_time), int(self._reader.end_time) - 1

    def messages(self, ids: Collection[int]) -> Iterator[Message]:
        """The messages of these channels in order of time."""
        chosen = [c for c in self._reader.connections if c.id in ids]
        if chosen:
            for connection, time_ns, raw in self._reader.messages(connections=chosen):
                yield int(time_ns), int(connection.id), bytes(raw)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


class UnindexedBag1:
    """One open file without an index; complete records are read."""

    def __init__(self, path: Path) -> None:
        """Scan a file from its start.

        Raises:
            BagError: it contains no complete message.
        """
        self._path = path
        self._file = path.open('rb')
        self._size = path.stat().st_size
        self._blocks: list[Block] = []
        self._about: dict[int, tuple[str, str, str]] = {}
        self._counts: Counter[int] = Counter()
        try:
            end = self._scan()
        except BaseException:
            self._file.close()
            raise
        self.notes = [
            f'{path.name} has no index: its recorder was stopped. What is whole is read, '
            f'{(self._size - end) / 1e6:.3f} of {self._size / 1e6:.3f} MB at its end is not; '
            f'`rosbag reindex {path.name}` writes an index']
        if not self._blocks:
            self._file.close()
            raise BagError(f'{path} has no index and no whole chunk; `rosbag reindex` may get '
                           f'more out of it')
        self.channels = [Channel(number, topic, ros2_name(kind), ROS1, 'ros1msg', text,
                                 self._counts[number])
                         for number, (topic, kind, text) in self._about.items()]

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """First and last time of recording."""
        return min(b.start_ns for b in self._blocks), max(b.end_ns for b in self._blocks)

    def messages(self, ids: Collection[int]) -> Iterator[Message]:
        """The messages of these channels in order of time."""
        return in_order(self._blocks, ids)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _scan(self) -> int:
        """Collect the blocks; return the end of the last complete record."""
        at = self._file.seek(len(self._file.readline(64)))
        while True:
            self._file.seek(at)
            head = self._file.read(4)
            if len(head) < 4:
                return at
            size = struct.unpack('<I', head)[0]
            header = self._file.read(size + 4)
            if len(header) < size + 4:
                return at
            data_bytes = struct.unpack('<I', header[size:])[0]
            start = at + 8 + size
            if start + data_bytes > self._size:
                return at
            fields = _fields(header[:size])
            op = fields.get('op', b'\0')[:1]
            if op in (b'\x05', b'\x02', b'\x07'):
                self._note(op[0], fields, header[:size], self._file.read(data_bytes), start)
            at = start + data_bytes

    def _note(self, op: int, fields: dict[str, bytes], header: bytes, data: bytes, start: int
              ) -> None:
        if op == _CONNECTION:
            self._connect(fields, data)
            return
        packing = fields.get('compression', b'none').decode('ascii', 'replace')
        load = partial(self._load, start, len(data), packing if op == _CHUNK else '', fields)
        times: list[int] = []
        counts: Counter[int] = Counter()
        for time_ns, number, _ in load():
            times.append(time_ns)
            counts[number] += 1
        if times:
            self._blocks.append(Block(min(times), max(times), load, dict(counts)))
            self._counts += counts

    def _load(self, start: int, size: int, packing: str, fields: dict[str, bytes]
              ) -> Iterator[Message]:
        self._file.seek(start)
        data = self._file.read(size)
        if not packing:
            yield _time(fields), struct.unpack('<I', fields['conn'][:4])[0], data
            return
        try:
            data = {'none': bytes, 'bz2': bz2.decompress, 'lz4': lz4_decompress}[packing](data)
        except (KeyError, OSError, RuntimeError, ValueError, EOFError, MemoryError):
            return  # a chunk that cannot be unpacked has no complete record
        at = 0
        while at + 4 <= len(data):
            length = struct.unpack_from('<I', data, at)[0]
            if at + 8 + length > len(data):
                return
            inner = _fields(data[at + 4:at + 4 + length])
            count = struct.unpack_from('<I', data, at + 4 + length)[0]
            body = data[at + 8 + length:at + 8 + length + count]
            op = inner.get('op', b'\0')[0]
            if op == _CONNECTION:
                self._connect(inner, body)
            elif op == _MESSAGE and len(body) == count and len(inner.get('conn', b'')) == 4:
                yield _time(inner), struct.unpack('<I', inner['conn'])[0], body
            at += 8 + length + count

    def _connect(self, fields: dict[str, bytes], data: bytes) -> None:
        about = _fields(data)
        if len(fields.get('conn', b'')) == 4:
            self._about[struct.unpack('<I', fields['conn'])[0]] = tuple(  # type: ignore[assignment]
                value.decode('utf-8', 'backslashreplace') for value in
                (fields.get('topic', b''), about.get('type', b''),
                 about.get('message_definition', b'')))


def open_bag1(path: Path) -> Bag1 | UnindexedBag1:
    """Open a ROS 1 bag, by its index if it has one.

    Raises:
        BagError, ReaderError: it is damaged.
    """
    try:
        return Bag1(path)
    except ReaderError as error:
        try:
            return UnindexedBag1(path)
        except (struct.error, KeyError):
            raise error from None


def _fields(header: bytes) -> dict[str, bytes]:
    """Parse name=value pairs, each preceded by its length."""
    found, at = {}, 0
    while at + 4 <= len(header):
        size = struct.unpack_from('<I', header, at)[0]
        name, equals, value = header[at + 4:at + 4 + size].partition(b'=')
        if equals:
            found[name.decode('ascii', 'replace')] = value
        at += 4 + size
    return found


def _time(fields: dict[str, bytes]) -> int:
    value = fields.get('time', b'')
    seconds, rest = struct.unpack('<II', value) if len(value) == 8 else (0, 0)
    return int(seconds) * 1_000_000_000 + int(rest)
