"""Reads MCAP files (mcap.dev/spec), complete or truncated, with or without an index.

Without an index the file is scanned from its start, and complete records are used. Schemas are
parsed only for channels that are read.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
import struct
import sys
import zlib

from lz4.frame import decompress as lz4_decompress

from regvpr_core.errors import BagError
from regvpr_core.recordings.storage import Block, CDR, Channel, in_order, Message, ros2_name

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b'\x89MCAP0\r\n'
MAX_RECORD_BYTES = 4_000_000_000
MAX_CHUNK_BYTES = 2_000_000_000
_HEADER, _FOOTER, _SCHEMA, _CHANNEL, _MESSAGE, _CHUNK = 1, 2, 3, 4, 5, 6
_CHUNK_INDEX, _STATISTICS, _DATA_END = 8, 11, 15
_FOOTER_BYTES = 9 + 20 + len(MAGIC)


class Mcap:
    """One open file."""

    def __init__(self, path: Path) -> None:
        """Open a file and read its channels.

        Raises:
            BagError: it is no MCAP, or damaged.
        """
        self._path = path
        self.notes: list[str] = []
        self._schemas: dict[int, tuple[str, str, str]] = {}
        self._channels: dict[int, tuple[int, str, str]] = {}
        self._counts: Counter[int] = Counter()
        self._blocks: list[Block] = []
        self._loose: list[tuple[int, int, int, int]] = []
        self._file = path.open('rb')
        try:
            self._size = path.stat().st_size
            if self._file.read(len(MAGIC)) != MAGIC:
                raise BagError(f'{path} is no MCAP file: its first bytes are others')
            if not self._read_summary():
                self._scan()
        except BaseException:
            self._file.close()
            raise
        if self._loose:
            self._loose.sort()
            self._blocks += self._loose_blocks()
        self.channels = [self._channel(number) for number in self._channels]

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """First and last time of recording."""
        spans = [block for block in self._blocks if block.counts is None or block.counts]
        if not spans:
            return None
        return min(b.start_ns for b in spans), max(b.end_ns for b in spans)

    def messages(self, ids: Collection[int]) -> Iterator[Message]:
        """The messages of these channels in order of time.

        Raises:
            BagError: a chunk is damaged.
        """
        return in_order(self._blocks, ids)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _channel(self, number: int) -> Channel:
        schema, topic, serialization = self._channels[number]
        name, encoding, definition = self._schemas.get(schema, ('', '', ''))
        if not serialization and encoding in ('ros2msg', 'ros2idl'):
            serialization = CDR
        return Channel(number, topic, ros2_name(name), serialization, encoding, definition,
                       self._counts[number])

    def _read_summary(self) -> bool:
        """Read channels, counts and chunks from the index; False if it is missing or unusable."""
        if self._size < len(MAGIC) + _FOOTER_BYTES:
            return False
        self._file.seek(self._size - _FOOTER_BYTES)
        footer = self._file.read()
        start = struct.unpack_from('<Q', footer, 9)[0]
        if footer[-len(MAGIC):] != MAGIC or footer[0] != _FOOTER \
                or not len(MAGIC) <= start <= self._size - _FOOTER_BYTES:
            return False
        blocks, counts, messages = [], None, 0
        for op, body, _ in self._records(start, self._size - _FOOTER_BYTES):
            if op in (_SCHEMA, _CHANNEL):
                self._define(op, body)
            elif op == _STATISTICS and len(body) >= 46:
                messages = struct.unpack_from('<Q', body)[0]
                counts = _counts(body[46:46 + struct.unpack_from('<I', body, 42)[0]])
            elif op == _CHUNK_INDEX and len(body) >= 36:
                first, last, at, size, length = struct.unpack_from('<QQQQI', body)
                if at + size > self._size:
                    return self._forget()
                places = body[36:36 + length]
                holds = {channel: 1 for channel, _ in struct.iter_unpack(
                    '<HQ', places[:len(places) // 10 * 10])} or None
                blocks.append(Block(first, last, self._loader(at), holds))
        if counts is None or not self._channels or (messages and not blocks):
            return self._forget()
        self._blocks, self._counts = blocks, counts
        return True

    def _forget(self) -> bool:
        self._schemas.clear()
        self._channels.clear()
        return False

    def _scan(self) -> None:
        """Scan the file from its start for complete records."""
        at, ended = len(MAGIC), False
        for op, body, end in self._records(at, self._size, whole_only=True):
            if op in (_SCHEMA, _CHANNEL):
                self._define(op, body)
            elif op == _MESSAGE and len(body) >= 22:
                channel, _, time_ns = struct.unpack_from('<HIQ', body)
                self._loose.append((time_ns, channel, end - len(body) + 22, len(body) - 22))
                self._counts[channel] += 1
            elif op == _CHUNK:
                self._index_chunk(body, end - len(body) - 9)
            at = end
            if op in (_DATA_END, _FOOTER):
                ended = True
                break
        if not ended:
            self.notes.append(
                f'{self._path.name} is cut short: its end is missing, and '
                f'{(self._size - at) / 1e6:.3f} of {self._size / 1e6:.3f} MB behind the last '
                f'whole chunk; what is whole is read. `mcap recover {self._path.name} -o OUT` '
                f'writes a file with an index')
            if not self._channels:
                raise BagError(f'{self._path} is cut short before its first whole chunk '
                               f'({self._size} bytes); `mcap recover` may get more out of it')

    def _index_chunk(self, body: bytes, at: int) -> None:
        """Index the content of a chunk."""
        try:
            content = self._unpack(body)
        except BagError as error:
            self.notes.append(f'{error}: left out')
            return
        times, counts = [], Counter[int]()
        for op, record in _inside(content):
            if op in (_SCHEMA, _CHANNEL):
                self._define(op, record)
            elif op == _MESSAGE and len(record) >= 22:
                channel, _, time_ns = struct.unpack_from('<HIQ', record)
                times.append(time_ns)
                counts[channel] += 1
        if times:
            self._blocks.append(Block(min(times), max(times), self._loader(at), dict(counts)))
            self._counts += counts

    def _loader(self, at: int) -> 'ChunkLoader':
        return ChunkLoader(self, at)

    def load_chunk(self, at: int) -> Iterator[Message]:
        """The messages of the chunk at a file offset."""
        self._file.seek(at)
        head = self._file.read(9)
        if len(head) < 9 or head[0] != _CHUNK:
            raise BagError(f'{self._path} is damaged: no chunk at byte {at}; `mcap recover` may '
                           f'mend it')
        size = struct.unpack('<Q', head[1:])[0]
        if size > min(MAX_RECORD_BYTES, self._size):
            raise BagError(f'{self._path} is damaged: a chunk of {size} bytes at byte {at}')
        content = self._unpack(self._file.read(size), at)
        for op, record in _inside(content):
            if op == _MESSAGE and len(record) >= 22:
                channel, _, time_ns = struct.unpack_from('<HIQ', record)
                yield time_ns, channel, record[22:]

    def _unpack(self, body: bytes, at: int | None = None) -> bytes:
        """The records in a chunk."""
        where = f'{self._path.name}: a chunk' + (f' at byte {at}' if at is not None else '')
        try:
            size, crc = struct.unpack_from('<QI', body, 16)
            name_bytes = struct.unpack_from('<I', body, 28)[0]
            name = body[32:32 + name_bytes].decode('ascii', 'replace')
            packed = struct.unpack_from('<Q', body, 32 + name_bytes)[0]
        except struct.error as error:
            raise BagError(f'{where} is damaged') from error
        data = body[40 + name_bytes:40 + name_bytes + packed]
        if size > MAX_CHUNK_BYTES or len(data) != packed:
            raise BagError(f'{where} is damaged: {len(data)} of {packed} bytes, {size} unpacked')
        try:
            if name == 'zstd':
                data = zstd.ZstdDecompressor().decompress(data, max_length=size + 1)
            elif name == 'lz4':
                data = lz4_decompress(data)
            elif name:
                raise BagError(f'{where} is packed by {name!r}, which is not known')
        except (zstd.ZstdError, RuntimeError, EOFError, ValueError, MemoryError) as error:
            raise BagError(f'{where} is damaged: {error}; `mcap recover` leaves it out') from error
        if len(data) != size or (crc and zlib.crc32(data) != crc):
            raise BagError(f'{where} is damaged: its checksum or size is wrong; `mcap recover` '
                           f'leaves it out')
        return data

    def _loose_blocks(self) -> Iterator[Block]:
        """Messages outside chunks, in blocks of a thousand."""
        for i in range(0, len(self._loose), 1000):
            part = self._loose[i:i + 1000]
            yield Block(part[0][0], part[-1][0], LooseLoader(self, part),
                        dict(Counter(channel for _, channel, _, _ in part)))

    def load_loose(self, part: list[tuple[int, int, int, int]]) -> Iterator[Message]:
        """Messages outside chunks."""
        for time_ns, channel, at, size in part:
            self._file.seek(at)
            yield time_ns, channel, self._file.read(size)

    def _define(self, op: int, body: bytes) -> None:
        """Read a schema or channel; a damaged one is ignored."""
        try:
            if op == _SCHEMA:
                number, at = struct.unpack_from('<H', body)[0], 2
                name, at = _text(body, at)
                encoding, at = _text(body, at)
                definition, at = _text(body, at)
                self._schemas[number] = (name, encoding, definition)
            else:
                number, schema = struct.unpack_from('<HH', body)
                topic, at = _text(body, 4)
                serialization, at = _text(body, at)
                self._channels[number] = (schema, topic, serialization)
        except (struct.error, IndexError):
            return

    def _records(self, at: int, end: int, *, whole_only: bool = False
                 ) -> Iterator[tuple[int, bytes, int]]:
        """Opcode, content and end of the records between two file offsets.

        The content of unneeded records is skipped.
        """
        while at + 9 <= end:
            self._file.seek(at)
            head = self._file.read(9)
            if len(head) < 9 or head == MAGIC[:len(head)]:
                return
            op, size = head[0], struct.unpack('<Q', head[1:])[0]
            if at + 9 + size > end or size > MAX_RECORD_BYTES:
                return
            if whole_only and op not in (_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK):
                body = b''
            else:
                body = self._file.read(size)
            at += 9 + size
            yield op, body, at


class ChunkLoader:
    """Loads one chunk; called when its messages are needed."""

    def __init__(self, mcap: Mcap, at: int) -> None:
        self._mcap, self._at = mcap, at

    def __call__(self) -> Iterator[Message]:
        return self._mcap.load_chunk(self._at)


class LooseLoader:
    """Loads messages that lie outside chunks; called when they are needed."""

    def __init__(self, mcap: Mcap, part: list[tuple[int, int, int, int]]) -> None:
        self._mcap, self._part = mcap, part

    def __call__(self) -> Iterator[Message]:
        return self._mcap.load_loose(self._part)


def _inside(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Opcode and content of the complete records in a chunk."""
    at = 0
    while at + 9 <= len(content):
        size = struct.unpack_from('<Q', content, at + 1)[0]
        if at + 9 + size > len(content):
            return
        yield content[at], content[at + 9:at + 9 + size]
        at += 9 + size


def _text(body: bytes, at: int) -> tuple[str, int]:
    """A text and the offset of the next field; invalid UTF-8 is escaped."""
    size = struct.unpack_from('<I', body, at)[0]
    if at + 4 + size > len(body):
        raise IndexError
    return body[at + 4:at + 4 + size].decode('utf-8', 'backslashreplace'), at + 4 + size


def _counts(body: bytes) -> 'Counter[int]':
    return Counter(dict(struct.iter_unpack('<HQ', body[:len(body) // 10 * 10])))
