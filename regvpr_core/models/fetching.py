"""Fetches a published model by download, or from a given file."""

from collections.abc import Callable
from dataclasses import dataclass
import os
from pathlib import Path
import shutil

import safetensors
from safetensors import safe_open

from regvpr_core.config import nearest
from regvpr_core.errors import CheckpointError
from regvpr_core.models.catalogue import (
    ALIASES,
    canonical,
    CATALOGUE,
    local_file,
    refuse_unbuilt,
)
from regvpr_core.models.downloads import (
    cache_folder,
    check_file,
    download,
    Progress,
    record_digest,
)
from regvpr_core.models.peers import peer_state, read_published


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A fetched file. path, sha256: of the file. was_here: nothing had to be fetched."""

    path: Path
    sha256: str
    was_here: bool


def fetch_model(
    name: str, source: Path | None = None, progress: Progress | None = None,
    notice: Callable[[str], None] | None = None,
) -> Fetched:
    """Fetch a catalogued model into the cache; an existing file is checked again.

    Args:
        name: in `CATALOGUE`, or an alias.
        source: a file of the published layout, instead of a download.
        progress: called during a download.
        notice: called with the licence before anything is fetched.

    Raises:
        CheckpointError: unknown or unsupported name, not reachable, or the file is truncated, of
            another model, or has changed.
    """
    name = canonical(name)
    if name not in CATALOGUE:
        near = nearest(name, (*CATALOGUE, *ALIASES)).partition('; known')[0]
        raise CheckpointError(f'unknown model {name!r}{near}; '
                              f'`regvpr models` lists those that can be fetched')
    entry = CATALOGUE[name]
    refuse_unbuilt(name)
    here = local_file(name)
    if here is not None and source is None:
        published = here.name == entry.file
        digest = check_file(here, entry.size if published else None,
                            entry.sha256 if published else None)
        return Fetched(path=here, sha256=digest, was_here=True)
    if notice:
        notice(f'{name}: {entry.title}; licence {entry.licence}; {entry.page}')
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if source is not None:
        return _take(name, source, folder)
    path = folder / entry.file
    try:
        digest = download(entry.url, path, size=entry.size, sha256=entry.sha256,
                          progress=progress, accept=lambda part: check_layout(name, part))
    except CheckpointError as error:
        raise CheckpointError(f'{error}; a file from elsewhere is taken by `regvpr models fetch '
                              f'{name} --from FILE`') from error
    return Fetched(path=path, sha256=digest, was_here=False)


def check_layout(name: str, path: Path) -> None:
    """Refuse a file that lacks weights of a catalogued model, or has non-finite ones.

    Raises:
        CheckpointError: the message says what is wrong.
    """
    peer_state(name, read_published(path, name), str(path))


def _take(name: str, source: Path, folder: Path) -> Fetched:
    """Copy a given file into the cache under its catalogued name."""
    if not source.is_file():
        raise CheckpointError(f'{source} is a folder; give the file in it' if source.is_dir()
                              else f'{source} does not exist')
    entry = CATALOGUE[name]
    kept = is_safetensors(source)  # by content, not by name
    path = folder / (f'{Path(entry.file).stem}.safetensors' if kept else entry.file)
    published = path.name == entry.file
    digest = check_file(source, entry.size if published else None,
                        entry.sha256 if published else None)
    check_layout(name, source)
    part = path.with_name(f'{path.name}.{os.getpid()}')
    try:
        shutil.copyfile(source, part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    record_digest(path, digest)
    return Fetched(path=path, sha256=digest, was_here=False)


def is_safetensors(path: Path) -> bool:
    """Whether a file is safetensors by its content."""
    try:
        with safe_open(path, framework='np'):
            return True
    except (OSError, safetensors.SafetensorError):
        return False
