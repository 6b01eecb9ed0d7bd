"""Frames with poses become a place map: selected, decoded ahead, described, committed."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
import itertools
from pathlib import Path
import time
from typing import Any, Protocol
import zlib

import numpy as np
import numpy.typing as npt

from regvpr_core.config import check_settings, setting, to_mapping
from regvpr_core.errors import MapError
from regvpr_core.images import RGB
from regvpr_core.map_tools.compression import compress_map, CompressReport
from regvpr_core.mapping.candidates import CandidateStream, Picture, SelectionConfig, Tally
from regvpr_core.mapping.frame_quality import QualityConfig
from regvpr_core.mapping.partial_map import PartialMap
from regvpr_core.maps.files import Manifest, map_bytes, new_map_id
from regvpr_core.maps.keyframes import KeyframeConfig
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.models.encoder import Encoder
from regvpr_core.recordings.frames import PosedFrame
from regvpr_core.recordings.geodesy import GpsConfig
from regvpr_core.search.projection import target

AHEAD_BATCHES = 2
"""So many batches are decoded ahead of the network, at its input size."""

Described = tuple[npt.NDArray[np.float32], Sequence[bytes | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """How a map is built."""

    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    gps: GpsConfig = field(default_factory=GpsConfig)
    batch: int = setting(8, 'Images in one pass of the network.', 1, 1024)
    max_pose_gap_s: float = setting(
        1.0, 'A frame is dropped where the poses before and after it are further apart in time.',
        0.0, 3600.0, unit='s')
    thumbnail_px: int = setting(
        160, 'Longer side of the stored thumbnails; 0 stores none.', 0, 1024, unit='px')

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(slots=True)
class BuildReport:
    """What became of the frames.

    resumed: keyframes that an earlier run had made. other_bits: the network rounds otherwise than
    it did then (another processor, or another form of its operations): rows agree to 1e-3 only.
    compression: what shorter descriptors cost, where they were wanted.
    """

    tally: Tally
    kept: int = 0
    resumed: int = 0
    seconds: float = 0.0
    size_bytes: int = 0
    other_bits: bool = False
    compression: CompressReport | None = None

    @property
    def seen(self) -> int:
        """Frames that the sources held, earlier runs' included."""
        return self.tally.seen

    @property
    def dropped(self) -> Mapping[str, int]:
        """Reason to number of frames."""
        return self.tally.dropped

    @property
    def length_m(self) -> float:
        """Metres through the poses of all frames, kept or not."""
        return self.tally.length_m

    @property
    def first_image_error(self) -> str:
        """What was wrong with the first image that could not be decoded."""
        return self.tally.first_image_error

    @property
    def places_per_s(self) -> float:
        """Keyframes of this run a second."""
        return (self.kept - self.resumed) / max(self.seconds, 1e-9)


class Describer(Protocol):
    """Makes of pictures what a keyframe holds. `prepare` runs in threads, ahead."""

    features: str
    """What the local features are, as the manifest names them; '' for none."""

    def prepare(self, rgb: RGB) -> Any:
        """What `__call__` needs of a picture."""

    def __call__(self, inputs: Sequence[Any]) -> Described:
        """Descriptors (B, D), unit rows, and local features of one or more pictures."""


class PlainDescriber:
    """Descriptors alone."""

    features = ''

    def __init__(self, encoder: Encoder) -> None:
        self.prepare = encoder.prepare
        self._encoder = encoder

    def __call__(self, inputs: Sequence[Any]) -> Described:
        """Descriptors (B, D) and no features."""
        return self._encoder.describe_prepared(inputs), [None] * len(inputs)


def build_map(
    frames: Iterable[PosedFrame],
    encoder: Encoder,
    path: Path,
    config: BuildConfig,
    *,
    map_frame: str,
    extrinsics: dict[str, list[float]],
    sources: list[str],
    origin: dict[str, float] | None = None,
    intrinsics: dict[str, dict[str, Any]] | None = None,
    about: Mapping[str, Any] | None = None,
    resume: bool = False,
    compress: str = '',
    describer: Describer | None = None,
    finish: Callable[[MapWriter], None] = lambda writer: None,
    progress: Callable[[BuildReport], None] = lambda report: None,
) -> BuildReport:
    """Build a map; its folder appears only when it is whole.

    Until then it lies in `.NAME.partial` beside it. A build that is broken off after its first
    batch leaves that, and `resume` completes it to what one run would have made.

    Args:
        frames: in the order of the sources; the same again for a resumed build.
        encoder: describes the keyframes; the map keeps its fingerprint.
        path: the new folder.
        config: what to keep.
        map_frame: name of the world frame of the poses.
        extrinsics: camera name to `T_base_cam` as (x, y, z, qx, qy, qz, qw).
        sources: names of what the frames come from.
        origin: lat_deg, lon_deg, alt_m of the world frame's origin where it is known.
        intrinsics: camera name to width, height, K, model, D.
        about: plain values beside config and model that a resumed build must share.
        resume: go on with a build that was broken off, if there is one.
        compress: `pca:NUMBER` shortens the descriptors when all keyframes are in, '' leaves them;
            a resumed build may take another.
        describer: makes descriptors, and local features if wanted; None makes descriptors alone.
        finish: last additions to the map, when all keyframes are in it.
        progress: told after each batch.

    Raises:
        MapError: the folder exists or cannot be written, another build is at it, one that was
            broken off is not to be resumed or was of something else, no frame became a keyframe,
            or too few did to compress them.
    """
    start = time.monotonic()
    if compress and target(compress) >= encoder.dimension:
        raise MapError(f'{compress} does not shorten the {encoder.dimension} numbers of '
                       f'{encoder.name}')
    describe = describer or PlainDescriber(encoder)
    settings = to_mapping(config)
    manifest = Manifest(
        map_id=new_map_id(), model=encoder.name, fingerprint=encoder.fingerprint,
        dimension=encoder.dimension, map_frame=map_frame, extrinsics=extrinsics,
        preprocessing=to_mapping(encoder.preprocessing), sources=sources, config=settings,
        origin=origin or {}, intrinsics=intrinsics or {}, features=describe.features)
    wanted = {'model': f'{encoder.name} ({encoder.fingerprint[:16]})',
              'precision': encoder.precision, 'settings': settings, 'features': describe.features,
              'map frame': map_frame, 'extrinsics': extrinsics, **(about or {})}
    with PartialMap(path, manifest, wanted, resume=resume) as partial:
        stream = CandidateStream(
            frames, SelectionConfig(keyframes=config.keyframes, quality=config.quality,
                                    ahead=AHEAD_BATCHES * config.batch),
            describe.prepare, config.thumbnail_px)
        if (state := partial.state()) is not None:
            stream.restore(state)
        report = BuildReport(stream.tally, kept=len(partial), resumed=len(partial))
        report.other_bits = not partial.same_probe(_probe(encoder))
        for batch in _batches(iter(stream), config.batch):
            # 1. describe the batch  2. commit it, and where the stream stands  3. tell
            descriptors, features = describe([picture.inputs for _, picture in batch])
            partial.commit([_keyframe(frame, picture, row, local)
                            for (frame, picture), row, local
                            in zip(batch, descriptors, features, strict=True)], stream.state())
            report.kept, report.seconds = len(partial), time.monotonic() - start
            progress(report)
        if not report.kept:
            raise MapError(f'no keyframe for map {path}: {report.seen} images seen; '
                           f'{_reasons(report)}')
        if compress:
            report.compression = compress_map(partial.folder, compress, path, finish=finish,
                                              map_id=partial.writer.manifest.map_id)
            partial.discard()
        else:
            finish(partial.writer)
            partial.finish()
    report.seconds = time.monotonic() - start
    report.size_bytes = map_bytes(path)
    return report


def _probe(encoder: Encoder) -> int:
    """Checksum of one descriptor: tells whether two runs round alike."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return zlib.crc32(encoder.describe(picture).astype('<f2').tobytes())


def _keyframe(frame: PosedFrame, picture: Picture, descriptor: npt.NDArray[np.float32],
              local_features: bytes | None) -> Keyframe:
    if frame.T_map_cam is None:
        raise MapError('a frame without a pose cannot be a keyframe')
    return Keyframe(stamp_ns=frame.stamp_ns, camera=frame.camera, T_map_cam=frame.T_map_cam,
                    descriptor=descriptor, source=frame.source, image=frame.image,
                    covariance=frame.covariance, thumbnail=picture.small,
                    local_features=local_features)


def _batches(
    items: Iterator[tuple[PosedFrame, Picture]], size: int
) -> Iterator[list[tuple[PosedFrame, Picture]]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


def _reasons(report: BuildReport) -> str:
    counted = ', '.join(f'{count} {reason}' for reason, count in report.dropped.items())
    error = f' ({report.first_image_error})' if report.first_image_error else ''
    return f'dropped: {counted}{error}' if counted else 'the source holds no image'
