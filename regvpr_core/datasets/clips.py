"""Frames of video clips: `dataset.csv` with image, floor, clip, second. A place is one second.

The place of a second holds the frames of that second and of `window_s` to each side.
"""

from pathlib import Path

import numpy as np

from regvpr_core.datasets.config import DataConfig, ValidationConfig
from regvpr_core.datasets.dataset import Dataset, PictureFile
from regvpr_core.datasets.folders import below, finite, read_table
from regvpr_core.datasets.ground_truth import matches
from regvpr_core.datasets.place_set import place_set, PlaceSet, wanted
from regvpr_core.errors import TrainingError

COLUMNS = ('image', 'floor', 'clip', 'second')
HELP = 'a folder of clips has a table of image, floor, split, clip and second'

Row = dict[str, str]


def read_clips(root: Path, config: DataConfig) -> PlaceSet:
    """Places of all frames (gallery and query) of the selected clips; a floor is a group.

    Raises:
        TrainingError, EvaluationError: the table is missing or lacks a column or a group.
    """
    rows = chosen(root, config.only, config.leave_out, COLUMNS)
    table = root / 'dataset.csv'
    names = [row['image'] for row in rows]
    paths = [below(root, name, table) for name in names]
    at: dict[tuple[str, str], dict[int, list[int]]] = {}
    for number, row in enumerate(rows):
        seconds = at.setdefault((row['floor'], row['clip']), {})
        seconds.setdefault(round(finite(row, ('second',), table)[0]), []).append(number)
    members, groups, positions = [], [], []
    for clip, ((floor, _), seconds) in enumerate(at.items()):
        for second in sorted(seconds):
            window = range(second - config.window_s, second + config.window_s + 1)
            members.append([number for s in window for number in seconds.get(s, ())])
            groups.append(floor)
            positions.append((float(clip), float(second), 0.0))
    return place_set(root.name, paths, names, members, groups, positions, config.apart)


def clips_validation(root: Path, config: ValidationConfig) -> Dataset:
    """Query frames among gallery frames; correct: at most `radius` seconds apart in one clip.

    Queries without a correct gallery frame are removed.
    """
    rows = chosen(root, config.only, config.leave_out, (*COLUMNS, 'split'))
    table = root / 'dataset.csv'
    gallery = [row for row in rows if row['split'] == 'gallery']
    queries = [row for row in rows if row['split'] == 'query']
    if not gallery or not queries:
        raise TrainingError(f'{table}: {len(gallery)} gallery and {len(queries)} query frames are '
                            f'left; both are needed')
    seconds = np.array([finite(row, ('second',), table)[0] for row in gallery])
    clips = np.array([row['clip'] for row in gallery])
    right = [np.flatnonzero((clips == row['clip']) & (
        np.abs(seconds - finite(row, ('second',), table)[0]) <= config.radius)) for row in queries]
    kept = [i for i, found in enumerate(right) if len(found)]

    def pictures(frames: list[Row]) -> list[PictureFile]:
        return [PictureFile(row['image'], below(root, row['image'], table)) for row in frames]

    part = ', '.join((*config.only, *(f'not {name}' for name in config.leave_out)))
    return Dataset(
        name=root.name, protocol=f'{root.name}: clips{f" ({part})" if part else ""}',
        rule=f'the same clip within {config.radius:g} s', references=pictures(gallery),
        queries=pictures([queries[i] for i in kept]), positives=matches(right[i] for i in kept),
        without_positives='removed', removed=len(queries) - len(kept))


def chosen(
    root: Path, only: tuple[str, ...], leave_out: tuple[str, ...], columns: tuple[str, ...]
) -> list[Row]:
    """Rows of the selected floors and clips; names of both kinds may be mixed."""
    rows = read_table(root / 'dataset.csv', columns, HELP)
    known = list(dict.fromkeys(name for row in rows for name in (row['floor'], row['clip'])))
    wanted(known, only, leave_out, str(root))

    def taken(row: Row) -> bool:
        names = (row['floor'], row['clip'])
        return (not only or any(name in only for name in names)) and \
            not any(name in leave_out for name in names)

    rows = [row for row in rows if taken(row)]
    if not rows:
        raise TrainingError(f'{root}: no frame is left; see only and leave_out')
    return rows
