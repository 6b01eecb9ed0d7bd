"""The synthetic town: repeatable, geometrically exact, and honest about where it is."""

import hashlib
from itertools import pairwise

import cv2
import numpy as np
import pytest

from examples.town import Frame, LapConfig, Town, TownConfig, TownError
from examples.town.camera import T_BASE_CAM
from examples.town.route import plan


@pytest.fixture(scope='module')
def town() -> Town:
    return Town(TownConfig(blocks_x=3, blocks_y=3))


def first(town: Town, **lap: object) -> Frame:
    return next(town.drive(LapConfig(**lap)))


def positions(frames: list[Frame]) -> np.ndarray:
    return np.array([f.T_map_base[:2, 3] for f in frames])


def motion(poses: list[np.ndarray]) -> np.ndarray:
    return np.array([np.linalg.norm(b[:2, 3] - a[:2, 3]) for a, b in pairwise(poses)])


def test_the_same_seeds_give_the_same_pixels(town: Town) -> None:
    lap = LapConfig(condition='rain', seed=5, start_m=33.0, frames=2)
    again = Town(town.config)
    digests = [
        hashlib.sha256(b''.join(f.image.tobytes() for f in t.drive(lap))).hexdigest()
        for t in (town, again)
    ]
    assert digests[0] == digests[1]


def test_another_seed_of_the_lap_or_of_the_town_gives_other_pixels(town: Town) -> None:
    image = first(town).image.astype(int)
    assert image.shape == (240, 320, 3)
    assert np.abs(image - first(town, seed=2).image).mean() > 2
    other = Town(TownConfig(seed=2, blocks_x=3, blocks_y=3))
    assert np.abs(image - first(other).image).mean() > 20


def test_the_pixels_of_a_frame_do_not_depend_on_the_frames_before(town: Town) -> None:
    lap = LapConfig(frames=3, condition='rain')
    list(town.drive(lap))
    last = list(town.drive(lap))[-1]
    fresh = list(Town(town.config).drive(lap))[-1]
    assert np.array_equal(last.image, fresh.image)


@pytest.mark.parametrize('start_m', [5.0, 130.0, 310.0])
def test_edges_of_houses_are_where_their_corners_project(town: Town, start_m: float) -> None:
    pose = town.route().pose(start_m)
    buffers, walls = town.buffers(pose), town.district(0).walls
    row = int(town.camera.cy)
    ids, depth = buffers.wall[row], buffers.depth[row]
    checked = 0
    for column in range(1, town.camera.width):
        here, before = ids[column], ids[column - 1]
        if here == before or here < 0:
            continue
        # Where the nearer wall begins on its left there must be its left end.
        if depth[column] < depth[column - 1] - 1.0:
            point = np.array([[*walls.start[here], 1.2]])
            uv, _ = town.camera.project(point, pose)
            assert abs(uv[0, 0] - (column - 0.5)) < 0.51
            checked += 1
    assert checked >= 2


def test_the_upper_edge_of_a_wall_is_where_its_height_projects(town: Town) -> None:
    pose = town.route().pose(20.0)
    buffers, walls = town.buffers(pose), town.district(0).walls
    T_map_cam = pose @ T_BASE_CAM
    middle = int(town.camera.cy)
    checked = 0
    for column in range(0, town.camera.width, 8):
        wall = buffers.wall[middle, column]
        edge = np.flatnonzero(buffers.wall[:, column] == wall)[0]
        if wall < 0 or edge == 0:
            continue
        depth = float(buffers.depth[middle, column])
        ray = np.array([(column - town.camera.cx) / town.camera.focal * depth, 0, depth, 1])
        point = (T_map_cam @ ray)[:3]
        uv, _ = town.camera.project(np.array([[*point[:2], walls.top[wall]]]), pose)
        assert np.allclose(uv[0], [column, edge - 0.5], atol=0.51)
        checked += 1
    assert checked > 10


def test_every_wall_pixel_lies_on_its_wall(town: Town) -> None:
    pose = town.route().pose(200.0)
    buffers, walls = town.buffers(pose), town.district(0).walls
    rows, columns = np.nonzero(buffers.wall >= 0)
    depth, wall = buffers.depth[rows, columns], buffers.wall[rows, columns]
    rays = np.stack([columns, rows, np.ones(len(rows))]) * depth
    points = (np.linalg.inv(town.camera.matrix) @ rays).T
    T_map_cam = pose @ T_BASE_CAM
    points = points @ T_map_cam[:3, :3].T + T_map_cam[:3, 3]
    along = walls.end[wall] - walls.start[wall]
    offset = points[:, :2] - walls.start[wall]
    normal = np.stack([-along[:, 1], along[:, 0]], 1) / np.linalg.norm(along, axis=1)[:, None]
    assert len(rows) > 20_000
    assert np.abs(np.sum(normal * offset, axis=1)).max() < 1e-3
    assert np.all(points[:, 2] > -0.5 * depth / town.camera.focal)
    assert np.all(points[:, 2] < walls.top[wall] + 0.5 * depth / town.camera.focal)


def test_depth_explains_how_the_picture_moves(town: Town) -> None:
    lap = {'cars': 0.0, 'wander_m': 0.0}
    a, b = first(town, start_m=10.0, **lap), first(town, start_m=10.6, **lap)
    buffers = town.buffers(a.T_map_base)
    rows, columns = np.mgrid[: town.camera.height, : town.camera.width]
    wall = buffers.wall >= 0
    rays = np.stack([columns[wall], rows[wall], np.ones(wall.sum())]) * buffers.depth[wall]
    T_map_cam = a.T_map_base @ T_BASE_CAM
    points = (np.linalg.inv(town.camera.matrix) @ rays).T @ T_map_cam[:3, :3].T + T_map_cam[:3, 3]
    uv, _ = town.camera.project(points, b.T_map_base)
    inside = (uv[:, 0] > 1) & (uv[:, 0] < 318) & (uv[:, 1] > 1) & (uv[:, 1] < 238)
    maps = uv[inside].astype(np.float32).reshape(-1, 1, 2)[:30_000]
    moved = cv2.remap(b.image, maps, None, cv2.INTER_LINEAR)[:, 0].astype(float)
    before = a.image[wall][inside][:30_000].astype(float)
    still = b.image[wall][inside][:30_000].astype(float)
    explained, unexplained = np.abs(moved - before).mean(), np.abs(still - before).mean()
    assert explained < 0.55 * unexplained


def test_odometry_starts_at_the_identity_and_drifts_by_percents(town: Town) -> None:
    from examples.town.drive import Drive

    for seed in range(6):
        drive = Drive(town.config, LapConfig(seed=seed), 0)
        assert np.allclose(drive.T_odom_base[0], np.eye(4))
        truth = np.linalg.inv(drive.T_map_base[0]) @ drive.T_map_base[-1]
        error = np.linalg.norm((np.linalg.inv(truth) @ drive.T_odom_base[-1])[:2, 3])
        driven = motion(drive.T_map_base).sum()
        assert 380 < driven < 410
        assert 0.002 < error / driven < 0.04


def test_frames_are_evenly_spaced_and_stamped(town: Town) -> None:
    frames = list(town.drive(LapConfig(frames=6, speed_mps=4.0, rate_hz=8.0), start_ns=10**18))
    assert [f.stamp_ns for f in frames] == [10**18 + i * 125_000_000 for i in range(6)]
    assert np.allclose(motion([f.T_map_base for f in frames]), 0.5, atol=0.02)


def test_dusk_is_darker_and_winter_has_whiter_ground(town: Town) -> None:
    def lap(condition: str) -> np.ndarray:
        config = LapConfig(condition=condition, cars=0.0, frames=5, rate_hz=0.2)
        return np.array([f.image for f in town.drive(config)])

    day, dusk, winter = lap('day'), lap('dusk'), lap('winter')
    assert dusk.mean() < 0.7 * day.mean()
    assert winter[:, 200:].mean() > 1.6 * day[:, 200:].mean()


@pytest.mark.full
def test_other_cars_leave_the_place_recognisable(town: Town) -> None:
    def thumbnails(frames: list[Frame]) -> np.ndarray:
        small = np.array([cv2.resize(f.image, (32, 24), interpolation=cv2.INTER_AREA)
                          for f in frames], float)  # fmt: skip
        small -= small.mean(axis=(1, 2), keepdims=True)
        small = small.reshape(len(small), -1)
        return small / np.linalg.norm(small, axis=1, keepdims=True)

    mapped = list(town.drive(LapConfig(rate_hz=2.5, frames=100)))
    again = list(town.drive(LapConfig(rate_hz=0.6, seed=2, lateral_m=0.3, start_m=0.7, frames=22)))
    found = (thumbnails(again) @ thumbnails(mapped).T).argmax(axis=1)
    error = np.linalg.norm(positions(mapped)[found] - positions(again), axis=1)
    assert np.mean(error < 5.0) > 0.9


def test_the_unmapped_route_stays_100_m_away_from_the_mapped_one(town: Town) -> None:
    mapped, other = plan(town.config, 'mapped').points, plan(town.config, 'unmapped').points
    gap = np.linalg.norm(mapped[:, None] - other[None], axis=2).min()
    assert gap > 100
    frame = first(town, route='unmapped')
    assert np.linalg.norm(mapped - frame.T_map_base[:2, 3], axis=1).min() > 100
    assert frame.image.std() > 25


def test_a_route_is_closed_and_turns_gently(town: Town) -> None:
    for name in ('mapped', 'unmapped'):
        for reverse in (False, True):
            route = town.route(name, reverse=reverse)
            assert 370 < route.length_m < 420
            assert np.allclose(route.pose(0.0), route.pose(route.length_m), atol=1e-9)
            poses = [route.pose(float(s)) for s in np.arange(0, route.length_m, 0.5)]
            assert motion(poses).min() > 0.45
            turns = [(np.linalg.inv(a) @ b)[1, 0] for a, b in pairwise(poses)]
            assert np.abs(turns).max() < 0.15


def test_a_closed_loop_passes_its_start_again(town: Town) -> None:
    from examples.town.drive import Drive

    drive = Drive(town.config, LapConfig(route='closed-loop', wander_m=0.0), 0)
    places = np.array([pose[:2, 3] for pose in drive.T_map_base])
    back = np.linalg.norm(places[len(places) // 2 :] - places[0], axis=1).min()
    assert back < 0.2
    assert 560 < motion(drive.T_map_base).sum() < 610


def test_a_kidnapped_lap_jumps_in_truth_but_not_in_odometry(town: Town) -> None:
    frames = list(town.drive(LapConfig(frames=6, kidnap_at=3)))
    truth = motion([f.T_map_base for f in frames])
    odometry = motion([f.T_odom_base for f in frames])
    assert truth[2] > 40
    assert np.allclose(np.delete(truth, 2), 1.0, atol=0.05)
    assert np.allclose(odometry, 1.0, atol=0.08)
    assert np.array_equal(frames[2].image, list(town.drive(LapConfig(frames=3)))[2].image)


def test_a_lap_can_be_carried_off_to_the_unmapped_streets(town: Town) -> None:
    frames = list(town.drive(LapConfig(frames=3, kidnap_at=2, kidnap_route='unmapped')))
    assert frames[2].T_map_base[0, 3] - frames[1].T_map_base[0, 3] > 150


def test_aliased_streets_have_the_same_houses() -> None:
    town = Town(TownConfig(aliased=True))
    houses = town.district(0).buildings
    corners = np.array([b.corners for b in houses])
    middle = corners.mean(axis=1)
    source = [i for i, m in enumerate(middle) if 55 < m[0] < 95 and 5 < m[1] < 95]
    copies = 0
    for i in source:
        there = np.linalg.norm(middle - (middle[i] + [-50.0, 50.0]), axis=1).argmin()
        copies += houses[i].style == houses[there].style and houses[i].seed == houses[there].seed
    assert len(source) > 20
    assert copies == len(source)


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (lambda: TownConfig(width=8), 'width must be between 32 and 1920, got 8'),
        (lambda: TownConfig(seed=-1), 'seed must be between .* got -1'),
        (lambda: TownConfig(aliased=True, blocks_y=2), 'got blocks_y 2'),
        (lambda: LapConfig(condition='fog'), "one of day, dusk, rain, winter, got 'fog'"),
        (lambda: LapConfig(route='moon'), "one of mapped, closed-loop, unmapped, got 'moon'"),
        (lambda: LapConfig(speed_mps=float('nan')), 'speed_mps .* got nan'),
        (lambda: LapConfig(cars=1.5), 'cars must be between 0 and 1, got 1.5'),
        (lambda: LapConfig(kidnap_at=0), 'kidnap_at .* got 0'),
    ],
)
def test_bad_values_are_refused_by_name_and_value(config: object, message: str) -> None:
    with pytest.raises(TownError, match=message):
        config()


def test_a_kidnap_after_the_end_is_refused(town: Town) -> None:
    with pytest.raises(TownError, match='number of frames 5, got 9'):
        next(town.drive(LapConfig(frames=5, kidnap_at=9)))
