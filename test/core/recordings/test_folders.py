"""Folders of images, each made by its test, become posed images."""

import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.errors import BagError, ImageError
from regvpr_core.images import Found, natural, read
from regvpr_core.recordings.folders import find_pictures, FolderOptions, open_folder
from regvpr_core.recordings.geodesy import GpsConfig
from regvpr_core.recordings.image_records import read_names, read_table, stamp_of_name
from regvpr_core.recordings.trajectory import make_trajectory, read_kitti, read_times

SECOND = 10**9


def picture(path: Path, value: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(os.fspath(path), np.full((4, 6, 3), value, np.uint8))


def opened(folder: Path, **options):
    source = open_folder(folder, FolderOptions(**options), GpsConfig())
    return source, list(source.frames())


def yaw(T: np.ndarray) -> float:
    return math.atan2(T[1, 0], T[0, 0])


# Tables.

@pytest.mark.parametrize(('lines', 'yaws'), [
    ('a.png,1,2,0.5\nb.png,3,4,-0.5', [0.5, -0.5]),
    ('image,x,y,yaw\na.png,1,2,0.5\nb.png,3,4,-0.5', [0.5, -0.5]),
    ('filename;y;x;yaw_deg\na.png;2;1;90\nb.png;4;3;-90', [math.pi / 2, -math.pi / 2]),
    ('\ufeffImage\tX\tY\tHeading\na.png\t1\t2\t0\nb.png\t3\t4\t90', [math.pi / 2, 0.0]),
    ('a.png,1,2\nb.png,3,4', [math.pi / 4] * 2),
    ('Image,X (m),Y [m],Yaw (deg)\na.png,1,2,-45\nb.png,3,4,180,', [-math.pi / 4, math.pi]),
    ('# image, x, y\n\na.png, 1, 2\n# out of order\nb.png, 3, 4\n', [math.pi / 4] * 2)])
def test_planar_tables_are_read_in_every_form(tmp_path, lines, yaws):
    for name in ('a.png', 'b.png', 'c.png'):
        picture(tmp_path / name)
    (tmp_path / 'poses.csv').write_text(lines, encoding='utf-8')
    source, frames = opened(tmp_path)
    assert [f.image for f in frames] == ['a.png', 'b.png']
    assert [f.T_map_cam[:3, 3].tolist() for f in frames] == [[1, 2, 0], [3, 4, 0]]
    assert [yaw(f.T_map_cam) for f in frames] == pytest.approx(yaws)
    assert source.notes[0] == f'1 images in {tmp_path} are not in poses.csv: left out'
    assert source.poses == 'table poses.csv'


def test_full_poses_stamps_and_cameras_are_read(tmp_path):
    rng = np.random.default_rng(0)
    rotations = Rotation.random(4, rng=rng)
    lines = ['image,stamp,camera,x,y,z,qx,qy,qz,qw,weather']
    for i, q in enumerate(rotations.as_quat()):
        lines.append(f'im/{i}.png,{1700000003 - i}.000000001,{"lr"[i % 2]},{i},2,3,'
                     f'{",".join(f"{v:.12f}" for v in q)},sunny')
        picture(tmp_path / 'im' / f'{i}.png')
    (tmp_path / 'poses.csv').write_text('\n'.join(lines))
    _, frames = opened(tmp_path)
    assert [f.image for f in frames] == [f'im/{i}.png' for i in (3, 2, 1, 0)]  # by time
    assert [f.camera for f in frames] == ['r', 'l', 'r', 'l']
    assert [f.stamp_ns for f in frames] == [1_700_000_000 * SECOND + i * SECOND + 1
                                            for i in range(4)]
    np.testing.assert_allclose(frames[3].T_map_cam[:3, :3], rotations[0].as_matrix(), atol=1e-9)
    assert frames[3].T_map_cam[:3, 3].tolist() == [0, 2, 3]


def test_extrinsics_turn_poses_of_the_base_into_those_of_the_camera(tmp_path):
    picture(tmp_path / 'a.png')
    (tmp_path / 'poses.csv').write_text('a.png,1,2,0.0')
    T = np.eye(4)
    T[:3, 3] = [0.5, 0.0, 1.5]
    source, (frame,) = opened(tmp_path, T_base_cam=T)
    assert frame.T_map_cam[:3, 3].tolist() == [1.5, 2.0, 1.5]
    assert source.extrinsics == {'camera': [0.5, 0.0, 1.5, 0, 0, 0, 1]}


def test_a_picture_that_a_table_names_twice_has_its_first_place(tmp_path):
    for name in ('a.png', 'b.png'):
        picture(tmp_path / name)
    (tmp_path / 'poses.csv').write_text('image,x,y\na.png,1,2\nb.png,3,4\na.png,70,80\n')
    _, frames = opened(tmp_path)
    assert [None if f.T_map_cam is None else f.T_map_cam[0, 3] for f in frames] == [1, 3, None]
    assert frames[2].refused == 'an earlier line of the table names it too'


@pytest.mark.parametrize(('text', 'message'), [
    ('image,x,y\na.png,1\n', 'line 2: .* the line has 2 values for 3 columns'),
    ('', 'holds no image'),
    ('image,x,y\n', 'holds no image'),
    ('image,lat\na.png,3\n', r'has no columns x, y and none lat, lon; it has: image, lat'),
    ('a.png,1\n', r'has 2 columns and no header with the column "image"; without a header it'),
    ('image,x,y\na.png,1\n', r'poses.csv, line 2: expected image x y: '),
    ('image,x,y\na.png,one,2\n', r'line 2: .*could not convert'),
    ('image,x,y\n../a.png,1,2\n', r"line 2: .*image '../a.png' is not inside the folder"),
    ('image,x,y\n/etc/passwd,1,2\n', r"'/etc/passwd' is not inside the folder"),
    ('image,x,y\n..\\..\\a.png,1,2\n', 'is not inside the folder'),
    ('image,x,y\n,1,2\n', 'is not inside the folder'),
    ('image,x,y,stamp\na.png,1,2,1e30\n', 'line 2: .*stamp 1E'),
    ('image,x,y,stamp_ns\na.png,1,2,99999999999999999999\n', 'line 2: .*stamp_ns 9999')])
def test_tables_that_make_no_sense_are_refused_by_line(tmp_path, text, message):
    (tmp_path / 'poses.csv').write_text(text)
    with pytest.raises(BagError, match=message) as error:
        read_table(tmp_path / 'poses.csv')
    assert '\n' not in str(error.value)
    assert str(tmp_path / 'poses.csv') in str(error.value)


def test_tables_of_random_bytes_are_refused_at_worst(tmp_path):
    whole = b'image,x,y,z,qx,qy,qz,qw,stamp\na.png,1,2,3,0,0,0,1,5\nb.png,1,2,3,0,0,0,1,6\n'
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        changed = bytearray(whole)
        for at in rng.integers(0, len(whole), 2):
            changed[at] = rng.integers(256)
        (tmp_path / 'poses.csv').write_bytes(changed)
        try:
            read_table(tmp_path / 'poses.csv')
        except BagError:
            refused += 1
    assert 50 < refused < 500


def test_poses_that_cannot_be_are_counted_not_fatal(tmp_path):
    (tmp_path / 'poses.csv').write_text(
        'image,x,y,z,qx,qy,qz,qw\na.png,nan,0,0,0,0,0,1\nb.png,0,0,0,0,0,0,0\n'
        'c.png,inf,0,0,0,0,0,1\nd.png,,0,0,0,0,0,1\ne.png,5,0,0,0,0,0,1\n')
    for name in 'abcde':
        picture(tmp_path / f'{name}.png')
    _, frames = opened(tmp_path)
    assert [f.refused for f in frames[:4]] == [
        'its pose is not finite', 'its quaternion is all zeros', 'its pose is not finite',
        'the table has no position for it']
    assert [f.T_map_cam is None for f in frames] == [True] * 4 + [False]


def test_of_several_tables_one_must_be_named(tmp_path):
    picture(tmp_path / 'a.png')
    for name in ('one.csv', 'two.csv'):
        (tmp_path / name).write_text('a.png,1,2,0')
    with pytest.raises(BagError, match=r'several tables; choose one with --table: one.csv, two'):
        opened(tmp_path)
    assert opened(tmp_path, table=tmp_path / 'two.csv')[0].poses == 'table two.csv'


def test_latitudes_in_a_table_become_metres(tmp_path):
    (tmp_path / 'poses.csv').write_text(
        'image,lat,lon,alt\na.png,48.0,11.0,500\nb.png,48.001,11.0,501\nc.png,0,0,0\n')
    for name in 'abc':
        picture(tmp_path / f'{name}.png')
    source, frames = opened(tmp_path)
    assert (source.world, source.origin.lat_deg) == ('the Earth', 48.0)
    np.testing.assert_allclose(frames[1].T_map_cam[:3, 3], [0, 111.2, 1], atol=0.01)
    assert yaw(frames[0].T_map_cam) == pytest.approx(math.pi / 2)
    assert frames[2].refused == 'its position is not on the Earth'


def test_an_absurd_position_is_a_jump_and_not_the_origin(tmp_path):
    rows = [(0.0, 11.0), (48.5, 11.5), *((48.0 + 1e-4 * i, 11.0) for i in range(6))]
    for i in range(len(rows)):
        picture(tmp_path / f'{i}.png')

    def write(*columns: str) -> None:
        lines = [f'{i}.png,{lat},{lon}{f",{i}" if columns else ""}'
                 for i, (lat, lon) in enumerate(rows)]
        (tmp_path / 'poses.csv').write_text('\n'.join(
            [','.join(('image', 'lat', 'lon', *columns)), *lines]))

    write('stamp')
    source, frames = opened(tmp_path)
    assert source.origin.lat_deg == 48.0
    assert source.notes[0] == f'2 positions in {tmp_path} are jumps: left out'
    assert [f.refused for f in frames[:2]] == ['its GPS position is a jump'] * 2
    assert [f.T_map_cam is None for f in frames] == [True] * 2 + [False] * 6
    assert frames[-1].T_map_cam[1, 3] == pytest.approx(5 * 11.12, abs=0.01)
    # Without times none is too fast; on another continent is too far still.
    write()
    source, frames = opened(tmp_path)
    assert source.origin.lat_deg == 48.5
    assert [f.T_map_cam is None for f in frames] == [True] + [False] * 7


# Names.

def test_the_names_of_the_benchmarks_are_read(tmp_path):
    names = ['@585001.50@4476000.25@17@T@40.42@-79.99@pano@3@90.0@0@0@12.5@@note@.jpg',
             '@585011.50@4476000.25@17@T@40.42@-79.99@pano@3@@@@@@@.jpg']
    for name in names:
        picture(tmp_path / 'database' / name)
    picture(tmp_path / 'plain.jpg')
    source, frames = opened(tmp_path)
    by_name = {frame.image: frame for frame in frames}
    first, second = (by_name[f'database/{name}'] for name in names)
    assert source.world == 'the Earth'
    assert 40.4 < source.origin.lat_deg < 40.5
    assert -80.1 < source.origin.lon_deg < -79.9
    assert yaw(first.T_map_cam) == pytest.approx(0.0)  # a heading of 90 is east
    step = second.T_map_cam[:3, 3] - first.T_map_cam[:3, 3]
    assert step[:2] == pytest.approx([10.0, 0.0], abs=0.15)  # true north is not quite grid north
    assert by_name['plain.jpg'].refused == 'no position in its name'
    assert all(frame.lone for frame in frames)
    assert any('look along x' in note for note in source.notes)


def test_names_without_a_zone_are_metres_in_a_plane(tmp_path):
    for name in ('@10@20@.jpg', '@13.5@20@@@@@@@@@@@@@.jpg'):
        picture(tmp_path / name)
    source, frames = opened(tmp_path)
    assert (source.world, source.origin) == ('', None)
    assert [f.T_map_cam[:3, 3].tolist() for f in frames] == [[10, 20, 0], [13.5, 20, 0]]


def test_zones_side_by_side_fit_together():
    """12 degrees east of Greenwich, where zone 32 ends and 33 begins."""
    from pyproj import Proj
    names = []
    for zone, lon in ((32, 11.9999), (33, 12.0001)):
        x, y = Proj(proj='utm', zone=zone, ellps='WGS84')(lon, 48.0)
        names.append(f'@{x:.3f}@{y:.3f}@{zone}@U@@@@@@@@@@@.jpg')
    west, east = (record.place for record in read_names(names))
    assert (east[1] - west[1]) == pytest.approx(0.0002, abs=1e-7)
    south, = (r.place for r in read_names(['@334786@6252080@56@H@@@@@@@@@@@.jpg']))
    assert south[0] == pytest.approx(-33.86, abs=0.01)


def test_times_in_names_make_a_drive_of_them(tmp_path):
    for i, time in enumerate(('20190612_143010', '20190612_143005', '2019-06-12T14:30:00')):
        picture(tmp_path / f'@{i}@0@@@@@@@@@@@{time}@@.jpg')
    _, frames = opened(tmp_path)
    assert [f.T_map_cam[0, 3] for f in frames] == [2, 1, 0]
    assert [f.stamp_ns for f in frames] == [1_560_349_800 * SECOND + s * SECOND
                                            for s in (0, 5, 10)]
    assert not any(f.lone for f in frames)
    assert abs(yaw(frames[0].T_map_cam)) == pytest.approx(math.pi)


@pytest.mark.parametrize(('name', 'stamp'), [
    ('1305031102.175304.png', 1_305_031_102_175_304_000),
    ('1403636579763555584.png', 1_403_636_579_763_555_584),
    ('1403636579763.jpg', 1_403_636_579_763_000_000), ('1403636579.jpg', 1_403_636_579 * SECOND),
    ('000012.png', None), ('frame7.png', None), ('9999999999999999999.png', None)])
def test_pictures_may_be_named_by_their_time(name, stamp):
    assert stamp_of_name(name) == stamp


# Trajectory files.

def test_a_tum_trajectory_places_pictures_named_by_time(tmp_path):
    for name in ('10.500000.png', '11.000000.png', '99.000000.png', 'cover.png'):
        picture(tmp_path / name)
    poses = np.tile(np.eye(4), (2, 1, 1))
    poses[1, 0, 3] = 2.0
    _, frames = opened(tmp_path, trajectory=make_trajectory([10 * SECOND, 11 * SECOND], poses),
                       poses_name='poses.txt')
    assert [None if f.T_map_cam is None else f.T_map_cam[0, 3] for f in frames] == [
        1.0, 2.0, None, None]
    assert [f.refused for f in frames[2:]] == ['no pose at its stamp', 'no time in its name']
    picture(tmp_path / 'sub' / 'x.png')
    with pytest.raises(BagError, match=r'are not named by their times .* poses.txt says nothing'):
        opened(tmp_path / 'sub', trajectory=make_trajectory([0], poses[:1]),
               poses_name='poses.txt')


def test_kitti_poses_go_with_the_pictures_in_order(tmp_path):
    rotations = Rotation.from_euler('y', [[0.0], [0.1], [0.2]]).as_matrix()
    lines, times = [], []
    for i, R in enumerate(rotations):
        picture(tmp_path / 'image_0' / f'{i:06}.png')
        row = np.concatenate([R, [[0.0], [0.0], [1.5 * i]]], axis=1)
        lines.append(' '.join(f'{v:.6e}' for v in row.reshape(-1)))
        times.append(f'{0.1 * i:.6e}')
    (tmp_path / '00.txt').write_text('\n'.join(lines))
    (tmp_path / 'times.txt').write_text('\n'.join(times))
    poses, stamps = read_kitti(tmp_path / '00.txt'), read_times(tmp_path / 'times.txt')
    np.testing.assert_allclose(poses[:, :3, :3], rotations, atol=1e-6)
    assert stamps.tolist() == [0, 100_000_000, 200_000_000]
    _, frames = opened(tmp_path / 'image_0', ordered=poses, stamps_ns=stamps.tolist(),
                       poses_name='00.txt')
    assert [f.T_map_cam[2, 3] for f in frames] == pytest.approx([0, 1.5, 3.0])
    assert [f.stamp_ns for f in frames] == stamps.tolist()
    # They are those of the camera; where it sits is only noted.
    T_base_cam = np.eye(4)
    T_base_cam[0, 3] = 2.0
    source, frames = opened(tmp_path / 'image_0', ordered=poses, poses_name='00.txt',
                            camera_poses=True, T_base_cam=T_base_cam)
    np.testing.assert_array_equal([f.T_map_cam for f in frames], poses)
    assert source.extrinsics == {'camera': [2.0, 0, 0, 0, 0, 0, 1.0]}
    picture(tmp_path / 'image_0' / '000003.png')
    with pytest.raises(BagError, match=r'00.txt has 3 poses, but .*image_0 4 images; in order'):
        opened(tmp_path / 'image_0', ordered=poses, poses_name='00.txt')


@pytest.mark.parametrize('bad', ['1 2 3', ' '.join(['1'] * 12), ' '.join(['inf'] * 12),
                                 '-1 0 0 0 0 1 0 0 0 0 1 0', ' '.join(['x'] * 12)])
def test_a_bad_line_of_kitti_is_named(tmp_path, bad):
    (tmp_path / '00.txt').write_text(f'1 0 0 0 0 1 0 0 0 0 1 0\n{bad}\n')
    with pytest.raises(BagError, match=r'00.txt, line 2: expected the 12 numbers of a pose'):
        read_kitti(tmp_path / '00.txt')


# What a folder may hold.

def test_pictures_are_found_in_the_order_that_people_count(tmp_path):
    for name in ('image_10.png', 'image_2.png', 'b/1.JPG', 'ä/ß.png'):
        picture(tmp_path / name)
    (tmp_path / 'notes.txt').write_text('')
    (tmp_path / 'link.png').symlink_to(tmp_path / 'image_2.png')
    (tmp_path / 'broken.png').symlink_to(tmp_path / 'nowhere.png')
    (tmp_path / 'loop').symlink_to(tmp_path)
    os.mkfifo(tmp_path / 'pipe.png')
    found = find_pictures(tmp_path).names
    assert found == sorted(found, key=natural)
    assert set(found) == {'b/1.JPG', 'broken.png', 'image_2.png', 'image_10.png', 'link.png',
                          'ä/ß.png'}
    assert found.index('image_2.png') < found.index('image_10.png')
    with pytest.raises(ImageError, match=r'pipe.png: is no plain file'):
        read(tmp_path / 'pipe.png')
    with pytest.raises(ImageError, match=r'broken.png: cannot be read'):
        read(tmp_path / 'broken.png')


def test_names_of_stray_bytes_are_written_out(tmp_path):
    name = os.fsdecode(b'caf\xe9.png')
    (tmp_path / name).write_bytes(cv2.imencode('.png', np.zeros((2, 2, 3), np.uint8))[1].tobytes())
    picture(tmp_path / '@1@2@.png')
    _, frames = opened(tmp_path)
    images = sorted(frame.image for frame in frames)
    assert images == ['@1@2@.png', 'caf\\xe9.png']
    for image in images:
        image.encode('utf-8')


def test_a_folder_without_pictures_or_poses_says_what_is_missing(tmp_path):
    with pytest.raises(BagError, match=r'holds no image \(.bmp, .jpe, .jpeg'):
        opened(tmp_path)
    picture(tmp_path / 'a.png')
    with pytest.raises(BagError, match=r'has 1 images and no poses: no table \(.csv\), no name'):
        opened(tmp_path)


def test_a_hundred_thousand_names_are_taken_without_a_pixel(tmp_path, monkeypatch):
    from regvpr_core.recordings import folders

    names = [f'@{i % 1000}@{i // 1000}@.jpg' for i in range(100_000)]
    monkeypatch.setattr(folders, 'find_pictures', lambda folder: Found(names))
    source = open_folder(tmp_path, FolderOptions(), GpsConfig())
    frames = source.frames()
    assert source.total == 100_000
    assert next(frames).T_map_cam[:3, 3].tolist() == [0, 0, 0]
    assert sum(frame.T_map_cam is not None for frame in frames) == 99_999


def test_a_changed_folder_has_another_identity(tmp_path):
    picture(tmp_path / '@1@2@.png')
    first = opened(tmp_path)[0].identity
    assert opened(tmp_path)[0].identity == first
    picture(tmp_path / '@3@2@.png')
    assert opened(tmp_path)[0].identity['digest'] != first['digest']
