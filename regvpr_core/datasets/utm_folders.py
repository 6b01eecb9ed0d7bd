"""Folders whose file names hold the position: `@easting@northing@…@.jpg`.

The convention of gmberton/VPR-datasets-downloader and VPR-methods-evaluation: database and queries
are folders. A reference is correct within a radius. A query without one counts as a miss.
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
    """Database and query folders of the first split found below the root, or None."""
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
    """Read a data set that follows the convention.

    Args:
        root: folder above `images/test`, or the one that holds database and queries.
        name, protocol: of the data set.
        splits: names of splits to try, in order.
        queries: possible names of the query folder.
        radius_m: largest distance of a correct reference.
        help_text: where to get what is missing.
        real_positions: False if positions are placeholders for pairs or frame numbers.

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
    """Build the data set from images named by the convention."""
    reference_xy, query_xy = utm_positions(database), utm_positions(queries)
    return Dataset(
        name=name, protocol=protocol, rule=f'within {radius_m:g} m',
        references=database, queries=queries,
        positives=within_radius(query_xy, reference_xy, radius_m),
        radius_m=radius_m, reference_xy=reference_xy if real_positions else None,
        query_xy=query_xy if real_positions else None)
