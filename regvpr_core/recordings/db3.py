"""Reads rosbag2's SQLite files, also with a leftover write-ahead log, truncated or damaged."""

from collections import Counter
from collections.abc import Collection, Iterator
import contextlib
from pathlib import Path
import shutil
import sqlite3
import tempfile
import urllib.parse

from regvpr_core.errors import BagError
from regvpr_core.recordings.storage import CDR, Channel, Message, ros2_name

LOGS = ('-wal', '-journal')
MAX_ROWS = 1_000_000_000
_PAGES_AT = 28


class Db3:
    """One open file."""

    def __init__(self, path: Path) -> None:
        """Open a file and read its topics; the file is not changed.

        Raises:
            BagError: it is no rosbag2 file, or its topics are unreadable.
        """
        self._path = path
        self.notes: list[str] = []
        self._rows: list[tuple[int, int, int]] | None = None
        self._stack = contextlib.ExitStack()
        try:
            self._database = self._open()
            self._topics = self._read_topics()
            self._counts, self.span_ns = self._read_counts()
        except sqlite3.Error as error:
            self._stack.close()
            raise BagError(f'{path} is no rosbag2 file, or damaged: {error}; `sqlite3 '
                           f'{path.name} .recover` may mend it') from error
        except BaseException:
            self._stack.close()
            raise
        self.channels = [Channel(number, *about, self._counts[number])
                         for number, about in self._topics.items()]

    def messages(self, ids: Collection[int]) -> Iterator[Message]:
        """The messages of these channels in order of time.

        Raises:
            BagError: the file is damaged.
        """
        try:
            if self._rows is None:
                marks = ','.join('?' * len(ids))
                yield from self._database.execute(
                    f'SELECT timestamp, topic_id, data FROM messages WHERE topic_id IN ({marks}) '
                    f'ORDER BY timestamp, id', tuple(ids))
                return
            for time_ns, number, topic in sorted(self._rows):
                if topic in ids:
                    with contextlib.suppress(sqlite3.DatabaseError):
                        row = self._database.execute(
                            'SELECT data FROM messages WHERE id = ?', (number,)).fetchone()
                        if row is not None and isinstance(row[0], bytes):
                            yield time_ns, topic, row[0]
        except sqlite3.Error as error:
            raise BagError(f'{self._path} is damaged: {error}; `sqlite3 {self._path.name} '
                           f'.recover` may mend it') from error

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def _open(self) -> sqlite3.Connection:
        """Open the database with the write-ahead log left by a killed recorder."""
        logs = [log for end in LOGS
                if (log := self._path.with_name(self._path.name + end)).is_file()
                and log.stat().st_size]
        pages = 0 if logs else self._pages_there()
        if not logs and not pages:
            return self._connect(self._path, 'immutable=1')
        if logs:
            self.notes.append(f'{self._path.name} was not closed: {logs[0].name} is read with it')
        # SQLite writes files beside the database to read the log.
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix='regvpr-bag-')))
        size = sum(file.stat().st_size for file in (self._path, *logs))
        if shutil.disk_usage(folder).free < 2 * size:
            why = 'is cut short' if pages else 'was not closed'
            raise BagError(f'{self._path} {why}, and there is no room for a copy of its '
                           f'{size / 1e9:.1f} GB; `sqlite3 {self._path.name} '
                           f'{".recover" if pages else "VACUUM"}` mends it')
        for file in (self._path, *logs):
            shutil.copyfile(file, folder / file.name)
        if pages:
            with (folder / self._path.name).open('r+b') as copy:
                copy.seek(_PAGES_AT)
                copy.write(pages.to_bytes(4, 'big'))
        return self._connect(folder / self._path.name, 'mode=rw')

    def _pages_there(self) -> int:
        """Number of complete pages, if the file has fewer than its header states; else 0.

        SQLite refuses such a file.
        """
        with self._path.open('rb') as file:
            head = file.read(100)
        page_bytes = int.from_bytes(head[16:18], 'big')
        page_bytes = 65_536 if page_bytes == 1 else page_bytes
        said = int.from_bytes(head[_PAGES_AT:_PAGES_AT + 4], 'big')
        there = self._path.stat().st_size // page_bytes if page_bytes else 0
        return there if there < said else 0

    def _connect(self, path: Path, mode: str) -> sqlite3.Connection:
        name = urllib.parse.quote(str(path.absolute()))
        database = sqlite3.connect(f'file:{name}?{mode}', uri=True, check_same_thread=False)
        self._stack.callback(database.close)
        database.text_factory = lambda raw: raw.decode('utf-8', 'backslashreplace')
        return database

    def _read_topics(self) -> dict[int, tuple[str, str, str, str, str]]:
        """Topic, type, serialization and definition of each channel, by id."""
        definitions: dict[str, tuple[str, str]] = {}
        with contextlib.suppress(sqlite3.Error):
            definitions = {str(kind): (str(encoding), str(text)) for kind, encoding, text
                           in self._database.execute(
                               'SELECT topic_type, encoding, encoded_message_definition '
                               'FROM message_definitions')}
        return {int(number): (str(name), ros2_name(str(kind)), str(form or CDR),
                              *definitions.get(str(kind), ('', '')))
                for number, name, kind, form in self._database.execute(
                    'SELECT id, name, type, serialization_format FROM topics')}

    def _read_counts(self) -> 'tuple[Counter[int], tuple[int, int] | None]':
        try:
            counts = Counter(dict(self._database.execute(
                'SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id')))
            first, last = self._database.execute(
                'SELECT MIN(timestamp), MAX(timestamp) FROM messages').fetchone()
            return counts, None if first is None else (int(first), int(last))
        except sqlite3.DatabaseError:
            return self._salvage()

    def _salvage(self) -> 'tuple[Counter[int], tuple[int, int] | None]':
        """Read row by row up to the end of the readable part."""
        self._rows = []
        with contextlib.suppress(sqlite3.DatabaseError):
            for number, topic, time_ns in self._database.execute(
                    'SELECT id, topic_id, timestamp FROM messages NOT INDEXED ORDER BY id'):
                self._rows.append((int(time_ns), int(number), int(topic)))
        with contextlib.suppress(sqlite3.DatabaseError):
            # A large message may lie beyond the end of the file.
            while self._rows and not self._is_whole(self._rows[-1][1]):
                self._rows.pop()
        if not self._rows:
            raise BagError(f'{self._path} is damaged or cut short: no message of it can be read; '
                           f'`sqlite3 {self._path.name} .recover` may get more out of it')
        self.notes.append(
            f'{self._path.name} is damaged or cut short: its first {len(self._rows)} messages '
            f'are read; `sqlite3 {self._path.name} .recover` may get more out of it')
        times = [time_ns for time_ns, _, _ in self._rows]
        return Counter(topic for _, _, topic in self._rows), (min(times), max(times))

    def _is_whole(self, number: int) -> bool:
        try:
            row = self._database.execute('SELECT data FROM messages WHERE id = ?',
                                         (number,)).fetchone()
        except sqlite3.DatabaseError:
            return False
        return row is not None
