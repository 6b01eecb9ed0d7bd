import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.errors import BagError
from regvpr_core.recordings.trajectory import make_trajectory, read_tum

SECOND = 10**9


def line(count: int, spacing_m: float = 2.0, start_ns: int = 0):
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, 0, 3] = spacing_m * np.arange(count)
    return make_trajectory(start_ns + SECOND * np.arange(count), poses)


def test_a_pose_between_two_is_interpolated_and_one_at_a_stamp_is_itself():
    trajectory = line(5)
    assert trajectory.at(2 * SECOND, 1.0)[0, 3] == 4.0
    assert trajectory.at(2 * SECOND + SECOND // 4, 1.0)[0, 3] == pytest.approx(4.5)
    assert trajectory.at(0, 1.0)[0, 3] == 0.0
    assert trajectory.at(4 * SECOND, 1.0)[0, 3] == 8.0
    assert trajectory.length_m == 8.0


def test_covariances_are_interpolated_where_both_are_known():
    covariances = np.stack([np.eye(3), 3.0 * np.eye(3), np.full((3, 3), np.nan)])
    trajectory = make_trajectory([2, 1, 3], np.tile(np.eye(4), (3, 1, 1)),
                                 covariances[[1, 0, 2]])
    assert trajectory.covariance_at(1)[0, 0] == 1.0
    assert trajectory.covariance_at(2)[0, 0] == 3.0
    assert trajectory.covariance_at(3) is None
    between = make_trajectory([0, 4, 8], np.tile(np.eye(4), (3, 1, 1)), covariances)
    assert between.covariance_at(1).tolist() == (1.5 * np.eye(3)).tolist()
    assert between.covariance_at(5) is None
    assert between.covariance_at(9) is None
    assert line(3).covariance_at(0) is None


def test_what_lies_outside_or_in_a_gap_is_not_known():
    trajectory = line(5)
    assert trajectory.at(-1, 1.0) is None
    assert trajectory.at(4 * SECOND + 1, 1.0) is None
    assert trajectory.at(SECOND // 2, 0.999) is None
    assert trajectory.at(SECOND // 2, 1.0) is not None
    assert trajectory.at(SECOND, 0.0) is not None


def test_stamps_of_today_keep_their_nanoseconds():
    start = 1_700_000_000_123_456_789
    trajectory = line(3, start_ns=start)
    assert trajectory.at(start + 1, 1.0)[0, 3] == pytest.approx(2e-9, rel=1e-6)


def test_poses_are_sorted_and_the_first_of_one_stamp_is_kept():
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 0, 3] = [3.0, 1.0, 9.0, 2.0]
    trajectory = make_trajectory([30, 10, 30, 20], poses)
    assert trajectory.stamps_ns.tolist() == [10, 20, 30]
    assert trajectory.poses[:, 0, 3].tolist() == [1.0, 2.0, 3.0]


def test_a_changed_result_does_not_change_the_trajectory():
    trajectory = line(3)
    trajectory.at(SECOND, 1.0)[0, 3] = 77.0
    assert trajectory.at(SECOND, 1.0)[0, 3] == 2.0


@pytest.mark.parametrize('start_ns', [1_700_000_000_123_456_789, 0, -1_500_000_001])
def test_a_tum_file_keeps_every_nanosecond(write_tum, tmp_path, start_ns):
    rng = np.random.default_rng(0)
    count = 40
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.random(count, rng=rng).as_matrix()
    poses[:, :3, 3] = rng.normal(scale=1000.0, size=(count, 3))
    stamps = start_ns + np.cumsum(rng.integers(1, 10**8, count))
    write_tum(tmp_path / 'poses.txt', stamps, poses)
    back = read_tum(tmp_path / 'poses.txt')
    assert back.stamps_ns.tolist() == stamps.tolist()
    np.testing.assert_allclose(back.poses, poses, atol=2e-9)


def test_comments_commas_and_blank_lines_are_read(tmp_path):
    file = tmp_path / 'poses.txt'
    file.write_text('# stamp x y z qx qy qz qw\n\n1.000000001, 1, 2, 3, 0, 0, 0, 1 # start\n'
                    '1e1 4 5 6 0 0 0 2\r\n')
    trajectory = read_tum(file)
    assert trajectory.stamps_ns.tolist() == [1_000_000_001, 10_000_000_000]
    assert trajectory.poses[:, :3, 3].tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize('bad', [
    '1 2 3', 'a 0 0 0 0 0 0 1', '1 0 0 0 0 0 0 one', '1 0 0 0 0 0 0 1 9',
    'inf 0 0 0 0 0 0 1', '1e300 0 0 0 0 0 0 1', '1e999999 0 0 0 0 0 0 1'])
def test_a_bad_line_is_named_by_its_number(tmp_path, bad):
    file = tmp_path / 'poses.txt'
    file.write_text(f'# poses\n0 0 0 0 0 0 0 1\n{bad}\n')
    with pytest.raises(BagError) as error:
        read_tum(file)
    assert str(error.value) == (f'{file}, line 3: expected stamp x y z qx qy qz qw, '
                                f'got {bad!r}')


@pytest.mark.parametrize(('content', 'message'), [
    (b'', 'holds no pose'),
    (b'# nothing\n', 'holds no pose'),
    (b'1 0 0 0 0 0 0 0\n', 'have no rotation'),
    (b'1 0 nan 0 0 0 0 1\n', 'not finite'),
    (b'\xff\xfe\x00', 'cannot read trajectory')])
def test_a_file_without_poses_is_refused_by_name(tmp_path, content, message):
    file = tmp_path / 'poses.txt'
    file.write_bytes(content)
    with pytest.raises(BagError, match=message) as error:
        read_tum(file)
    assert str(file) in str(error.value)


def test_a_missing_trajectory_is_named(tmp_path):
    with pytest.raises(BagError, match=r'cannot read trajectory .*none.txt'):
        read_tum(tmp_path / 'none.txt')
