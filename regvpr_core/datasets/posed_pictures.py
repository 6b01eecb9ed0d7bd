"""Places from positions: MSLS and folders of UTM names. A place is a square and a direction."""

import math
from pathlib import Path

import numpy as np

from regvpr_core.arrays import Float64
from regvpr_core.datasets.config import DataConfig
from regvpr_core.datasets.folders import (
    below,
    finite,
    pictures_below,
    read_table,
    truth,
    utm_fields,
    utm_positions,
)
from regvpr_core.datasets.place_set import place_set, PlaceSet, wanted
from regvpr_core.errors import TrainingError

MSLS_VALIDATION = ('cph', 'sf')


def read_msls(root: Path, config: DataConfig) -> PlaceSet:
    """Training cities of MSLS: database and query images together, without panoramas.

    A city is a group. The two cities of the validation set are only taken if named in `only`.

    Raises:
        TrainingError, EvaluationError: a folder or a column is missing.
    """
    base = root / 'train_val'
    found = sorted(p.name for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
    if not found:
        raise TrainingError(f'{base} holds no city; unpack MSLS there (mapillary.com/dataset)')
    cities = [city for city in wanted(found, config.only, config.leave_out, str(base))
              if city not in MSLS_VALIDATION or city in config.only]
    paths: list[Path] = []
    rows: list[tuple[float, float, float]] = []
    groups: list[str] = []
    for city in cities:
        for side in ('database', 'query'):
            folder = base / city / side
            table, raw_table = folder / 'postprocessed.csv', folder / 'raw.csv'
            posed = read_table(table, ('key', 'easting', 'northing'), 'unpack the MSLS metadata')
            raw = {row['key']: row for row in
                   read_table(raw_table, ('key', 'pano', 'ca'), 'unpack the MSLS metadata')}
            for row in posed:
                about = raw.get(row['key'])
                if about is None:
                    raise TrainingError(f'{raw_table} lacks the key {row["key"]!r} of {table}')
                if truth(about, 'pano', raw_table):
                    continue
                east, north = finite(row, ('easting', 'northing'), table)
                paths.append(below(folder / 'images', f'{row["key"]}.jpg', table))
                rows.append((east, north, math.radians(finite(about, ('ca',), raw_table)[0])))
                groups.append(city)
    return from_positions(root, config, paths, np.array(rows).reshape(-1, 3), groups)


def read_utm(root: Path, config: DataConfig) -> PlaceSet:
    """All images below a folder that are named @easting@northing@…; one group.

    Raises:
        EvaluationError: no images, or a name without a position.
    """
    pictures = pictures_below(root, root)
    xy = utm_positions(pictures)
    headings = []
    for picture in pictures:
        try:
            headings.append(math.radians(float(utm_fields(picture).heading or 'nan')))
        except ValueError:
            headings.append(math.nan)
    rows = np.column_stack([xy, headings])
    return from_positions(root, config, [p.path for p in pictures], rows, ['utm'] * len(pictures))


def from_positions(
    root: Path, config: DataConfig, paths: list[Path], rows: Float64, groups: list[str]
) -> PlaceSet:
    """Places of images at (x, y, heading) in m and rad, NaN for an unknown heading."""
    cells = np.floor(rows[:, :2] / config.cell_m).astype(np.int64)
    turn = 2 * math.pi / config.heading_bins
    bins = np.where(np.isfinite(rows[:, 2]),
                    np.floor(np.nan_to_num(rows[:, 2]) / turn) % config.heading_bins, -1)
    of_place: dict[tuple[str, int, int, int], list[int]] = {}
    for number, (group, cell, way) in enumerate(zip(groups, cells, bins, strict=True)):
        of_place.setdefault((group, int(cell[0]), int(cell[1]), int(way)), []).append(number)
    number_of = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    positions = [(number_of[key[0]], *rows[members, :2].mean(axis=0))
                 for key, members in of_place.items()]
    return place_set(root.name, paths, [str(path.relative_to(root)) for path in paths],
                     list(of_place.values()), [key[0] for key in of_place], positions,
                     config.apart)
