"""Read data set folders: file lists, small tables, positions in file names."""

import csv
import io
import os
from pathlib import Path, PurePosixPath

import numpy as np

from regvpr_core.arrays import Float64
from regvpr_core.datasets.dataset import PictureFile
from regvpr_core.errors import EvaluationError
from regvpr_core.images import find_below, SUFFIXES
from regvpr_core.recordings.image_records import utm_name, UtmName

MAX_TABLE_BYTES = 500_000_000
MAX_IMAGES = 10_000_000


def pictures_below(folder: Path, root: Path, *, natural: bool = False) -> list[PictureFile]:
    """All images below a folder, sorted by path; `natural` sorts 10.jpg after 9.jpg.

    Raises:
        EvaluationError: the folder is missing or contains no image.
    """
    if not folder.is_dir():
        raise EvaluationError(f'folder {folder} is missing')
    found = [folder / name for name in find_below(folder).names]
    if not found:
        raise EvaluationError(f'no image ({", ".join(sorted(SUFFIXES))}) in {folder}')
    if len(found) > MAX_IMAGES:
        raise EvaluationError(f'{folder} holds {len(found)} images; at most {MAX_IMAGES}')
    if not natural:
        found.sort(key=str)
    return [PictureFile(str(path.relative_to(root)), path) for path in found]


def below(root: Path, name: str, source: Path) -> Path:
    """Path of a file named in a table; it must lie inside the data set.

    Raises:
        EvaluationError: an absolute path, or one with `..` in it.
    """
    parts = PurePosixPath(name.replace('\\', '/'))
    if parts.is_absolute() or '..' in parts.parts or not parts.parts or '\0' in name:
        raise EvaluationError(f'{source} names the file {name!r}, which is not inside {root}')
    return root.joinpath(*parts.parts)


def require_files(pictures: list[PictureFile], help_text: str) -> None:
    """Check that the image files exist, folder by folder.

    Raises:
        EvaluationError: names the first missing file, their number and the download page.
    """
    there = {folder: set(os.listdir(folder)) if folder.is_dir() else set()
             for folder in {picture.path.parent for picture in pictures}}
    missing = [p for p in pictures if p.path.name not in there[p.path.parent]]
    if missing:
        raise EvaluationError(f'{len(missing)} of {len(pictures)} images are missing, e.g. '
                              f'{missing[0].path}; {help_text}')


def read_table(path: Path, columns: tuple[str, ...], help_text: str) -> list[dict[str, str]]:
    """Rows of a CSV file with a header (at most 500 MB).

    Raises:
        EvaluationError: missing, unreadable, or without a column that is needed.
    """
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise EvaluationError(f'{path} is larger than {MAX_TABLE_BYTES} bytes')
        text = path.read_text(encoding='utf-8')
    except FileNotFoundError as error:
        raise EvaluationError(f'{path} is missing; {help_text}') from error
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f'{path} cannot be read: {error}') from error
    try:
        reader = csv.DictReader(io.StringIO(text), strict=True)
        lacking = [c for c in columns if c not in (reader.fieldnames or ())]
        if lacking:
            found = ', '.join(reader.fieldnames or ())
            other = next((mark for mark in (';', '\t', '|') if mark in found), '')
            raise EvaluationError(
                f'{path} lacks the column {", ".join(lacking)}; it has {found or "none"}'
                + (f': its separator is {other!r}; expected a comma' if other else ''))
        rows = list(reader)
    except csv.Error as error:
        raise EvaluationError(f'{path} is no CSV table: {error}') from error
    for number, row in enumerate(rows, start=2):
        if any(row[c] is None for c in columns):
            raise EvaluationError(f'{path}, line {number}: a column is missing')
    return rows


def truth(row: dict[str, str], column: str, path: Path) -> bool:
    """Parse a True or False of a table.

    Raises:
        EvaluationError: the text is neither.
    """
    value = row[column].strip().lower()
    if value not in ('true', 'false', '1', '0'):
        raise EvaluationError(f'{path}: {column} is {row[column]!r}; expected True or False')
    return value in ('true', '1')


def finite(row: dict[str, str], columns: tuple[str, ...], path: Path) -> list[float]:
    """Parse numbers of a table.

    Raises:
        EvaluationError: a value is not a finite number.
    """
    try:
        values = [float(row[column]) for column in columns]
    except ValueError as error:
        raise EvaluationError(f'{path}: {error} in {columns}') from error
    if not np.isfinite(values).all():
        raise EvaluationError(f'{path}: {values} in {columns}; expected finite numbers')
    return values


def utm_fields(picture: PictureFile) -> UtmName:
    """The fields of the file name `@easting@northing@…@.jpg`.

    Raises:
        EvaluationError: the name does not follow the convention.
    """
    fields = utm_name(picture.path.name)
    if fields is None:
        raise EvaluationError(f'{picture.path} is not named @easting@northing@…@.jpg (metres, as '
                              f'VPR-datasets-downloader names its files)')
    return fields


def utm_positions(pictures: list[PictureFile]) -> Float64:
    """Easting and northing (N, 2) in metres from file names.

    Raises:
        EvaluationError: a name does not follow the convention.
    """
    rows = []
    for picture in pictures:
        fields = utm_fields(picture)
        try:
            position = (float(fields.east), float(fields.north or 0.0))
        except ValueError as error:
            raise EvaluationError(f'{picture.path}: easting {fields.east!r} and northing '
                                  f'{fields.north!r} are no numbers of metres') from error
        rows.append(position)
    positions = np.array(rows, dtype=np.float64).reshape(-1, 2)
    if not np.isfinite(positions).all():
        worst = pictures[int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])]
        raise EvaluationError(f'{worst.path}: its position is not finite')
    return positions
