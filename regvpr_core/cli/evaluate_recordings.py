"""A pair of one's own for `regvpr evaluate`: maps, bags and folders in one frame."""

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
    """References and queries as one data set, while the block lasts."""
    from regvpr_core.datasets.own_pair import own_pair

    with tempfile.TemporaryDirectory(prefix='regvpr-evaluate-') as temporary:
        frames = Path(temporary)
        with contextlib.ExitStack() as opened:
            sides = []
            for path, tum in ((options.references, options.references_tum),
                              (options.queries, options.queries_tum)):
                sides.append(_side(path, tum, options, frames, console))
                opened.callback(sides[-1].close)
            name = f'{options.queries.resolve().name} on {options.references.resolve().name}'
            say(console, 'positions of both sides are taken to be in one frame', 'dim')
            yield own_pair(sides[0], sides[1], name, options.radius_m)


def _side(path: Path, tum: Path | None, options: argparse.Namespace, frames: Path,
          console: Console) -> 'Side':
    from regvpr_core.datasets.own_pair import folder_side, map_side
    from regvpr_core.errors import EvaluationError

    if not path.exists():
        raise EvaluationError(f'{path} does not exist; expected a map, a bag or a folder')
    if (path / 'map.db').is_file():
        return map_side(path)
    if path.is_file() or (path / 'metadata.yaml').is_file():
        return _bag_side(path, tum, options, frames, console)
    return folder_side(path)


def _bag_side(path: Path, tum: Path | None, options: argparse.Namespace, frames: Path,
              console: Console) -> 'Side':
    """Pictures at every so many metres, kept as PNG while the command runs."""
    import cv2
    import numpy as np

    from regvpr_core.config import check_range
    from regvpr_core.datasets.dataset import PictureFile
    from regvpr_core.datasets.own_pair import Side
    from regvpr_core.errors import EvaluationError, ImageError
    from regvpr_core.maps.keyframes import KeyframeConfig, KeyframeSelector
    from regvpr_core.recordings.bags import Bag, IMAGE_TYPES, ODOMETRY_TYPE, PoseSource
    from regvpr_core.recordings.trajectory import read_tum

    check_range('--spacing-m', options.spacing_m, 0.0, 1000.0)
    folder = frames / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    folder.mkdir(exist_ok=True)
    selector = KeyframeSelector(KeyframeConfig(distance_m=options.spacing_m))
    pictures: list[Any] = []
    positions: list[Any] = []
    unposed = unreadable = 0
    with Bag(path) as bag:
        topic = bag.choose('image', IMAGE_TYPES, options.image_topic, '--image-topic')
        poses = (PoseSource(read_tum(tum), 'map', '', str(tum)) if tum else
                 bag.odometry(bag.choose('odometry', (ODOMETRY_TYPE,), options.pose_topic,
                                         '--pose-topic, or a TUM file')))
        _, camera_frame = bag.first_header(topic)
        T_body_cam = next((T for base in (poses.body_frame, 'base_link', 'base_footprint') if base
                           for T in [bag.static_transform(base, camera_frame)] if T is not None),
                          None)
        say(console, f'{path}: images {topic.name}, poses {poses.name}, extrinsics '
                     f'{"from /tf_static" if T_body_cam is not None else "unknown"}', 'dim')
        for frame in bag.frames(topic, poses, np.eye(4) if T_body_cam is None else T_body_cam,
                                MAX_POSE_GAP_S):
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
            pictures.append(PictureFile(f'{path.name} at {frame.stamp_ns / 1e9:.3f} s', target))
            positions.append(frame.T_map_cam[:2, 3])
            if len(pictures) > MAX_FRAMES:
                raise EvaluationError(f'{path} gives more than {MAX_FRAMES} pictures; choose a '
                                      f'larger --spacing-m')
    if not pictures:
        raise EvaluationError(f'{path} gives no picture: {unposed} without a pose at their '
                              f'stamps, {unreadable} that cannot be decoded')
    if unposed or unreadable:
        say(console, f'{path}: {unposed} pictures without a pose and {unreadable} unreadable ones '
                     f'are left out', 'dim')
    return Side(pictures=pictures, xy=np.array(positions))
