"""Several maps become one: poses, names, sources, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
import shutil

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.errors import MapError
from regvpr_core.map_tools.compression import compress_map
from regvpr_core.map_tools.merge import merge_maps
from regvpr_core.map_tools.verify import verify
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter

FRONT = [0.3, 0.0, 1.2, -0.5, 0.5, -0.5, 0.5]


@pytest.fixture
def make(tmp_path: Path, rows, place) -> Callable[..., Path]:
    """A map: `make(name, count, seed, keyframe fields, manifest fields)`."""
    def run(name: str, count: int, seed: int, fields: dict | None = None, **more) -> Path:
        manifest = Manifest(**({'map_id': name, 'model': 'm', 'fingerprint': 'f' * 64,
                                'dimension': 16, 'sources': [name]} | more))
        with MapWriter.create(tmp_path / name, manifest) as writer:
            writer.append([place(i, row, **({'source': name, 'image': f'{i}.jpg'}
                                            | (fields or {})))
                           for i, row in enumerate(rows(count, seed))])
        return tmp_path / name
    return run


def merged(out: Path, *paths: Path, transforms=None, **more) -> tuple[PlaceMap, object]:
    maps = [PlaceMap.open(path, index='none') for path in paths]
    report = merge_maps(maps, transforms or [np.eye(4)] * (len(maps) - 1), out, **more)
    for place_map in maps:
        place_map.close()
    return PlaceMap.open(out), report


def test_three_maps_become_one_in_the_frame_of_the_first(make, tmp_path, rows, noise):
    picture = noise(1)[0]
    covariance = np.diag([4.0, 1.0, 0.25])
    a = make('a', 5, 1)
    b = make('b', 4, 2, {'thumbnail': picture, 'covariance': covariance,
                         'local_features': b'features'}, features='patch')
    c = make('c', 3, 3, sources=['c', 'a'])
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler('z', np.pi / 2).as_matrix()
    T[:3, 3] = [10.0, 20.0, 30.0]
    up = np.eye(4)
    up[2, 3] = 7.0
    told = []
    place_map, report = merged(tmp_path / 'out', a, b, c, transforms=[T, up],
                               progress=lambda done, total: told.append((done, total)))
    with place_map:
        assert len(place_map) == 12
        np.testing.assert_allclose(place_map.T_map_cam[5:9, :3, 3],
                                   [[10.0, 20.0 + i, 30.0] for i in range(4)], atol=1e-9)
        np.testing.assert_allclose(place_map.T_map_cam[9:, :3, 3],
                                   [[i, 0.0, 7.0] for i in range(3)], atol=1e-9)
        np.testing.assert_allclose(place_map.T_map_cam[6, :3, :3], T[:3, :3], atol=1e-9)
        assert place_map.sources == ['a'] * 5 + ['b'] * 4 + ['c'] * 3
        assert place_map.images[5:7] == ['0.jpg', '1.jpg']
        assert place_map.manifest.sources == ['a', 'b', 'c']
        assert place_map.manifest.features == 'patch'
        assert place_map.map_id not in ('a', 'b', 'c')
        for seed, start, count in ((1, 0, 5), (2, 5, 4), (3, 9, 3)):
            np.testing.assert_array_equal(
                place_map.stored_descriptors[start:start + count],
                rows(count, seed).astype(np.float16))
        keyframe = next(place_map.keyframes([6]))
        np.testing.assert_allclose(keyframe.covariance, np.diag([1.0, 4.0, 0.25]), atol=1e-12)
        with PlaceMap.open(b) as before:  # the JPEG is copied, not encoded again
            assert keyframe.thumbnail == next(before.keyframes([1])).thumbnail
        assert place_map.local_features(6) == b'features'
        assert place_map.local_features(1) is None
        first, second, third = place_map.manifest.config['merged']
        assert (first['map_id'], third['map_id']) == ('a', 'c')
        np.testing.assert_allclose(second['T_first_map'], [10, 20, 30, 0, 0, .5**.5, .5**.5],
                                   atol=1e-9)
    assert report.keyframes == {str(a): 5, str(b): 4, str(c): 3}
    assert told[-1] == (12, 12)
    assert report.notes == ['not all maps hold local features: places of the others cannot be '
                            'verified']
    assert verify(tmp_path / 'out').sound


def test_maps_of_two_models_are_refused_with_what_to_do(make, tmp_path):
    a, b = make('a', 2, 1), make('b', 2, 2, model='other', fingerprint='e' * 64)
    with pytest.raises(MapError) as error:
        merged(tmp_path / 'out', a, b)
    assert str(error.value) == (
        f'{a} was built with m (ffffffffffff), {b} with other (eeeeeeeeeeee); bring one to the '
        f'model of the other by `regvpr map convert {b} --model m --out NEW`')
    assert not (tmp_path / 'out').exists()


def test_maps_that_were_compressed_each_on_its_own_are_refused(make, tmp_path):
    """Their numbers are as many, and mean other directions."""
    a, b = make('a', 20, 1), make('b', 20, 2)
    for name, path in (('short_a', a), ('short_b', b)):
        compress_map(path, 'pca:4', tmp_path / name)
    for one, two, words in (('short_a', 'short_b', r'\(pca:4\) and .*\(pca:4\)'),
                            ('short_a', 'b', r'\(pca:4\) and .*\(not compressed\)')):
        with pytest.raises(MapError, match=f'{words} do not compare: a PCA is learnt anew'):
            merged(tmp_path / 'out', tmp_path / one, tmp_path / two)
    assert not (tmp_path / 'out').exists()
    # Two parts of one compressed map do compare.
    shutil.copytree(tmp_path / 'short_a', tmp_path / 'part')
    place_map, _ = merged(tmp_path / 'out', tmp_path / 'short_a', tmp_path / 'part')
    with place_map:
        assert (len(place_map), place_map.manifest.compress) == (40, 'pca:4')
        assert place_map.project(np.ones(16, np.float32)).shape == (4,)


def test_maps_with_two_kinds_of_local_features_are_refused(make, tmp_path):
    with pytest.raises(MapError, match=r"holds local features 'patch', .*b 'xfeat'"):
        merged(tmp_path / 'out', make('a', 1, 1, features='patch'),
               make('b', 1, 2, features='xfeat'))


def intrinsics(f: float) -> dict:
    return {'front': {'width': 640, 'height': 480, 'K': [f, 0, 320, 0, f, 240, 0, 0, 1],
                      'model': 'plumb_bob', 'D': []}}


@pytest.mark.parametrize(('of_a', 'of_b', 'conflict'), [
    ({'extrinsics': {'front': FRONT}}, {'extrinsics': {'front': [1.3, *FRONT[1:]]}},
     r'extrinsics \(1.000 m, 0.0 deg apart\)'),
    ({'extrinsics': {'front': FRONT}}, {}, r'extrinsics \(only one of them knows any\)'),
    ({'intrinsics': intrinsics(400.0)}, {'intrinsics': intrinsics(500.0)},
     r'intrinsics \(f 400.0 and 500.0 px, 640x480 and 640x480\)')])
def test_one_name_for_two_cameras_is_refused_or_becomes_two_names(
        make, tmp_path, of_a, of_b, conflict):
    a, b = make('a', 2, 1, **of_a), make('b', 3, 2, **of_b)
    with pytest.raises(MapError, match=f"camera 'front' has other {conflict} in {b} than in {a}; "
                                       f'--rename-cameras keeps both'):
        merged(tmp_path / 'out', a, b)
    place_map, report = merged(tmp_path / 'out', a, b, rename_cameras=True)
    with place_map:
        assert place_map.cameras == ['front'] * 2 + ['front_2'] * 3
        for kind, name, given in (('extrinsics', 'front', of_a), ('extrinsics', 'front_2', of_b),
                                  ('intrinsics', 'front', of_a), ('intrinsics', 'front_2', of_b)):
            assert getattr(place_map.manifest, kind).get(name) == given.get(kind, {}).get('front')
    assert report.cameras == ['front', 'front_2']


def test_cameras_that_differ_by_rounding_are_one(make, tmp_path):
    a = make('a', 2, 1, extrinsics={'front': FRONT})
    b = make('b', 2, 2, extrinsics={'front': [0.301, *FRONT[1:]]})
    place_map, _ = merged(tmp_path / 'out', a, b)
    with place_map:
        assert place_map.manifest.extrinsics == {'front': FRONT}


def test_a_damaged_map_is_not_merged_and_nothing_is_left_behind(make, tmp_path):
    a, b = make('a', 2, 1), make('b', 40, 2)
    data = bytearray((b / 'descriptors.f16').read_bytes())
    data[33 * 32] ^= 1
    (b / 'descriptors.f16').write_bytes(data)
    with pytest.raises(MapError, match='the descriptor of keyframe 33 has changed'):
        merged(tmp_path / 'out', a, b)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a', 'b']


def test_what_is_at_the_goal_is_not_overwritten(make, tmp_path):
    a, b = make('a', 2, 1), make('b', 2, 2)
    with pytest.raises(MapError, match='a exists; choose a new folder for the map'):
        merged(a, a, b)
    assert verify(a).sound


def test_a_merged_map_can_be_appended_to_and_merged_again(make, tmp_path, place, rows):
    a, b = make('a', 2, 1), make('b', 2, 2)
    merged(tmp_path / 'ab', a, b)[0].close()
    with MapWriter.append_to(tmp_path / 'ab') as writer:
        writer.append([replace(place(4, rows(1, 9)[0]), camera='rear')])
    place_map, _ = merged(tmp_path / 'all', tmp_path / 'ab', a)
    with place_map:
        assert len(place_map) == 7
        assert place_map.cameras[4] == 'rear'
