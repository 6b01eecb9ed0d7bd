"""Interface of all sources of a map: images, each with the pose of its camera."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from regvpr_core.errors import BagError
from regvpr_core.geometry import Array
from regvpr_core.images import RGB
from regvpr_core.recordings.geodesy import Origin

GPS_WORLD = 'the Earth'
"""Name of the world frame of GPS poses: x east, y north, z up at an origin."""

NO_POSE = 'no pose at its stamp'
SEEN = 'the same image as one before'


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PosedFrame:
    """One image; its pixels are decoded only when it may become a keyframe.

    T_map_cam: (4, 4), None if the frame is unusable.
    decode: returns the pixels, or raises ImageError; thread-safe.
    source, image: name of the recording, and of the image file in it, if any.
    covariance: (3, 3) m^2 of the position, if known.
    refused: why there is no pose. lone: not part of a drive, so it is never redundant to the
    previous frame. held_bytes: memory of the frame until it is decoded. timed: the stamp is a
    time, not an index.
    """

    stamp_ns: int
    camera: str
    T_map_cam: Array | None
    decode: Callable[[], RGB]
    source: str = ''
    image: str = ''
    covariance: Array | None = None
    refused: str = NO_POSE
    lone: bool = False
    held_bytes: int = 0
    timed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PosedSource:
    """An opened recording or folder.

    name: in the map's keyframes. poses: origin of the poses, in words. world: name of their world
    frame, '' if unknown; body: name of their body frame. frames: returns all images in order, the
    same each time. total: number of images. cameras: names. extrinsics: `T_base_cam` as seven
    numbers by camera name, if known. intrinsics: width, height, K, model, D by camera name.
    origin: of the world frame on the Earth. identity: digest to detect changes of the source.
    notes: remarks for the user, one line each.
    """

    name: str
    poses: str
    world: str
    frames: Callable[[], Iterator[PosedFrame]]
    total: int
    body: str = ''
    cameras: Sequence[str] = ()
    extrinsics: dict[str, list[float]] = field(default_factory=dict)
    intrinsics: dict[str, dict[str, Any]] = field(default_factory=dict)
    origin: Origin | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def joined(sources: Sequence[PosedSource]) -> Iterator[PosedFrame]:
    """The frames of all sources in turn.

    Recordings may overlap: an image with the camera, stamp and pose of an earlier one is refused.
    """
    given: set[tuple[str, int, tuple[float, ...]]] = set()
    for source in sources:
        for frame in source.frames():
            if frame.timed and frame.T_map_cam is not None:
                place = tuple(np.round(frame.T_map_cam[:3, 3], 6).tolist())
                key = (frame.camera, frame.stamp_ns, place)
                if key in given:
                    frame = replace(frame, T_map_cam=None, refused=SEEN)
                given.add(key)
            yield frame


def common_world(sources: Sequence[PosedSource]) -> str:
    """The common world frame of all sources; '' if unknown.

    Raises:
        BagError: two sources have different frames.
    """
    first: PosedSource | None = None
    for source in sources:
        if first is not None and source.world and source.world != first.world:
            raise BagError(
                f'the poses of {first.name} are in {first.world!r}, those of {source.name} in '
                f'{source.world!r}; build a map of each, or name one frame for both with '
                f'--map-frame if they are the same')
        if source.world:
            first = first or source
    return first.world if first else ''
