"""Records of the images of a folder: their poses from a table or from file names."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import csv
from dataclasses import dataclass
import datetime
import math
import os
from pathlib import Path, PurePosixPath
import posixpath
import re
from typing import NamedTuple

import numpy as np

from regvpr_core.errors import BagError
from regvpr_core.images import SUFFIXES
from regvpr_core.recordings.geodesy import from_utm, yaw_of_heading
from regvpr_core.recordings.trajectory import nanoseconds

MAX_TABLE_BYTES = 500_000_000
MAX_COORDINATE = 1e9
MAX_YAW_RAD = 2 * math.pi + 0.01

HEADERLESS = {
    3: 'image x y', 4: 'image x y yaw', 8: 'image x y z qx qy qz qw',
    9: 'image x y z qx qy qz qw stamp', 10: 'image x y z qx qy qz qw stamp camera'}
"""Columns of a table without a header, by the number of columns."""

ALIASES = {
    'file': 'image', 'filename': 'image', 'file_name': 'image', 'image_name': 'image',
    'name': 'image', 'path': 'image', 'tx': 'x', 'ty': 'y', 'tz': 'z', 'east': 'x', 'north': 'y',
    'latitude': 'lat', 'longitude': 'lon', 'lng': 'lon', 'altitude': 'alt', 'timestamp': 'stamp',
    'time': 'stamp', 'stamp_s': 'stamp', 'time_s': 'stamp', 'timestamp_s': 'stamp',
    'timestamp_ns': 'stamp_ns', 'yaw_rad': 'yaw', 'yaw_degrees': 'yaw_deg',
    'x_m': 'x', 'y_m': 'y', 'z_m': 'z', 'alt_m': 'alt', 'altitude_m': 'alt', 'lat_deg': 'lat',
    'lon_deg': 'lon', 'latitude_deg': 'lat', 'longitude_deg': 'lon',
    'heading_deg': 'heading'}
UNIT = re.compile(r'\s*[\[(]\s*(\w+)\s*[\])]$')
"""The unit in a name such as `Yaw (deg)`."""

NUMBERS = frozenset({'x', 'y', 'z', 'qx', 'qy', 'qz', 'qw', 'yaw', 'yaw_deg', 'heading', 'lat',
                     'lon', 'alt'})
QUATERNION = ('qx', 'qy', 'qz', 'qw')


@dataclass(slots=True, kw_only=True)
class Record:
    """One image with a position in metres or on the Earth.

    name: path within the folder, with slashes. position: x y z, m. place: lat_deg, lon_deg, alt_m
    (NaN if unknown). quat_xyzw: of the body in the world. yaw_rad: counter-clockwise from x.
    problem: why it cannot be used, else ''.
    """

    name: str
    position: tuple[float, float, float] | None = None
    place: tuple[float, float, float] | None = None
    quat_xyzw: tuple[float, float, float, float] | None = None
    yaw_rad: float | None = None
    stamp_ns: int | None = None
    camera: str = ''
    problem: str = ''


def read_table(file: Path) -> list[Record]:
    """Read a table of images and poses: comma, semicolon or tab, with or without a header.

    Columns: image; x y [z] or lat lon [alt]; qx qy qz qw, yaw (rad), yaw_deg or heading (deg,
    clockwise from north); stamp (s) or stamp_ns; camera. Others are ignored. Without a header the
    number of columns decides, see `HEADERLESS`.

    Raises:
        BagError: the file cannot be read, a column is missing, or a line is invalid.
    """
    records = []
    seen: set[str] = set()
    columns: list[str] = []
    for number, words in _rows(file):
        if not columns:
            columns, is_header = _columns(file, words)
            if is_header:
                continue
        try:
            while len(words) > len(columns) and not words[-1]:
                words.pop()
            if len(words) != len(columns):
                raise ValueError(f'the line has {len(words)} values for {len(columns)} columns')
            records.append(_record(dict(zip(columns, words, strict=True))))
            if records[-1].name in seen:
                records[-1].problem = 'an earlier line of the table names it too'
            seen.add(records[-1].name)
        except ValueError as error:
            raise BagError(f'{file}, line {number}: expected {" ".join(columns)}: '
                           f'{error}') from error
    if not records:
        raise BagError(f'{file} holds no image')
    return records


def no_pose_table(file: Path) -> str:
    """Why the first line shows that a file is no table of images and poses; '' if it may be."""
    try:
        first = next(iter(_rows(file)), None)
        if first is None:
            return 'it is empty'
        columns, is_header = _columns(file, first[1])
        suffix = posixpath.splitext(first[1][0])[1].lower()
        if not is_header and suffix not in SUFFIXES:
            return f'it has no header with the column image, and {first[1][0]!r} is no image'
        return '' if 'image' in columns else 'it has no column image'
    except BagError as error:
        return str(error).removeprefix(f'{file} ')


class UtmName(NamedTuple):
    """Fields of a file name in the convention of VPR-datasets-downloader.

    `@east@north@zone@letter@lat@lon@pano@tile@heading@pitch@roll@height@timestamp@note@.ext`: all
    but the first two may be empty or absent.
    """

    east: str
    north: str
    zone: str = ''
    letter: str = ''
    lat: str = ''
    lon: str = ''
    pano: str = ''
    tile: str = ''
    heading: str = ''
    pitch: str = ''
    roll: str = ''
    height: str = ''
    stamp: str = ''
    note: str = ''


def utm_name(name: str) -> UtmName | None:
    """The fields of a file name; None if it has less than two."""
    fields = posixpath.basename(name).split('@')[1:-1]
    return UtmName(*fields[:len(UtmName._fields)]) if len(fields) >= 2 else None


def is_posed_name(name: str) -> bool:
    """Whether a file is named `@utm_east@utm_north@…@.jpg`."""
    fields = utm_name(name)
    return (posixpath.basename(name).startswith('@') and fields is not None
            and None not in (_finite(fields.east), _finite(fields.north)))


def read_names(names: Sequence[str]) -> list[Record]:
    """Poses from file names, see `UtmName`.

    With zones the positions are places on the Earth, so that folders of several zones can be
    combined; else east and north are metres in a plane.
    """
    records = [_named(name) for name in names]
    zoned: dict[tuple[int, bool], list[Record]] = {}
    for name, record in zip(names, records, strict=True):
        zone = _zone(name)
        if zone and record.position:
            zoned.setdefault(zone, []).append(record)
    if sum(map(len, zoned.values())) < sum(r.position is not None for r in records):
        return records
    for (number, north), group in zoned.items():
        xyz = np.array([record.position for record in group])
        lat, lon = from_utm(xyz[:, 0], xyz[:, 1], number, north)
        for record, *place in zip(group, lat.tolist(), lon.tolist(), xyz[:, 2].tolist(),
                                  strict=True):
            record.position, record.place = None, (place[0], place[1], place[2])
            if not all(map(math.isfinite, record.place[:2])):
                record.place, record.problem = None, 'position in its name is not on the Earth'
    return records


def stamp_of_name(name: str) -> int | None:
    """Time in a file name such as 1305031102.175304.png or 14036365797….png, ns; else None."""
    stem = posixpath.splitext(posixpath.basename(name))[0]
    if re.fullmatch(r'\d{1,10}\.\d{1,9}', stem):
        with contextlib.suppress(ValueError):
            return nanoseconds(stem)
    # s, ms, us or ns since 1970, by the number of digits.
    unit = {10: 10**9, 13: 10**6, 16: 10**3, 19: 1}.get(len(stem))
    stamp = int(stem) * unit if unit and re.fullmatch('[0-9]+', stem) else 2**63
    return stamp if stamp < 2**63 else None


def text_of_name(name: str) -> str:
    """A file name as text; undecodable bytes are escaped."""
    return os.fsencode(name).decode('utf-8', 'backslashreplace')


def _rows(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and words of the lines of a table, without empty lines and comments."""
    try:
        if file.stat().st_size > MAX_TABLE_BYTES:
            raise BagError(f'{file} is larger than {MAX_TABLE_BYTES} bytes')
        with file.open(encoding='utf-8-sig', newline='') as lines:
            first = next((line for line in lines if line.strip()), '')
            separator = max(',;\t', key=first.count)
            lines.seek(0)
            for number, words in enumerate(csv.reader(lines, delimiter=separator), start=1):
                words = [word.strip() for word in words]
                if any(words) and (number == 1 or not words[0].startswith('#')):
                    yield number, words
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BagError(f'cannot read table {file}: {error}') from error


def _columns(file: Path, words: list[str]) -> tuple[list[str], bool]:
    """Names of the columns, and whether this first line is a header."""
    names = [UNIT.sub(r'_\1', word.lstrip('#').strip().lower()) for word in words]
    names = [ALIASES.get(name, name) for name in names]
    if 'image' in names:
        there = set(names)
        if not ({'x', 'y'} <= there or {'lat', 'lon'} <= there):
            raise BagError(f'{file} has no columns x, y and none lat, lon; it has: '
                           f'{", ".join(names)}')
        return names, True
    if len(words) in HEADERLESS:
        return HEADERLESS[len(words)].split(), False
    raise BagError(f'{file} has {len(words)} columns and no header with the column "image"; '
                   f'without a header it needs {" or ".join(map(str, HEADERLESS))} columns: '
                   f'{"; ".join(HEADERLESS.values())}')


def _record(row: dict[str, str]) -> Record:
    """Parse a row; a non-finite number is a problem of the record, other text an error."""
    record = Record(name=_inside(row['image']), camera=row.get('camera', ''))
    numbers = {key: float(row[key]) for key in NUMBERS & row.keys() if row[key]}
    if any(not abs(value) <= MAX_COORDINATE for key, value in numbers.items()
           if key not in ('alt', 'z')):
        record.problem = 'its pose is not finite'
        return record
    if 'lat' in numbers and 'lon' in numbers:
        record.place = (numbers['lat'], numbers['lon'], numbers.get('alt', math.nan))
    elif 'x' in numbers and 'y' in numbers:
        unknown = math.nan if 'z' in row else 0.0
        record.position = (numbers['x'], numbers['y'], numbers.get('z', unknown))
    else:
        record.problem = 'the table has no position for it'
    if numbers.keys() >= set(QUATERNION):
        quat = (numbers['qx'], numbers['qy'], numbers['qz'], numbers['qw'])
        record.quat_xyzw = quat
        if math.hypot(*quat) < 1e-9:
            record.problem = 'its quaternion is all zeros'
    elif 'yaw' in numbers:
        record.yaw_rad = numbers['yaw']
        if abs(record.yaw_rad) > MAX_YAW_RAD:
            raise ValueError(f'a yaw of {record.yaw_rad:g} is no angle in rad; name the column '
                             f'yaw_deg if it is in degrees')
    elif 'yaw_deg' in numbers:
        record.yaw_rad = math.radians(numbers['yaw_deg'])
    elif 'heading' in numbers:
        record.yaw_rad = float(yaw_of_heading(numbers['heading']))
    if row.get('stamp_ns'):
        record.stamp_ns = int(row['stamp_ns'])
        if abs(record.stamp_ns) >= 2**63:
            raise ValueError(f'stamp_ns {record.stamp_ns}')
    elif row.get('stamp'):
        record.stamp_ns = nanoseconds(row['stamp'])
    return record


def _inside(name: str) -> str:
    """Check the path of an image within its folder.

    Raises:
        ValueError: it is empty or outside the folder.
    """
    path = PurePosixPath(name.replace('\\', '/'))
    if not name or '\0' in name or path.is_absolute() or '..' in path.parts:
        raise ValueError(f'image {name!r} is not inside the folder')
    return str(path)


def _named(name: str) -> Record:
    fields = utm_name(name)
    if fields is None or not is_posed_name(name):
        return Record(name=name, problem='no position in its name')
    heading, height = _finite(fields.heading), _finite(fields.height)
    return Record(
        name=name, position=(float(fields.east), float(fields.north),
                             math.nan if height is None else height),
        yaw_rad=None if heading is None else float(yaw_of_heading(heading)),
        stamp_ns=_moment(fields.stamp))


def _zone(name: str) -> tuple[int, bool] | None:
    """UTM zone, and whether it is in the northern hemisphere (letter N or later)."""
    fields = utm_name(name)
    if fields is None or not re.fullmatch(r'\d{1,2}', fields.zone) \
            or not 1 <= int(fields.zone) <= 60:
        return None
    letter = fields.letter.upper()
    return int(fields.zone), not letter or letter >= 'N'


def _finite(word: str) -> float | None:
    with contextlib.suppress(ValueError):
        value = float(word)
        return value if abs(value) <= MAX_COORDINATE else None
    return None


def _moment(text: str) -> int | None:
    """Parse a time in one of the formats of data sets, ns; None for a date without time."""
    if not text:
        return None
    if (found := stamp_of_name(f'{text}.x')) is not None:
        return found
    readers: list[Callable[[str], datetime.datetime]] = [
        datetime.datetime.fromisoformat,
        lambda t: datetime.datetime.strptime(t, '%Y%m%d_%H%M%S'),
        lambda t: datetime.datetime.strptime(t, '%Y%m%d%H%M%S')]
    for read in readers if len(text) >= 14 else []:
        with contextlib.suppress(ValueError, OverflowError):
            moment = read(text)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=datetime.timezone.utc)
            return round(moment.timestamp() * 1e6) * 1000
    return None
