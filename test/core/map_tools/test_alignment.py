"""Where one map lies in another, from matched places: known answers, wrong matches, refusals."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.errors import ConfigError, MapError
from regvpr_core.geometry import inverse, pose_matrix, rotation_angle
from regvpr_core.map_tools.alignment import (
    align_maps,
    align_poses,
    AlignmentConfig,
    fit,
    least_agreeing,
    matches,
)
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter

PATHS = (Path('a'), Path('b'))


def walk(count: int, seed: int = 0) -> np.ndarray:
    """Poses (count, 4, 4) of a camera on a winding, hilly path of a step a metre."""
    rng = np.random.default_rng(seed)
    yaw = np.cumsum(rng.normal(scale=0.15, size=count))
    steps = np.stack([np.cos(yaw), np.sin(yaw), rng.normal(scale=0.05, size=count)], axis=1)
    quats = Rotation.from_euler('z', yaw[:, None]).as_quat()
    return pose_matrix(np.cumsum(steps, axis=0), quats)


def transform(dof: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = (Rotation.from_euler('z', 1.9) if dof == 4 else Rotation.random(rng=rng)
                 ).as_matrix()
    T[:3, 3] = [120.0, -40.0, 3.0]
    return T


def seen_again(T_a: np.ndarray, T_a_b: np.ndarray, wrong: float, seed: int = 1) -> np.ndarray:
    """Poses in b of the places of `T_a`, taken up to a metre aside; a share of them elsewhere."""
    rng = np.random.default_rng(seed)
    aside = np.tile(np.eye(4), (len(T_a), 1, 1))
    aside[:, :3, 3] = rng.uniform(-0.6, 0.6, (len(T_a), 3))
    aside[:, :3, :3] = Rotation.from_rotvec(rng.normal(scale=0.05, size=(len(T_a), 3))).as_matrix()
    T_b = inverse(T_a_b)[None] @ T_a @ aside
    outliers = rng.permutation(len(T_a))[:int(wrong * len(T_a))]
    T_b[outliers] = T_b[rng.permutation(outliers)]
    return T_b


@pytest.mark.parametrize('dof', [4, 6])
@pytest.mark.parametrize('wrong', [0.0, 0.5, 0.8])
def test_a_transform_is_found_among_wrong_matches(dof, wrong):
    T_a, T_a_b = walk(200), transform(dof)
    found = align_poses(T_a, seen_again(T_a, T_a_b, wrong), AlignmentConfig(dof=dof), PATHS)
    moved = inverse(T_a_b) @ found.T_a_b
    assert float(rotation_angle(moved[:3, :3])) < 0.02
    ends = found.T_a_b @ inverse(T_a_b) @ T_a
    assert np.linalg.norm(ends[:, :3, 3] - T_a[:, :3, 3], axis=1).max() < 1.0
    assert (1 - wrong) * 200 * 0.9 <= found.inliers <= 200
    assert 0.3 < found.rms_m < 2.5
    assert found.matches == 200


def test_a_level_transform_stays_level():
    T_a, T_a_b = walk(60), transform(4)
    found = align_poses(T_a, seen_again(T_a, T_a_b, 0.3), AlignmentConfig(), PATHS)
    np.testing.assert_allclose(found.T_a_b[2, :3], [0, 0, 1], atol=1e-12)


def test_six_degrees_of_freedom_are_found_on_a_straight_line():
    # Positions on a line say nothing of the turn about it: the cameras' axes do.
    T_a = np.tile(np.eye(4), (50, 1, 1))
    T_a[:, 0, 3] = np.arange(50)
    T_a_b = transform(6, seed=4)
    found = align_poses(T_a, inverse(T_a_b)[None] @ T_a, AlignmentConfig(dof=6), PATHS)
    np.testing.assert_allclose(found.T_a_b, T_a_b, atol=1e-6)


@pytest.mark.parametrize('dof', [4, 6])
def test_a_fit_is_exact_on_exact_points(dof):
    points, T = np.random.default_rng(0).normal(size=(9, 4, 3)), transform(dof)
    np.testing.assert_allclose(fit(points @ T[:3, :3].T + T[:3, 3], points, dof), T, atol=1e-9)


def test_too_few_agreeing_matches_are_refused_with_their_number():
    T_a = walk(80)
    rng = np.random.default_rng(0)
    shuffled = T_a[rng.permutation(80)]
    with pytest.raises(MapError, match=r'cannot place b in a: \d+ of 80 matched places agree, '
                                       r'\d+ do by chance and at least \d+ must; give'):
        align_poses(T_a, shuffled, AlignmentConfig(), PATHS)
    with pytest.raises(MapError, match=r'80 of 80 matched places agree, .* at least 81 must'):
        align_poses(T_a, T_a, AlignmentConfig(least_inliers=81), PATHS)
    with pytest.raises(MapError, match='0 of 1 matched places agree'):
        align_poses(T_a[:1], T_a[:1], AlignmentConfig(), PATHS)


def test_matches_in_one_spot_are_refused():
    T_a = walk(3)[np.zeros(40, dtype=int)]
    with pytest.raises(MapError, match=r'the 40 matched places that agree lie within 0\.0 m'):
        align_poses(T_a, T_a, AlignmentConfig(), PATHS)


def test_two_answers_that_are_as_good_are_refused():
    T_a, shift = walk(100), np.eye(4)
    shift[0, 3] = 300.0
    T_b = T_a.copy()
    T_b[::2] = shift @ T_b[::2]
    with pytest.raises(MapError, match='two transforms fit, with 50 and 50 matched places'):
        align_poses(T_a, T_b, AlignmentConfig(), PATHS)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match='dof is 5; expected 4'):
        AlignmentConfig(dof=5)
    with pytest.raises(ConfigError, match='inlier_m is 0'):
        AlignmentConfig(inlier_m=0.0)


def make(path: Path, T: np.ndarray, rows: np.ndarray) -> Path:
    manifest = Manifest(map_id=path.name, model='m', fingerprint='f', dimension=rows.shape[1])
    with MapWriter.create(path, manifest) as writer:
        writer.append([Keyframe(stamp_ns=i, camera='front', T_map_cam=pose, descriptor=row)
                       for i, (pose, row) in enumerate(zip(T, rows, strict=True))])
    return path


def test_maps_that_overlap_in_part_are_aligned_by_their_descriptors(tmp_path):
    rng = np.random.default_rng(7)
    T_world, T_a_b = walk(300), transform(4)
    looks = rng.normal(size=(300, 64))
    # b saw the last 120 places of a and 80 more, on another day: all its images share something.
    day = rng.normal(size=64)
    a = make(tmp_path / 'a', T_world[:220], looks[:220])
    b = make(tmp_path / 'b', inverse(T_a_b) @ T_world[100:],
             looks[100:] + 0.8 * day + rng.normal(scale=0.3, size=(200, 64)))
    with PlaceMap.open(a, index='none') as map_a, PlaceMap.open(b, index='none') as map_b:
        ids_a, ids_b = matches(map_a, map_b, 4000)
        assert (ids_a == ids_b + 100).sum() >= 110
        found = align_maps(map_a, map_b, AlignmentConfig())
        np.testing.assert_allclose(found.T_a_b, T_a_b, atol=1e-4)
        assert found.inliers >= 110
        # A sample finds it too, and nothing is found in an empty map.
        np.testing.assert_allclose(
            align_maps(map_a, map_b, AlignmentConfig(sample=150)).T_a_b[:2, :2], T_a_b[:2, :2],
            atol=0.05)
    with PlaceMap.open(a) as map_a, PlaceMap.open(make(tmp_path / 'e', T_world[:0], looks[:0])) \
            as empty:
        with pytest.raises(MapError, match='0 of 0 matched places agree'):
            align_maps(map_a, empty, AlignmentConfig())


@pytest.mark.parametrize(('count', 'chance', 'needed'), [
    (400, 20, 40), (400, 2, 6), (20, 8, 16), (20, 12, 19), (40, 20, 35), (20, 16, 22), (5, 5, 6)])
def test_how_many_matches_must_agree_depends_on_how_many_there_are(count, chance, needed):
    assert least_agreeing(count, chance, AlignmentConfig()) == needed
