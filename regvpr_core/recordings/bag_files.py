"""The files of a recording: their paths, their kinds, and its metadata.yaml."""

from collections import Counter
import contextlib
from pathlib import Path, PurePath
import shutil
import sys
import tempfile
from typing import Any

import yaml

from regvpr_core.errors import BagError
from regvpr_core.recordings.bag1 import MAGIC as BAG1_MAGIC, open_bag1
from regvpr_core.recordings.bag_names import bag_suffix, PACKED
from regvpr_core.recordings.db3 import Db3
from regvpr_core.recordings.mcap import MAGIC as MCAP_MAGIC, Mcap
from regvpr_core.recordings.storage import Storage

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DB3_MAGIC, ZSTD_MAGIC = b'SQLite format 3\0', b'\x28\xb5\x2f\xfd'
MAX_METADATA_BYTES = 50_000_000
SHOWN = 3


def bag_files(path: Path) -> list[Path]:
    """Paths to read: the bag itself, or the bag files in a folder without metadata.

    Raises:
        BagError: there is no bag file.
    """
    if not path.exists():
        raise BagError(f'bag {path} does not exist')
    if not path.is_dir():
        return [path]
    if (path / 'metadata.yaml').exists():
        return _named(path, read_metadata(path)[0])[0]
    files = _inside(path)
    kinds = sorted({bag_suffix(file) for file in files})
    if not files:
        raise BagError(f'bag {path} cannot be read: it has no metadata.yaml and no .bag, .mcap or '
                       f'.db3 file')
    if len(kinds) > 1:
        raise BagError(f'bag {path} cannot be read: it has no metadata.yaml and holds files of '
                       f'several kinds ({", ".join(kinds)}); name them one by one')
    return files


def open_files(path: Path, stack: contextlib.ExitStack) -> tuple[list[Storage], list[str]]:
    """Open the files of a bag, which `stack` closes; also returns notes on irregularities.

    Raises:
        BagError: a file cannot be read.
    """
    notes: list[str] = []
    promised: Counter[str] = Counter()
    files = bag_files(path)
    if path.is_dir() and (path / 'metadata.yaml').exists():
        metadata, problem = read_metadata(path)
        files, notes = _named(path, metadata)
        notes += [problem] if problem else []
        promised = _promised(metadata)
    storages: list[Storage] = []
    for file in files:
        storage = _open_one(file, stack)
        stack.callback(storage.close)
        storages.append(storage)
        notes += storage.notes
    held: Counter[str] = Counter()
    for storage in storages:
        for channel in storage.channels:
            held[channel.topic] += channel.count
    fewer = [f'{held[topic]} of {count} on {topic}' for topic, count in sorted(promised.items())
             if held[topic] < count]
    if fewer:
        more = f' and {len(fewer) - SHOWN} topics more' if len(fewer) > SHOWN else ''
        notes.append(f'metadata.yaml says that there are more messages than the files hold: '
                     f'{", ".join(fewer[:SHOWN])}{more}')
    return storages, notes


def read_metadata(folder: Path) -> tuple[dict[str, Any], str]:
    """Parse the metadata.yaml of a rosbag2 folder; empty with a reason if it is unusable."""
    file = folder / 'metadata.yaml'
    try:
        if file.stat().st_size > MAX_METADATA_BYTES:
            raise ValueError(f'{file.stat().st_size} bytes')
        loaded = yaml.load(file.read_bytes().decode('utf-8', 'backslashreplace'), _LOADER)
        found = loaded['rosbag2_bagfile_information']
        if not isinstance(found, dict):
            raise TypeError('no table')
        return found, ''
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, RecursionError) as error:
        why = ' '.join(str(error).split())[:120]
        return {}, f'{file} cannot be used ({why}): the files beside it are read without it'


_LOADER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


def _named(folder: Path, metadata: dict[str, Any]) -> tuple[list[Path], list[str]]:
    """Existing files named by the metadata, else all bag files of the folder; and notes."""
    listed = metadata.get('relative_file_paths')
    names = [PurePath(str(name)).name for name in listed] if isinstance(listed, list) else []
    there = [folder / name for name in names if (folder / name).is_file()]
    missing = [name for name in names if not (folder / name).is_file()]
    others = [file for file in _inside(folder) if file not in there]
    notes = []
    if missing:
        notes.append(f'metadata.yaml of {folder} names {", ".join(missing[:SHOWN])}, which '
                     f'{"is" if len(missing) == 1 else "are"} not there: the rest is read')
    if there and missing and others:  # a part that was renamed
        notes.append(f'{", ".join(file.name for file in others[:SHOWN])} in {folder} is not named '
                     f'in its metadata.yaml: read as well')
        return sorted([*there, *others]), notes
    if there:
        if others:
            notes.append(f'{", ".join(file.name for file in others[:SHOWN])} in {folder} is not '
                         f'named in its metadata.yaml: not read; name it as a source by itself')
        return there, notes
    if not others:
        raise BagError(f'bag {folder} cannot be read: {"; ".join(notes) or "no file is named"}, '
                       f'and it holds no .mcap or .db3 file')
    return others, notes


def _inside(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if bag_suffix(file) and file.is_file()
                  and not file.name.startswith('.'))


def _promised(metadata: dict[str, Any]) -> Counter[str]:
    """Numbers of messages by topic, from the metadata."""
    found: Counter[str] = Counter()
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        for entry in metadata['topics_with_message_count']:
            found[str(entry['topic_metadata']['name'])] += int(entry['message_count'])
    return found


def _open_one(file: Path, stack: contextlib.ExitStack) -> Storage:
    """Open a file by its first bytes, or by its name if these are unknown."""
    with file.open('rb') as data:
        start = data.read(16)
    if start.startswith(ZSTD_MAGIC):
        file = _unpacked(file, stack)
        with file.open('rb') as data:
            start = data.read(16)
    if start.startswith(BAG1_MAGIC):
        return open_bag1(file)
    if start.startswith(MCAP_MAGIC):
        return Mcap(file)
    if start == DB3_MAGIC:
        return Db3(file)
    if not start:
        raise BagError(f'{file} is empty')
    kind = {'.bag': open_bag1, '.mcap': Mcap, '.db3': Db3}.get(bag_suffix(file))
    if kind is None:
        raise BagError(f'{file} is no bag: its first bytes are those of none')
    opened: Storage = kind(file)
    return opened


def _unpacked(file: Path, stack: contextlib.ExitStack) -> Path:
    """A file compressed by zstd, decompressed into a temporary file."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix='regvpr-bag-')))
    name = file.name
    for end in PACKED:
        name = name.removesuffix(end)
    with file.open('rb') as packed, zstd.open(packed, 'rb') as source, \
            (folder / name).open('wb') as target:
        shutil.copyfileobj(source, target, 1 << 20)
    return folder / name
