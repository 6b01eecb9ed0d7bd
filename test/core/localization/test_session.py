"""Loop closures of a running session, on rings of street whose descriptors are made here."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from regvpr_core.errors import ConfigError, ImageError, MapError
from regvpr_core.localization.frames import Description, Frame
from regvpr_core.localization.model_evidence import ModelEvidence
from regvpr_core.localization.session import SessionConfig, SessionLoops
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.verification.local_features import LocalFeatures
from regvpr_core.verification.verification import Verification

DIMENSION = 96
RING_M = 160.0
STEP_M = 2.0
NEAR_M = 10.0
"""Over so much of the way the ring looks alike."""

SECOND = 10**9
BLANK = np.zeros((8, 8, 3), np.uint8)
ENCODER = SimpleNamespace(dimension=DIMENSION, name='made', fingerprint='f' * 64)


class Ring:
    """A ring road; what a place looks like changes smoothly along it, with noise at each visit."""

    def __init__(self, seed: int = 0, noise: float = 0.15) -> None:
        rng = np.random.default_rng(seed)
        self.waves = rng.normal(size=(DIMENSION, 4)) * [0.12, 0.12, 1.0, 1.0]
        self.phases = rng.uniform(0, 2 * np.pi, DIMENSION)
        self.rng, self.noise = rng, noise

    def pose(self, along_m: float) -> np.ndarray:
        angle = 2 * np.pi * along_m / RING_M
        radius = RING_M / (2 * np.pi)
        T = np.eye(4)
        T[:2, :2] = [[-np.sin(angle), -np.cos(angle)], [np.cos(angle), -np.sin(angle)]]
        T[:2, 3] = radius * np.cos(angle), radius * np.sin(angle)
        return T

    def view(self, along_m: float, stamp_ns: int, camera: str = '') -> Description:
        T = self.pose(along_m)
        row = np.cos(self.waves @ [*T[:2, 3], T[0, 0], T[1, 0]] + self.phases)
        row = row + self.noise * self.rng.normal(size=DIMENSION)
        frame = Frame(stamp_ns=stamp_ns, rgb=BLANK, T_base_cam=np.eye(4), camera=camera)
        return Description(frame, (row / np.linalg.norm(row)).astype(np.float32))


def drive(session: SessionLoops, ring: Ring, metres: float, *, start_m: float = 0.0,
          odometry: bool = True):
    """Drive on at 2 m a second; gives the closures with the way at query and reference."""
    found = []
    for step in range(int(start_m / STEP_M), int((start_m + metres) / STEP_M)):
        T = ring.pose(step * STEP_M)
        # Odometry drifts: a thousandth of the way.
        T[:2, 3] += 1e-3 * step * STEP_M
        for one in session.update(ring.view(step * STEP_M, step * SECOND),
                                  T if odometry else None):
            found.append((one, one.query_stamp_ns / SECOND * STEP_M,
                          one.reference_stamp_ns / SECOND * STEP_M))
    return found


@pytest.fixture
def session() -> SessionLoops:
    return SessionLoops(ENCODER, SessionConfig())


@pytest.mark.parametrize('odometry', [True, False])
def test_a_second_round_is_closed_with_the_stamps_of_both_visits(odometry):
    session = SessionLoops(ENCODER, SessionConfig(still_cosine=0.98))
    found = drive(session, Ring(), 2 * RING_M, odometry=odometry)
    assert len(found) >= 10
    for closure, query_m, reference_m in found:
        assert abs(query_m - reference_m - RING_M) <= NEAR_M
        assert closure.probability >= 0.99
        assert not closure.relative_pose_valid


def test_no_street_is_closed_on_its_first_round(session):
    assert drive(session, Ring(), RING_M - 20.0) == []
    assert session.hypothesis is not None
    assert session.hypothesis.probability < 0.99


def test_a_place_is_reported_once_a_pass_and_again_on_the_next(session):
    found = drive(session, Ring(), 3 * RING_M)
    laps = [[reference_m % RING_M for _, query_m, reference_m in found
             if lap * RING_M + 40.0 <= query_m < (lap + 1) * RING_M] for lap in (1, 2)]
    apart = np.abs(np.diff(laps[0]))
    assert (np.minimum(apart, RING_M - apart) >= SessionConfig().place_m).all()
    # On the third round either older one may be the reference; a place is one place all the same.
    assert 10 <= len(laps[0]) <= 24
    assert 10 <= len(laps[1]) <= 24


def test_every_keyframe_is_reported_where_that_is_asked_for():
    once, each = (SessionLoops(ENCODER, SessionConfig(place_m=place_m)) for place_m in (5.0, 0.0))
    assert len(drive(each, Ring(), 2 * RING_M)) > 2 * len(drive(once, Ring(), 2 * RING_M))


def test_keyframes_of_the_last_seconds_and_metres_are_no_loop():
    ring = Ring()
    session = SessionLoops(ENCODER, SessionConfig(exclude_s=3600.0))
    assert drive(session, ring, 2 * RING_M) == []
    session = SessionLoops(ENCODER, SessionConfig(exclude_m=1000.0))
    assert drive(session, ring, 2 * RING_M) == []


def test_standing_still_makes_no_keyframes_and_closes_nothing(session):
    ring = Ring()
    for second in range(200):
        assert session.update(ring.view(0.0, second * SECOND), ring.pose(0.0)) == ()
    assert len(session) == 1


def test_an_image_that_comes_late_is_left_out_and_one_of_long_ago_starts_over(session):
    ring = Ring()
    drive(session, ring, 100.0)
    before = len(session)
    last = int(100.0 / STEP_M) - 1
    assert session.update(ring.view(140.0, last * SECOND - SECOND // 2), ring.pose(140.0)) == ()
    assert len(session) == before
    assert session.update(ring.view(140.0, (last - 5) * SECOND), ring.pose(140.0)) == ()
    assert len(session) == 1


def test_a_descriptor_that_is_not_finite_is_refused_and_changes_nothing(session):
    ring = Ring()
    drive(session, ring, 50.0)
    before = len(session)
    broken = ring.view(60.0, 40 * SECOND)
    broken.descriptor[3] = np.nan
    with pytest.raises(ImageError, match='not finite'):
        session.update(broken, ring.pose(60.0))
    assert len(session) == before


def test_odometry_that_starts_anew_on_the_way_closes_nothing_false(session):
    ring = Ring()
    drive(session, ring, RING_M)
    found = []
    for step in range(int(RING_M / STEP_M), int(2 * RING_M / STEP_M)):
        T = ring.pose(step * STEP_M)
        if step >= 120:  # restarted far away
            T[:2, 3] += 500.0
        found += session.update(ring.view(step * STEP_M, step * SECOND), T)
    assert len(found) >= 5
    for one in found:
        apart_m = (one.query_stamp_ns - one.reference_stamp_ns) / SECOND * STEP_M
        assert abs(apart_m - RING_M) <= NEAR_M


def test_after_odometry_began_anew_a_saved_map_holds_one_frame_only(session, tmp_path):
    ring = Ring()
    drive(session, ring, RING_M)
    before = len(session)
    for step in range(30):
        T = ring.pose(RING_M + step * STEP_M)
        T[:2, 3] += 500.0
        session.update(ring.view(step * STEP_M, (80 + step) * SECOND), T)
    assert session.odometry_restarts == 1
    assert len(session) > before
    assert session.save(tmp_path / 'map') == len(session) - before
    with PlaceMap.open(tmp_path / 'map') as place_map:
        assert (place_map.T_map_cam[:, 0, 3] > 400.0).all()


def test_odometry_that_is_not_finite_counts_as_none(session):
    ring = Ring()
    for step in range(20):
        session.update(ring.view(step * STEP_M, step * SECOND), np.full((4, 4), np.nan))
    assert len(session) > 5
    assert np.isnan(session.store.T_odom_cam).all()
    assert drive(session, ring, 100.0, start_m=20 * STEP_M) == []
    assert len(session) > 50


def test_more_keyframes_of_new_streets_than_may_be_kept_are_thinned_and_nothing_breaks():
    """Each comparison must be with the keyframes that are there after some have gone."""
    session = SessionLoops(ENCODER, SessionConfig(max_keyframes=100, exclude_s=5.0, exclude_m=5.0))
    rng = np.random.default_rng(0)
    T = np.eye(4)
    for step in range(400):
        T = T.copy()
        T[0, 3] += STEP_M
        row = rng.normal(size=DIMENSION).astype(np.float32)
        frame = Frame(stamp_ns=step * SECOND, rgb=BLANK, T_base_cam=np.eye(4))
        assert session.update(Description(frame, row / np.linalg.norm(row)), T) == ()
        if session.hypothesis is not None:
            assert session.hypothesis.reference_id in session.store.ids
    assert len(session) <= 100


def test_a_closure_that_is_refused_marks_nothing_as_seen_before(monkeypatch):
    monkeypatch.setattr('regvpr_core.localization.session.Verifier', lambda *_: SimpleNamespace(
        verify=lambda features, at, camera: (
            Verification(keyframe_id=at[0], matches=50, inliers=5, log_odds=-4.0),),
        pose=lambda *_: None))
    session = SessionLoops(ENCODER, SessionConfig())
    session._features = 'patch'
    assert drive(session, Ring(), 2 * RING_M) == []
    assert (session.store.revisit_of == -1).all()


def test_a_description_without_the_features_that_the_session_needs_is_not_taken():
    view = Ring().view(0.0, 0)
    session = SessionLoops(ENCODER, SessionConfig())
    assert session.takes(view)
    session._features = 'patch'
    assert not session.takes(view)
    points = LocalFeatures(kind='xfeat', width=8, height=8, xy=np.zeros((1, 2)),
                           descriptors=np.ones((1, 4), np.float32))
    assert not session.takes(Description(view.frame, view.descriptor, points))
    session._features = 'xfeat'
    assert session.takes(Description(view.frame, view.descriptor, points))


def test_memory_is_bounded_on_a_long_drive_and_loops_still_close():
    """Six rounds through 160 keyframes: as eight hours through 20,000, by the same policy."""
    limit = 160
    session = SessionLoops(ENCODER, SessionConfig(max_keyframes=limit))
    ring, sizes, late, false = Ring(), [], 0, 0
    for lap in range(6):
        found = drive(session, ring, RING_M, start_m=lap * RING_M)
        sizes.append(session.store.nbytes)
        assert len(session) <= limit
        late += len(found) if lap >= 3 else 0
        for _, query_m, reference_m in found:
            apart_m = (query_m - reference_m) % RING_M
            false += min(apart_m, RING_M - apart_m) > NEAR_M
    # Right after keyframes were deleted a session is smaller: compared is with a full one.
    assert max(sizes[3:]) <= 1.1 * max(sizes[1:3])
    assert late >= 20
    assert false <= 0.02 * late
    # What was seen first is kept: streets driven again go before it.
    assert session.store.stamps_ns[0] < RING_M / STEP_M * SECOND


def test_local_features_that_speak_against_it_stop_a_closure(monkeypatch):
    """The verifier's word counts: the same drive with one that refuses and one that agrees."""
    def verifier(log_odds):
        return lambda *_: SimpleNamespace(
            verify=lambda features, at, camera: (
                Verification(keyframe_id=at[0], matches=50, inliers=5, log_odds=log_odds),),
            pose=lambda *_: None)

    counts = {}
    for log_odds in (-4.0, -2.0, 1.0):
        session = SessionLoops(ENCODER, SessionConfig())
        session._features = 'patch'
        monkeypatch.setattr('regvpr_core.localization.session.Verifier', verifier(log_odds))
        counts[log_odds] = len(drive(session, Ring(), 2 * RING_M))
    assert counts[-4.0] == 0  # the largest evidence against it
    assert counts[-2.0] >= 10  # a doubt does not stop a sequence that fits
    assert counts[1.0] >= counts[-2.0]


def test_a_session_is_saved_as_a_map_with_its_poses(session, tmp_path):
    ring = Ring()
    drive(session, ring, 100.0)
    count = session.save(tmp_path / 'map')
    with PlaceMap.open(tmp_path / 'map') as place_map:
        assert len(place_map) == count == len(session)
        np.testing.assert_allclose(place_map.T_map_cam, session.store.T_odom_cam, atol=1e-9)
        similarities, ids = place_map.search(ring.view(50.0, 0).descriptor, 1)
        assert abs(int(ids[0]) * STEP_M - 50.0) <= 4.0
        assert similarities[0] > 0.9


def test_a_session_without_odometry_cannot_become_a_map(session, tmp_path):
    ring = Ring()
    for step in range(5):
        session.update(ring.view(30.0 * step, step * SECOND))
    with pytest.raises(MapError, match='no keyframe of the session has odometry'):
        session.save(tmp_path / 'map')
    assert not (tmp_path / 'map').exists()


def test_cameras_have_keyframes_of_their_own(session):
    ring = Ring()
    for step, camera in itertools.product(range(10), ('front', 'rear')):
        session.update(ring.view(step * STEP_M, step * SECOND, camera), ring.pose(step * STEP_M))
    assert sorted(set(session.store.cameras)) == ['front', 'rear']
    assert session.store.cameras.count('front') == session.store.cameras.count('rear') == 10


@pytest.mark.parametrize(('settings', 'message'), [
    ({'sequence': 0}, 'session.sequence'), ({'accept_probability': 1.5}, 'accept_probability'),
    ({'max_keyframes': 10}, 'max_keyframes')])
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SessionConfig(**settings)


@pytest.mark.parametrize('every', [2, 3])
def test_odometry_on_some_images_only_still_measures_the_way_and_closes_loops(every):
    session, ring, found = SessionLoops(ENCODER, SessionConfig()), Ring(), []
    for step in range(int(2 * RING_M / STEP_M)):
        T = ring.pose(step * STEP_M) if step % every == 0 else None
        found += session.update(ring.view(step * STEP_M, step * SECOND), T)
    assert session.store.along_m[-1] > 1.8 * RING_M
    assert len(found) >= 3
    for one in found:
        apart_m = (one.query_stamp_ns - one.reference_stamp_ns) / SECOND * STEP_M
        assert abs(apart_m - RING_M) <= NEAR_M


@pytest.mark.parametrize('without', [1, 3])
def test_images_without_odometry_do_not_hide_that_it_began_anew(session, without):
    ring = Ring()
    drive(session, ring, 60.0)
    for step in range(30, 60):
        T = ring.pose(step * STEP_M)
        T[:2, 3] += 500.0
        session.update(ring.view(step * STEP_M, step * SECOND),
                       None if step < 30 + without else T)
    assert session.odometry_restarts == 1
    posed = np.isfinite(session.store.T_odom_cam).all(axis=(1, 2))
    assert (session.store.T_odom_cam[posed, 0, 3] > 400.0).all()


class Floors:
    """A floor, and then another above it that looks like it: in part the same, place by place."""

    def __init__(self, shared: float) -> None:
        self.below, self.other, self.shared = Ring(0, noise=0.02), Ring(5, noise=0.02), shared

    def pose(self, along_m: float) -> np.ndarray:
        return self.below.pose(along_m)

    def view(self, along_m: float, stamp_ns: int) -> Description:
        one, two = (ring.view(along_m, stamp_ns) for ring in (self.below, self.other))
        if along_m < RING_M:
            return one
        row = self.shared * one.descriptor + np.sqrt(1.0 - self.shared**2) * two.descriptor
        return Description(one.frame, (row / np.linalg.norm(row)).astype(np.float32))


def closures_between_floors(shared: float, odometry: bool = False) -> int:
    """Loops that are closed; the odometry of the second floor is that of the first."""
    session = SessionLoops(ENCODER, SessionConfig(still_cosine=0.999))
    return len(drive(session, Floors(shared), 1.9 * RING_M, odometry=odometry))


def test_a_look_alike_floor_closes_no_loop_however_well_its_sequence_fits(monkeypatch):
    assert closures_between_floors(shared=0.99) >= 5
    assert closures_between_floors(shared=0.6) == 0
    monkeypatch.setattr('regvpr_core.localization.session.LEAST_LEVEL', 0.0)
    assert closures_between_floors(shared=0.6) >= 1


def test_with_odometry_a_look_alike_floor_needs_less_similarity_but_not_little(monkeypatch):
    assert closures_between_floors(shared=0.9, odometry=True) >= 5
    assert closures_between_floors(shared=0.9, odometry=False) == 0
    assert closures_between_floors(shared=0.8, odometry=True) == 0
    monkeypatch.setattr('regvpr_core.localization.session.LEAST_LEVEL_ODOMETRY', 0.0)
    monkeypatch.setattr('regvpr_core.localization.session.CLOSURE_ABOVE', -99.0)
    assert closures_between_floors(shared=0.8, odometry=True) >= 1


def test_references_without_poses_need_the_similarity_of_sequences_without_odometry():
    """After a restart of odometry older keyframes have no poses: the motion is not compared."""
    found = {}
    for shared in (0.99, 0.9):
        session, floors = SessionLoops(ENCODER, SessionConfig(still_cosine=0.999)), Floors(shared)
        drive(session, floors, RING_M)
        session.store.forget_poses()
        found[shared] = sum(len(session.update(
            floors.view(along_m, int(along_m / STEP_M) * SECOND), floors.pose(along_m - RING_M)))
            for along_m in np.arange(RING_M, 1.9 * RING_M, STEP_M))
    assert found[0.99] >= 3
    assert found[0.9] == 0

def test_a_loop_needs_the_score_that_look_alike_floors_do_not_reach(monkeypatch):
    """The offset of the model decides, whatever the similarity of successive keyframes."""
    monkeypatch.setattr('regvpr_core.localization.session.LEAST_LEVEL', 0.0)
    found = {}
    for offset in (5.0, 30.0):
        monkeypatch.setattr(
            'regvpr_core.localization.session.model_evidence',
            lambda *_, offset=offset: ModelEvidence(weight=6.0, offset=offset, gain=1.2))
        found[offset] = closures_between_floors(shared=0.99)
    assert found[5.0] >= 5
    assert found[30.0] == 0


@pytest.mark.parametrize('speed', [0.6, 1.0, 1.8])
def test_without_odometry_a_return_at_another_speed_finds_its_keyframes(speed):
    ring = Ring()
    session = SessionLoops(ENCODER, SessionConfig(still_cosine=1.0, place_m=0.0))
    way = [*np.arange(0.0, RING_M, STEP_M), *np.arange(RING_M, 1.9 * RING_M, speed * STEP_M)]
    found = []
    for number, along_m in enumerate(way):
        for one in session.update(ring.view(float(along_m), number * SECOND)):
            found.append(abs(way[one.query_id] - way[one.reference_id] - RING_M))
    assert len(found) >= 10
    assert np.median(found) <= 2.0 * STEP_M
    assert max(found) <= NEAR_M
