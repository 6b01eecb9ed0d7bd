"""Versions of a map: atomic replacement by a new version, and undo.

Earlier versions are beside the map in `.NAME.history/0001`, `0002`, …, the newest with the highest
number. Two folders are exchanged by one system call (`renameat2` with `RENAME_EXCHANGE`, Linux
3.15), so that a complete map has the name even if the process is killed. The new map waits in
`NUMBER.new`, which holds the old map after the exchange, and becomes the version `NUMBER` then.
"""

import ctypes
from dataclasses import dataclass
import errno
import os
from pathlib import Path
import re
import shutil
from typing import Any

from regvpr_core.errors import MapError
from regvpr_core.maps.files import lock_folder, map_bytes, sync_folder
from regvpr_core.maps.place_map import PlaceMap

_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV)
"""Errors of a system or a file system that cannot exchange two folders."""

_EXCHANGE = 2
_AT_FDCWD = -100
_VERSION = re.compile(r'\d{4,9}')
_NEW, _GONE = '.new', '.gone'
"""Endings of the folder that is exchanged with the map, and of a version that is deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One version of a map.

    number: of the version, 0 for the current map. keyframes: their number. note: line by the
    update that made it. size_bytes: on disk.
    """

    number: int
    path: Path
    keyframes: int
    note: str
    size_bytes: int


def history_folder(path: Path) -> Path:
    """Folder that holds the earlier versions of the map `path`, beside the folder it links to."""
    path = path.resolve()
    return path.with_name(f'.{path.name}.history')


def versions(path: Path) -> list[Version]:
    """The current map and its earlier versions, newest first.

    Raises:
        MapError: a version cannot be opened.
    """
    earlier = _folders(path) + [p for p in _folders(path, _NEW) if not _is_newer(p, path)]
    found = [(0, path), *((int(p.stem), p) for p in earlier[::-1])]
    result = []
    for number, folder in found:
        with PlaceMap.open(folder, index='none') as place_map:
            result.append(Version(
                number=number, path=folder, keyframes=len(place_map),
                note=str(update_note(place_map).get('note', '')),
                size_bytes=map_bytes(folder)))
    return result


def update_note(place_map: PlaceMap) -> dict[str, Any]:
    """What the last update wrote into a map's manifest; empty if there is nothing."""
    note = place_map.manifest.config.get('update')
    return note if isinstance(note, dict) else {}


def replace_map(path: Path, new: Path, keep: int) -> None:
    """Replace the map `path` by the finished map `new`; the old one becomes a version.

    Args:
        path: the map; readers that have it open keep the old version.
        new: folder on the same file system; it no longer exists afterwards.
        keep: number of earlier versions to keep; older ones are deleted.

    Raises:
        MapError: the folders cannot be exchanged; both are unchanged.
    """
    path, history = path.resolve(), history_folder(path)
    _settle(path)
    numbers = [int(p.name) for p in _folders(path)]
    version = history / f'{max(numbers, default=0) + 1:04d}'
    waiting = version.with_name(version.name + _NEW)
    try:
        history.mkdir(exist_ok=True)
        new.rename(waiting)
    except OSError as error:
        raise MapError(f'cannot replace map {path}: {error}') from error
    try:
        _exchange(waiting, path)
    except MapError:
        shutil.rmtree(waiting, ignore_errors=True)
        raise
    _settle(path)
    _synced(version, path)
    for folder in _folders(path)[:-keep or None]:
        gone = folder.with_name(folder.name + _GONE)
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def undo(path: Path) -> Version:
    """Exchange the map with its newest earlier version; a second undo reverts this.

    Raises:
        MapError: there is no earlier version, it is damaged, the map is being updated, or the
            folders cannot be exchanged.
    """
    path = path.resolve()
    lock = lock_folder(path)
    try:
        _settle(path)
        found = _folders(path)
        if not found:
            raise MapError(f'map {path} has no earlier version: it was not updated yet, or its '
                           f'earlier versions were removed')
        PlaceMap.open(found[-1], index='none').close()
        _exchange(found[-1], path)
        _synced(found[-1], path)
    finally:
        os.close(lock)
    return versions(path)[0]


def exchange(a: Path, b: Path) -> None:
    """Exchange two folders of one file system atomically.

    Raises:
        OSError: it failed, or the system or file system does not support it.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), 'renameat2', None)
    if renameat2 is None:
        raise OSError(errno.ENOSYS, 'this system cannot exchange two folders in one step')
    if renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _EXCHANGE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(b))


def _exchange(version: Path, path: Path) -> None:
    """Exchange the map with a folder of its history.

    Raises:
        MapError: the folders cannot be exchanged.
    """
    try:
        exchange(version, path)
    except OSError as error:
        hint = '; its file system cannot exchange two folders in one step: move the map and its ' \
            'history to a local disk' if error.errno in _NO_EXCHANGE else ''
        raise MapError(f'cannot replace map {path}: {error}{hint}') from error


def _synced(version: Path, path: Path) -> None:
    """Write the exchange to the disk, so that it survives a power cut.

    Raises:
        MapError: the disk does not take it.
    """
    try:
        sync_folder(version.parent)
        sync_folder(path.parent)
    except OSError as error:
        raise MapError(f'map {path} is replaced, but its disk does not confirm it: '
                       f'{error}') from error


def _settle(path: Path) -> None:
    """Finish what a killed process left in the history of a map; the map is locked.

    Raises:
        MapError: a folder is damaged or cannot be renamed.
    """
    try:
        for waiting in _folders(path, _NEW):
            if _is_newer(waiting, path):  # killed before the exchange: it never was the map
                shutil.rmtree(waiting, ignore_errors=True)
            else:
                waiting.rename(waiting.with_suffix(''))
        for gone in _folders(path, _GONE):
            shutil.rmtree(gone, ignore_errors=True)
    except OSError as error:
        raise MapError(f'cannot keep the earlier version of map {path}: {error}') from error


def _is_newer(waiting: Path, path: Path) -> bool:
    """Whether one map was made by a later update than another."""
    numbers = []
    for folder in (waiting, path):
        with PlaceMap.open(folder, index='none') as place_map:
            number = update_note(place_map).get('number')
            numbers.append(number if isinstance(number, int) else 0)
    return numbers[0] > numbers[1]


def _folders(path: Path, ending: str = '') -> list[Path]:
    """Folders of earlier versions, oldest first, or of those with an ending to their number."""
    history = history_folder(path)
    if not history.is_dir() or history.is_symlink():
        return []
    return sorted((p for p in history.iterdir()
                   if p.name.endswith(ending) and _VERSION.fullmatch(p.name.removesuffix(ending))
                   and p.is_dir() and not p.is_symlink()),
                  key=lambda p: int(p.name.removesuffix(ending)))
