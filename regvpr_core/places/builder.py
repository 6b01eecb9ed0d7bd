"""Frames with poses become a place map."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
import shutil
import time

from regvpr_core.config import check_range, to_mapping
from regvpr_core.errors import ImageError, MapError
from regvpr_core.geometry import Array
from regvpr_core.images import RGB, thumbnail
from regvpr_core.models.encoder import Encoder
from regvpr_core.places.keyframes import KeyframeConfig, KeyframeSelector
from regvpr_core.places.map_files import Manifest, map_bytes, new_map_id
from regvpr_core.places.map_writer import Keyframe, MapWriter

NO_POSE = 'no pose at its stamp'
NOT_DECODED = 'image cannot be decoded'
NO_KEYFRAME = 'close to the last keyframe'


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildConfig:
    """How a map is built.

    keyframes: which frames are kept. batch: images a network pass, 1 to 1024.
    max_pose_gap_s: a frame is dropped where the poses around it are further apart, s.
    thumbnail_px: longer side of the stored pictures, 0 stores none, up to 1024.
    """

    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    batch: int = 8
    max_pose_gap_s: float = 1.0
    thumbnail_px: int = 160

    def __post_init__(self) -> None:
        check_range('batch', self.batch, 1, 1024)
        check_range('max_pose_gap_s', self.max_pose_gap_s, 0.0, 3600.0)
        check_range('thumbnail_px', self.thumbnail_px, 0, 1024)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PosedFrame:
    """One image of a source; its pixels are decoded only when it becomes a keyframe.

    T_map_cam: (4, 4), None where the source knows no pose for its stamp.
    decode: gives the pixels, or raises ImageError.
    """

    stamp_ns: int
    camera: str
    T_map_cam: Array | None
    decode: Callable[[], RGB]
    source: str = ''


@dataclass(slots=True)
class BuildReport:
    """What became of the frames."""

    seen: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    length_m: float = 0.0
    seconds: float = 0.0
    size_bytes: int = 0
    first_image_error: str = ''


def build_map(
    frames: Iterable[PosedFrame],
    encoder: Encoder,
    path: Path,
    config: BuildConfig,
    *,
    map_frame: str,
    extrinsics: dict[str, list[float]],
    sources: list[str],
    progress: Callable[[BuildReport], None] = lambda report: None,
) -> BuildReport:
    """Build a map in one go; the folder appears only when it is whole.

    Args:
        frames: in time order.
        encoder: describes the keyframes; the map keeps its fingerprint.
        path: the new folder.
        config: what to keep.
        map_frame: name of the world frame of the poses.
        extrinsics: camera name to `T_base_cam` as (x, y, z, qx, qy, qz, qw).
        sources: names of what the frames come from.
        progress: told after each batch.

    Raises:
        MapError: the folder exists or cannot be written, or no frame became a keyframe.
    """
    start = time.monotonic()
    if path.exists():
        raise MapError(f'{path} exists; choose a new folder for the map or remove it')
    manifest = Manifest(
        map_id=new_map_id(), model=encoder.name, fingerprint=encoder.fingerprint,
        dimension=encoder.dimension, map_frame=map_frame, extrinsics=extrinsics,
        preprocessing=to_mapping(encoder.preprocessing), sources=sources,
        config=to_mapping(config))
    partial = path.with_name(f'.{path.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    report = BuildReport()
    try:
        with MapWriter.create(partial, manifest) as writer:
            for batch in _batches(_keyframes(frames, config, report), config.batch):
                # 1. describe the batch  2. commit it  3. tell
                images = [rgb for _, rgb in batch]
                descriptors = encoder.describe_batch(images)
                writer.append([
                    Keyframe(stamp_ns=frame.stamp_ns, camera=frame.camera,
                             T_map_cam=_known(frame.T_map_cam), descriptor=descriptor,
                             source=frame.source, thumbnail=_small(rgb, config))
                    for (frame, rgb), descriptor in zip(batch, descriptors, strict=True)])
                report.kept = len(writer)
                report.seconds = time.monotonic() - start
                progress(report)
        if not report.kept:
            raise MapError(f'no keyframe for map {path}: {report.seen} images seen; '
                           f'{_reasons(report)}')
        (partial / 'map.lock').unlink(missing_ok=True)
        partial.replace(path)
    except OSError as error:
        raise MapError(f'cannot write map {path}: {error}') from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    report.seconds = time.monotonic() - start
    report.size_bytes = map_bytes(path)
    return report


def _keyframes(
    frames: Iterable[PosedFrame], config: BuildConfig, report: BuildReport
) -> Iterator[tuple[PosedFrame, RGB]]:
    """Keep frames that are new places and can be decoded; count the others."""
    selector = KeyframeSelector(config.keyframes)
    last: dict[str, Array] = {}
    for frame in frames:
        report.seen += 1
        if frame.T_map_cam is None:
            report.dropped[NO_POSE] += 1
            continue
        if frame.camera in last:
            step = frame.T_map_cam[:3, 3] - last[frame.camera][:3, 3]
            report.length_m += float((step @ step) ** 0.5)
        last[frame.camera] = frame.T_map_cam
        if not selector.is_new(frame.camera, frame.T_map_cam):
            report.dropped[NO_KEYFRAME] += 1
            continue
        try:
            rgb = frame.decode()
        except ImageError as error:
            report.dropped[NOT_DECODED] += 1
            report.first_image_error = report.first_image_error or str(error)
            continue
        selector.keep(frame.camera, frame.T_map_cam)
        yield frame, rgb


def _batches(
    items: Iterable[tuple[PosedFrame, RGB]], size: int
) -> Iterator[list[tuple[PosedFrame, RGB]]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _small(rgb: RGB, config: BuildConfig) -> RGB | None:
    return thumbnail(rgb, config.thumbnail_px) if config.thumbnail_px else None


def _known(T_map_cam: Array | None) -> Array:
    if T_map_cam is None:
        raise MapError('a frame without a pose cannot be a keyframe')
    return T_map_cam


def _reasons(report: BuildReport) -> str:
    counted = ', '.join(f'{count} {reason}' for reason, count in report.dropped.items())
    error = f' ({report.first_image_error})' if report.first_image_error else ''
    return f'dropped: {counted}{error}' if counted else 'the source holds no image'
