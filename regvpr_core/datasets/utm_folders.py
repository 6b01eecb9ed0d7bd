"""Folders whose file names hold the position: `@easting@northing@…@.jpg`.

The convention of gmberton/VPR-datasets-downloader and VPR-methods-evaluation: database and queries
are folders, a reference is right within a radius, and a query without one counts as a miss.
"""

from pathlib import Path

from regvpr_core.datasets.dataset import Dataset, PictureFile
from regvpr_core.datasets.folders import pictures_below, utm_positions
from regvpr_core.datasets.ground_truth import within_radius
from regvpr_core.errors import EvaluationError

DATABASES = ('database', 'gallery', 'references')
QUERIES = ('queries', 'query')


def find_folders(root: Path, splits: tuple[str, ...], queries: tuple[str, ...] = QUERIES,
                 databases: tuple[str, ...] = DATABASES) -> tuple[Path, Path] | None:
    """The database and queries below the root, in one of the splits; None where they are not."""
    for split in splits:
        base = root / split if split else root
        found = [next((base / name for name in names if (base / name).is_dir()), None)
                 for names in (databases, queries)]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    return None


def load_utm(
    root: Path,
    name: str,
    protocol: str,
    *,
    splits: tuple[str, ...] = ('images/test', 'test', ''),
    queries: tuple[str, ...] = QUERIES,
    radius_m: float = 25.0,
    help_text: str = '',
    real_positions: bool = True,
) -> Dataset:
    """Read a data set of the convention.

    Args:
        root: folder above `images/test`, or the one that holds database and queries.
        name, protocol: of the data set.
        splits: where to look, in order.
        queries: names that the folder of queries may have.
        radius_m: a reference is right up to this distance.
        help_text: where to get what is missing.
        real_positions: False where the positions only stand for pairs or frame numbers.

    Raises:
        EvaluationError: a folder is missing or empty, or a name has no position.
    """
    folders = find_folders(root, splits, queries)
    if folders is None:
        places = ' or '.join(str(root / split / DATABASES[0]) for split in splits)
        raise EvaluationError(f'{places} and {queries[0]} beside it are missing'
                              f'{"; " + help_text if help_text else ""}')
    database, asked = (pictures_below(folder, root) for folder in folders)
    return from_positions(database, asked, name, protocol, radius_m, real_positions)


def from_positions(
    database: list[PictureFile], queries: list[PictureFile], name: str, protocol: str,
    radius_m: float, real_positions: bool = True,
) -> Dataset:
    """A data set of pictures named by the convention."""
    reference_xy, query_xy = utm_positions(database), utm_positions(queries)
    return Dataset(
        name=name, protocol=protocol, rule=f'within {radius_m:g} m',
        references=database, queries=queries,
        positives=within_radius(query_xy, reference_xy, radius_m),
        radius_m=radius_m, reference_xy=reference_xy if real_positions else None,
        query_xy=query_xy if real_positions else None)
