import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.geometry import inverse, rotation_angle
from regvpr_core.verification import relative_pose
from regvpr_core.verification.relative_pose import (
    calibrated,
    direction_std,
    only_rotation,
    uncalibrated,
)

PX = 1.0 / 420.0
THRESHOLD = 2.0 * PX


@pytest.fixture(params=['poselib', 'opencv'])
def solver(request, monkeypatch):
    """Both libraries: PoseLib is an extra."""
    if request.param == 'opencv':
        monkeypatch.setattr(relative_pose, 'poselib_or_none', lambda: None)
    else:
        pytest.importorskip('poselib')
    return request.param


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.arccos(np.clip(a @ b / np.linalg.norm(a) / np.linalg.norm(b), -1.0, 1.0)))


def noisy(scene, T, pixels):
    return scene.rays(T) + scene.rng.normal(0.0, pixels * PX, (len(scene.points), 2))


def test_motion_and_inliers_come_out_of_a_street_with_a_third_of_wrong_matches(
    make_scene, solver
):
    scene = make_scene(240)
    T_query, T_reference = scene.pose(1.5, 0.6, (0.02, 0.1, 0.0)), scene.pose(0.0)
    query, reference = noisy(scene, T_query, 0.3), noisy(scene, T_reference, 0.3)
    wrong = np.arange(240) < 80
    reference[wrong] = scene.rng.uniform(-0.6, 0.6, (80, 2))
    view = calibrated(query, reference, THRESHOLD)
    truth = inverse(T_query) @ T_reference
    assert float(rotation_angle(view.rotation.T @ truth[:3, :3])) < 0.015
    assert angle(view.direction, truth[:3, 3]) < 0.1
    assert view.inliers[~wrong].mean() > 0.9
    assert view.inliers[wrong].mean() < 0.2
    assert view.direction_std_rad < 0.1
    assert not view.planar


def test_a_camera_that_turned_on_the_spot_has_a_rotation_and_no_direction(make_scene, solver):
    scene = make_scene(200)
    T_query, T_reference = scene.pose(0.0, 0.0, (0.0, 0.15, 0.0)), scene.pose(0.0)
    view = calibrated(noisy(scene, T_query, 0.3), noisy(scene, T_reference, 0.3), THRESHOLD)
    assert view.direction is None
    assert view.planar
    assert view.count > 180
    truth = (inverse(T_query) @ T_reference)[:3, :3]
    assert float(rotation_angle(view.rotation.T @ truth)) < 0.003


def test_the_same_image_twice_is_no_motion(make_scene, solver):
    rays = make_scene(100).rays(make_scene(100).pose(0.0))
    view = calibrated(rays, rays.copy(), THRESHOLD)
    assert view.count == 100
    assert view.direction is None
    np.testing.assert_allclose(view.rotation, np.eye(3), atol=1e-6)


def test_too_little_parallax_gives_no_direction(make_scene, solver):
    scene = make_scene(200)
    T_query, T_reference = scene.pose(0.02), scene.pose(0.0)
    view = calibrated(noisy(scene, T_query, 0.5), noisy(scene, T_reference, 0.5), THRESHOLD)
    assert view.direction is None
    assert float(rotation_angle(view.rotation)) < 0.01


def test_a_wall_is_said_to_be_planar(make_scene, solver):
    scene = make_scene(200)
    scene.points[:, 0] = 12.0
    view = calibrated(noisy(scene, scene.pose(0.0, 1.5), 0.2),
                      noisy(scene, scene.pose(0.0), 0.2), THRESHOLD)
    assert view.planar
    assert view.count > 180
    flat = uncalibrated(420.0 * scene.rays(scene.pose(0.0, 1.5)),
                        420.0 * scene.rays(scene.pose(0.0)), 2.0)
    assert flat.planar
    assert flat.count == 200


def test_without_intrinsics_there_are_inliers_and_nothing_else(make_scene, solver):
    scene = make_scene(200)
    query, reference = (420.0 * noisy(scene, T, 0.3) + 300.0
                        for T in (scene.pose(1.5, 0.5), scene.pose(0.0)))
    reference[:60] = scene.rng.uniform(0.0, 600.0, (60, 2))
    view = uncalibrated(query, reference, 2.0)
    assert view.inliers[60:].mean() > 0.9
    assert view.inliers[:60].mean() < 0.2
    assert view.rotation is None
    assert view.direction is None
    assert not view.planar


@pytest.mark.parametrize('count', [0, 1, 5, 7])
def test_fewer_than_eight_matches_verify_nothing(count, solver):
    rays = np.random.default_rng(0).uniform(-0.5, 0.5, (count, 2))
    for view in (calibrated(rays, rays, THRESHOLD), uncalibrated(rays, rays, 1.0)):
        assert view.count == 0
        assert view.inliers.shape == (count,)
        assert view.rotation is None


def test_matches_at_random_have_few_inliers(solver):
    rng = np.random.default_rng(1)
    for seed in range(5):
        rng = np.random.default_rng(seed)
        query, reference = rng.uniform(-0.7, 0.7, (2, 60, 2))
        assert calibrated(query, reference, THRESHOLD).count < 20
        assert uncalibrated(420 * query, 420 * reference, 2.0).count < 20


def test_points_all_in_one_spot_are_survived(solver):
    rays = np.zeros((30, 2))
    for view in (calibrated(rays, rays, THRESHOLD), uncalibrated(rays, rays, 1.0)):
        assert view.direction is None


def test_the_same_matches_give_the_same_answer(make_scene, solver):
    scene = make_scene(150)
    query, reference = (noisy(scene, T, 0.5) for T in (scene.pose(1.0, 0.4), scene.pose(0.0)))
    first, second = (calibrated(query, reference, THRESHOLD) for _ in range(2))
    np.testing.assert_array_equal(first.inliers, second.inliers)
    np.testing.assert_array_equal(first.rotation, second.rotation)


def test_a_rotation_alone_is_found_among_wrong_matches():
    rng = np.random.default_rng(3)
    reference = rng.uniform(-0.5, 0.5, (100, 2))
    R = Rotation.from_rotvec([0.05, -0.2, 0.1]).as_matrix()
    turned = np.concatenate([reference, np.ones((100, 1))], axis=1) @ R.T
    query = turned[:, :2] / turned[:, 2:]
    query[:30] = rng.uniform(-0.5, 0.5, (30, 2))
    found, fits = only_rotation(query, reference, THRESHOLD)
    np.testing.assert_allclose(found, R, atol=1e-9)
    assert fits[30:].all()
    assert fits[:30].mean() < 0.2


def test_the_width_of_a_direction_is_that_of_its_errors(make_scene):
    errors, widths = [], []
    for seed in range(40):
        scene = make_scene(150, seed)
        T_query, T_reference = scene.pose(2.0, 0.8, (0.0, 0.05, 0.0)), scene.pose(0.0)
        view = calibrated(noisy(scene, T_query, 0.3), noisy(scene, T_reference, 0.3),
                          3.0 * PX)
        errors.append(angle(view.direction, (inverse(T_query) @ T_reference)[:3, 3]))
        widths.append(view.direction_std_rad)
    # The error has two directions, the width is of the worse one.
    assert 0.3 < np.mean((np.array(errors) / np.array(widths)) ** 2) < 2.5


def test_five_matches_give_no_width(make_scene):
    scene = make_scene(5)
    assert direction_std(scene.rays(scene.pose(1.0)), scene.rays(scene.pose(0.0)), np.eye(3),
                         np.array([0.0, 0.0, 1.0])) == np.inf
