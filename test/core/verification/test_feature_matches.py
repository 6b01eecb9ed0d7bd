import cv2
import numpy as np
import pytest

from regvpr_core.verification.feature_matches import match_features, refined
from regvpr_core.verification.local_features import LocalFeatures
from regvpr_core.verification.patch_features import patch_features


def test_each_point_finds_itself_and_no_other(make_scene):
    scene = make_scene(100)
    features = scene.features(scene.pose(0.0))
    of_query, of_reference = match_features(features, features)
    np.testing.assert_array_equal(of_query, np.arange(len(features)))
    np.testing.assert_array_equal(of_query, of_reference)


def test_matches_are_the_same_points_in_whatever_order(make_scene):
    scene = make_scene(150)
    first, second = scene.features(scene.pose(0.0)), scene.features(scene.pose(1.0))
    a, b = match_features(first, second)
    cosines = (first.descriptors[a] * second.descriptors[b]).sum(axis=1)
    np.testing.assert_allclose(cosines, 1.0, atol=1e-6)
    assert len(set(b.tolist())) == len(b) > 80


def test_keypoints_that_are_not_alike_do_not_match(make_scene):
    first, second = make_scene(100, 0), make_scene(100, 1)
    a, _ = match_features(first.features(first.pose(0.0)), second.features(second.pose(0.0)))
    assert len(a) == 0


def test_no_features_match_nothing(make_scene):
    scene = make_scene(50)
    features = scene.features(scene.pose(0.0))
    none = LocalFeatures(kind='xfeat', width=640, height=480, xy=np.zeros((0, 2)),
                         descriptors=np.zeros((0, 64), np.float32))
    for pair in ((none, features), (features, none), (none, none)):
        a, b = match_features(*pair)
        assert a.shape == b.shape == (0,)
        assert refined(*pair, (a, b)).shape == (0, 2)


@pytest.mark.parametrize('shift_px', [8.0, 10.0])
def test_a_patch_is_found_between_the_centres_when_the_picture_moved_by_part_of_one(shift_px):
    # Tokens that vary smoothly over the picture, as a network's do; the second is moved.
    rng = np.random.default_rng(0)
    world = cv2.resize(rng.normal(size=(9, 9, 32)).astype(np.float32), (480, 480),
                       interpolation=cv2.INTER_CUBIC)

    def tokens(offset: float) -> np.ndarray:
        centres = (np.arange(16) * 20 + 10 + 80 - 0.5).astype(np.float32)
        x, y = np.meshgrid(centres + np.float32(offset), centres)
        return np.stack([cv2.remap(np.ascontiguousarray(world[..., c]), x, y, cv2.INTER_LINEAR)
                         for c in range(32)], axis=-1)

    query = patch_features(tokens(0.0), 320, 320)
    reference = patch_features(tokens(shift_px), 320, 320)
    pairs = match_features(query, reference)
    truth = query.xy[pairs[0]] - [shift_px, 0.0]
    inside = truth[:, 0] > 10.0
    coarse = np.linalg.norm(reference.xy[pairs[1]] - truth, axis=1)[inside]
    fine = np.linalg.norm(refined(query, reference, pairs) - truth, axis=1)[inside]
    assert np.median(fine) < 5.0
    assert np.median(fine) < 0.7 * np.median(coarse)


def test_keypoints_stay_where_they_were_found(make_scene):
    scene = make_scene(50)
    features = scene.features(scene.pose(0.0))
    pairs = match_features(features, features)
    np.testing.assert_array_equal(refined(features, features, pairs), features.xy)
