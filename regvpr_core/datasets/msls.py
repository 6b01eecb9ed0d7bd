"""Mapillary Street-Level Sequences (Warburg et al., 2020): validation and challenge.

Layout as published: `train_val/CITY/query|database/{images/KEY.jpg, postprocessed.csv, raw.csv,
subtask_index.csv, seq_info.csv}`; the cities of `test` have only the last two tables. Rules of
github.com/mapillary/mapillary_sls for image to image: subtask `all`, no panoramas, right within
25 m, queries without a right reference are removed.
"""

from pathlib import Path

import numpy as np

from regvpr_core.arrays import Float64
from regvpr_core.datasets.dataset import Dataset, PictureFile, REMOVED
from regvpr_core.datasets.folders import below, finite, read_table, require_files, truth
from regvpr_core.datasets.ground_truth import within_radius
from regvpr_core.errors import EvaluationError

VALIDATION = ('cph', 'sf')
CHALLENGE = ('miami', 'athens', 'buenosaires', 'stockholm', 'bengaluru', 'kampala')
RADIUS_M = 25.0
HELP = ('get metadata.zip, images_vol_1.zip to images_vol_6.zip and the patch from '
        'https://www.mapillary.com/dataset/places and unpack all into one folder')


def load_validation(root: Path, name: str, protocol: str, subtask: str = 'all') -> Dataset:
    """The validation set: Copenhagen and San Francisco in one index.

    Raises:
        EvaluationError: a file is missing or its rows do not agree with the others'.
    """
    references: list[PictureFile] = []
    queries: list[PictureFile] = []
    reference_xy: list[Float64] = []
    query_xy: list[Float64] = []
    for city in VALIDATION:
        folder = root / 'train_val' / city
        for side, pictures, positions in (('database', references, reference_xy),
                                          ('query', queries, query_xy)):
            found, xy = _posed(root, folder / side, subtask)
            pictures.extend(found)
            positions.append(xy)
    reference_all, query_all = np.concatenate(reference_xy), np.concatenate(query_xy)
    positives = within_radius(query_all, reference_all, RADIUS_M)
    kept = np.flatnonzero(positives.counts)
    queries_kept = [queries[i] for i in kept]
    require_files([*references, *queries_kept], HELP)
    return Dataset(
        name=name, protocol=protocol,
        rule='within 25 m; subtask all, no panoramas; queries without a positive removed',
        references=references, queries=queries_kept,
        positives=positives.select(kept, np.arange(len(references)), len(references)),
        radius_m=RADIUS_M, reference_xy=reference_all, query_xy=query_all[kept],
        without_positives=REMOVED, removed=len(queries) - len(kept))


def load_challenge(root: Path, name: str, protocol: str) -> Dataset:
    """The challenge set: six cities with hidden positions; predictions are written, not scored.

    Raises:
        EvaluationError: a file is missing or its rows do not agree with the others'.
    """
    references: list[PictureFile] = []
    queries: list[PictureFile] = []
    for city in CHALLENGE:
        for side, pictures in (('database', references), ('query', queries)):
            folder = root / 'test' / city / side
            sequence = folder / 'seq_info.csv'
            keys = [row['key'] for row in read_table(sequence, ('key',), HELP)]
            asked = _subtask(folder, 'all', len(keys), sequence)
            pictures.extend(_picture(root, folder, key, sequence)
                            for key, wanted in zip(keys, asked, strict=True) if wanted)
    require_files([*references, *queries], HELP)
    return Dataset(name=name, protocol=protocol, rule='hidden: a submission file is written',
                   references=references, queries=queries, positives=None)


def submission_lines(dataset: Dataset, ranked: np.ndarray) -> list[str]:
    """`query_key reference_key …` for each query, as the challenge's evaluation reads them.

    Args:
        dataset: the challenge set.
        ranked: (Q, k) indices of references, best first.
    """
    def key(name: str) -> str:
        return Path(name).stem

    return [' '.join([key(query.name), *(key(dataset.references[i].name) for i in row if i >= 0)])
            for query, row in zip(dataset.queries, ranked, strict=True)]


def _posed(root: Path, folder: Path, subtask: str) -> tuple[list[PictureFile], Float64]:
    """Query or database images of a city that belong to the subtask, and UTM positions."""
    table = folder / 'postprocessed.csv'
    rows = read_table(table, ('key', 'easting', 'northing'), HELP)
    raw_table = folder / 'raw.csv'
    raw = read_table(raw_table, ('key', 'pano'), HELP)
    if [row['key'] for row in rows] != [row['key'] for row in raw]:
        raise EvaluationError(f'{table} and {raw_table} do not list the same keys; {HELP}')
    asked = _subtask(folder, subtask, len(rows), table)
    kept = [row for row, about, wanted in zip(rows, raw, asked, strict=True)
            if wanted and not truth(about, 'pano', raw_table)]
    positions = [finite(row, ('easting', 'northing'), table) for row in kept]
    return ([_picture(root, folder, row['key'], table) for row in kept],
            np.array(positions, dtype=np.float64).reshape(-1, 2))


def _subtask(folder: Path, subtask: str, count: int, beside: Path) -> list[bool]:
    path = folder / 'subtask_index.csv'
    rows = read_table(path, (subtask,), HELP)
    if len(rows) != count:
        raise EvaluationError(f'{path} has {len(rows)} rows, {beside} has {count}; {HELP}')
    return [truth(row, subtask, path) for row in rows]


def _picture(root: Path, folder: Path, key: str, source: Path) -> PictureFile:
    path = below(folder / 'images', f'{key}.jpg', source)
    return PictureFile(str(path.relative_to(root)), path)
