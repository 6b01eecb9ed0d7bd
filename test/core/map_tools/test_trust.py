"""Which stretches of a session count: features of known points, and passes of a straight way."""

from pathlib import Path

import numpy as np
import pytest

from regvpr_core.errors import MapError
from regvpr_core.map_tools.session_poses import SessionPoses
from regvpr_core.map_tools.trust import confirmed
from regvpr_core.map_tools.update import NO_POSES, UpdateConfig
from regvpr_core.map_tools.update_map import update_map
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.verification.local_features import encode_features, LocalFeatures

COUNT = 60
STRETCH_M = 10.0
POINTS = 120


def along(x: np.ndarray, heading: float = 0.0) -> np.ndarray:
    """Poses (N, 4, 4) of cameras on a straight way, level, that look along x or turned."""
    c, s = np.cos(heading), np.sin(heading)
    T = np.tile(np.eye(4), (len(x), 1, 1))
    T[:, :3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]]) @ [
        [0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    T[:, 0, 3] = x
    return T


def features(place: int, shift_px: float = 0.0) -> bytes:
    """Points of a plane that is seen at a place; the image of another drive is shifted."""
    rng = np.random.default_rng(place)
    xy = rng.uniform([20, 20], [300, 220], (POINTS, 2))
    rows = rng.normal(size=(POINTS, 64)).astype(np.float32)
    return encode_features(LocalFeatures(
        kind='xfeat', width=320, height=240, xy=xy + np.array([shift_px, 0.0]),
        descriptors=rows / np.linalg.norm(rows, axis=1, keepdims=True)))


def looks(places: np.ndarray, seed: int) -> np.ndarray:
    """Descriptors (N, 32) of places, with a little noise of the drive."""
    rows = np.array([np.random.default_rng(10_000 + p).normal(size=32) for p in places])
    rows += 0.1 * np.random.default_rng(seed).normal(size=rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def make(tmp_path: Path):
    """Write a map: `make(name, places, poses, seen)`; seen: places that the points are of."""
    def write(name: str, places: np.ndarray, T: np.ndarray, seen=None, seed: int = 0,
              rows: np.ndarray | None = None) -> Path:
        about = Manifest(map_id=name, model='m', fingerprint='f' * 64, dimension=32,
                         features='' if seen is None else 'xfeat')
        with MapWriter.create(tmp_path / name, about) as writer:
            writer.append([Keyframe(
                stamp_ns=10**9 * i, camera='front', T_map_cam=pose, descriptor=row, source=name,
                local_features=None if seen is None else features(int(seen[i]), 4.0 * seed))
                for i, (pose, row) in enumerate(zip(
                    T, looks(places, seed) if rows is None else rows, strict=True))])
        return tmp_path / name
    return write


def counted(map_path: Path, session_path: Path, T: np.ndarray, witnesses=NO_POSES) -> np.ndarray:
    """Keyframes (M,) that count, where the n-th of both show one place by their matches."""
    n = np.arange(COUNT)
    poses = SessionPoses(
        T_map_cam=T, localized=np.ones(len(T), bool), reached=np.ones(len(T), bool), matches=COUNT,
        inliers=COUNT, rms_m=0.1, stretch_m=STRETCH_M, pairs=(n, n))
    with PlaceMap.open(map_path, index='none') as a, PlaceMap.open(session_path,
                                                                   index='none') as b:
        return confirmed(a, b, poses, 2.0, 0.9, witnesses)


PLACES = np.arange(COUNT)
WAY = along(PLACES.astype(float))


def test_points_that_agree_confirm_one_pass_and_points_of_other_places_do_not(make):
    site = make('site', PLACES, WAY, PLACES)
    assert counted(site, make('right', PLACES, WAY, PLACES, seed=1), WAY).all()
    assert not counted(site, make('wrong', PLACES, WAY, PLACES + 500, seed=1), WAY).any()


def test_a_stretch_needs_two_matches_whose_points_agree(make):
    site = make('site', PLACES, WAY, PLACES)
    seen = PLACES + 500
    seen[[10, 40, 43]] -= 500
    found = np.flatnonzero(counted(site, make('some', PLACES, WAY, seen, seed=1), WAY))
    # One at 10 m says nothing; both of 40 and 43 m lie within half a stretch of 38 to 45 m.
    assert found.tolist() == list(range(38, 46))


@pytest.mark.parametrize(('of_map', 'of_session'), [
    (None, PLACES), (PLACES, None), (None, None)])
def test_without_features_in_both_nothing_is_verified(make, of_map, of_session):
    site = make('site', PLACES, WAY, of_map)
    assert not counted(site, make('s', PLACES, WAY, of_session, seed=1), WAY).any()


def test_another_pass_confirms_what_lies_near_it_and_is_seen_in_the_same_direction(make):
    site, once = make('site', PLACES, WAY), make('once', PLACES, WAY, seed=1)
    assert not counted(site, once, WAY).any()
    found = counted(site, once, WAY, witnesses=along(np.arange(20.0, 31.0)))
    # Passes within 2 m show one place.
    assert np.flatnonzero(found).tolist() == list(range(18, 33))
    back = along(np.arange(20.0, 31.0), heading=np.pi)
    assert not counted(site, once, WAY, witnesses=back).any()


def test_a_robot_that_loiters_does_not_confirm_itself(make):
    # To and fro within 5 m: its way is two stretches long, which is one pass.
    x = 20.0 + 2.5 * np.abs(np.arange(COUNT) % 16 - 8) / 8.0 * (19.0 / COUNT)
    loiters = along(x)
    assert np.abs(np.diff(x)).sum() < 2.0 * STRETCH_M
    site, session = make('site', PLACES, WAY), make('session', PLACES, loiters, seed=1)
    assert not counted(site, session, loiters).any()


def test_a_second_pass_confirms_the_first_also_where_its_images_are_equal(make):
    """Each pass has matches of its own, although the map has one keyframe for both."""
    T = np.concatenate([WAY, WAY])
    rows = np.tile(looks(PLACES, 1), (2, 1))
    T[:, :2, 3] += [70.0, -5.0]  # in a frame of its own
    session = make('twice', np.tile(PLACES, 2), T, rows=rows)
    plan = update_map(make('site', PLACES, WAY), [(session, 'twice')],
                      UpdateConfig(trust='confirmed')).plans[0]
    assert plan.poses.localized.all()
    assert plan.poses.inliers == 2 * COUNT


def test_a_corridor_that_looks_like_the_maps_does_not_change_it(make):
    """Descriptors of places 20 to 50, poses that agree with each other: only the points differ."""
    site = make('site', PLACES, WAY, PLACES)
    before = (site / 'map.db').read_bytes()
    elsewhere = along(300.0 + np.arange(31.0), heading=1.0)
    elsewhere[:, :2, 3] = [[300.0 + n * np.cos(1.0), n * np.sin(1.0)] for n in range(31)]
    wrong = make('wrong', np.arange(20, 51), elsewhere, np.arange(720, 751), seed=1)
    # By its matches alone the stretch is localized: they are wrong together.
    plan = update_map(site, [(wrong, 'wrong')], UpdateConfig(), dry_run=True).plans[0]
    assert plan.poses.localized.mean() > 0.9
    with pytest.raises(MapError, match=r'no stretch of .* is confirmed'):
        update_map(site, [(wrong, 'wrong')], UpdateConfig(trust='confirmed'))
    assert (site / 'map.db').read_bytes() == before
    # The same drive where it was really driven is taken.
    right = make('right', np.arange(20, 51), elsewhere, np.arange(20, 51), seed=1)
    plan = update_map(site, [(right, 'right')], UpdateConfig(trust='confirmed')).plans[0]
    assert plan.poses.localized.mean() > 0.9


def test_a_wrong_stretch_of_a_session_that_is_right_elsewhere_is_not_placed_in_the_map(make):
    """Places 0 to 39 as they are, then 100 m on a corridor that looks like places 45 to 56."""
    site = make('site', PLACES, WAY, PLACES)
    x = np.concatenate([np.arange(40.0), 140.0 + np.arange(12.0)])
    places, seen = (np.concatenate([np.arange(40), first + np.arange(12)]) for first in (45, 845))
    session = make('both', places, along(x), seen, seed=1)
    plan = update_map(site, [(session, 'both')], UpdateConfig(trust='confirmed')).plans[0]
    assert plan.poses.localized[:40].all()
    assert not plan.poses.localized[40:].any()
    with PlaceMap.open(site, index='none') as place_map:
        added = place_map.T_map_cam[np.array(place_map.sources) == 'both', 0, 3]
    # What is added stands where it was driven, not at the places that it looks like.
    assert len(added) == len(plan.add)
    assert ((added < 41.0) | (added > 135.0)).all()
