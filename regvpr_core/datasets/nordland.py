"""Nordland in the three forms that papers use; their figures are not comparable.

2,760 +-1: VPR-Bench's, as SALAD, MixVPR, BoQ* and RegVPR report it: every tenth summer frame
is a query, all 27,592 winter frames are references. 27,592 +-10: Patch-NetVLAD's list, winter
queries and summer references, as VPR-datasets-downloader writes it. 3,450 +-2: the test sections
of Olid, Facil and Civera (2018), winter queries and summer references, as SelaVPR reports it.
"""

import itertools
from pathlib import Path
import re

import numpy as np

from regvpr_core.datasets.dataset import Dataset, PictureFile
from regvpr_core.datasets.folders import pictures_below, utm_fields
from regvpr_core.datasets.ground_truth import within_frames
from regvpr_core.datasets.utm_folders import find_folders
from regvpr_core.errors import EvaluationError

BENCH_HELP = ('get Nordland.zip of VPR-Bench (github.com/MubarizZaffar/VPR-Bench), whose folders '
              'are ref and query')
DOWNLOADER_HELP = ('run download_nordland.py of github.com/gmberton/VPR-datasets-downloader, or '
                   'unpack summer and winter beside cleanImageNames.txt')
PARTITION_HELP = ('get the partitioned Nordland of Olid, Facil and Civera (2018): '
                  'test/summer_images_test/section1 and so on')
QUERY_STEP = 10
SECTION_GAP = 10_000_000


def load_vpr_bench(root: Path, name: str, protocol: str) -> Dataset:
    """`ref/*.jpg` and `query/*.jpg`: query i matches references 10 i - 1 to 10 i + 1."""
    for side in ('ref', 'query'):
        if not (root / side).is_dir():
            raise EvaluationError(f'{root / side} is missing; {BENCH_HELP}')
    references = pictures_below(root / 'ref', root)
    queries = pictures_below(root / 'query', root)
    frames = [QUERY_STEP * i for i in range(len(queries))]
    return Dataset(
        name=name, protocol=protocol, rule='within 1 frame',
        references=references, queries=queries,
        positives=within_frames(frames, range(len(references)), 1))


def load_downloader(root: Path, name: str, protocol: str) -> Dataset:
    """`images/test/database|queries` with frame numbers in the names, or the raw folders."""
    folders = find_folders(root, ('images/test', 'test', ''))
    if folders is not None:
        references, queries = (pictures_below(folder, root) for folder in folders)
        numbers = [[_frame(picture) for picture in side] for side in (references, queries)]
    else:
        references, queries, numbers = _raw(root)
    return Dataset(
        name=name, protocol=protocol, rule='within 10 frames',
        references=references, queries=queries,
        positives=within_frames(numbers[1], numbers[0], 10))


def load_partition(root: Path, name: str, protocol: str) -> Dataset:
    """`test/SEASON_images_test/sectionN/*.png`: within 2 frames of the same section."""
    base = root / 'test' if (root / 'test').is_dir() else root
    sides, frames = [], []
    for season in ('summer', 'winter'):
        folder = base / f'{season}_images_test'
        if not folder.is_dir():
            raise EvaluationError(f'{folder} is missing; {PARTITION_HELP}')
        pictures = pictures_below(folder, root, natural=True)
        sides.append(pictures)
        frames.append(_section_frames(pictures))
    return Dataset(
        name=name, protocol=protocol, rule='within 2 frames of the same section',
        references=sides[0], queries=sides[1],
        positives=within_frames(frames[1], frames[0], 2))


def require_runs(dataset: Dataset, protocol: str) -> None:
    """Refuse an incomplete data set, because frames are matched by their order.

    Raises:
        EvaluationError: the numbers in the file names have a gap, or references and queries
            start at different numbers.
    """
    begin: list[list[int]] = []
    for side in (dataset.references, dataset.queries):
        numbers: dict[Path, list[int]] = {}
        for picture in side:
            path = Path(picture.name)
            found = re.findall(r'[0-9]+', path.stem)
            numbers.setdefault(path.parent, []).append(int(found[-1]) if found else -1)
        begin.append([frames[0] for frames in numbers.values()])
        for folder, frames in numbers.items():
            if len({b - a for a, b in itertools.pairwise(frames)}) > 1:
                raise EvaluationError(f'{folder} has gaps; {protocol} counts frames by their '
                                      f'order, so a part of it must have none')
    if begin[0] != begin[1] and not {0, 1}.issuperset(begin[0] + begin[1]):
        raise EvaluationError(f'references and queries begin with the frames {begin[0][:9]} and '
                              f'{begin[1][:9]}; {protocol} counts frames by their order, so both '
                              f'must begin with the same')


def _section_frames(pictures: list[PictureFile]) -> list[int]:
    """Frame numbers within each section, offset so that sections never match each other."""
    names = [picture.path.parent.name for picture in pictures]
    counts = dict.fromkeys(sorted(set(names)), 0)
    starts = {name: i * SECTION_GAP for i, name in enumerate(counts)}
    frames = []
    for name in names:
        frames.append(starts[name] + counts[name])
        counts[name] += 1
    return frames


def _frame(picture: PictureFile) -> int:
    """The frame number: field 7 of the name (the coordinates are placeholders)."""
    try:
        return int(np.int64(int(utm_fields(picture).pano)))
    except (ValueError, OverflowError) as error:
        raise EvaluationError(f'{picture.path} has no frame number in its seventh field; '
                              f'{DOWNLOADER_HELP}') from error


def _raw(root: Path) -> tuple[list[PictureFile], list[PictureFile], list[list[int]]]:
    """Images listed in `cleanImageNames.txt`, of summer and of winter, and their frame numbers."""
    listing = root / 'cleanImageNames.txt'
    try:
        names = sorted(set(listing.read_text(encoding='utf-8').split()))
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f'{root / "images/test/database"} is missing, and {listing} cannot '
                              f'be read; {DOWNLOADER_HELP}') from error
    frames = {name: i for i, name in enumerate(names)}  # a missing image does not shift the others
    summer, winter = (
        [picture for picture in pictures_below(root / season, root)
         if picture.path.name in frames] for season in ('summer', 'winter'))
    return summer, winter, [[frames[p.path.name] for p in side] for side in (summer, winter)]
