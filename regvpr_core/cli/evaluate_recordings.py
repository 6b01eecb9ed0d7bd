"""Maps, bags and folders in one frame as the references and queries of `regvpr evaluate`."""

import argparse
from collections.abc import Iterator
import contextlib
import hashlib
from pathlib import Path
import tempfile
from typing import Any, TYPE_CHECKING

from rich.console import Console

from regvpr_core.cli.console import say

if TYPE_CHECKING:
    from regvpr_core.datasets.dataset import Dataset
    from regvpr_core.datasets.own_pair import Side

MAX_POSE_GAP_S = 1.0
MAX_FRAMES = 1_000_000


@contextlib.contextmanager
def open_pair(options: argparse.Namespace, cache: Path | None,
              console: Console) -> Iterator['Dataset']:
    """References and queries as one data set; files stay open while the block lasts."""
    from regvpr_core.datasets.own_pair import own_pair

    with tempfile.TemporaryDirectory(prefix='regvpr-evaluate-') as temporary:
        frames = Path(temporary)
        with contextlib.ExitStack() as opened:
            references = _side(options.references, options.references_tum, options, frames,
                               console, None)
            opened.callback(references.close)
            queries = _side(options.queries, options.queries_tum, options, frames, console,
                            references)
            opened.callback(queries.close)
            if not options.same_frame:
                check_frames(options.references, references, options.queries, queries)
            name = f'{options.queries.resolve().name} on {options.references.resolve().name}'
            yield own_pair(references, queries, name, options.radius_m)


def check_frames(first_path: Path, first: 'Side', second_path: Path, second: 'Side') -> None:
    """Refuse two sides whose positions are known not to be in one frame.

    Raises:
        EvaluationError: origins on the Earth or names of the frames differ, or both are `odom`,
            which robots start anew with each drive.
    """
    from regvpr_core.errors import EvaluationError

    advice = ('bring both into one frame (regvpr map merge --estimate joins maps), or give '
              '--same-frame if they are in one')
    if first.origin != second.origin:
        raise EvaluationError(f'{second_path} is not in the frame of {first_path}: their origins '
                              f'on the Earth are {second.origin or "none"} and '
                              f'{first.origin or "none"}; {advice}')
    if first.world and second.world and first.world != second.world:
        raise EvaluationError(f'the positions of {first_path} are in {first.world!r}, those of '
                              f'{second_path} in {second.world!r}; {advice}')
    if first.world == second.world == 'odom' and first_path.resolve() != second_path.resolve():
        raise EvaluationError(f"the positions of {first_path} and {second_path} are in 'odom', "
                              f'which most robots start anew with each drive; {advice}')


def _side(path: Path, tum: Path | None, options: argparse.Namespace, frames: Path,
          console: Console, first: 'Side | None') -> 'Side':
    from regvpr_core.datasets.own_pair import folder_side, has_positions, map_side
    from regvpr_core.errors import EvaluationError
    from regvpr_core.recordings.source_kinds import check_source
    from regvpr_core.recordings.sources import is_folder

    if (path / 'map.db').is_file():
        return map_side(path)
    if path.name == 'map.db':
        raise EvaluationError(f'{path} is a file of a place map; give its folder {path.parent}')
    check_source(path, 'put it into the folder of images and give the folder, or give the bag and '
                       '--references-tum or --queries-tum {path}')
    if is_folder(path) and tum is None and has_positions(path):
        return folder_side(path)
    return _recording_side(path, tum, options, frames, console, first)


def _recording_side(path: Path, tum: Path | None, options: argparse.Namespace, frames: Path,
                    console: Console, first: 'Side | None') -> 'Side':
    """Images of a recording at equal distances, stored as PNG while this runs.

    Sources are read as by `regvpr map build`.
    """
    import cv2
    import numpy as np

    from regvpr_core.config import check_range, to_mapping
    from regvpr_core.datasets.dataset import PictureFile
    from regvpr_core.datasets.own_pair import Side
    from regvpr_core.errors import EvaluationError, ImageError
    from regvpr_core.maps.keyframes import KeyframeConfig, KeyframeSelector
    from regvpr_core.recordings.geodesy import GpsConfig, Origin
    from regvpr_core.recordings.sources import is_folder, open_source, SourceOptions, summary

    check_range('--spacing-m', options.spacing_m, 0.0, 1000.0)
    folder = frames / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    selector = KeyframeSelector(KeyframeConfig(distance_m=options.spacing_m))
    pictures: list[Any] = []
    positions: list[Any] = []
    unposed = unreadable = 0
    of_bag = not is_folder(path)
    wanted = SourceOptions(
        image_topics=[options.image_topic] if options.image_topic and of_bag else [],
        pose_topic=options.pose_topic if of_bag and tum is None else None, tum=tum)
    origin = Origin(**first.origin) if first is not None and first.origin else None
    with open_source(path, wanted, GpsConfig(), MAX_POSE_GAP_S, origin) as source:
        say(console, f'{path}: {summary(source)}', 'dim')
        for note in source.notes:
            say(console, f'{path}: {note}')
        for frame in source.frames():
            if frame.T_map_cam is None:
                unposed += 1
                continue
            if not selector.is_new(frame.camera, frame.T_map_cam):
                continue
            try:
                rgb = frame.decode()
            except ImageError:
                unreadable += 1
                continue
            selector.keep(frame.camera, frame.T_map_cam)
            target = folder / f'{len(pictures):06}.png'
            if not cv2.imwrite(str(target), rgb[..., ::-1]):
                raise EvaluationError(f'{target} cannot be written')
            shown = frame.image or f'{path.name} at {frame.stamp_ns / 1e9:.3f} s'
            pictures.append(PictureFile(shown, target))
            positions.append(frame.T_map_cam[:2, 3])
            if len(pictures) > MAX_FRAMES:
                raise EvaluationError(f'{path} gives more than {MAX_FRAMES} images; choose a '
                                      f'larger --spacing-m')
        world, earth = source.world, to_mapping(source.origin) if source.origin else {}
    if not pictures:
        raise EvaluationError(f'{path} gives no image: {unposed} without a pose at their '
                              f'stamps, {unreadable} that cannot be decoded')
    if unposed or unreadable:
        say(console, f'{path}: {unposed} images without a pose and {unreadable} unreadable ones '
                     f'are left out', 'dim')
    return Side(pictures=pictures, xy=np.array(positions), world=world, origin=earth)
