"""Builds a place map from bags and folders."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import contextlib
import itertools
import json
from pathlib import Path
import time
from typing import Any, cast
import zlib

import numpy as np

from regvpr_core.config import to_mapping
from regvpr_core.errors import MapError
from regvpr_core.localization.stored_calibration import calibrated, NAME, to_json
from regvpr_core.map_tools.compression import compress_map
from regvpr_core.mapping.candidates import CandidateStream, Picture, SelectionConfig
from regvpr_core.mapping.describers import describer_of
from regvpr_core.mapping.options import BuildConfig, BuildOptions, BuildReport
from regvpr_core.mapping.partial_map import PartialMap
from regvpr_core.maps.files import Manifest, map_bytes, new_map_id
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.models.encoder import Encoder
from regvpr_core.recordings.frames import joined, PosedFrame, PosedSource
from regvpr_core.recordings.sources import merged_by_camera, open_sources
from regvpr_core.search.projection import target

__all__ = ['BuildConfig', 'BuildOptions', 'BuildReport', 'build_map']

RECORDINGS = 'recordings'
"""Name of the attachment with the origin and frame of each source's poses, JSON."""

AHEAD_BATCHES = 2
"""Number of batches that are decoded ahead of the network, at its input size."""


def build_map(
    sources: Sequence[str | Path | PosedSource],
    options: BuildOptions,
    encoder: Encoder,
    progress: Callable[[BuildReport], None] = lambda report: None,
) -> PlaceMap:
    """Build a map; its folder appears only when it is complete.

    Until then the map is in `.NAME.partial` beside it. A build that is interrupted after its first
    batch leaves that folder, and `resume` completes it to the same map as an uninterrupted build.

    Args:
        sources: bags and folders, by path or open, in order; the same for a resumed build.
        options: options of the build.
        encoder: describes the keyframes; its fingerprint is stored in the map.
        progress: called after each batch, and with the finished map.

    Returns:
        The map, open.

    Raises:
        BagError: a source cannot be used, or they do not fit one map.
        MapError: the folder exists or cannot be written, another build uses it, an interrupted
            build exists and `resume` is off or its sources or settings differ, no frame became a
            keyframe, or there are too few keyframes to compress.
    """
    start, config, report = time.monotonic(), options.config, BuildReport()
    _refuse_longer(options.compress, encoder)
    with contextlib.ExitStack() as stack:
        # 1. The sources: images in order, each with the pose of its camera.
        recordings = stack.enter_context(_opened(sources, options))
        # 2. The folder: a new one, or that of an interrupted build.
        describe = describer_of(options.features, encoder)
        manifest = _manifest(recordings, options, encoder, describe.features)
        partial = stack.enter_context(PartialMap(
            options.out, manifest, _about(recordings, manifest, encoder), resume=options.resume))
        report.kept = report.resumed = len(partial)
        report.other_bits = not partial.same_probe(_probe(encoder))
        # 3. Select keyframes, decoded ahead; skip the frames of an earlier run.
        frames = CandidateStream(
            joined(recordings), SelectionConfig(keyframes=config.keyframes, quality=config.quality,
                                                ahead=AHEAD_BATCHES * config.batch),
            describe.prepare, config.thumbnail_px)
        if (state := partial.state()) is not None:
            frames.restore(state)
        report.tally = frames.tally
        # 4. Describe each batch, and commit it with the position in the stream.
        for batch in _batches(frames, config.batch):
            rows, features = describe([picture.inputs for _, picture in batch])
            partial.commit(list(map(_keyframe, batch, rows, features)), frames.state())
            report.kept, report.seconds = len(partial), time.monotonic() - start
            progress(report)
        if not report.kept:
            raise MapError(f'no keyframe for map {options.out}: {report.seen} images seen; '
                           f'{report.reasons}')
        # 5. Compress and calibrate the map, and give it its name.
        _finish(partial, recordings, options, report)
    report.seconds = time.monotonic() - start
    report.size_bytes = map_bytes(options.out)
    progress(report)
    return PlaceMap.open(options.out, encoder.fingerprint)


@contextlib.contextmanager
def _opened(sources: Sequence[str | Path | PosedSource], options: BuildOptions
            ) -> Iterator[list[PosedSource]]:
    opened = [source for source in sources if isinstance(source, PosedSource)]
    if opened:
        yield opened
        return
    with open_sources(cast('Sequence[str | Path]', sources), options.sources, options.config.gps,
                      options.config.max_pose_gap_s) as found:
        yield found


def _manifest(sources: Sequence[PosedSource], options: BuildOptions, encoder: Encoder,
              features: str) -> Manifest:
    origin = next((source.origin for source in sources if source.origin), None)
    return Manifest(
        map_id=new_map_id(), model=encoder.name, fingerprint=encoder.fingerprint,
        dimension=encoder.dimension, map_frame=options.sources.map_frame or 'map',
        extrinsics=merged_by_camera([source.extrinsics for source in sources]),
        intrinsics=merged_by_camera([source.intrinsics for source in sources]),
        preprocessing=to_mapping(encoder.preprocessing),
        sources=[source.name for source in sources], config=to_mapping(options.config),
        origin=to_mapping(origin) if origin else {}, features=features)


def _about(sources: Sequence[PosedSource], manifest: Manifest, encoder: Encoder
           ) -> dict[str, Any]:
    """Plain values that must be equal in a resumed build."""
    return {'model': f'{encoder.name} ({encoder.fingerprint[:16]})',
            'precision': encoder.precision, 'settings': manifest.config,
            'features': manifest.features, 'map frame': manifest.map_frame,
            'extrinsics': manifest.extrinsics,
            'source': [source.identity for source in sources]}


def _finish(partial: PartialMap, sources: Sequence[PosedSource], options: BuildOptions,
            report: BuildReport) -> None:
    def finish(writer: MapWriter) -> None:
        _calibrate(writer)
        writer.attach(RECORDINGS, json.dumps([
            {'name': source.name, 'poses': source.poses, 'world': source.world,
             'body': source.body} for source in sources]).encode())

    if options.compress:
        report.compression = compress_map(partial.folder, options.compress, options.out,
                                          finish=finish,
                                          map_id=partial.writer.manifest.map_id)
        partial.discard()
    else:
        finish(partial.writer)
        partial.finish()


def _calibrate(writer: MapWriter) -> None:
    """Learn and store the calibration, so that nodes need not learn it at each start."""
    writer.attach(NAME, to_json(calibrated(writer.path)))


def _refuse_longer(compress: str, encoder: Encoder) -> None:
    if compress and target(compress) >= encoder.dimension:
        raise MapError(f'{compress} does not shorten the {encoder.dimension} numbers of '
                       f'{encoder.name}')


def _probe(encoder: Encoder) -> int:
    """Checksum of a test descriptor, to detect different rounding in a resumed build."""
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return zlib.crc32(encoder.describe(picture).astype('<f2').tobytes())


def _keyframe(item: tuple[PosedFrame, Picture], descriptor: Any, local_features: bytes | None
              ) -> Keyframe:
    frame, picture = item
    if frame.T_map_cam is None:
        raise MapError('a frame without a pose cannot be a keyframe')
    return Keyframe(stamp_ns=frame.stamp_ns, camera=frame.camera, T_map_cam=frame.T_map_cam,
                    descriptor=descriptor, source=frame.source, image=frame.image,
                    covariance=frame.covariance, thumbnail=picture.small,
                    local_features=local_features)


def _batches(items: Iterable[tuple[PosedFrame, Picture]], size: int
             ) -> Iterator[list[tuple[PosedFrame, Picture]]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
