"""Training data from maps of the user's own site: images by place, and held-out stretches.

A place is a square of the map frame and a direction. Its images come from all maps, so that
positives span sessions. Two stretches of the first map are held out, with all images of other maps
at the same places: one for the reported recall, and one to choose the mix of weights. In both, the
images of the first drive are the gallery, and those of others are queries.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial import cKDTree

from regvpr_core.arrays import Mask
from regvpr_core.config import check_settings, setting
from regvpr_core.datasets.manifest import write_manifest
from regvpr_core.errors import ImageError, TrainingError
from regvpr_core.geometry import Array
from regvpr_core.images import RGB
from regvpr_core.maps.place_map import PlaceMap

LONGEST_PX = 512
"""Longer side of the stored images, pixels; larger than the input of networks."""

QUALITY = 90

Images = Callable[[PlaceMap], Iterable[tuple[int, Callable[[], RGB | None]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteDataConfig:
    """Definition of places."""

    cell_m: float = setting(4.0, 'Side of the square of a place.', 0.1, 1000.0, unit='m')
    heading_bins: int = setting(8, 'Directions of a square that are separate places.', 1, 36)
    held_out: float = setting(
        0.2, 'Share of the way of the first map that is held out for validation.', 0.0, 0.9)

    choosing: float = setting(
        0.15, 'Share of the way of the first map, from its start, that is held out to choose how '
        'far to move from the old weights to the trained ones.', 0.0, 0.5)

    def __post_init__(self) -> None:
        check_settings(self, 'site')


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteData:
    """Files and numbers of images of the written data.

    table: manifest with the splits train, gallery and query. images, places: for training.
    gallery, queries: images of the held-out stretch; 0 where nothing is held out.
    """

    table: Path
    images: int
    places: int
    gallery: int
    queries: int

    @property
    def choosing(self) -> Path:
        """Manifest of the validation stretch, on which the mix of weights is chosen."""
        return self.table.with_name('choosing.csv')


def write_site_data(maps: Sequence[PlaceMap], images: Images, folder: Path,
                    config: SiteDataConfig, places: bool = True,
                    asking_only: bool = False) -> SiteData:
    """Write images and a manifest.

    Args:
        maps: in one frame; the held-out stretch is part of the first. May be open with the index
            `none`.
        images: available original images of the keyframes of a map; others use their
            thumbnails.
        folder: new folder.
        config: definition of places.
        places: False makes each image its own place, to learn from a teacher only.
        asking_only: use all images for evaluation, none for training.

    Raises:
        TrainingError: the folder exists, or no keyframe has an image.
    """
    if folder.exists():
        raise TrainingError(f'{folder} exists; choose a new folder for the run')
    held, near = _stretch(maps, config, 0.5 * (1.0 - config.held_out), config.held_out)
    chosen_by, near_it = _stretch(maps, config, 0.0, 0.0 if asking_only else config.choosing)
    one_drive = len({(n, s) for n, m in enumerate(maps) for s in m.sources}) == 1
    rows: list[dict[str, object]] = []
    choosing: list[dict[str, object]] = []
    for number, place_map in enumerate(maps):
        (folder / f'map{number}').mkdir(parents=True)
        for i, rgb in _images(place_map, images):
            T = place_map.T_map_cam[i]
            split, of = 'train', rows
            if asking_only or held[number][i] or chosen_by[number][i]:
                # The first drive is the gallery; in a single drive every second image is a query.
                asks = i % 2 == 1 if one_drive else (
                    number > 0 or place_map.sources[i] != place_map.sources[0])
                split = 'query' if asks else 'gallery'
                of = choosing if chosen_by[number][i] else rows
            elif near[number][i] or near_it[number][i]:
                continue  # keyframes near a held-out stretch are not used
            name = f'map{number}/{i:07d}.jpg'
            _write(folder / name, rgb)
            of.append({
                'image': name, 'split': split, 'group': 'site',
                'place': _place(T, config) if places or split != 'train' else name,
                'x': f'{T[0, 3]:.3f}', 'y': f'{T[1, 3]:.3f}'})
    if not any(asking_only or row['split'] == 'train' for row in rows):
        raise TrainingError('no keyframe of the maps has an image to train on: they hold no '
                            'thumbnails; give the recordings with --bag')
    table = folder / 'manifest.csv'
    write_manifest(table, rows)
    if choosing:
        write_manifest(table.with_name('choosing.csv'), choosing)
    splits = [row['split'] for row in rows]
    return SiteData(
        table=table, images=splits.count('train'), gallery=splits.count('gallery'),
        places=len({row['place'] for row in rows if row['split'] == 'train'}),
        queries=splits.count('query'))


def _stretch(maps: Sequence[PlaceMap], config: SiteDataConfig, start: float, share: float
             ) -> tuple[list[Mask], list[Mask]]:
    """Masks of each map's keyframes: in a stretch of the first map, and in or near the stretch.

    start, share: start and length of the stretch, as shares of the distance driven in the first
    map. Near means within 2.5 `cell_m`.
    """
    first = maps[0].T_map_cam[:, :3, 3]
    steps = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(first, axis=0), axis=1))])
    if not share:
        nothing = [np.zeros(len(m), dtype=bool) for m in maps]
        return nothing, nothing
    stretch = first[(steps >= start * steps[-1]) & (steps <= (start + share) * steps[-1])]
    gaps = [_gap(m.T_map_cam[:, :3, 3], stretch) for m in maps]
    return ([gap <= config.cell_m / 2 for gap in gaps],
            [gap <= 2.5 * config.cell_m for gap in gaps])


def _gap(positions: Array, stretch: Array) -> Array:
    """Distance (N,) of positions to the nearest point of the stretch, m."""
    return np.asarray(cKDTree(stretch).query(positions)[0])


def _place(T: Array, config: SiteDataConfig) -> str:
    """Name of the square and direction of a camera pose (4, 4)."""
    x, y = np.floor(T[:2, 3] / config.cell_m).astype(int)
    heading = np.arctan2(T[1, 2], T[0, 2]) / (2.0 * np.pi) % 1.0
    return f'{x}_{y}_{round(heading * config.heading_bins) % config.heading_bins}'


def _images(place_map: PlaceMap, images: Images) -> Iterable[tuple[int, RGB]]:
    """Each keyframe's original image or thumbnail; keyframes without either are omitted."""
    given = np.zeros(len(place_map), dtype=bool)
    for i, picture in images(place_map):
        try:
            rgb = picture()
        except ImageError:
            continue
        if rgb is not None and not given[i]:
            given[i] = True
            yield i, rgb
    for i in map(int, np.flatnonzero(~given)):
        rgb = place_map.thumbnail(i)
        if rgb is not None:
            yield i, rgb


def _write(path: Path, rgb: RGB) -> None:
    scale = LONGEST_PX / max(rgb.shape[:2])
    if scale < 1.0:
        rgb = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
