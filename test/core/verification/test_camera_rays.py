import cv2
import numpy as np
import pytest

from regvpr_core.errors import ConfigError
from regvpr_core.verification.camera_rays import Intrinsics

K = np.array([[420.0, 0.0, 319.5], [0.0, 410.0, 239.5], [0.0, 0.0, 1.0]])


def test_the_middle_looks_ahead_and_a_focal_length_aside_is_45_degrees():
    camera = Intrinsics(width=640, height=480, K=K)
    rays = camera.rays(np.array([[319.5, 239.5], [739.5, 239.5], [319.5, -170.5]]), 640, 480)
    np.testing.assert_allclose(rays, [[0.0, 0.0], [1.0, 0.0], [0.0, -1.0]], atol=1e-12)


def test_a_shrunk_image_has_the_same_rays():
    camera = Intrinsics(width=640, height=480, K=K)
    xy = np.array([[100.0, 50.0], [600.0, 400.0]])
    # Corners of pixels, not centres, keep their place when an image is shrunk.
    np.testing.assert_allclose(camera.rays((xy + 0.5) / 2.0 - 0.5, 320, 240),
                               camera.rays(xy, 640, 480), atol=1e-12)
    assert camera.focal_px(320) == pytest.approx(207.5)


@pytest.mark.parametrize(('model', 'D'), [
    ('plumb_bob', (-0.28, 0.07, 1e-4, -2e-4, 0.01)),
    ('rational_polynomial', (0.1, -0.05, 1e-4, 1e-4, 0.02, 0.12, -0.03, 0.01)),
    ('equidistant', (-0.02, 0.003, -0.001, 0.0002)), ('fisheye', (0.01, 0.0, 0.0, 0.0))])
def test_distortion_is_taken_off(model, D):
    rays = np.random.default_rng(0).uniform(-0.5, 0.5, (50, 2))
    points = np.concatenate([rays, np.ones((50, 1))], axis=1)[:, None]
    project = cv2.fisheye.projectPoints if model in ('equidistant', 'fisheye') else None
    if project is None:
        xy, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, np.array(D))
    else:
        xy, _ = project(points, np.zeros((1, 3)), np.zeros((1, 3)), K, np.array(D))
    camera = Intrinsics(width=640, height=480, K=K, model=model, D=D)
    np.testing.assert_allclose(camera.rays(xy[:, 0], 640, 480), rays, atol=2e-4)


def test_no_points_have_no_rays():
    assert Intrinsics(width=4, height=4, K=np.eye(3)).rays(np.zeros((0, 2)), 4, 4).shape == (0, 2)


def test_an_image_of_another_shape_is_of_another_camera():
    camera = Intrinsics(width=640, height=480, K=K)
    assert camera.fits(320, 240)
    assert camera.fits(1024, 768)
    assert not camera.fits(640, 360)


@pytest.mark.parametrize(('values', 'reason'), [
    ({'width': 640, 'height': 480}, "cannot be read: 'K'"),
    ({'width': 640, 'height': 480, 'K': [1.0] * 8}, 'cannot be read'),
    ({'width': 640, 'height': 480, 'K': ['x'] * 9}, 'cannot be read'),
    ({'width': 640, 'height': 480, 'K': [10**400] * 9}, 'cannot be read'),
    ({'width': 640, 'height': 480, 'K': K.ravel(), 'D': [10**400]}, 'cannot be read'),
    ({'width': float('inf'), 'height': 480, 'K': K.ravel()}, 'cannot be read'),
    ({'width': 0, 'height': 480, 'K': K.ravel()}, 'not usable'),
    ({'width': 640, 'height': 480, 'K': [0.0] * 9}, 'not usable'),
    ({'width': 640, 'height': 480, 'K': [float('nan')] * 9}, 'not usable'),
    ({'width': 640, 'height': 480, 'K': K.ravel(), 'D': [float('inf')] * 5}, 'not usable'),
    ({'width': 640, 'height': 480, 'K': K.ravel(), 'D': [0.1] * 3}, '3 distortion coefficients'),
    ({'width': 640, 'height': 480, 'K': K.ravel(), 'D': [0.1] * 6}, '6 distortion coefficients'),
    ({'width': 640, 'height': 480, 'K': K.ravel(), 'model': 'omni'}, "'omni' is unknown"),
    ({'width': 'many', 'height': 480, 'K': K.ravel()}, 'cannot be read')])
def test_unusable_intrinsics_are_refused_in_a_line(values, reason):
    with pytest.raises(ConfigError, match=reason):
        Intrinsics.from_mapping(values)


def test_intrinsics_of_a_manifest_are_read():
    camera = Intrinsics.from_mapping({'width': 640, 'height': 480, 'K': K.ravel().tolist(),
                                      'model': 'plumb_bob', 'D': [0.1, 0, 0, 0, 0]})
    np.testing.assert_array_equal(camera.K, K)
    assert camera.D == (0.1, 0.0, 0.0, 0.0, 0.0)
