"""Names of recordings and folders in a map."""

from collections.abc import Sequence
from dataclasses import replace
import os
from pathlib import Path

from regvpr_core.recordings.frames import PosedSource
from regvpr_core.recordings.image_records import text_of_name


def path_names(path: Path) -> list[str]:
    """Possible names of a path in a map: its name, with its parent's name, and so on."""
    parts = Path(os.path.abspath(path)).parts[1:]
    longer = ['/'.join(parts[-count:]) for count in range(2, len(parts) + 1)]
    return [text_of_name(name) for name in (path.absolute().name, *longer)]


def distinct(sources: Sequence[PosedSource], paths: Sequence[Path]) -> list[PosedSource]:
    """Make the names of different paths unique by adding parents' names.

    Keyframes of sources with equal names would count as one drive.
    """
    names = [source.name for source in sources]
    found = list(sources)
    for name in {name for name in names if names.count(name) > 1}:
        alike = {i: path_names(path) for i, path in enumerate(paths) if names[i] == name}
        count, depth = len({known[-1] for known in alike.values()}), 0
        while len({_at(known, depth) for known in alike.values()}) < count:
            depth += 1
        for i, known in alike.items():
            if depth:
                found[i] = _renamed(sources[i], _at(known, depth))
    return found


def _at(names: Sequence[str], depth: int) -> str:
    return names[min(depth, len(names) - 1)]


def _renamed(source: PosedSource, name: str) -> PosedSource:
    return replace(
        source, name=name, identity={**source.identity, 'name': name},
        frames=lambda: (replace(frame, source=name) for frame in source.frames()))
