"""The user's own data: references and queries, each a place map or a folder with positions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from regvpr_core.arrays import Float64
from regvpr_core.config import check_range
from regvpr_core.datasets.dataset import Dataset, GivenDescriptors, Picture, PictureFile
from regvpr_core.datasets.folders import (
    below,
    finite,
    pictures_below,
    read_table,
    require_files,
    utm_positions,
)
from regvpr_core.datasets.ground_truth import within_radius
from regvpr_core.errors import EvaluationError, ImageError
from regvpr_core.images import encode_jpeg
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.search.projection import read_projection

POSITIONS = 'positions.csv'
DEFAULT_FRAME = 'map'
HELP = (f'a folder has images named @x@y@….jpg, or {POSITIONS} with the columns image, x, y '
        f'(metres)')


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """References or queries: images, positions (N, 2) in metres, descriptors if stored.

    place_map: the open map it reads from, until `close`. world: name of the frame of the
    positions, '' if unknown. origin: lat_deg, lon_deg, alt_m of the frame, if georeferenced.
    """

    pictures: Sequence[Picture]
    xy: Float64
    given: GivenDescriptors | None = None
    place_map: PlaceMap | None = None
    world: str = ''
    origin: dict[str, float] = field(default_factory=dict)

    def close(self) -> None:
        """Close the map, if there is one."""
        if self.place_map is not None:
            self.place_map.close()


@dataclass(frozen=True, slots=True, eq=False)
class MapPicture:
    """The thumbnail of a keyframe."""

    place_map: PlaceMap
    keyframe: int

    @property
    def name(self) -> str:
        """Number of the keyframe and name of the map."""
        return f'{self.place_map.path.name}, keyframe {self.keyframe}'

    def encoded(self) -> bytes:
        """The thumbnail as JPEG.

        Raises:
            ImageError: the keyframe has no thumbnail.
        """
        rgb = self.place_map.thumbnail(self.keyframe)
        if rgb is None:
            raise ImageError(f'{self.name} has no thumbnail')
        return encode_jpeg(rgb)


class MapRows:
    """Descriptors (N, D) of an open map, read from disk block by block."""

    def __init__(self, place_map: PlaceMap) -> None:
        self._map = place_map

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of keyframes N and length D of a descriptor."""
        return (len(self._map), self._map.manifest.dimension)

    def __getitem__(self, rows: npt.NDArray[np.int64], /) -> npt.NDArray[np.float32]:
        """Unit rows of these keyframes, read as one block, so ids should be close."""
        if not len(rows):
            return np.zeros((0, self.shape[1]), dtype=np.float32)
        low, high = int(rows.min()), int(rows.max()) + 1
        return self._map.descriptors(low, high)[rows - low]


def map_side(path: Path) -> Side:
    """All keyframes of a place map, with its own descriptors.

    Raises:
        MapError: the folder is no map, or the map is damaged or of a newer format.
    """
    place_map = PlaceMap.open(path, index='none')
    manifest, project = place_map.manifest, None
    if manifest.compress:
        project = read_projection(manifest.compress, place_map.attachment('pca'),
                                  manifest.dimension, str(path)).apply
    return Side(
        pictures=[MapPicture(place_map, i) for i in range(len(place_map))],
        xy=place_map.T_map_cam[:, :2, 3], place_map=place_map,
        # `map` is the default name of the frame, so equal names do not imply equal frames.
        world='' if manifest.map_frame == DEFAULT_FRAME else manifest.map_frame,
        origin=manifest.origin,
        given=GivenDescriptors(MapRows(place_map), manifest.fingerprint, manifest.model,
                               f'map {path}', project))


def has_positions(path: Path) -> bool:
    """Whether a folder has `positions.csv`, or positions in the names of its images."""
    if (path / POSITIONS).is_file():
        return True
    first = next((p for p in pictures_below(path, path)), None)
    return first is not None and Path(first.name).name.startswith('@')


def folder_side(path: Path) -> Side:
    """Images of a folder; positions from `positions.csv` or from the file names.

    Raises:
        EvaluationError: there is no image, or an image has no position.
    """
    table = path / POSITIONS
    if not path.is_dir():
        raise EvaluationError(f'{path} does not exist; expected a map, a bag or a folder')
    if table.is_file():
        rows = read_table(table, ('image', 'x', 'y'), HELP)
        found = [below(path, row['image'], table) for row in rows]
        pictures = [PictureFile(str(p.relative_to(path)), p) for p in found]
        require_files(pictures, HELP)
        xy = [finite(row, ('x', 'y'), table) for row in rows]
        return Side(pictures=pictures, xy=np.array(xy, dtype=np.float64).reshape(-1, 2))
    pictures = pictures_below(path, path)
    try:
        return Side(pictures=pictures, xy=utm_positions(pictures))
    except EvaluationError as error:
        raise EvaluationError(f'{error}; {HELP}') from error


def own_pair(references: Side, queries: Side, name: str, radius_m: float) -> Dataset:
    """Combine two sides whose positions are in one frame into a data set.

    Raises:
        ConfigError: radius out of 0 to 1000.
        EvaluationError: a side is empty, or two maps are of different models or compressed
            by different directions.
    """
    check_range('radius_m', radius_m, 0.0, 1000.0)
    for label, side in (('references', references), ('queries', queries)):
        if not len(side.pictures):
            raise EvaluationError(f'there are no {label} in {name}')
    if references.given and queries.given \
            and references.given.fingerprint != queries.given.fingerprint:
        raise EvaluationError(f'{references.given.source} was built with '
                              f'{references.given.model}, {queries.given.source} with '
                              f'{queries.given.model}; bring one to the model of the other: '
                              f'`regvpr map convert MAP --model MODEL --out NEW`')
    maps = [side.place_map for side in (references, queries) if side.place_map is not None]
    if len({(m.manifest.compress, m.attachment('pca') if m.manifest.compress else None)
            for m in maps}) > 1:
        raise EvaluationError(f'the maps of {name} are not compressed alike; compare the maps '
                              f'that they were made from, or give a bag or folder as queries')
    return Dataset(
        name=name, protocol=f'own pair, {radius_m:g} m', rule=f'within {radius_m:g} m',
        references=references.pictures, queries=queries.pictures,
        positives=within_radius(queries.xy, references.xy, radius_m),
        radius_m=radius_m, reference_xy=references.xy, query_xy=queries.xy,
        given_references=references.given, given_queries=queries.given)
