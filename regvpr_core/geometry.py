"""Rigid transforms as 4x4 matrices; `T_a_b` takes points in frame b to frame a."""

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

MAX_POSITION_M = 1e12
"""Largest accepted coordinate in metres; keeps its square finite."""

MAX_QUATERNION, MIN_QUATERNION = 1e9, 1e-9
"""Bounds of a quaternion's norm before normalisation."""

NEARLY_HALF_A_TURN = 3.0
"""Angle in rad above which a rotation vector is computed by scipy."""


def pose_matrix(position: npt.ArrayLike, quat_xyzw: npt.ArrayLike) -> Array:
    """Build (..., 4, 4) transforms from positions (..., 3) in m and quaternions (..., 4).

    Raises:
        ValueError: a value is not finite or too large, or a quaternion is zero.
    """
    position = np.asarray(position, dtype=np.float64)
    quat_xyzw = np.asarray(quat_xyzw, dtype=np.float64)
    if not (np.isfinite(position).all() and np.isfinite(quat_xyzw).all()):
        raise ValueError('a pose holds a value that is not finite')
    if (np.abs(position) > MAX_POSITION_M).any() or (np.abs(quat_xyzw) > MAX_QUATERNION).any():
        raise ValueError(f'a pose holds a value out of range; expected positions up to '
                         f'{MAX_POSITION_M:.0e} m and numbers of a quaternion up to '
                         f'{MAX_QUATERNION:.0e}')
    if (np.linalg.norm(quat_xyzw, axis=-1) < MIN_QUATERNION).any():
        raise ValueError('a quaternion is all zeros; expected a rotation x y z w')
    T = np.zeros((*position.shape[:-1], 4, 4))
    T[..., :3, :3] = _rotation_matrix(quat_xyzw)
    T[..., :3, 3] = position
    T[..., 3, 3] = 1.0
    return T


def _rotation_matrix(quat_xyzw: Array) -> Array:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4), xyzw, of any length except zero."""
    q = quat_xyzw / np.linalg.norm(quat_xyzw, axis=-1, keepdims=True)
    v, w = q[..., :3], q[..., 3, None, None]
    cross = np.zeros((*q.shape[:-1], 3, 3))
    cross[..., [2, 0, 1], [1, 2, 0]] = v
    cross[..., [1, 2, 0], [2, 0, 1]] = -v
    # Rodrigues' formula in half angles: I + 2 w [v] + 2 [v]^2.
    return np.asarray(np.eye(3) + 2.0 * (w * cross + cross @ cross))


def quat_xyzw(T: Array) -> Array:
    """Quaternions (..., 4), xyzw with w >= 0, of (..., 4, 4) transforms."""
    from scipy.spatial.transform import Rotation  # late: takes half a second to load

    q = np.asarray(Rotation.from_matrix(T[..., :3, :3]).as_quat())
    return np.where(q[..., 3:] < 0.0, -q, q)


def inverse(T: Array) -> Array:
    """Invert (..., 4, 4) rigid transforms."""
    out = np.zeros_like(T)
    R_t = out[..., :3, :3]
    R_t[...] = T[..., :3, :3].swapaxes(-1, -2)
    out[..., :3, 3:] = -(R_t @ T[..., :3, 3:])
    out[..., 3, 3] = 1.0
    return out


def length_and_angle(T: Array) -> tuple[float, float]:
    """Length in m and angle in rad of one motion (4, 4).

    As the norm and `rotation_angle`, at a tenth of the time for a single motion.
    """
    (a, b, c, x), (d, e, f, y), (g, h, i, z), _ = T.tolist()
    return (math.hypot(x, y, z),
            math.atan2(math.hypot(h - f, c - g, d - b), a + e + i - 1.0))


def rotation_angle(R: Array) -> Array:
    """Angle in rad of rotations (..., 3, 3); exact also near 0 and pi."""
    return _axis_and_angle(R)[1]


def rotation_vector(R: Array) -> Array:
    """Rotation vectors (..., 3), axis times angle in rad, of rotations (..., 3, 3)."""
    axis, angle = _axis_and_angle(R)
    if (angle > NEARLY_HALF_A_TURN).any():  # the antisymmetric part is near 0
        from scipy.spatial.transform import Rotation  # late: takes half a second to load

        return np.asarray(Rotation.from_matrix(R).as_rotvec())
    # The antisymmetric part is 2 sin(angle) times the axis; sinc(x) is sin(pi x) / (pi x).
    return np.asarray(axis / (2.0 * np.sinc(angle / np.pi)[..., None]))


def _axis_and_angle(R: Array) -> tuple[Array, Array]:
    """2 sin(angle) times the axis (..., 3), and the angle in rad, of rotations (..., 3, 3)."""
    axis = np.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0],
                     R[..., 1, 0] - R[..., 0, 1]], axis=-1)
    trace = R[..., 0, 0] + R[..., 1, 1] + R[..., 2, 2]
    return axis, np.asarray(np.arctan2(np.sqrt((axis * axis).sum(axis=-1)), trace - 1.0))


def distance(T_a: Array, T_b: Array) -> tuple[Array, Array]:
    """Distance in metres and angle in radians between poses (..., 4, 4)."""
    metres = np.linalg.norm(T_a[..., :3, 3] - T_b[..., :3, 3], axis=-1)
    R = np.swapaxes(T_a[..., :3, :3], -1, -2) @ T_b[..., :3, :3]
    return metres, rotation_angle(R)


def interpolate(T_0: Array, T_1: Array, fraction: float) -> Array:
    """Interpolate two poses (4, 4): linear in position, slerp in rotation."""
    from scipy.spatial.transform import Rotation  # late: takes half a second to load

    R_0 = Rotation.from_matrix(T_0[:3, :3])
    turn = (R_0.inv() * Rotation.from_matrix(T_1[:3, :3])).as_rotvec()
    T = np.eye(4)
    T[:3, :3] = (R_0 * Rotation.from_rotvec(fraction * turn)).as_matrix()
    T[:3, 3] = (1.0 - fraction) * T_0[:3, 3] + fraction * T_1[:3, 3]
    return T
