"""Updates of maps: descriptors of places that shift with the light, without a network."""

from collections import Counter
from dataclasses import replace
import errno
import multiprocessing
import os
from pathlib import Path
import re
import resource
import shutil
import signal
import time
from unittest import mock

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.cli import main
from regvpr_core.errors import MapError
from regvpr_core.map_tools import history
from regvpr_core.map_tools.alignment import AlignmentConfig
from regvpr_core.map_tools.compression import compress_map
from regvpr_core.map_tools.experiences import read_experiences
from regvpr_core.map_tools.history import history_folder, undo, versions
from regvpr_core.map_tools.session_poses import session_poses, SessionPosesConfig
from regvpr_core.map_tools.update import refuse_shrinking, UpdateConfig
from regvpr_core.map_tools.update_map import update_map
from regvpr_core.map_tools.used_sessions import own_keyframes
from regvpr_core.maps.files import lock_folder, Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter

DIMENSION = 64
PLACES = 120


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def looks(light: int, start: int = 0, count: int = PLACES, seed: int = 0) -> np.ndarray:
    """Descriptors of places along a street in one light: 0 as the map, others replace a part."""
    def smooth(seed: int) -> np.ndarray:
        rows = np.random.default_rng(seed).normal(size=(PLACES + 84, DIMENSION))
        return sum(w * rows[i:i + PLACES + 80] for i, w in enumerate((0.4, 0.8, 1.0, 0.8, 0.4)))

    place, lit = smooth(5), smooth(50 + light)
    noise = np.random.default_rng(900 + seed + light).normal(size=(PLACES + 80, DIMENSION))
    rows = place if light == 0 else 0.15 * place + lit
    return unit(rows + 0.1 * noise)[start:start + count]


def poses(start: int = 0, count: int = PLACES) -> np.ndarray:
    """Along a large bend, 2 m apart."""
    angle = (start + np.arange(count)) * 2.0 / 60.0
    T = np.tile(np.eye(4), (count, 1, 1))
    heading = Rotation.from_rotvec(
        (angle + np.pi / 2)[:, None] * [0.0, 0.0, 1.0]).as_matrix()
    T[:, :3, :3] = heading @ np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0.0]])
    T[:, :2, 3] = 60.0 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return T


@pytest.fixture
def make(tmp_path: Path):
    def write(name: str, rows: np.ndarray, T: np.ndarray, **manifest) -> Path:
        about = Manifest(**({'map_id': name, 'model': 'm', 'fingerprint': 'f' * 64,
                             'dimension': rows.shape[1]} | manifest))
        with MapWriter.create(tmp_path / name, about) as writer:
            writer.append([Keyframe(stamp_ns=10**9 * i, camera='front', T_map_cam=pose,
                                    descriptor=row, source=name)
                           for i, (pose, row) in enumerate(zip(T, rows, strict=True))])
        return tmp_path / name
    return write


@pytest.fixture
def day(make) -> Path:
    return make('site', looks(0), poses())


def drifted(T: np.ndarray) -> np.ndarray:
    """Poses in a frame of their own that drifts: turned, moved, two degrees in 100 m."""
    out = T.copy()
    for i in range(1, len(T)):
        step = np.linalg.inv(T[i - 1]) @ T[i]
        step[:3, :3] = step[:3, :3] @ Rotation.from_euler('y', np.radians(0.04)).as_matrix()
        out[i] = out[i - 1] @ step
    G = np.eye(4)
    G[:3, :3] = Rotation.from_euler('z', 1.0).as_matrix()
    G[:3, 3] = [500.0, -20.0, 3.0]
    return G @ out


def run(path: Path, *sessions: Path, **more):
    config = UpdateConfig(**{k: more.pop(k) for k in list(more)
                             if k in UpdateConfig.__dataclass_fields__})
    return update_map(path, [(s, s.name) for s in sessions], config, **more)


def test_a_session_that_the_map_recognises_adds_nothing(day, make):
    report = run(day, make('same', looks(0, seed=1), poses()), same_frame=True)
    plan = report.plans[0]
    assert (plan.recognised, plan.unrecognised, plan.new) == (PLACES, 0, 0)
    assert report.after == PLACES
    with PlaceMap.open(day) as place_map:
        assert len(place_map) == PLACES
        records = read_experiences(place_map)
    assert records.matched.sum() == PLACES
    assert records.updates == 1


def test_places_that_the_map_lacks_are_added_where_they_are(day, make):
    session = make('further', looks(0, 60, 120, seed=2), drifted(poses(60, 120)))
    plan = run(day, session).plans[0]
    assert plan.recognised >= 55
    assert 55 <= plan.new <= 62
    with PlaceMap.open(day) as place_map:
        added = place_map.T_map_cam[np.array(place_map.sources) == 'further']
    truth = poses(120, 60)[:, :3, 3]
    assert len(added) >= 50
    gap = np.linalg.norm(added[:, None, :3, 3] - truth[None], axis=-1).min(axis=1)
    assert np.median(gap) < 2.5
    assert gap[:20].max() < 1.5


def test_a_part_of_the_way_in_another_light_becomes_experiences_of_its_places(day, make):
    rows = looks(0, seed=3)
    rows[40:80] = looks(1)[40:80]
    plan = run(day, make('dusk', rows, poses()), same_frame=True).plans[0]
    assert 30 <= plan.unrecognised <= 40
    with PlaceMap.open(day) as place_map:
        added = np.array(place_map.sources) == 'dusk'
        # One in four metres suffices: a keyframe stands for those of its place and light.
        assert 8 <= added.sum() <= 24
        # As many others make room, of places that keep a keyframe that is recognised as well.
        assert len(place_map) == PLACES + added.sum() - plan.redundant
        assert 0 < plan.redundant <= added.sum()
        by_day = [place_map.search(row, 1)[1][0] for row in looks(0, seed=9)]
        assert np.linalg.norm(place_map.T_map_cam[by_day, :3, 3] - poses()[:, :3, 3],
                              axis=1).max() < 4.1
        found = [place_map.search(row, 1)[1][0] for row in looks(1, seed=8)[40:80]]
        right = np.linalg.norm(place_map.T_map_cam[found, :3, 3] - poses()[40:80, :3, 3], axis=1)
        assert (right < 6.1).mean() > 0.6


def test_a_second_session_in_the_same_light_adds_next_to_nothing(day, make):
    rows = looks(0, seed=3)
    rows[40:80] = looks(1)[40:80]
    first = run(day, make('dusk1', rows, poses()), same_frame=True)
    rows = looks(0, seed=4)
    rows[40:80] = looks(1, seed=9)[40:80]
    second = run(day, make('dusk2', rows, poses()), same_frame=True)
    assert len(second.plans[0].add) <= 0.6 * len(first.plans[0].add)


def test_a_dry_run_changes_nothing(day, make):
    before = (day / 'map.db').read_bytes(), sorted(day.parent.iterdir())
    session = make('further', looks(0, 60, 100, seed=2), poses(60, 100))
    before = before[0], sorted(day.parent.iterdir())
    report = run(day, session, same_frame=True, dry_run=True)
    assert report.after > PLACES
    assert ((day / 'map.db').read_bytes(), sorted(day.parent.iterdir())) == before


def test_the_old_map_comes_back_with_undo_and_a_second_undo_takes_it_away_again(day, make):
    run(day, make('further', looks(0, 60, 100, seed=2), poses(60, 100)), same_frame=True)
    grown = versions(day)
    assert [v.number for v in grown] == [0, 1]
    assert grown[1].keyframes == PLACES < grown[0].keyframes
    assert 'added' in grown[0].note
    assert undo(day).keyframes == PLACES
    assert undo(day).keyframes == grown[0].keyframes


def test_no_more_versions_are_kept_than_asked_for(day, make):
    for i in range(4):
        run(day, make(f's{i}', looks(0, seed=20 + i), poses()), same_frame=True, keep=2)
    assert [v.number for v in versions(day)] == [0, 4, 3]


def test_what_is_no_longer_there_ages_out(day, make):
    changed = looks(2)[50:60]
    for i in range(4):
        rows = looks(0, seed=30 + i)
        rows[50:60] = unit(changed + 0.02 * np.random.default_rng(i).normal(size=changed.shape))
        run(day, make(f'n{i}', rows, poses()), same_frame=True, age_updates=3)
    with PlaceMap.open(day) as place_map:
        old = np.array(place_map.sources) == 'site'
        near = np.linalg.norm(place_map.T_map_cam[:, :3, 3] - poses()[55, :3, 3], axis=1) < 8.0
        assert (old & near).sum() <= 4
        assert (~old & near).sum() >= 2
        assert old.sum() >= PLACES - 12


def test_a_place_keeps_the_appearances_that_were_matched_last(day, make):
    for light in range(1, 5):
        rows = looks(0, seed=40 + light)
        rows[50:70] = looks(light)[50:70]
        run(day, make(f'l{light}', rows, poses()), same_frame=True, experiences=3)
    with PlaceMap.open(day) as place_map:
        gap = np.linalg.norm(place_map.T_map_cam[:, None, :3, 3] - poses()[None, 52:68, :3, 3],
                             axis=-1).min(axis=1)
        there = np.flatnonzero(gap < 0.1)
        sources = np.array(place_map.sources)[there]
        positions = place_map.T_map_cam[there, :3, 3]
        records = read_experiences(place_map)
    kept = Counter(sources)
    assert kept['l3'] + kept['l4'] > kept['site'] + kept['l1']
    # Three appearances of each spot, of an update each.
    for position in positions:
        spot = np.linalg.norm(positions - position, axis=1) < 1.0
        assert len(set(records.update[there][spot])) <= 3


def test_a_keyframe_that_stands_for_dropped_ones_is_never_dropped_for_room(day, make):
    rng = np.random.default_rng(3)
    for light in range(1, 6):
        rows = looks(0, seed=60 + light)
        start = int(rng.integers(10, 60))
        rows[start:start + 40] = looks(light)[start:start + 40]
        run(day, make(f'l{light}', rows, poses()), same_frame=True, experiences=50)
    with PlaceMap.open(day) as place_map:
        records = read_experiences(place_map)
        by_day = [place_map.search(row, 1)[1][0] for row in looks(0, seed=70)]
        right = np.linalg.norm(place_map.T_map_cam[by_day, :3, 3] - poses()[:, :3, 3], axis=1)
    assert records.anchor.sum() >= 10
    # Five sessions in other lights, and the day is recognised everywhere as on the first day.
    assert (right < 4.1).mean() >= 0.98


def test_the_map_stays_within_its_budget(day, make):
    rows = looks(0, seed=3)
    rows[40:80] = looks(1)[40:80]
    report = run(day, make('dusk', rows, poses()), same_frame=True, max_keyframes=PLACES)
    assert report.after == PLACES
    with pytest.raises(MapError, match=r'max_keyframes is 3, but the places of .* need'):
        run(day, make('dusk2', rows, poses()), same_frame=True, max_keyframes=3, max_shrink=1.0)


@pytest.mark.parametrize(('change', 'message'), [
    ({'fingerprint': 'e' * 64, 'model': 'other'}, 'was built with m .* with other'),
    ({'origin': {'lat_deg': 1.0, 'lon_deg': 2.0, 'alt_m': 0.0}}, 'is not in the frame of'),
    ({'intrinsics': {'front': {'width': 640, 'height': 480, 'D': [], 'model': 'plumb_bob',
                               'K': [900.0, 0, 320, 0, 900, 240, 0, 0, 1]}}},
     "camera 'front' has other")])
def test_a_session_that_does_not_compare_is_refused_and_the_map_untouched(
    make, change, message,
):
    own = {'intrinsics': {'front': {'width': 640, 'height': 480, 'D': [], 'model': 'plumb_bob',
                                    'K': [400.0, 0, 320, 0, 400, 240, 0, 0, 1]}}}
    day = make('site', looks(0), poses(), **own)
    session = make('other', looks(0), poses(), **{**own, **change})
    before = (day / 'map.db').read_bytes()
    with pytest.raises(MapError, match=message):
        run(day, session, same_frame=True)
    assert (day / 'map.db').read_bytes() == before


def test_a_session_of_another_place_is_refused(day, make):
    with pytest.raises(MapError, match=r'cannot place .* matched places agree'):
        run(day, make('elsewhere', looks(3), drifted(poses())))
    with pytest.raises(MapError, match='is not localized in map'):
        run(day, make('frame', looks(0), poses() + np.array(
            [[0, 0, 0, 400.0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])), same_frame=True)


def short_way(step_m: float, count: int) -> np.ndarray:
    """A straight street, `step_m` between keyframes."""
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, :3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    T[:, 0, 3] = step_m * np.arange(count)
    return T


@pytest.mark.parametrize('same_frame', [False, True])
def test_a_session_on_a_map_of_twenty_metres_is_placed(make, same_frame):
    T = short_way(1.0, 21)
    path = make('hall', looks(0, 0, 21), T)
    plan = run(path, make('again', looks(0, 0, 21, seed=3), T if same_frame else drifted(T)),
               same_frame=same_frame).plans[0]
    assert plan.poses.localized.all()
    error = np.linalg.norm(plan.poses.T_map_cam[:, :3, 3] - T[:, :3, 3], axis=1)
    assert np.median(error) < 0.5
    with pytest.raises(MapError, match=r'cannot place|is not localized in'):
        run(path, make('elsewhere', looks(3, 0, 21), T if same_frame else drifted(T)),
            same_frame=same_frame)


def test_a_map_so_small_that_chance_agrees_is_refused_with_the_setting_that_helps(make):
    T = short_way(0.5, 17)
    path, session = make('room', looks(0, 0, 17), T), make('again', looks(0, 0, 17, seed=3),
                                                           drifted(T))
    with pytest.raises(MapError, match=r'the 17 matched places lie within 8 m, where \d+ of them '
                                       r'agree by chance to 5 m; set alignment\.inlier_m to 0\.8'):
        run(path, session)
    plan = run(path, session, alignment=AlignmentConfig(inlier_m=0.8)).plans[0]
    assert plan.poses.localized.all()


def test_a_session_of_another_scale_is_refused_with_the_factor(day, make):
    T = poses()
    T[:, :3, 3] *= 0.4
    with pytest.raises(MapError, match=r'distances in the map are 2\.5\d? times those'):
        run(day, make('mono', looks(0, seed=1), T))


def test_the_map_itself_and_an_empty_session_are_refused(day, make):
    with pytest.raises(MapError, match='is the map itself'):
        run(day, day)
    with pytest.raises(MapError, match='has no keyframes'):
        run(day, make('empty', looks(0)[:0], poses()[:0]))


def test_one_pass_without_local_features_changes_nothing_where_confirmation_is_asked(day, make):
    session = make('once', looks(0, 60, 120, seed=2), drifted(poses(60, 120)))
    before = (day / 'map.db').read_bytes()
    with pytest.raises(MapError, match=r'no stretch of .* is confirmed: \d+ of 120 keyframes are '
                                       r'localized, but neither local features nor a second'):
        run(day, session, trust='confirmed')
    assert (day / 'map.db').read_bytes() == before


def test_only_stretches_that_two_passes_agree_on_count(day, make):
    # The first 60 places are passed once, the last 60 twice: by another session.
    session = make('long', looks(0, 0, 170, seed=2), poses(0, 170))
    witness = poses(60, 60)
    config = UpdateConfig(trust='confirmed', poses=SessionPosesConfig(reach=1.0))
    report = update_map(day, [(session, 'long')], config, same_frame=True, witnesses=[witness])
    plan = report.plans[0]
    assert plan.poses.localized[60:120].all()
    assert not plan.poses.localized[:55].any()
    # New places up to one stretch (20 m) from a confirmed one.
    assert 8 <= plan.new <= 12


def test_a_second_pass_of_the_same_session_confirms_the_first(day, make):
    rows = np.concatenate([looks(0, seed=2), looks(0, seed=3)])
    T = drifted(np.concatenate([poses(), poses()]))
    plan = run(day, make('twice', rows, T), trust='confirmed').plans[0]
    assert plan.poses.localized.mean() > 0.95


def test_two_updates_at_once_are_refused(day, make):
    session = make('same', looks(0, seed=1), poses())
    lock = lock_folder(day)
    try:
        with pytest.raises(MapError, match='is being written by another process'):
            run(day, session, same_frame=True)
    finally:
        os.close(lock)


def test_a_map_is_not_undone_while_it_is_updated(day, make):
    run(day, make('same', looks(0, seed=1), poses()), same_frame=True)
    now = (day / 'map.db').read_bytes()
    lock = lock_folder(day)
    try:
        with pytest.raises(MapError, match='is being written by another process'):
            undo(day)
    finally:
        os.close(lock)
    assert (day / 'map.db').read_bytes() == now
    undo(day)
    assert (day / 'map.db').read_bytes() != now


def test_an_update_that_shrinks_the_map_too_far_is_refused(day, make):
    dense = make('dense', np.repeat(looks(0), 2, axis=0), np.repeat(poses(), 2, axis=0))
    with pytest.raises(MapError, match='the update would leave 120 of 240 keyframes'):
        run(dense, make('same', looks(0, seed=1), poses()), same_frame=True, max_keyframes=PLACES,
            place_m=6.0)


def test_a_map_may_not_shrink_too_far_by_several_sessions_together(day, make):
    rows = np.repeat(looks(0), 2, axis=0)
    dense = make('dense', rows, np.repeat(poses(), 2, axis=0))
    sessions = [make(f's{i}', looks(0, seed=i), poses()) for i in (1, 2)]
    refuse_shrinking(dense, 240, 192, UpdateConfig())
    with pytest.raises(MapError, match='would leave 191 of 240 keyframes'):
        refuse_shrinking(dense, 240, 191, UpdateConfig())
    calls = []
    with mock.patch('regvpr_core.map_tools.update_map.refuse_shrinking',
                    lambda path, before, after, config: calls.append((before, after))):
        report = run(dense, *sessions, same_frame=True, dry_run=True)
    assert calls == [(240, report.after)]


def test_a_session_counts_once(day, make):
    rows = looks(0, seed=3)
    rows[40:80] = looks(1)[40:80]
    session = make('dusk', rows, drifted(poses()))
    assert len(run(day, session).plans[0].add) >= 10
    before = (day / 'map.db').read_bytes()
    for name in ('dusk', 'moved'):
        session = session.rename(session.with_name(name))
        with pytest.raises(MapError, match=r"was updated by session .* already, as 'dusk'"):
            run(day, session)
    assert (day / 'map.db').read_bytes() == before
    undo(day)
    assert len(run(day, session).plans[0].add) >= 10


def test_a_session_that_has_grown_is_not_placed_by_its_own_keyframes_in_the_map(day, make):
    rows, T = looks(0, 60, 100, seed=2), drifted(poses(60, 100))
    plan = run(day, make('part', rows[:80], T[:80])).plans[0]
    assert plan.new >= 15
    grown = make('grown', rows, T, map_id='part')
    with PlaceMap.open(day) as place_map, PlaceMap.open(grown) as session:
        own = own_keyframes(place_map, session)
        assert own.sum() == len(plan.add)
        found = session_poses(place_map, session, 2.0, SessionPosesConfig(), AlignmentConfig(),
                              False)
        assert not own[found.pairs[0]].any()
        # The map of the first day ends at place 120: nothing tells where the rest is.
        assert found.localized[:55].all()
        assert not found.localized[75:].any()
        missed = read_experiences(place_map).missed.sum()
    run(day, grown)
    with PlaceMap.open(day, index='none') as place_map:
        assert set(place_map.sources) == {'site', 'part'}
        assert read_experiences(place_map).missed.sum() == missed


def test_two_sessions_of_one_name_are_two_drives(day, make, tmp_path):
    for number in (1, 2):
        rows = looks(0, seed=number)
        rows[40:80] = looks(number)[40:80]
        session = make(f'session{number}', rows, drifted(poses()))
        update_map(day, [(session, 'part001')], UpdateConfig())
    with PlaceMap.open(day, index='none') as place_map:
        assert place_map.manifest.sources == ['part001', 'part001_2']
        assert {'part001', 'part001_2'} <= set(place_map.sources)


def test_a_refused_session_is_left_out_where_the_caller_takes_the_others(day, make):
    sessions = [make('further', looks(0, 60, 100, seed=2), poses(60, 100)),
                make('other', looks(0, seed=1), poses(), fingerprint='e' * 64),
                make('same', looks(0, seed=3), poses())]
    refused = []
    report = run(day, *sessions, same_frame=True,
                 left_out=lambda path, error: refused.append((path.name, str(error))))
    assert [path.name for path in report.sessions] == ['further', 'same']
    assert refused[0][0] == 'other'
    assert 'was built with' in refused[0][1]
    # One version, so that one undo takes both back.
    assert [(v.number, v.keyframes) for v in versions(day)] == [(0, report.after), (1, PLACES)]
    assert report.after > PLACES
    report = run(day, sessions[1], left_out=lambda path, error: None)
    assert (report.sessions, len(versions(day))) == ([], 2)


@pytest.mark.parametrize(('of_map', 'of_session', 'kept'), [
    ('xfeat', '', True), ('xfeat', 'xfeat', True), ('', 'xfeat', False)])
def test_a_map_keeps_its_local_features_whatever_the_session_has(
    make, of_map, of_session, kept,
):
    site = make('site', looks(0), poses(), features=of_map)
    rows = looks(0, seed=3)
    rows[40:80] = looks(1)[40:80]
    session = make('dusk', rows, poses(), features=of_session)
    with MapWriter.append_to(session) as writer:
        writer.append([Keyframe(
            stamp_ns=10**12, camera='front', T_map_cam=poses(150, 1)[0], source='dusk',
            descriptor=looks(0, 150, 1)[0], local_features=b'points' if of_session else None)])
    run(site, session, same_frame=True)
    with PlaceMap.open(site, index='none') as place_map:
        assert place_map.manifest.features == of_map
        last = int(np.argmax(place_map.stamps_ns))
        assert place_map.stamps_ns[last] == 10**12
        assert place_map.local_features(last) == (b'points' if kept and of_session else None)


def test_a_map_is_updated_and_undone_by_a_link_and_from_inside_its_folder(
    day, make, tmp_path, monkeypatch,
):
    link = tmp_path / 'current'
    link.symlink_to('site')
    for number in (1, 2):
        run(link, make(f'same{number}', looks(0, seed=number), poses()), same_frame=True)
    assert link.is_symlink()
    assert [v.number for v in versions(link)] == [v.number for v in versions(day)] == [0, 2, 1]
    monkeypatch.chdir(day)
    assert main(['map', 'undo', '.']) == 0
    monkeypatch.chdir(day)
    assert main(['map', 'update', '.', str(make('same3', looks(0, seed=3), poses())),
                 '--same-frame']) == 0
    with PlaceMap.open(link, index='none') as place_map:
        assert read_experiences(place_map).updates == 2


def test_a_file_system_that_cannot_exchange_folders_keeps_no_version(day, make):
    session, before = make('same', looks(0, seed=1), poses()), (day / 'map.db').read_bytes()
    with mock.patch('regvpr_core.map_tools.history.exchange',
                    side_effect=OSError(errno.EINVAL, 'Invalid argument')), \
            pytest.raises(MapError, match=r'Invalid argument; .* to a local disk'):
        run(day, session, same_frame=True)
    assert (day / 'map.db').read_bytes() == before
    assert [v.number for v in versions(day)] == [0]
    run(day, session, same_frame=True)
    assert [v.number for v in versions(day)] == [0, 1]


def test_a_reader_keeps_reading_the_map_that_it_opened(day, make):
    with PlaceMap.open(day) as place_map:
        run(day, make('further', looks(0, 60, 100, seed=2), poses(60, 100)), same_frame=True)
        assert len(place_map) == PLACES
        assert place_map.search(looks(0)[7], 1)[1][0] == 7


def update_on_a_full_disk(day: Path, session: Path, size: int, said) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    try:
        run(day, session, same_frame=True)
        said.put('')
    except MapError as error:
        said.put(str(error))


@pytest.mark.parametrize('size', [100, 10_000, 20_000, 40_000])
def test_a_disk_that_is_full_in_the_middle_is_one_line_and_the_map_stays(day, make, size):
    session = make('further', looks(0, 60, 100, seed=2), poses(60, 100))
    before = (day / 'map.db').read_bytes(), (day / 'descriptors.f16').read_bytes()
    context = multiprocessing.get_context('fork')
    said = context.Queue()
    process = context.Process(target=update_on_a_full_disk, args=(day, session, size, said))
    process.start()
    text = said.get(timeout=60)
    process.join()
    assert re.search(r'cannot be read: .* full|cannot (write|replace|append)', text), text
    assert '\n' not in text
    assert ((day / 'map.db').read_bytes(), (day / 'descriptors.f16').read_bytes()) == before
    assert [p.name for p in day.parent.iterdir() if 'update' in p.name] == []
    with PlaceMap.open(day) as place_map:
        place_map.check_descriptors()


@pytest.mark.parametrize('kills', [8, pytest.param(50, marks=pytest.mark.soak)])
def test_a_process_that_is_killed_leaves_the_old_or_the_new_map(day, make, tmp_path, kills):
    session = make('further', looks(0, 60, 100, seed=2), poses(60, 100))
    first, context = tmp_path / 'first', multiprocessing.get_context('fork')
    shutil.copytree(day, first)

    def killed(seconds: float | None) -> tuple[int, float]:
        """Keyframes of the map after an update that is killed after so many seconds."""
        for folder in (day, history_folder(day)):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(first, day)
        process, begun = context.Process(target=run, args=(day, session),
                                         kwargs={'same_frame': True}), time.monotonic()
        process.start()
        process.join(seconds)
        took_s = time.monotonic() - begun
        process.kill()
        process.join()
        with PlaceMap.open(day) as place_map:
            place_map.check_descriptors()
            read_experiences(place_map)
            count = len(place_map)
        # A version is what the map was, and only if the map is a new one.
        assert [v.keyframes for v in versions(day)][1:] in ([], [PLACES] * (count > PLACES))
        return count, took_s

    after, took_s = max(killed(None) for _ in range(2))
    assert after >= PLACES + 35
    rng = np.random.default_rng(1)
    counts = [killed(float(rng.uniform(0.0, 1.2 * took_s)))[0] for _ in range(kills)]
    assert set(counts) <= {PLACES, after}
    if kills >= 50:
        assert min(counts.count(PLACES), counts.count(after)) >= 5
    killed(None)
    assert [p.name for p in day.parent.iterdir() if 'update' in p.name] == []


@pytest.mark.parametrize('moment', ['before', 'after', 'deleting'])
def test_a_kill_around_the_exchange_leaves_no_version_that_never_was(day, make, moment):
    run(day, make('first', looks(0, 60, 80, seed=1), poses(60, 80)), same_frame=True)
    with PlaceMap.open(day, index='none') as place_map:
        old = len(place_map)
    session = make('further', looks(0, 60, 120, seed=2), poses(60, 120))

    def die(*_args, **_more) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def update() -> None:
        whole, remove = history.exchange, shutil.rmtree
        if moment == 'before':
            history.exchange = die
        elif moment == 'after':
            history.exchange = lambda a, b: (whole(a, b), die())
        else:
            shutil.rmtree = lambda path, **more: (
                die() if '.gone' in str(path) else remove(path, **more))
        run(day, session, same_frame=True, keep=1)

    process = multiprocessing.get_context('fork').Process(target=update)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with PlaceMap.open(day, index='none') as place_map:
        now = len(place_map)
    assert (now > old) == (moment != 'before')
    # The map as it was built is the first version, and the map that was replaced the second one.
    assert [v.keyframes for v in versions(day)] == {
        'before': [old, PLACES], 'after': [now, old, PLACES], 'deleting': [now, old]}[moment]
    assert undo(day).keyframes == (PLACES if moment == 'before' else old)
    assert undo(day).keyframes == now
    if moment == 'before':
        run(day, session, same_frame=True)
    assert {p.name for p in history_folder(day).iterdir()} == (
        {'0002'} if moment == 'deleting' else {'0001', '0002'})


def test_the_command_says_what_changed_and_history_lists_it(day, make, capsys):
    session = make('further', looks(0, 60, 100, seed=2), drifted(poses(60, 100)))
    assert main(['map', 'update', str(day), str(session)]) == 0
    out = capsys.readouterr().out
    assert 'new in further' in out
    assert main(['map', 'history', str(day)]) == 0
    assert 'version 1' in capsys.readouterr().out
    assert main(['map', 'undo', str(day)]) == 0
    assert 'as first built' in capsys.readouterr().out
    assert main(['map', 'update', str(day), str(day.parent / 'nothing')]) == 1
    assert 'does not exist' in capsys.readouterr().err


def test_damaged_records_are_one_clear_line(day, make):
    run(day, make('same', looks(0, seed=1), poses()), same_frame=True)
    with MapWriter.append_to(day) as writer:
        writer.attach('experiences', b'{"version": 1, "update": [1e99]}')
    with PlaceMap.open(day) as place_map, pytest.raises(MapError, match="'experiences' cannot"):
        read_experiences(place_map)


def test_history_lies_beside_the_map_and_links_in_it_are_not_followed(day, make, tmp_path):
    run(day, make('same', looks(0, seed=1), poses()), same_frame=True)
    assert history_folder(day) == tmp_path / '.site.history'
    (history_folder(day) / '0009').symlink_to(tmp_path)
    assert [v.number for v in versions(day)] == [0, 1]
    assert replace(versions(day)[1], note='').keyframes == PLACES


CAMERA = {'width': 640, 'height': 480, 'D': [], 'model': 'plumb_bob',
          'K': [400.0, 0, 320, 0, 400, 240, 0, 0, 1]}
OTHER_LENS = CAMERA | {'K': [700.0, 0, 320, 0, 700, 240, 0, 0, 1]}
AHEAD, BESIDE = [0.0, 0.0, 1.0, -0.5, 0.5, -0.5, 0.5], [0.3, 0.0, 1.0, -0.5, 0.5, -0.5, 0.5]


def cameras_of(path: Path) -> tuple[set[str], dict, dict]:
    with PlaceMap.open(path, index='none') as place_map:
        return (set(place_map.cameras), place_map.manifest.intrinsics,
                place_map.manifest.extrinsics)


@pytest.fixture
def seen_by(make):
    """Writes a map or a session whose keyframes are of a camera with a calibration."""
    def write(name: str, camera: str, first: int = 0, **manifest) -> Path:
        path = make(f'{name}_plain', looks(0, first, 100), poses(first, 100))
        with PlaceMap.open(path, index='none') as plain, \
                MapWriter.create(path.with_name(name), Manifest(
                    map_id=name, model='m', fingerprint='f' * 64, dimension=DIMENSION,
                    **manifest)) as writer:
            writer.append([replace(keyframe, camera=camera, source=name)
                           for keyframe in plain.keyframes(range(len(plain)))])
        return path.with_name(name)
    return write


@pytest.mark.parametrize(('of_map', 'of_session', 'message'), [
    ({}, {'camera': 'rear'}, r"camera 'rear' of .*session is none of .*map \(front\); .*"
                             r'`cameras`.*--set other_cameras=true takes it as a further one'),
    ({'extrinsics': {'front': AHEAD}}, {'camera': 'rear', 'extrinsics': {'rear': BESIDE}},
     "camera 'rear' of .* is none of"),
    ({'extrinsics': {'front': AHEAD}, 'intrinsics': {'front': CAMERA}},
     {'camera': 'camera', 'extrinsics': {'camera': AHEAD}, 'intrinsics': {'camera': OTHER_LENS}},
     "camera 'camera' of .* is none of"),
    ({'intrinsics': {'front': CAMERA}},
     {'camera': 'front', 'intrinsics': {'front': OTHER_LENS}},
     r"camera 'front' has other intrinsics \(f 400\.0 and 700\.0 px")])
def test_a_session_of_another_camera_or_lens_is_refused_unless_it_is_asked_for(
    seen_by, of_map, of_session, message,
):
    path = seen_by('map', 'front', **of_map)
    session = seen_by('session', first=40, **of_session)
    before = (path / 'map.db').read_bytes()
    with pytest.raises(MapError, match=message):
        run(path, session)
    assert (path / 'map.db').read_bytes() == before
    report = run(path, session, other_cameras=True)
    assert len(report.plans[0].add) >= 35
    cameras, intrinsics, _ = cameras_of(path)
    new = 'front_2' if of_session['camera'] == 'front' else of_session['camera']
    assert cameras == {'front', new}
    if 'intrinsics' in of_session:
        assert (intrinsics['front'], intrinsics[new]) == (CAMERA, OTHER_LENS)


def test_a_further_camera_keeps_its_number_in_the_next_session(seen_by):
    path = seen_by('map', 'front', intrinsics={'front': CAMERA}, extrinsics={'front': AHEAD})
    lens = {'intrinsics': {'front': OTHER_LENS}, 'extrinsics': {'front': AHEAD}}
    run(path, seen_by('monday', 'front', 40, **lens), other_cameras=True)
    # Once it is a camera of the map, no session of it needs the setting.
    run(path, seen_by('tuesday', 'front', 80, **lens))
    assert cameras_of(path)[0] == {'front', 'front_2'}


def test_a_camera_of_another_name_and_the_same_calibration_is_that_of_the_map(seen_by):
    calibration = {'intrinsics': CAMERA, 'extrinsics': AHEAD}
    path = seen_by('map', 'front', **{k: {'front': v} for k, v in calibration.items()})
    session = seen_by('session', 'camera', 40, **{k: {'camera': v}
                                                  for k, v in calibration.items()})
    report = run(path, session)
    assert len(report.plans[0].add) >= 35
    assert cameras_of(path) == ({'front'}, {'front': CAMERA}, {'front': AHEAD})


def test_a_compressed_map_is_updated_by_a_session_as_the_node_saves_it(day, make, tmp_path):
    short = tmp_path / 'short'
    compress_map(day, 'pca:24', short)
    rows = looks(0, 0, 160, seed=2)
    rows[40:80] = looks(1)[40:80]
    session = make('dusk', rows, drifted(poses(0, 160)))
    plan = run(short, session).plans[0]
    assert plan.unrecognised >= 25
    assert plan.new >= 35
    with PlaceMap.open(short) as place_map:
        assert (place_map.manifest.compress, place_map.manifest.dimension) == ('pca:24', 24)
        place_map.check_descriptors()
        found = [place_map.search(place_map.project(row), 1)[1][0]
                 for row in looks(1, seed=8)[40:80]]
        right = np.linalg.norm(place_map.T_map_cam[found, :3, 3] - poses()[40:80, :3, 3], axis=1)
    assert (right < 6.1).mean() > 0.6
    with pytest.raises(MapError, match=r"was updated by session .*dusk already, as 'dusk'"):
        run(short, session)
    elsewhere = make('elsewhere', looks(3), drifted(poses()))
    with pytest.raises(MapError, match=f'cannot place {elsewhere} in {short}'):
        run(short, elsewhere)


def test_a_session_that_is_compressed_by_itself_is_refused_with_what_to_give(day, make, tmp_path):
    compress_map(make('drive', looks(0, seed=1), poses()), 'pca:24', tmp_path / 'drive_short')
    with pytest.raises(MapError, match=r'drive_short is compressed \(pca:24\), by other '
                                       r'directions than .*site; give the session that it was'):
        run(day, tmp_path / 'drive_short')
