import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.geometry import inverse
from regvpr_core.verification import metric_pose as module
from regvpr_core.verification.metric_pose import metric_pose, of_base, reprojection, triangulate

PX = 1.0 / 420.0


@pytest.fixture(params=['poselib', 'opencv'])
def solver(request, monkeypatch):
    """Both libraries: PoseLib is an extra."""
    if request.param == 'opencv':
        monkeypatch.setattr(module, 'poselib_or_none', lambda: None)
    else:
        pytest.importorskip('poselib')
    return request.param


def noisy(scene, T, pixels):
    return scene.rays(T) + scene.rng.normal(0.0, pixels * PX, (len(scene.points), 2))


def error_of(T_true, T) -> np.ndarray:
    turn = Rotation.from_matrix(T_true[:3, :3] @ T[:3, :3].T).as_rotvec()
    return np.concatenate([T_true[:3, 3] - T[:3, 3], turn])


def solve(scene, T_query, T_refs, pixels=0.3, wrong=0.0, seen=1.0):
    query = noisy(scene, T_query, pixels)
    references = np.stack([noisy(scene, T, pixels) for T in T_refs])
    astray = scene.rng.random(len(query)) < wrong
    query[astray] = scene.rng.uniform(-0.6, 0.6, (astray.sum(), 2))
    shown = scene.rng.random((len(T_refs), len(query))) < seen
    return metric_pose(query, references, shown, np.stack(T_refs),
                       6.0 * max(pixels, 0.1) * PX, 0.01 * PX)


def test_exact_points_give_the_exact_pose(make_scene, solver):
    scene = make_scene(100)
    T = scene.pose(0.7, 0.4, (0.03, -0.1, 0.02))
    pose = solve(scene, T, [scene.pose(-1.0), scene.pose(0.0), scene.pose(1.5)], pixels=0.0)
    assert np.abs(error_of(T, pose.T_map_cam)).max() < 1e-5
    assert pose.rms < 1e-7


def test_a_street_gives_centimetres_in_spite_of_wrong_and_missing_matches(make_scene, solver):
    errors = []
    for seed in range(12):
        scene = make_scene(200, seed)
        T = scene.pose(0.5, 0.5, tuple(scene.rng.normal(0.0, 0.05, 3)))
        pose = solve(scene, T, [scene.pose(-1.0), scene.pose(0.0), scene.pose(1.5)],
                     wrong=0.25, seen=0.8)
        errors.append(error_of(T, pose.T_map_cam))
    errors = np.array(errors)
    assert np.median(np.linalg.norm(errors[:, :3], axis=1)) < 0.03
    assert np.linalg.norm(errors[:, :3], axis=1).max() < 0.15
    assert np.linalg.norm(errors[:, 3:], axis=1).max() < 0.01


def test_the_covariance_is_that_of_the_errors(make_scene):
    squares = []
    for seed in range(100):
        scene = make_scene(120, seed)
        T = scene.pose(0.4, 0.4, tuple(scene.rng.normal(0.0, 0.05, 3)))
        pose = solve(scene, T, [scene.pose(-1.0), scene.pose(0.0), scene.pose(1.5)], pixels=0.2)
        error = error_of(T, pose.T_map_cam)
        squares.append([error @ np.linalg.solve(pose.covariance, error),
                        error[:3] @ np.linalg.solve(pose.covariance[:3, :3], error[:3])])
    whole, position = np.mean(squares, axis=0)
    # Means of 100 chi-squared numbers: 6 and 3, give or take 0.35 and 0.25.
    assert 4.9 < whole < 7.3
    assert 2.3 < position < 3.9


def test_noise_twice_as_large_doubles_the_width(make_scene):
    widths = []
    for pixels in (0.1, 0.2, 0.4):
        scene = make_scene(200)
        pose = solve(scene, scene.pose(0.4, 0.4), [scene.pose(-1.0), scene.pose(1.5)], pixels)
        widths.append(np.sqrt(np.trace(pose.covariance[:3, :3])))
    assert widths[1] / widths[0] == pytest.approx(2.0, rel=0.25)
    assert widths[2] / widths[1] == pytest.approx(2.0, rel=0.25)


def test_moving_the_map_moves_pose_and_covariance_with_it(make_scene, rigid):
    scene = make_scene(150)
    T_refs = np.stack([scene.pose(-1.0), scene.pose(0.0), scene.pose(1.5)])
    query = noisy(scene, scene.pose(0.5, 0.3), 0.2)
    references = np.stack([noisy(scene, T, 0.2) for T in T_refs])
    seen = np.ones((3, 150), dtype=bool)
    plain, moved = (metric_pose(query, references, seen, T, 3.0 * PX, 0.01 * PX)
                    for T in (T_refs, rigid @ T_refs))
    np.testing.assert_allclose(moved.T_map_cam, rigid @ plain.T_map_cam, atol=1e-4)
    axes = np.kron(np.eye(2), rigid[:3, :3])
    np.testing.assert_allclose(moved.covariance, axes @ plain.covariance @ axes.T,
                               atol=1e-3 * np.abs(plain.covariance).max())


def test_views_from_one_spot_give_no_pose(make_scene, solver):
    scene = make_scene(200)
    assert solve(scene, scene.pose(0.5), [scene.pose(0.0), scene.pose(0.0, 0.0, (0, 0.1, 0))],
                 pixels=0.1) is None


def test_a_single_view_or_few_points_give_no_pose(make_scene, solver):
    scene = make_scene(200)
    assert solve(scene, scene.pose(0.5), [scene.pose(0.0)]) is None
    few = make_scene(11)
    assert solve(few, few.pose(0.5), [few.pose(0.0), few.pose(1.5)]) is None


def test_an_image_of_another_place_gives_no_pose(make_scene, solver):
    scene, other = make_scene(200, 0), make_scene(200, 1)
    T_refs = np.stack([scene.pose(-1.0), scene.pose(0.0), scene.pose(1.5)])
    references = np.stack([scene.rays(T) for T in T_refs])
    assert metric_pose(other.rays(other.pose(0.5)), references, np.ones((3, 200), dtype=bool),
                       T_refs, 3.0 * PX, 0.01 * PX) is None


def test_an_image_between_far_points_only_says_so_by_its_width_or_not_at_all(make_scene):
    scene = make_scene(200)
    scene.points[:, 0] += 200.0
    pose = solve(scene, scene.pose(0.5), [scene.pose(0.0), scene.pose(1.0)], pixels=0.3)
    assert pose is None


def test_points_are_where_two_exact_views_put_them(make_scene):
    scene = make_scene(50)
    T = np.stack([scene.pose(0.0), scene.pose(2.0, 0.5)])
    rays = np.stack([scene.rays(one) for one in T])
    points, sound = triangulate(rays, np.ones((2, 50), dtype=bool), T, PX)
    np.testing.assert_allclose(points[sound], scene.points[sound], atol=1e-6)
    assert 0.5 < sound.mean() < 1.0  # those far ahead have no parallax
    error, depth = reprojection(inverse(T), scene.points, rays)
    assert error.max() < 1e-9
    assert depth.min() > 0.0


def test_a_point_that_one_view_lacks_is_triangulated_from_the_others(make_scene):
    scene = make_scene(50)
    T = np.stack([scene.pose(0.0), scene.pose(2.0, 0.5), scene.pose(1.0)])
    rays = np.stack([scene.rays(one) for one in T])
    rays[2] = 99.0
    seen = np.array([[True] * 50, [True] * 50, [False] * 50])
    points, sound = triangulate(rays, seen, T, PX)
    np.testing.assert_allclose(points[sound], scene.points[sound], atol=1e-6)
    assert sound.any()


def test_the_base_is_less_certain_than_the_camera_where_the_lever_is_long():
    T = np.eye(4)
    covariance = np.diag([0.01, 0.01, 0.01, 0.0, 0.0, 0.04])
    T_cam_base = np.eye(4)
    T_cam_base[0, 3] = 2.0
    T_base, moved = of_base(T, covariance, T_cam_base)
    np.testing.assert_allclose(T_base[:3, 3], [2.0, 0.0, 0.0])
    # A yaw error of 0.2 rad moves what is 2 m ahead by 0.4 m aside.
    assert moved[1, 1] == pytest.approx(0.01 + 0.16)
    assert moved[0, 0] == pytest.approx(0.01)
    assert moved[1, 5] == pytest.approx(2.0 * 0.04)
    np.testing.assert_allclose(moved, moved.T)


def test_the_base_has_the_covariance_of_its_errors():
    rng = np.random.default_rng(0)
    T_cam_base = np.eye(4)
    T_cam_base[:3, 3] = [0.3, -1.2, 0.5]
    T = np.eye(4)
    T[:3, :3] = Rotation.from_rotvec([0.5, -0.2, 0.9]).as_matrix()
    root = 0.02 * rng.normal(size=(6, 6))
    _, covariance = of_base(T, root @ root.T, T_cam_base)
    errors = []
    for _ in range(4000):
        e = root @ rng.normal(size=6)
        truth = T.copy()
        truth[:3, :3] = Rotation.from_rotvec(e[3:]).as_matrix() @ T[:3, :3]
        truth[:3, 3] += e[:3]
        errors.append(error_of(truth @ T_cam_base, T @ T_cam_base))
    np.testing.assert_allclose(np.cov(np.array(errors).T), covariance,
                               atol=0.1 * np.abs(covariance).max())
