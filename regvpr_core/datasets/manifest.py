"""Data sets listed in a CSV file: image, place and split; optionally group, x, y.

Splits: `train` for training; `gallery` and `query` for validation. Image names are relative to
the CSV file. Rows of one place hold the same text in `place`; x and y are metres.
"""

import csv
from pathlib import Path

import numpy as np

from regvpr_core.datasets.config import DataConfig, ValidationConfig
from regvpr_core.datasets.dataset import Dataset, PictureFile
from regvpr_core.datasets.folders import below, finite, read_table
from regvpr_core.datasets.ground_truth import matches, within_radius
from regvpr_core.datasets.place_set import place_set, PlaceSet, wanted
from regvpr_core.errors import TrainingError

COLUMNS = ('image', 'place', 'split')
HELP = 'a manifest is a CSV file with the columns image, place, split[, group, x, y]'

Row = dict[str, str]


def read_manifest(table: Path, config: DataConfig) -> PlaceSet:
    """Rows of one split.

    Raises:
        TrainingError, EvaluationError: the file, a column, a group or the split is missing.
    """
    rows = taken(table, config.only, config.leave_out)
    rows = [row for row in rows if row['split'] == config.split]
    if not rows:
        raise TrainingError(f'{table} has no row of split {config.split!r}')
    of_place: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(rows):
        of_place.setdefault((row['group'], row['place']), []).append(number)
    number_of = {group: i for i, group in enumerate(dict.fromkeys(row['group'] for row in rows))}
    positions = None
    if 'x' in rows[0] and 'y' in rows[0]:
        xy = np.array([finite(row, ('x', 'y'), table) for row in rows])
        positions = [(number_of[group], *xy[members].mean(axis=0))
                     for (group, _), members in of_place.items()]
    names = [row['image'] for row in rows]
    return place_set(table.stem, [below(table.parent, name, table) for name in names], names,
                     list(of_place.values()), [group for group, _ in of_place], positions,
                     config.apart)


def manifest_validation(table: Path, config: ValidationConfig) -> Dataset:
    """Rows of split `query` among those of split `gallery`.

    If the file has x and y, a reference is correct within `radius` metres in the same group. Else
    it is correct if it has the same place.
    """
    rows = taken(table, config.only, config.leave_out)
    gallery = [row for row in rows if row['split'] == 'gallery']
    queries = [row for row in rows if row['split'] == 'query']
    if not gallery or not queries:
        raise TrainingError(f'{table}: {len(gallery)} rows of split gallery and {len(queries)} of '
                            f'split query; both are needed')
    if 'x' in rows[0] and 'y' in rows[0]:
        number_of = {group: i for i, group in enumerate(dict.fromkeys(r['group'] for r in rows))}
        # Groups (towns) are shifted apart so that positions of two groups never match.
        query_xy, gallery_xy = (
            np.array([np.add(finite(row, ('x', 'y'), table), [1e7 * number_of[row['group']], 0.0])
                      for row in side]) for side in (queries, gallery))
        positives = within_radius(query_xy, gallery_xy, config.radius)
        rule = f'within {config.radius:g} m'
    else:
        of_place: dict[tuple[str, str], list[int]] = {}
        for number, row in enumerate(gallery):
            of_place.setdefault((row['group'], row['place']), []).append(number)
        positives = matches(of_place.get((row['group'], row['place']), []) for row in queries)
        rule = 'the same place'

    def pictures(side: list[Row]) -> list[PictureFile]:
        return [PictureFile(r['image'], below(table.parent, r['image'], table)) for r in side]

    return Dataset(name=table.stem, protocol=f'{table.stem}: manifest', rule=rule,
                   references=pictures(gallery), queries=pictures(queries), positives=positives)


def write_manifest(table: Path, rows: list[dict[str, object]]) -> None:
    """Write rows with the columns image, place, split and any others of the first row."""
    with table.open('w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def taken(table: Path, only: tuple[str, ...], leave_out: tuple[str, ...]) -> list[Row]:
    """Rows of the selected groups; without a group column all rows form one group."""
    rows = [{'group': ''} | row for row in read_table(table, COLUMNS, HELP)]
    if not rows:
        raise TrainingError(f'{table} has no rows')
    groups = wanted(list(dict.fromkeys(row['group'] for row in rows)), only, leave_out, str(table))
    return [row for row in rows if row['group'] in groups]
