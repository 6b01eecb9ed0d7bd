import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from regvpr_core.geometry import (
    distance,
    interpolate,
    inverse,
    length_and_angle,
    pose_matrix,
    quat_xyzw,
    rotation_angle,
    rotation_vector,
)


def random_poses(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    T = np.tile(np.eye(4), (count, 1, 1))
    T[:, :3, :3] = Rotation.random(count, rng=rng).as_matrix()
    T[:, :3, 3] = rng.normal(scale=20.0, size=(count, 3))
    return T


def test_a_quarter_turn_about_z_takes_x_to_y():
    T = pose_matrix([1.0, 2.0, 3.0], [0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5)])
    np.testing.assert_allclose(T @ [1.0, 0.0, 0.0, 1.0], [1.0, 3.0, 3.0, 1.0], atol=1e-12)


def test_quaternions_are_scaled_and_their_sign_does_not_matter():
    q = np.array([0.1, -0.2, 0.3, 0.9])
    want = pose_matrix([0, 0, 0], q / np.linalg.norm(q))
    for other in (5.0 * q, -q, 1e-3 * q):
        np.testing.assert_allclose(pose_matrix([0, 0, 0], other), want, atol=1e-12)


def test_poses_survive_the_round_trip_through_quaternions():
    T = random_poses(50)
    q = quat_xyzw(T)
    np.testing.assert_allclose(pose_matrix(T[:, :3, 3], q), T, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(q, axis=1), 1.0, atol=1e-12)
    assert (q[:, 3] >= 0.0).all()


@pytest.mark.parametrize(('position', 'quaternion', 'message'), [
    ([0, 0, float('nan')], [0, 0, 0, 1], 'not finite'),
    ([0, 0, 0], [0, 0, float('inf'), 1], 'not finite'),
    ([0, 0, 0], [0, 0, 0, 1e200], 'out of range'),
    ([0, 1e13, 0], [0, 0, 0, 1], 'out of range'),
    ([0, 0, 0], [0, 0, 0, 0], 'a quaternion is all zeros'),
    ([[0, 0, 0], [1, 1, 1]], [[0, 0, 0, 1], [0, 0, 0, 1e-12]], 'a quaternion is all zeros')])
def test_a_pose_without_sense_is_refused(position, quaternion, message):
    with pytest.raises(ValueError, match=message):
        pose_matrix(position, quaternion)


def test_the_inverse_is_that_of_the_matrix():
    T = random_poses(20)
    np.testing.assert_allclose(inverse(T), np.linalg.inv(T), atol=1e-12)
    np.testing.assert_allclose(inverse(T[3]) @ T[3], np.eye(4), atol=1e-12)


@pytest.mark.parametrize('angle', [0.0, 1e-9, 1e-4, 1.0, math.pi - 1e-7, math.pi])
def test_the_angle_of_a_rotation_is_exact_also_at_its_ends(angle):
    R = Rotation.from_rotvec(angle * np.array([2.0, -1.0, 2.0]) / 3.0).as_matrix()
    assert float(rotation_angle(R)) == pytest.approx(angle, abs=1e-12)


@pytest.mark.parametrize('angle', [0.0, 1e-9, 1.0, 2.99, 3.01, math.pi - 1e-7])
def test_the_vector_of_a_rotation_turns_as_the_rotation_does(angle):
    vectors = angle * np.array([[2.0, -1.0, 2.0], [0.0, 0.6, -0.8]]) / np.array([[3.0], [1.0]])
    np.testing.assert_allclose(
        rotation_vector(Rotation.from_rotvec(vectors).as_matrix()), vectors, atol=1e-9)


def test_the_length_and_angle_of_one_motion_are_those_of_many():
    for T in [*random_poses(20), np.eye(4)]:
        metres, radians = length_and_angle(T)
        assert metres == pytest.approx(np.linalg.norm(T[:3, 3]), rel=1e-15, abs=0.0)
        assert radians == pytest.approx(float(rotation_angle(T[:3, :3])), abs=1e-15)


def test_distance_is_metres_and_radians_and_the_world_does_not_matter():
    T_a, T_b = np.eye(4), np.eye(4)
    T_b[:3, 3] = [3.0, 4.0, 0.0]
    T_b[:3, :3] = Rotation.from_euler('z', 30, degrees=True).as_matrix()
    metres, radians = distance(T_a, T_b)
    assert (float(metres), float(radians)) == pytest.approx((5.0, math.pi / 6))
    G = random_poses(1, seed=7)[0]
    moved = distance(G @ T_a, G @ T_b)
    assert (float(moved[0]), float(moved[1])) == pytest.approx((5.0, math.pi / 6))


def test_interpolation_ends_where_it_should_and_follows_slerp_between():
    T_0, T_1 = random_poses(2, seed=3)
    np.testing.assert_allclose(interpolate(T_0, T_1, 0.0), T_0, atol=1e-12)
    np.testing.assert_allclose(interpolate(T_0, T_1, 1.0), T_1, atol=1e-12)
    slerp = Slerp([0.0, 1.0], Rotation.from_matrix([T_0[:3, :3], T_1[:3, :3]]))
    for fraction in (0.1, 0.5, 0.9):
        T = interpolate(T_0, T_1, fraction)
        np.testing.assert_allclose(T[:3, :3], slerp(fraction).as_matrix(), atol=1e-12)
        np.testing.assert_allclose(
            T[:3, 3], T_0[:3, 3] + fraction * (T_1[:3, 3] - T_0[:3, 3]), atol=1e-12)


def test_interpolation_takes_the_shorter_turn():
    T_0, T_1 = np.eye(4), np.eye(4)
    T_0[:3, :3] = Rotation.from_euler('z', 170, degrees=True).as_matrix()
    T_1[:3, :3] = Rotation.from_euler('z', -170, degrees=True).as_matrix()
    half = Rotation.from_matrix(interpolate(T_0, T_1, 0.5)[:3, :3])
    assert math.degrees(half.magnitude()) == pytest.approx(180.0)


def test_interpolation_moves_with_the_world_and_looks_the_same_backwards():
    T_0, T_1, G = random_poses(3, seed=5)
    T = interpolate(T_0, T_1, 0.3)
    np.testing.assert_allclose(interpolate(G @ T_0, G @ T_1, 0.3), G @ T, atol=1e-10)
    np.testing.assert_allclose(interpolate(T_1, T_0, 0.7), T, atol=1e-10)
