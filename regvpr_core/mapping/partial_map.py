"""A map that is being built: hidden beside its final place, locked, and ready to be resumed.

    .NAME.partial/            locked by the one build
        map.db …              the keyframes committed so far
        about.json            what is being built from what
        probe.json            what the network made of one picture
        state-0.json, -1.json where the build stood at a number of keyframes, in turns

The state is written before the keyframes are committed: whichever number the map holds after a
crash, one of the two files is of it. The JSON files go when the map has its name; where a crash
came between, they lie in it and nobody reads them.
"""

from collections.abc import Mapping, Sequence
import contextlib
import fcntl
import json
import os
from pathlib import Path
import shutil
import sqlite3
from typing import Any

from regvpr_core.errors import MapError
from regvpr_core.maps.files import connect, Manifest, read_manifest, sync_folder
from regvpr_core.maps.writer import Keyframe, MapWriter

ABOUT = 'about.json'
PROBE = 'probe.json'
STATES = ('state-0.json', 'state-1.json')
MAX_STATE_BYTES = 64_000_000

Facts = Mapping[str, Any]


class PartialMap:
    """Used in a `with` block. What it holds is kept when the block is left, until `finish`."""

    def __init__(self, path: Path, manifest: Manifest, about: Facts, *, resume: bool) -> None:
        """Begin a map, or go on with one.

        Args:
            path: where the map will be.
            manifest: of a new map; one that is resumed keeps its own.
            about: plain values that a resumed build must share, e.g. sources and settings.
            resume: go on where an earlier build stopped, if there was one.

        Raises:
            MapError: `path` exists or cannot be written, another build is at it, one was broken
                off and `resume` is not set, or that one was of something else.
        """
        self.path = path
        self.folder = partial_folder(path)
        refuse_taken(path)
        try:
            self._lock = _lock(self.folder, path)
        except OSError as error:
            raise MapError(f'cannot write map {path}: {error}') from error
        self._open = False
        self._slot = 0
        try:
            if _committed(self.folder):
                if not resume:
                    raise MapError(f'an earlier build of {path} was broken off; go on with it by '
                                   f'--resume, or remove {self.folder} to start again')
                _check_about(self.folder, path, about)
                self.writer = MapWriter.append_to(self.folder)
            else:
                _clear(self.folder)
                self.writer = MapWriter.create(self.folder, manifest)
                _write(self.folder / ABOUT, about)
                sync_folder(self.folder.parent)
            self._open = True
        except BaseException as error:
            os.close(self._lock)
            if isinstance(error, OSError):
                raise MapError(f'cannot write map {path}: {error}') from error
            raise

    def __len__(self) -> int:
        return len(self.writer)

    def __enter__(self) -> 'PartialMap':
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what is committed; a map without a keyframe is removed."""
        self._close()
        if not len(self.writer):
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def state(self) -> dict[str, Any] | None:
        """Where the build stood when the last keyframes were committed; None at the start.

        Raises:
            MapError: the map holds keyframes, and no state is of them.
        """
        if not len(self.writer):
            return None
        for slot, name in enumerate(STATES):
            found = _read(self.folder / name)
            if isinstance(found, dict) and found.get('keyframes') == len(self.writer):
                self._slot = slot
                return found
        raise MapError(f'{self.folder} is damaged: nothing tells how far the build was; remove it '
                       f'to start again')

    def commit(self, keyframes: Sequence[Keyframe], state: Facts) -> None:
        """Add keyframes, and remember where the build stands behind them.

        Raises:
            MapError: as `MapWriter.append`.
        """
        slot = 1 - self._slot  # the file of what is committed now stays until that counts no more
        try:
            _write(self.folder / STATES[slot],
                   {'keyframes': len(self.writer) + len(keyframes), **state})
        except OSError as error:
            raise MapError(f'cannot write map {self.path}: {error}') from error
        self.writer.append(keyframes)
        self._slot = slot

    def same_probe(self, probe: int) -> bool:
        """Whether the build was begun with this number; it is, where none is known."""
        found = _read(self.folder / PROBE)
        if not isinstance(found, dict):
            _write(self.folder / PROBE, {'probe': probe})
            return True
        return bool(found.get('probe') == probe)

    def finish(self) -> None:
        """Close the map and give it its name. Until it has that, the build can be resumed.

        Raises:
            MapError: something has taken the name, or it cannot be given.
        """
        self._close()
        try:
            if os.path.lexists(self.path):
                raise MapError(f'{self.path} has come to be while its map was built; remove it '
                               f'and go on by --resume: the map is kept in {self.folder}')
            (self.folder / 'map.lock').unlink(missing_ok=True)  # later it might be another's
            self.folder.replace(self.path)
            sync_folder(self.path.parent)
            for name in (ABOUT, PROBE, *STATES):
                with contextlib.suppress(OSError):  # the map is whole with them, too
                    (self.path / name).unlink()
            sync_folder(self.path)
        except OSError as error:
            raise MapError(f'cannot write map {self.path}: {error}') from error

    def discard(self) -> None:
        """Remove what was built: a map made from it has the name.

        Raises:
            MapError: it cannot be removed.
        """
        self._close()
        try:
            _clear(self.folder)
            self.folder.rmdir()
        except OSError as error:
            raise MapError(f'cannot remove {self.folder}: {error}') from error

    def _close(self) -> None:
        if self._open:
            self.writer.close()
            self._open = False


def partial_folder(path: Path) -> Path:
    """Where the map lies until it is whole."""
    return path.with_name(f'.{path.name}.partial')


def begun_with(path: Path) -> dict[str, Any] | None:
    """What an unfinished build of this map was about; None where there is none."""
    found = _read(partial_folder(path) / ABOUT)
    return found if isinstance(found, dict) else None


def kept_keyframes(path: Path) -> int:
    """Keyframes of an unfinished build of this map; 0 where there is none, or one goes on."""
    folder = partial_folder(path)
    with contextlib.suppress(MapError):
        return _committed(folder)
    return 0


def refuse_taken(path: Path) -> None:
    """Refuse to build a map where something is; clears what a killed build of it had left over.

    Raises:
        MapError: something is; names an unfinished build that is kept beside it.
    """
    if not os.path.lexists(path):
        return
    folder, more = partial_folder(path), ''
    if _clear_left_over(folder, path):
        more = f'; {folder}, left over from its build, is removed'
    elif kept := kept_keyframes(path):
        more = (f'; {kept} keyframes of an unfinished build are kept in {folder}: --resume goes '
                f'on with them once {path} is gone')
    raise MapError(_taken(path) + more)


def _lock(folder: Path, path: Path) -> int:
    """Make the folder and take it; gives the handle whose closing lets it go."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The build that held it may have finished or removed it meanwhile.
            if folder.exists() and os.path.samestat(os.fstat(handle), folder.stat()):
                return handle
        except BlockingIOError as error:
            os.close(handle)
            raise MapError(f'map {path} is being built by another process') from error
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if os.path.lexists(path):
            raise MapError(_taken(path))


def _taken(path: Path) -> str:
    return f'{path} exists; choose a new folder for the map or remove it'


def _clear(folder: Path) -> None:
    for name in ('map.db', ABOUT):  # first: what is half removed is no build to resume
        (folder / name).unlink(missing_ok=True)
    for item in folder.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


def _clear_left_over(folder: Path, path: Path) -> bool:
    """Remove a partial map that holds nothing more than the map at `path`; whether it did."""
    with contextlib.suppress(OSError, MapError, sqlite3.Error):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _committed(folder) and not _compressed_from(folder, path):
                return False
            _clear(folder)
            folder.rmdir()
            return True
        finally:
            os.close(handle)
    return False


def _compressed_from(folder: Path, path: Path) -> bool:
    """Whether the map at `path` is that in `folder`, whole, with shorter descriptors.

    Raises:
        MapError, sqlite3.Error: one of them cannot be read.
    """
    found = []
    for each in (folder, path):
        with contextlib.closing(connect(each, writable=False)) as database:
            manifest = read_manifest(each, database)
            found.append((manifest.map_id, database.execute(
                'SELECT COUNT(*) FROM keyframe').fetchone()[0]))
    return bool(manifest.compress) and found[0] == found[1]


def _committed(folder: Path) -> int:
    """Keyframes that an earlier build left; 0 where it did not come so far.

    Raises:
        MapError: its map is damaged.
    """
    if not (folder / 'map.db').is_file():
        return 0
    try:
        with MapWriter.append_to(folder) as writer:
            return len(writer)
    except MapError:
        # Killed while it was made: what it is about comes next, descriptors after that.
        rows = folder / 'descriptors.f16'
        if (folder / ABOUT).exists() or (rows.is_file() and rows.stat().st_size):
            raise
        return 0


def _check_about(folder: Path, path: Path, about: Facts) -> None:
    """Refuse to go on with something else; names the first difference.

    Raises:
        MapError: says what it was and what it is.
    """
    was = _read(folder / ABOUT)
    if not isinstance(was, dict):
        raise MapError(f'{folder} is damaged: nothing tells what its map was built from; remove '
                       f'it to start again')
    old, new = _flat(was), _flat(json.loads(json.dumps(about)))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise MapError(
                f'the build of {path} that was broken off had {name} '
                f'{_short(old.get(name))}, this one has {_short(new.get(name))}; give the same '
                f'as then, or remove {folder} to start again')


def _short(value: Any) -> str:
    text = 'none' if value is None else str(value)
    return text if len(text) <= 80 else f'{text[:77]}…'


def _flat(values: Any, name: str = '') -> dict[str, Any]:
    if isinstance(values, dict):
        return {key: leaf for part, value in values.items()
                for key, leaf in _flat(value, f'{name}.{part}' if name else str(part)).items()}
    if isinstance(values, list) and any(isinstance(value, dict) for value in values):
        return {key: leaf for number, value in enumerate(values, start=1)
                for key, leaf in _flat(value, f'{name} {number}').items()}
    return {name: values}


def _write(file: Path, values: Facts) -> None:
    """Afterwards it survives a power cut, a new file's name too."""
    new = not file.exists()
    with file.open('w', encoding='utf-8') as out:
        json.dump(values, out)
        out.flush()
        os.fsync(out.fileno())
    if new:
        sync_folder(file.parent)


def _read(file: Path) -> Any:
    """JSON of a file; None where there is none, or it was not written to its end."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if file.stat().st_size <= MAX_STATE_BYTES:
            return json.loads(file.read_text(encoding='utf-8'))
    return None
