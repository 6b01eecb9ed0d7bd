"""Search for image files below folders, in natural order."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
import os
from pathlib import Path
import re

from regvpr_core.errors import ImageError

SUFFIXES = frozenset({'.jpg', '.jpeg', '.jpe', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm',
                      '.pgm', '.pnm'})
"""Suffixes of image files that are read, in lower case."""

UNREAD = frozenset({'.heic', '.heif', '.hif', '.avif', '.jxl', '.jp2', '.dng', '.cr2', '.cr3',
                    '.nef', '.arw', '.orf', '.rw2', '.raf', '.gif'})
"""Suffixes of image files that are not read; their number is reported."""


@dataclass(slots=True)
class Found:
    """Image files. left_out: suffix to number of image files that are not read.

    names: below their folder, with slashes.
    """

    names: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def notes(self) -> list[str]:
        """One line for each suffix that is left out."""
        return [f'{count} {suffix} files are left out: convert them to .jpg or .png'
                for suffix, count in sorted(self.left_out.items())]


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts image_2 before image_10."""
    return [(0, int(part), '') if part.isdecimal() else (1, 0, part)
            for part in re.split(r'(\d+)', name) if part]


def find_below(folder: Path, failed: Callable[[OSError], None] | None = None) -> Found:
    """Names of the image files in and below a folder, image_2 before image_10.

    Links to folders are followed, each folder once. Hidden files are skipped: macOS leaves
    `._IMG.jpg` beside `IMG.jpg`.

    Args:
        folder: where to look.
        failed: called with a folder that cannot be listed.
    """
    found = Found()
    visited: set[tuple[int, int]] = set()
    _new(os.fspath(folder), visited)
    for base, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        folders[:] = [name for name in folders
                      if not name.startswith('.') and _new(os.path.join(base, name), visited)]
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if name.startswith('.') or suffix not in SUFFIXES | UNREAD:
                continue
            full = os.path.join(base, name)
            if suffix in UNREAD:
                found.left_out[suffix] += 1
            elif os.path.isfile(full) or os.path.islink(full):
                # A broken link is kept, so that reading it is reported as an error.
                found.names.append(os.path.relpath(full, folder))
    found.names.sort(key=natural)
    return found


def find_images(paths: Iterable[Path], left_out: Counter[str] | None = None) -> list[Path]:
    """Expand paths to image files, each once.

    In the given order; files of one folder in natural order.

    Args:
        paths: files and folders.
        left_out: called with the number of unread image files by suffix.

    Raises:
        ImageError: a path does not exist, a folder cannot be listed, or there is no image.
    """
    def refuse(error: OSError) -> None:
        raise ImageError(f'folder {error.filename} cannot be listed: {error.strerror}')

    files: dict[Path, None] = {}
    unread: Counter[str] = Counter()
    for path in paths:
        if path.is_dir():
            found = find_below(path, refuse)
            files |= dict.fromkeys(path / name for name in found.names)
            unread += found.left_out
        elif path.is_file():
            files[path] = None
        else:
            raise ImageError(f'{path} does not exist')
    if not files:
        also = ''.join(f'; {count} {suffix} files are not read: convert them to .jpg'
                       for suffix, count in sorted(unread.items()))
        raise ImageError(f'no image ({", ".join(sorted(SUFFIXES))}) in '
                         f'{", ".join(map(str, paths))}{also}')
    if left_out is not None:
        left_out.update(unread)
    return list(files)


def _new(folder: str, visited: set[tuple[int, int]]) -> bool:
    """Whether a folder was not visited yet, because links may form a cycle."""
    try:
        state = os.stat(folder)
    except OSError:
        return False
    known = len(visited)
    visited.add((state.st_dev, state.st_ino))
    return len(visited) > known
