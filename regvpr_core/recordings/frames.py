"""What every source of a map gives: images, each with the pose of its camera."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from regvpr_core.errors import BagError
from regvpr_core.geometry import Array
from regvpr_core.images import RGB
from regvpr_core.recordings.geodesy import Origin

GPS_WORLD = 'the Earth'
"""World of poses that come from positions on it: x east, y north, z up of an origin."""

NO_POSE = 'no pose at its stamp'
SEEN = 'the same image as one before'


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PosedFrame:
    """One image; its pixels are decoded only when it may become a keyframe.

    T_map_cam: (4, 4), None where the source cannot use the frame.
    decode: gives the pixels, or raises ImageError. Other threads call it.
    source, image: name of the recording, and of the picture in it where it has one.
    covariance: (3, 3) m^2 of the position, where known.
    refused: why there is no pose. lone: no part of a drive, so no frame before makes it needless.
    held_bytes: memory that the frame keeps until it is decoded. timed: the stamp is a time, not
    a number in the order.
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
    """A recording or folder, ready to be built from.

    name: as the map's keyframes name it. poses: where the poses come from, in words. world: name
    of the frame that they are in, '' where the source does not say; body: of the frame that they
    are of. frames: gives all images in
    order, the same each time. total: how many they are. cameras: their names. extrinsics: camera
    name to `T_base_cam` as seven numbers, where known. intrinsics: camera name to width, height,
    K, model, D. origin: of the world frame on the Earth. identity: what tells this source from a
    changed one. notes: what the user should know, a line each.
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

    Recordings may overlap: an image of a camera, stamp and pose that was given before is refused.
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
    """The frame that the poses of all sources are in; '' where none says.

    Raises:
        BagError: two of them say different ones.
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
