"""Checks that a path is a recording, with advice if it is not."""

from collections.abc import Iterable
from pathlib import Path
import stat

from regvpr_core.config import nearest
from regvpr_core.errors import BagError, ImageError
from regvpr_core.images.finding import SUFFIXES
from regvpr_core.recordings.bag_names import bag_suffix

TABLE_SUFFIXES = frozenset({'.csv', '.tsv', '.txt', '.tum', '.kitti', '.json'})
TABLE_ADVICE = ('give the folder of images and --table {path}, or the bag and --tum {path}')
"""Advice, in an error, of commands that read tables of poses with these options."""

SHOWN = 5
MAX_LOOKED_AT = 10_000
"""Number of files of a folder that are tested for an image."""


def check_exists(paths: Iterable[Path], expected: str = '') -> None:
    """Refuse paths that do not exist; the message suggests a similar name in the same folder.

    Raises:
        BagError: a path does not exist.
    """
    for path in paths:
        if path.exists():
            continue
        folder = path.absolute().parent
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        hint = nearest(path.name, names).partition('; known')[0]
        hint = hint or (f'; expected {expected}' if expected else '')
        raise BagError(f'{path} does not exist{hint}')


def check_source(path: Path, table_advice: str = TABLE_ADVICE) -> None:
    """Refuse a path that is neither a bag nor a folder with images.

    Args:
        path: as the user gave it.
        table_advice: how the command takes a table of poses; `{path}` in it is the table.

    Raises:
        BagError: the message says what the path is and what to give instead.
    """
    check_exists([path])
    suffix = path.suffix.lower()
    if path.name == 'map.db' or (path / 'map.db').is_file():
        folder = path.parent if path.name == 'map.db' else path
        raise BagError(f'{path} is a place map, not a recording; give the bag or the folder of '
                       f'images, or look at the map: regvpr map info {folder}')
    if path.is_dir():
        _check_folder(path)
    elif not stat.S_ISREG(path.stat().st_mode):
        raise BagError(f'{path} is not a plain file; give a bag or a folder of images')
    elif suffix in TABLE_SUFFIXES:
        raise BagError(f'{path} is a table, not a recording; '
                       f'{table_advice.format(path=path)}')
    elif suffix in SUFFIXES:
        raise BagError(f'{path} is one image; give its folder {path.parent}')
    elif suffix == '.yaml':
        raise BagError(f'{path} is the description of a bag; give its folder {path.parent}')
    elif not bag_suffix(path):
        raise BagError(f'{path} is no recording; expected a ROS 1 .bag, a rosbag2 folder, .mcap, '
                       f'.db3 or a folder of images')


def check_images(paths: Iterable[Path]) -> None:
    """Refuse paths that are neither an image nor a folder, before a model is loaded.

    A file of another suffix is let through: it may be an image without one.

    Raises:
        BagError: a path does not exist.
        ImageError: says what the path is and what to give in its place.
    """
    paths = list(paths)
    check_exists(paths)
    for path in paths:
        if path.name == 'map.db' or (path / 'map.db').is_file():
            raise ImageError(f'{path} is a place map; give images or folders of images')
        if bag_suffix(path) or _is_bag_folder(path):
            raise ImageError(f'{path} is a recording; give images or folders of images, or '
                             f'compare it with a map: regvpr evaluate --references MAP '
                             f'--queries {path}')
        if path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
            raise ImageError(f'{path} is a table; give images or folders of images')


def _is_bag_folder(folder: Path) -> bool:
    return (folder / 'metadata.yaml').is_file() and any(map(bag_suffix, folder.iterdir()))


def _check_folder(folder: Path) -> None:
    """Refuse a folder without a bag or an image, and one that holds several bags."""
    if (folder / 'metadata.yaml').is_file():
        return
    entries = sorted(folder.iterdir())
    bags = [entry for entry in entries if bag_suffix(entry) or (entry / 'metadata.yaml').is_file()]
    # Files of one kind are a split recording without its metadata.yaml.
    kinds = {bag_suffix(bag) if bag.is_file() else '' for bag in bags}
    if len(bags) > 1 and (len(kinds) > 1 or '' in kinds):
        shown = ', '.join(str(bag) for bag in bags[:SHOWN])
        more = f' and {len(bags) - SHOWN} more' if len(bags) > SHOWN else ''
        raise BagError(f'{folder} holds {len(bags)} bags; give one or more of them: {shown}{more}')
    if bags:
        if bags[0].parent == folder and bags[0].is_dir():
            raise BagError(f'{folder} holds the bag {bags[0].name}; give {bags[0]}')
        return
    for number, file in enumerate(folder.rglob('*')):
        if file.suffix.lower() in SUFFIXES:
            return
        if number >= MAX_LOOKED_AT:
            return
    kind = 'is empty' if not entries else 'holds neither a bag nor an image'
    raise BagError(f'{folder} {kind}; give a folder of images, a ROS 1 .bag, a rosbag2 '
                   f'folder, .mcap or .db3')
