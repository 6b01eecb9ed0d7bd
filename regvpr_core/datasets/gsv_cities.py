"""GSV-Cities (Ali-bey et al., 2022, arXiv:2210.10239), as published.

`Dataframes/CITY.csv` with place_id, year, month, northdeg, city_id, lat, lon, panoid, and
`Images/CITY/CITY_0000001_2017_07_090_41.1_-87.6_PANOID.jpg`.
"""

from pathlib import Path

from regvpr_core.datasets.config import DataConfig
from regvpr_core.datasets.folders import below, read_table
from regvpr_core.datasets.place_set import place_set, PlaceSet, wanted
from regvpr_core.errors import TrainingError

COLUMNS = ('place_id', 'year', 'month', 'northdeg', 'city_id', 'lat', 'lon', 'panoid')
HELP = 'get GSV-Cities from kaggle.com/datasets/amaralibey/gsv-cities and unpack it there'


def read_gsv_cities(root: Path, config: DataConfig) -> PlaceSet:
    """Places of all cities, or of the cities named in the config; a city is a group.

    Raises:
        TrainingError: a folder is missing, a row has invalid numbers, or a city is unknown.
        EvaluationError: a CSV file lacks a column.
    """
    tables = sorted((root / 'Dataframes').glob('*.csv'))
    if not tables:
        raise TrainingError(f'{root / "Dataframes"} holds no CITY.csv; {HELP}')
    cities = wanted([table.stem for table in tables], config.only, config.leave_out, str(root))
    paths: list[Path] = []
    names: list[str] = []
    members: list[list[int]] = []
    groups: list[str] = []
    for city in cities:
        table = root / 'Dataframes' / f'{city}.csv'
        if not (root / 'Images' / city).is_dir():
            raise TrainingError(f'folder {root / "Images" / city} is missing; {HELP}')
        of_place: dict[int, list[int]] = {}
        for number, row in enumerate(read_table(table, COLUMNS, HELP), start=2):
            try:
                place, name = int(row['place_id']), picture_name(row)
            except ValueError as error:
                raise TrainingError(f'{table}, line {number}: {error}') from error
            of_place.setdefault(place, []).append(len(paths))
            names.append(f'Images/{city}/{name}')
            paths.append(below(root, names[-1], table))
        members.extend(of_place.values())
        groups.extend([city] * len(of_place))
    return place_set(root.name, paths, names, members, groups)


def picture_name(row: dict[str, str]) -> str:
    """File name of a row; coordinates are written as `repr(float)` does."""
    year, month, bearing = (int(row[key]) for key in ('year', 'month', 'northdeg'))
    lat, lon = float(row['lat']), float(row['lon'])
    return (f'{row["city_id"]}_{int(row["place_id"]) % 10**5:07d}_{year:04d}_{month:02d}_'
            f'{bearing:03d}_{lat}_{lon}_{row["panoid"]}.jpg')
