"""Which keyframes a map can do without, on worlds whose answer is known."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.errors import ConfigError, MapError
from regvpr_core.geometry import pose_matrix
from regvpr_core.map_tools.prune import choose, prune_map, PruneConfig
from regvpr_core.map_tools.verify import verify
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., PlaceMap]:
    """A map of positions (N, 3) and descriptors (N, D): `make(positions, rows, yaw, sources)`."""
    def run(positions, rows, yaw=None, sources=None, cameras=None, attach=()) -> PlaceMap:
        yaw = np.zeros(len(positions)) if yaw is None else np.asarray(yaw, dtype=float)
        T = pose_matrix(positions, Rotation.from_euler('z', yaw[:, None]).as_quat())
        manifest = Manifest(map_id='abc', model='m', fingerprint='f', dimension=rows.shape[1])
        with MapWriter.create(tmp_path / 'map', manifest) as writer:
            writer.append([
                Keyframe(stamp_ns=i, camera=cameras[i] if cameras else 'front', T_map_cam=T[i],
                         descriptor=rows[i].astype(np.float32),
                         source=sources[i] if sources else 'lap', image=f'{i}.jpg')
                for i in range(len(rows))])
            for name in attach:
                writer.attach(name, name.encode())
        return PlaceMap.open(tmp_path / 'map')
    return run


def line(count: int, step: float = 1.0) -> np.ndarray:
    return np.stack([np.arange(count) * step, np.zeros(count), np.zeros(count)], axis=1)


def street(count: int, alike: tuple[range, range] | None = None) -> np.ndarray:
    """Descriptors that change slowly along a street; two stretches may look the same."""
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(scale=0.25, size=(count, 64)), axis=0) \
        + rng.normal(scale=0.4, size=(count, 64))
    if alike:
        walk[list(alike[1])] = walk[list(alike[0])] + rng.normal(
            scale=0.05, size=(len(alike[0]), 64))
    return walk


def test_stretches_that_look_the_same_are_ambiguous_and_nothing_else(make):
    alike = range(20, 40), range(120, 140)
    with make(line(200), street(200, alike)) as place_map:
        report = choose(place_map, PruneConfig(ambiguous=True))
        gone = set(np.flatnonzero(report.ambiguous))
        # At the ends of the stretches the view jumps: keyframes there have few of their own.
        assert {*alike[0], *alike[1]} <= gone <= {*range(19, 41), *range(119, 141)}
        assert report.unjudged == 0
        assert not report.dense.any()
        assert len(report.kept) == 200 - len(gone)


def test_a_street_that_changes_is_not_ambiguous(make):
    with make(line(150), street(150)) as place_map:
        assert not choose(place_map, PruneConfig(ambiguous=True)).ambiguous.any()


def test_a_corridor_that_is_the_same_all_along_goes_as_a_whole(make):
    rows = np.ones((100, 64)) + np.random.default_rng(0).normal(scale=0.1, size=(100, 64))
    with make(line(100), rows) as place_map:
        report = choose(place_map, PruneConfig(ambiguous=True))
        assert report.ambiguous.sum() >= 95
        assert choose(place_map, PruneConfig(ambiguous=True, margin=-1.0)).ambiguous.sum() == 0


def test_views_the_other_way_are_no_neighbours(make):
    # There and back along one line: what looks back is another view, and no ground to drop any.
    there, back = street(60), street(60)[::-1] + 9.0
    positions = np.concatenate([line(60), line(60)])
    yaw = np.repeat([0.0, np.pi], 60)
    with make(positions, np.concatenate([there, back]), yaw=yaw) as place_map:
        assert not choose(place_map, PruneConfig(ambiguous=True)).ambiguous.any()


def test_lone_keyframes_are_not_judged(make):
    with make(line(30, 50.0), street(30)) as place_map:
        report = choose(place_map, PruneConfig(ambiguous=True))
        assert (report.unjudged, int(report.ambiguous.sum())) == (30, 0)


def test_keyframes_that_are_denser_than_wanted_go(make):
    with make(line(101, 0.5), street(101)) as place_map:
        report = choose(place_map, PruneConfig(distance_m=2.0))
        assert report.kept.tolist() == list(range(0, 101, 4))
        kept = place_map.T_map_cam[report.kept, :3, 3]
        gaps = np.linalg.norm(kept[:, None] - kept[None], axis=-1)
        assert gaps[~np.eye(len(kept), dtype=bool)].min() >= 2.0


def test_other_views_cameras_and_drives_of_a_spot_stay(make):
    positions = np.zeros((8, 3))
    with make(positions, street(8), yaw=[0.0, 0.1, 1.6, 3.1, 0, 0, 0, 0],
              cameras=['front'] * 4 + ['front', 'rear', 'front', 'rear'],
              sources=['day'] * 6 + ['night'] * 2) as place_map:
        assert choose(place_map, PruneConfig(distance_m=2.0)).kept.tolist() == [0, 2, 3, 5, 6, 7]


def test_an_ambiguous_keyframe_keeps_no_other_out(make):
    alike = range(0, 20), range(100, 120)
    with make(line(200), street(200, alike)) as place_map:
        report = choose(place_map, PruneConfig(ambiguous=True, distance_m=3.0))
        assert not (report.ambiguous & report.dense).any()
        assert report.ambiguous[:20].all()
        first = int(np.flatnonzero(~report.ambiguous)[0])
        assert report.kept.tolist()[:3] == [first, first + 3, first + 6]


def test_a_pruned_map_holds_what_was_kept(make, tmp_path):
    with make(line(20), street(20), attach=('pca', 'calibration')) as place_map:
        report = choose(place_map, PruneConfig(distance_m=5.0))
        prune_map(place_map, report, tmp_path / 'out')
        with PlaceMap.open(tmp_path / 'out') as pruned:
            assert pruned.images == ['0.jpg', '5.jpg', '10.jpg', '15.jpg']
            assert pruned.stamps_ns.tolist() == [0, 5, 10, 15]
            np.testing.assert_array_equal(pruned.stored_descriptors,
                                          place_map.stored_descriptors[[0, 5, 10, 15]])
            assert pruned.attachment('pca') == b'pca'
            assert pruned.attachment('calibration') is None  # learnt again from what is left
            assert pruned.map_id != place_map.map_id
    assert verify(tmp_path / 'out').sound
    assert report.size_bytes > 0


def test_a_map_of_which_nothing_would_be_left_is_refused(make, tmp_path):
    with make(line(30), np.ones((30, 8)) + 1e-3 * street(30)[:, :8]) as place_map:
        report = choose(place_map, PruneConfig(ambiguous=True, margin=1.0, far_m=6.0))
        assert len(report.kept) == 0
        with pytest.raises(MapError, match=r'no keyframe of .* would be left; drop less'):
            prune_map(place_map, report, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_settings_out_of_range_are_refused():
    for values, message in (({'distance_m': -1.0}, 'distance_m is -1.0'),
                            ({'far_m': 2.0}, 'far_m is 2.0; expected 5.0 to'),
                            ({'candidates': 1}, 'candidates is 1')):
        with pytest.raises(ConfigError, match=message):
            PruneConfig(**values)
