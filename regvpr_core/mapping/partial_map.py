"""An unfinished map: hidden beside its final path, locked, and resumable.

    .NAME.partial/            locked by the one build
        map.db …              the keyframes committed so far
        about.json            sources and settings of the build
        probe.json            checksum of the descriptor of a test image
        state-0.json, -1.json position in the stream at a number of keyframes, alternating

The state is written before the keyframes are committed, so that after a crash one of the two files
belongs to the keyframes in the map. The JSON files are deleted once the map has its name; files
left by a crash at that moment are ignored.
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
    """Context manager. Committed keyframes remain on disk when the block is left."""

    def __init__(self, path: Path, manifest: Manifest, about: Facts, *, resume: bool) -> None:
        """Create a partial map, or open one to resume it.

        Args:
            path: final path of the map.
            manifest: of a new map; a resumed one keeps its own.
            about: plain values that must be equal in a resumed build, e.g. sources and settings.
            resume: continue an interrupted build, if there is one.

        Raises:
            MapError: `path` exists or cannot be written, another build uses it, an interrupted
                build exists and `resume` is not set, or `about` differs.
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
                    raise MapError(f'an earlier build of {path} was interrupted; continue it with '
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
        """Close the map; a map without keyframes is deleted."""
        self._close()
        if not len(self.writer):
            shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def state(self) -> dict[str, Any] | None:
        """State of the build at the last committed keyframes; None at the start.

        Raises:
            MapError: no stored state belongs to the keyframes of the map.
        """
        if not len(self.writer):
            return None
        for slot, name in enumerate(STATES):
            found = _read(self.folder / name)
            if isinstance(found, dict) and found.get('keyframes') == len(self.writer):
                self._slot = slot
                return found
        raise MapError(f'{self.folder} is damaged: the state of the build cannot be read; remove '
                       f'it to start again')

    def commit(self, keyframes: Sequence[Keyframe], state: Facts) -> None:
        """Commit keyframes with the state of the build after them.

        Raises:
            MapError: as `MapWriter.append`.
        """
        slot = 1 - self._slot  # keep the state of the keyframes committed so far
        try:
            _write(self.folder / STATES[slot],
                   {'keyframes': len(self.writer) + len(keyframes), **state})
        except OSError as error:
            raise MapError(f'cannot write map {self.path}: {error}') from error
        self.writer.append(keyframes)
        self._slot = slot

    def same_probe(self, probe: int) -> bool:
        """Whether the checksum equals that of the first run; it is stored if there is none."""
        found = _read(self.folder / PROBE)
        if not isinstance(found, dict):
            _write(self.folder / PROBE, {'probe': probe})
            return True
        return bool(found.get('probe') == probe)

    def finish(self) -> None:
        """Close the map and rename it to its final path. Until then the build can be resumed.

        Raises:
            MapError: the path exists by now, or the folder cannot be renamed.
        """
        self._close()
        try:
            if os.path.lexists(self.path):
                raise MapError(f'{self.path} was created by another program during the build; '
                               f'remove it and continue with --resume: the map is in '
                               f'{self.folder}')
            (self.folder / 'map.lock').unlink(missing_ok=True)  # the lock of the build is released
            self.folder.replace(self.path)
            sync_folder(self.path.parent)
            for name in (ABOUT, PROBE, *STATES):
                with contextlib.suppress(OSError):  # the map is complete even with them
                    (self.path / name).unlink()
            sync_folder(self.path)
        except OSError as error:
            raise MapError(f'cannot write map {self.path}: {error}') from error

    def discard(self) -> None:
        """Delete the partial map, because a compressed map made from it has the name.

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
    """Folder of the map until it is complete."""
    return path.with_name(f'.{path.name}.partial')


def begun_with(path: Path) -> dict[str, Any] | None:
    """The `about` values of an unfinished build of this map; None without one."""
    found = _read(partial_folder(path) / ABOUT)
    return found if isinstance(found, dict) else None


def kept_keyframes(path: Path) -> int:
    """Number of keyframes of an interrupted build of this map; 0 if there is none."""
    folder = partial_folder(path)
    with contextlib.suppress(MapError):
        return _committed(folder)
    return 0


def refuse_taken(path: Path) -> None:
    """Refuse an existing path; delete the partial map left by a build that was killed at its end.

    Raises:
        MapError: the path exists, or an unfinished build is beside it.
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
    """Create and lock the folder; closing the returned handle releases the lock."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The build that held the lock may have renamed or deleted the folder meanwhile.
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
    for name in ('map.db', ABOUT):  # first, so that a partly deleted folder is not resumed
        (folder / name).unlink(missing_ok=True)
    for item in folder.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


def _clear_left_over(folder: Path, path: Path) -> bool:
    """Delete a partial map if the map at `path` was made from it; True if it was."""
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
    """Whether the map at `path` is the compressed form of the complete map in `folder`.

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
    """Number of keyframes of an earlier build; 0 if it had committed none.

    Raises:
        MapError: its map is damaged.
    """
    if not (folder / 'map.db').is_file():
        return 0
    try:
        with MapWriter.append_to(folder) as writer:
            return len(writer)
    except MapError:
        # Killed during creation: about.json is written next, and descriptors after it.
        rows = folder / 'descriptors.f16'
        if (folder / ABOUT).exists() or (rows.is_file() and rows.stat().st_size):
            raise
        return 0


def _check_about(folder: Path, path: Path, about: Facts) -> None:
    """Refuse to resume a build with other sources or settings.

    Raises:
        MapError: names the first difference with both values.
    """
    was = _read(folder / ABOUT)
    if not isinstance(was, dict):
        raise MapError(f'{folder} is damaged: its sources and settings cannot be read; remove '
                       f'it to start again')
    old, new = _flat(was), _flat(json.loads(json.dumps(about)))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            raise MapError(
                f'the interrupted build of {path} had {name} {_short(old.get(name))}, this one '
                f'has {_short(new.get(name))}; give the same value, or remove {folder} to start '
                f'again')


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
    """Write a file and sync it with its folder, so that it survives a power cut."""
    new = not file.exists()
    with file.open('w', encoding='utf-8') as out:
        json.dump(values, out)
        out.flush()
        os.fsync(out.fileno())
    if new:
        sync_folder(file.parent)


def _read(file: Path) -> Any:
    """Parse a JSON file; None if it is absent or incomplete."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if file.stat().st_size <= MAX_STATE_BYTES:
            return json.loads(file.read_text(encoding='utf-8'))
    return None
