"""Folders of images with poses from a table, file names, EXIF GPS, or a trajectory file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
import functools
import hashlib
import math
import os
from pathlib import Path

import numpy as np

from regvpr_core.errors import BagError, ImageError
from regvpr_core.geometry import Array, pose_matrix, quat_xyzw
from regvpr_core.images import find_below, Found, read, SUFFIXES
from regvpr_core.images.exif import Exif, read_exif
from regvpr_core.recordings.frames import GPS_WORLD, NO_POSE, PosedFrame, PosedSource
from regvpr_core.recordings.geodesy import (
    fill_heights,
    GpsConfig,
    headings,
    on_one_plane,
    Origin,
    valid_fix,
    yaw_of_heading,
    yaw_poses,
)
from regvpr_core.recordings.image_records import (
    is_posed_name,
    no_pose_table,
    read_names,
    read_table,
    Record,
    stamp_of_name,
    text_of_name,
)
from regvpr_core.recordings.runs import refuse_jumping
from regvpr_core.recordings.trajectory import gap_limit_s, make_trajectory, Trajectory

TABLES = frozenset({'.csv', '.tsv'})

SECOND = 1_000_000_000
GPS_JUMP = 'its GPS position is a jump'
EXIF_RESOLUTION_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderOptions:
    """Options of a folder; None or '': chosen automatically.

    table: file with the poses. trajectory: poses by time, for images named by their time.
    ordered: poses (N, 4, 4) of the images in order; `stamps_ns` (N,) of these, if known.
    poses_name: name of `trajectory` or `ordered` in messages. camera_poses: these two are poses of
    the camera, not of the base. T_base_cam: (4, 4); all other poses are then poses of the base.
    """

    table: Path | None = None
    trajectory: Trajectory | None = None
    ordered: Array | None = None
    stamps_ns: Sequence[int] | None = None
    poses_name: str = ''
    camera_poses: bool = False
    camera: str = 'camera'
    T_base_cam: Array | None = None
    max_gap_s: float = 1.0


def find_pictures(folder: Path) -> Found:
    """The images in and below a folder, image_2 before image_10.

    Raises:
        BagError: the folder cannot be read.
    """
    def failed(error: OSError) -> None:
        raise BagError(f'cannot read folder {error.filename}: {error.strerror}') from error

    return find_below(folder, failed)


def find_tables(folder: Path) -> list[Path]:
    """The .csv and .tsv files directly in a folder, sorted."""
    return sorted(path for path in folder.iterdir()
                  if path.suffix.lower() in TABLES and path.is_file())


def open_folder(
    folder: Path, options: FolderOptions, gps: GpsConfig, origin: Origin | None = None
) -> PosedSource:
    """Find the images of a folder and their poses.

    Sources of poses, by priority: the given trajectory or table, the only table in the folder,
    names such as `@east@north@…@.jpg`, EXIF GPS positions. Without directions, poses are those of
    a body with x along the motion between images and z up. Images without a time are one second
    apart.

    Args:
        folder: folder of the images.
        options: options of the user.
        gps: settings for positions on the Earth.
        origin: of the map, if set by an earlier source.

    Raises:
        BagError: no image, no pose, several tables, or an invalid table.
    """
    found = find_pictures(folder)
    names, notes = found.names, found.notes
    if not names:
        raise BagError('; '.join([f'{folder} holds no image ({", ".join(sorted(SUFFIXES))})',
                                  *notes]))
    if options.ordered is not None or options.trajectory is not None:
        notes += options.trajectory.notes if options.trajectory is not None else ()
        frames = _of_trajectory(folder, names, options)
        return _source(folder, frames, options.poses_name, '', options, notes, None, names)
    records, poses_name, lone = _records(folder, names, options, notes)
    if any(record.stamp_ns is None for record in records):
        for number, record in enumerate(records):
            record.stamp_ns = number * SECOND
        timed = False
    else:
        records.sort(key=lambda record: record.stamp_ns or 0)
        timed = True
        lone = False
    world = ''
    if any(record.place for record in records):
        world = GPS_WORLD
        origin = _project(folder, records, gps, origin, timed, notes)
    poses = _poses(records, gps, lone, notes)
    if timed:
        _check_motion(folder, records, poses)
    frames = [_frame(folder, record, T, options, lone, timed)
              for record, T in zip(records, poses, strict=True)]
    return _source(folder, frames, poses_name, world, options, notes,
                   origin if world else None, names)


def _records(folder: Path, names: list[str], options: FolderOptions, notes: list[str]
             ) -> tuple[list[Record], str, bool]:
    """Records of the images, the origin of their poses, and whether they are unordered photos."""
    tables = [options.table] if options.table else []
    for path in [] if tables else find_tables(folder):
        if problem := no_pose_table(path):
            notes.append(f'{path.name} is no table of poses: not used ({problem})')
        else:
            tables.append(path)
    if len(tables) > 1:
        raise BagError(f'{folder} has several tables; choose one with --table: '
                       f'{", ".join(path.name for path in tables)}')
    if tables:
        records = read_table(tables[0])
        left = len(set(names) - {record.name for record in records})
        if left:
            notes.append(f'{left} images in {folder} are not in {tables[0].name}: left out')
        return records, f'table {tables[0].name}', False
    if any(map(is_posed_name, names)):
        return read_names(names), 'names (@east@north@…)', True
    exifs = [_exif(folder / name) for name in names]
    records = [_of_exif(name, exif) for name, exif in zip(names, exifs, strict=True)]
    if not any(record.place for record in records):
        raise BagError(
            f'{folder} has {len(names)} images and no poses: no table (.csv), no names such as '
            f'@east@north@.jpg, no GPS position in the images; give poses: '
            f'regvpr map build {folder} --out MAP with --table, --tum or --kitti FILE'
            f'{"; " if notes else ""}{"; ".join(notes)}')
    # One clock for all images: that of the camera, else GPS time, else the order of names.
    for clock in ('stamp_ns', 'gps_stamp_ns'):
        stamps = [getattr(exif, clock) for exif in exifs]
        if None not in stamps:
            for record, stamp in zip(records, stamps, strict=True):
                record.stamp_ns = stamp
            break
    return records, 'GPS positions in the images', False


def _exif(path: Path) -> Exif:
    """EXIF of an image; empty if it is unreadable, which is reported when it is decoded."""
    try:
        return read_exif(path)
    except ImageError:
        return Exif()


def _of_exif(name: str, exif: Exif) -> Record:
    if exif.lat_deg is None or exif.lon_deg is None:
        return Record(name=name, problem='no GPS position in it')
    return Record(
        name=name, place=(exif.lat_deg, exif.lon_deg,
                          math.nan if exif.alt_m is None else exif.alt_m),
        yaw_rad=None if exif.heading_deg is None else float(yaw_of_heading(exif.heading_deg)))


def _project(folder: Path, records: list[Record], gps: GpsConfig, origin: Origin | None,
             timed: bool, notes: list[str]) -> Origin:
    """Convert places on the Earth to metres; return the origin, the first valid place."""
    there = [record for record in records if record.place]
    places = np.array([record.place for record in there])
    valid = valid_fix(places[:, 0], places[:, 1])
    if not valid.any():
        raise BagError(f'{folder} holds no position on the Earth')
    for record, good in zip(there, valid.tolist(), strict=True):
        if not good:
            record.place, record.problem = None, 'its position is not on the Earth'
    there, places = [record for record in there if record.place], places[valid]
    stamps = np.array([record.stamp_ns for record in there], dtype=np.int64) if timed else None
    places[:, 2], filled = fill_heights(
        places[:, 2], np.array([record.stamp_ns for record in there], dtype=np.int64))
    if filled.any():
        notes.append(f'{int(filled.sum())} images in {folder} have no altitude: that of their '
                     f'neighbours is taken')
    origin, positions, keep = on_one_plane(places, origin, gps.max_speed_mps, stamps,
                                           EXIF_RESOLUTION_S)
    found = iter(positions.tolist())
    for record, good in zip(there, keep.tolist(), strict=True):
        if good:
            east, north, up = next(found)
            record.position = (east, north, up)
        else:
            record.problem = GPS_JUMP
    if not keep.all():
        notes.append(f'{int((~keep).sum())} positions in {folder} are jumps: left out')
    return origin


def _poses(records: list[Record], gps: GpsConfig, lone: bool, notes: list[str]
           ) -> list[Array | None]:
    """`T_world_body` of each image, None if it has a problem."""
    used = [record for record in records if not record.problem and record.position]
    if not used:
        return [None] * len(records)
    positions = np.array([record.position for record in used])
    positions[:, 2], filled = fill_heights(
        positions[:, 2], np.array([record.stamp_ns or 0 for record in used], dtype=np.int64))
    if filled.any():
        notes.append(f'{int(filled.sum())} images have no height: that of their neighbours is '
                     f'taken')
    without = [record.quat_xyzw is None and record.yaw_rad is None for record in used]
    motion = np.full(len(used), np.nan)
    if any(without):
        motion = motion if lone else headings(positions, gps.heading_step_m)
        notes.append(f'{sum(without)} images have no direction: '
                     + ('all look along x' if np.isnan(motion).all() else
                        'that of the motion is taken'))
    yaw = np.array([angle if record.yaw_rad is None else record.yaw_rad
                    for record, angle in zip(used, motion.tolist(), strict=True)])
    T = yaw_poses(positions, yaw)
    for number, record in enumerate(used):
        if record.quat_xyzw is not None:
            T[number] = pose_matrix(positions[number], record.quat_xyzw)
    found = iter(T)
    return [next(found) if not record.problem and record.position else None for record in records]


def _check_motion(folder: Path, records: list[Record], poses: list[Array | None]) -> None:
    """Refuse poses in millimetres, or stamps in a wrong unit."""
    posed = [(record.camera, record.stamp_ns or 0, T) for record, T in
             zip(records, poses, strict=True) if T is not None]
    for camera in {camera for camera, _, _ in posed}:
        group = [(stamp, T) for name, stamp, T in posed if name == camera]
        refuse_jumping(make_trajectory([stamp for stamp, _ in group],
                                       [T for _, T in group]), f'the images in {folder}')


def _of_trajectory(folder: Path, names: list[str], options: FolderOptions) -> list[PosedFrame]:
    """Images with poses of a file, matched by order or by the time in their names."""
    stamps = [stamp_of_name(name) for name in names]
    if options.ordered is not None:
        if len(options.ordered) != len(names):
            raise BagError(f'{options.poses_name} has {len(options.ordered)} poses, but {folder} '
                           f'{len(names)} images; in order, each needs one')
        given = options.stamps_ns
        if given is not None and len(given) != len(names):
            raise BagError(f'{len(given)} times for the {len(names)} images of {folder}')
        return [_frame(folder, Record(name=name, stamp_ns=(
                    int(given[i]) if given is not None else
                    i * SECOND if None in stamps else stamps[i]), problem='' if np.isfinite(
                        options.ordered[i]).all() else 'its pose is not finite'),
                       options.ordered[i] if np.isfinite(options.ordered[i]).all() else None,
                       options)
                for i, name in enumerate(names)]
    trajectory = options.trajectory
    if trajectory is None or all(stamp is None for stamp in stamps):
        raise BagError(f'the images of {folder} are not named by their times (as '
                       f'1305031102.175304.png), so {options.poses_name} says nothing of them')
    timed = sorted((stamp, name) for stamp, name in zip(stamps, names, strict=True)
                   if stamp is not None)
    frames = [_frame(folder, Record(name=name, stamp_ns=stamp, problem=NO_POSE),
                     trajectory.at(stamp, gap_limit_s(trajectory.spacing_s, options.max_gap_s)),
                     options) for stamp, name in timed]
    return frames + [_frame(folder, Record(name=name, stamp_ns=0, problem='no time in its name'),
                            None, options)
                     for stamp, name in zip(stamps, names, strict=True) if stamp is None]


def _frame(folder: Path, record: Record, T: Array | None, options: FolderOptions,
           lone: bool = False, timed: bool = False) -> PosedFrame:
    if T is not None and options.T_base_cam is not None and not options.camera_poses:
        T = T @ options.T_base_cam
    return PosedFrame(
        stamp_ns=record.stamp_ns or 0, camera=record.camera or options.camera, T_map_cam=T,
        decode=lambda: read(folder / record.name), source=_name(folder),
        image=text_of_name(record.name), refused=record.problem or NO_POSE, lone=lone, timed=timed)


@functools.cache
def _name(folder: Path) -> str:
    """Name of a folder in a map."""
    return text_of_name(folder.absolute().name)


def _source(folder: Path, frames: list[PosedFrame], poses: str, world: str,
            options: FolderOptions, notes: list[str], origin: Origin | None, names: list[str]
            ) -> PosedSource:
    def give() -> Iterator[PosedFrame]:
        return iter(frames)

    cameras = sorted({frame.camera for frame in frames})
    extrinsics: dict[str, list[float]] = {}
    if options.T_base_cam is not None:
        T = options.T_base_cam
        values = [float(v) for v in (*T[:3, 3], *quat_xyzw(T))]
        extrinsics = dict.fromkeys(cameras, values)
    return PosedSource(
        name=_name(folder), poses=poses, world=world, frames=give,
        total=len(frames), cameras=cameras, extrinsics=extrinsics, origin=origin,
        identity=_identity(folder, names, poses, options), notes=notes)


def _identity(folder: Path, names: list[str], poses: str, options: FolderOptions
              ) -> dict[str, object]:
    """Digest to detect changes of a folder: names, sizes, and the table's bytes."""
    digest, size = hashlib.sha256(), 0
    for name in names:
        try:
            bytes_ = os.stat(os.path.join(folder, name)).st_size
        except OSError:
            bytes_ = -1
        size += max(bytes_, 0)
        digest.update(f'{text_of_name(name)}\n{bytes_}\n'.encode())
    tables = [path for path in find_tables(folder) if not no_pose_table(path)]
    for table in [options.table] if options.table else tables:
        digest.update(table.read_bytes())
    if options.ordered is not None:
        digest.update(options.ordered.tobytes())
    if options.trajectory is not None:
        digest.update(options.trajectory.stamps_ns.tobytes() + options.trajectory.poses.tobytes())
    return {'name': _name(folder), 'pictures': len(names),
            'bytes': size, 'poses': poses, 'digest': digest.hexdigest()[:16]}
