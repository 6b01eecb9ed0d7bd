"""Every index finds the same; maps of any size, appended, damaged, read-only."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
import os
from pathlib import Path
import shutil

import numpy as np
import pytest
import scipy.linalg

from regvpr_core.errors import MapError
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter
from regvpr_core.search import rabitq as index_rabitq
from regvpr_core.search.gpu import device_holds
from regvpr_core.search.index import choose, EXACT_BYTES, ExactIndex
from regvpr_core.search.index_file import FILE_NAME, index_note
from regvpr_core.search.rabitq import encode, RabitqConfig, RabitqIndex, Rotation
from regvpr_core.search.rows import CentredRows, unit

LOCAL = ('exact', 'rabitq', 'gpu')


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of the test's own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture
def wide_map(tmp_path: Path, place: Callable, rows: Callable) -> Callable[..., Path]:
    """A map of places, four of each scene: `wide_map(count, dimension)`."""
    def make(count: int, dimension: int, name: str = 'wide') -> Path:
        scenes = rows(count // 4 + 2, 1, dimension)
        noise = rows(count, 2, dimension)
        descriptors = unit(scenes[np.arange(count) // 4] + 0.5 * noise)
        manifest = Manifest(map_id=f'{name}{count}', model='m', fingerprint='f' * 64,
                            dimension=dimension)
        with MapWriter.create(tmp_path / name, manifest) as writer:
            writer.append([place(i, row) for i, row in enumerate(descriptors)])
        return tmp_path / name
    return make


def queries_of(path: Path, count: int, seed: int = 5) -> np.ndarray:
    """Images like those of a map's places."""
    rng = np.random.default_rng(seed)
    with PlaceMap.open(path, index='none') as place_map:
        rows = place_map.descriptors()[rng.integers(len(place_map), size=count)]
    return unit(rows + 0.4 * unit(rng.normal(size=rows.shape)))


@pytest.mark.parametrize('dimension', [16, 100, 384, 1024, 1100, 8448])
@pytest.mark.parametrize('kind', ['rabitq', 'gpu'])
def test_an_index_finds_what_the_exact_one_finds(wide_map, kind, dimension):
    path = wide_map(120, dimension)
    with PlaceMap.open(path, index='exact') as exact, PlaceMap.open(path, index=kind) as other:
        assert (exact.index.kind, other.index.kind) == ('exact', kind)
        np.testing.assert_allclose(exact.centre, other.centre, atol=1e-7)
        session = exact.centre + 0.01 * queries_of(path, 1)[0]
        for query in queries_of(path, 8):
            for centre in (None, session):
                for k in (1, 10, 120, 500):
                    expected, ids = exact.search(query, k, centre)
                    similarities, found = other.search(query, k, centre)
                    np.testing.assert_array_equal(found, ids)
                    np.testing.assert_allclose(similarities, expected, atol=3e-6)


def test_threads_that_search_a_map_at_once_find_what_one_finds(wide_map):
    path = wide_map(400, 1100)
    queries = queries_of(path, 60)
    with PlaceMap.open(path, index='rabitq') as place_map, ThreadPoolExecutor(4) as threads:
        alone = [place_map.search(query, 10 + number) for number, query in enumerate(queries)]
        together = threads.map(place_map.search, queries, range(10, 70))
        for (expected, ids), (similarities, found) in zip(alone, together, strict=True):
            np.testing.assert_array_equal(found, ids)
            np.testing.assert_array_equal(similarities, expected)


@pytest.mark.parametrize('dimension', [384, 1024, 8448])
def test_codes_and_candidates_find_the_nearest_of_a_larger_map(wide_map, dimension):
    path = wide_map(700, dimension)
    with PlaceMap.open(path, index='exact') as exact, \
            PlaceMap.open(path, index='rabitq') as rabitq:
        assert rabitq.index._candidates(10) < 700  # what is measured is the codes
        first, four = [], []
        for query in queries_of(path, 40):
            # Four keyframes show a scene; the fifth is as far as any other.
            truth, found = (m.search(query, 4)[1] for m in (exact, rabitq))
            first.append(truth[0] == found[0])
            four.append(len(np.intersect1d(truth, found)) / 4)
        assert np.mean(first) == 1.0
        assert np.mean(four) >= 0.98
        assert rabitq.index.resident_bytes < exact.index.resident_bytes / (
            25 if dimension == 8448 else 15 if dimension == 1024 else 10)


def test_a_small_map_ranks_fewer_rows_as_its_query_is_finer(wide_map, monkeypatch):
    path = wide_map(600, 8448)
    queries = queries_of(path, 20)
    with PlaceMap.open(path, index='rabitq') as fine:
        assert fine.index._candidates(50) == 128  # 2.5 for each match, at least 128
        found = [fine.search(query, 50)[0] for query in queries]
    monkeypatch.setattr(index_rabitq, 'FEW_PLACES', 599)
    with PlaceMap.open(path, index='rabitq') as coarse:
        assert coarse.index._candidates(50) == 200
        np.testing.assert_allclose(
            found, [coarse.search(query, 50)[0] for query in queries], atol=1e-2)


def test_a_large_map_is_searched_by_a_part_of_its_codes_first(wide_map, monkeypatch):
    """The least map for it is made small; a quarter of 2048 bits goes first."""
    monkeypatch.setattr(index_rabitq, 'COARSE_PLACES', 1500)
    monkeypatch.setattr(index_rabitq, 'COARSE_BITS', 512)
    monkeypatch.setattr(index_rabitq, 'COARSE_CANDIDATES', 200)
    path = wide_map(1600, 2048)
    with PlaceMap.open(path, index='exact') as exact, \
            PlaceMap.open(path, index='rabitq') as rabitq:
        assert rabitq.index._coarse.ntotal == 1600
        assert rabitq.index.resident_bytes < exact.index.resident_bytes / 15
        first, four = [], []
        for query in queries_of(path, 60):
            expected, truth = exact.search(query, 4)
            similarities, found = rabitq.search(query, 4)
            first.append(truth[0] == found[0])
            four.append(len(np.intersect1d(truth, found)) / 4)
            same = [np.flatnonzero(truth == i)[0] for i in found if i in truth]
            np.testing.assert_allclose(similarities[np.isin(found, truth)], expected[same],
                                       atol=3e-6)
        assert np.mean(first) == 1.0
        assert np.mean(four) >= 0.98
        # All of a map can be asked for, and an answer holds no keyframe twice.
        assert sorted(rabitq.search(query, 1600)[1].tolist()) == list(range(1600))
    with PlaceMap.open(wide_map(1400, 2048, 'smaller'), index='rabitq') as smaller:
        assert smaller.index._coarse is None


@pytest.mark.parametrize('side', [1, 2, 64, 128, 256])
def test_a_query_and_many_rows_are_turned_alike(side):
    rows = np.random.default_rng(0).normal(size=(2000, side)).astype(np.float32)
    expected = rows @ scipy.linalg.hadamard(side) / np.sqrt(side)
    np.testing.assert_allclose(index_rabitq.hadamard(rows), expected, atol=1e-5)
    np.testing.assert_allclose(index_rabitq.hadamard(rows[:33]), expected[:33], atol=1e-5)


@pytest.mark.parametrize('kind', LOCAL)
def test_an_empty_map_and_a_map_of_one(make_map, rows, kind):
    with PlaceMap.open(make_map(0, 'empty'), index=kind) as place_map:
        similarities, ids = place_map.search(rows(1)[0], 5)
        assert similarities.shape == ids.shape == (0,)
    with PlaceMap.open(make_map(1, 'one'), index=kind) as place_map:
        assert place_map.search(rows(1)[0], 5)[1].tolist() == [0]
        assert place_map.search(rows(1)[0], 0)[1].tolist() == []


@pytest.mark.parametrize('kind', LOCAL)
def test_duplicates_are_all_found(tmp_path, manifest, place, rows, kind):
    row = rows(30)
    row[[4, 11, 12, 29]] = row[4]
    with MapWriter.create(tmp_path / 'map', manifest) as writer:
        writer.append([place(i, d) for i, d in enumerate(row)])
    with PlaceMap.open(tmp_path / 'map', index=kind) as place_map:
        similarities, ids = place_map.search(row[4], 4)
        assert sorted(ids.tolist()) == [4, 11, 12, 29]
        np.testing.assert_allclose(similarities, similarities[0], atol=1e-6)


@pytest.mark.parametrize('kind', LOCAL)
def test_queries_that_cannot_be_compared_are_refused(make_map, rows, kind):
    with PlaceMap.open(make_map(20), index=kind) as place_map:
        for value in (np.nan, np.inf):
            query = rows(1)[0]
            query[3] = value
            with pytest.raises(MapError, match='not finite'):
                place_map.search(query, 3)
        for shape in ((15,), (17,), (1, 16), ()):
            with pytest.raises(MapError, match='cannot be searched in a map of 16 numbers'):
                place_map.search(np.ones(shape, np.float32), 3)


@pytest.mark.parametrize('kind', LOCAL)
def test_an_image_that_is_its_sessions_mean_is_like_no_place(make_map, rows, kind):
    with PlaceMap.open(make_map(20), index=kind) as place_map:
        similarities, ids = place_map.search(rows(1)[0], 3, rows(1)[0])
        np.testing.assert_allclose(similarities, 0.0, atol=1e-6)
        assert len(ids) == 3


@pytest.mark.parametrize('kind', LOCAL)
def test_appended_places_are_found_when_the_map_is_opened_again(make_map, place, rows, kind):
    path = make_map(40)
    PlaceMap.open(path, index=kind).close()
    new = rows(3, seed=77)
    with MapWriter.append_to(path) as writer:
        writer.append([place(40 + i, row) for i, row in enumerate(new)])
    with PlaceMap.open(path, index=kind) as place_map:
        assert [int(place_map.search(row, 1)[1][0]) for row in new] == [40, 41, 42]


def test_unknown_kinds_are_refused(make_map):
    with pytest.raises(MapError, match="no index is called 'rabbit'; did you mean 'rabitq'"):
        PlaceMap.open(make_map(3), index='rabbit')


def test_auto_is_exact_for_small_maps_and_codes_for_large_ones():
    assert choose(EXACT_BYTES // (4 * 8448), 8448) == 'exact'
    large = choose(EXACT_BYTES // (4 * 8448) + 1, 8448)
    assert large == ('gpu' if device_holds(2000, 8448) else 'rabitq')
    assert choose(0, 8448) == 'exact'


# The file of the codes


def test_a_map_opens_from_its_index_file_and_reads_no_descriptor(wide_map, monkeypatch):
    path = wide_map(60, 384)
    with PlaceMap.open(path, index='rabitq') as built:
        query = queries_of(path, 1)[0]
        expected = built.search(query, 10)
    monkeypatch.setattr(CentredRows, 'find_centre', None)
    with PlaceMap.open(path, index='rabitq') as opened:
        assert not opened._centred._checked.any()
        similarities, ids = opened.search(query, 10)
        np.testing.assert_array_equal(ids, expected[1])
        np.testing.assert_array_equal(similarities, expected[0])
        np.testing.assert_array_equal(opened.centre, built.centre)


@pytest.mark.parametrize('damage', [
    lambda b: b[:-1], lambda b: b + b'x', lambda b: b'', lambda b: b[:5000] + b'\xff' + b[5001:],
    lambda b: b[:20] + b'0' + b[21:], lambda b: b'\x80' * len(b), lambda b: bytes(len(b)),
])
def test_a_damaged_index_file_is_never_used_and_built_again(wide_map, damage):
    path = wide_map(60, 384)
    PlaceMap.open(path, index='rabitq').close()
    whole = (path / FILE_NAME).read_bytes()
    assert index_note(path) == ''
    (path / FILE_NAME).write_bytes(damage(whole))
    assert 'built again' in index_note(path)
    with PlaceMap.open(path, index='rabitq') as place_map:
        assert place_map._centred._checked.all()  # built from the rows
    assert (path / FILE_NAME).read_bytes() == whole


def test_the_index_file_of_another_map_is_not_used(wide_map, rows):
    path, other = wide_map(60, 384), wide_map(60, 384, 'other')
    PlaceMap.open(other, index='rabitq').close()
    shutil.copy(other / FILE_NAME, path / FILE_NAME)
    with PlaceMap.open(path, index='rabitq') as place_map:
        assert place_map._centred._checked.all()


def test_an_index_file_that_is_a_link_or_a_pipe_is_not_opened(wide_map, tmp_path):
    path = wide_map(30, 384)
    (tmp_path / 'precious').write_text('mine')
    (path / FILE_NAME).symlink_to(tmp_path / 'precious')
    PlaceMap.open(path, index='rabitq').close()
    assert (tmp_path / 'precious').read_text() == 'mine'
    assert not (path / FILE_NAME).is_symlink()  # replaced, not followed
    (path / FILE_NAME).unlink()
    os.mkfifo(path / FILE_NAME)
    PlaceMap.open(path, index='rabitq').close()


def test_a_folder_that_cannot_be_written_has_its_index_in_the_cache(
        wide_map, own_cache, monkeypatch):
    path = wide_map(60, 384)
    path.chmod(0o555)
    try:
        if os.access(path, os.W_OK):  # root writes everywhere: the folder is taken away instead
            import regvpr_core.search.index as module

            real = module.index_files
            monkeypatch.setattr(module, 'index_files', lambda folder, key: [
                folder / 'not there' / FILE_NAME, *real(folder, key)[1:]])
        PlaceMap.open(path, index='rabitq').close()
        assert not (path / FILE_NAME).exists()
        assert len(list((own_cache / 'regvpr' / 'index').iterdir())) == 1
        with PlaceMap.open(path, index='rabitq') as place_map:
            assert not place_map._centred._checked.any()
    finally:
        path.chmod(0o755)


def test_where_no_index_file_can_be_kept_the_map_works_all_the_same(wide_map, monkeypatch):
    import regvpr_core.search.index as module

    path = wide_map(60, 384)
    nowhere = Path('/proc/none')
    monkeypatch.setattr(module, 'index_files', lambda folder, key: [nowhere / 'a', nowhere / 'b'])
    with PlaceMap.open(path, index='rabitq') as place_map:
        assert len(place_map.search(queries_of(path, 1)[0], 5)[1]) == 5
    assert not (path / FILE_NAME).exists()


def test_a_row_that_changed_on_the_disk_is_refused_when_it_is_first_used(wide_map):
    path = wide_map(60, 384)
    PlaceMap.open(path, index='rabitq').close()
    with (path / 'descriptors.f16').open('r+b') as file:
        file.seek(17 * 384 * 2 + 5)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with PlaceMap.open(path, index='rabitq') as place_map:
        with pytest.raises(MapError, match='descriptor of keyframe 17 has changed'):
            place_map.search(queries_of_row(place_map, 17), 60)
    for kind in ('exact', 'gpu'):
        with pytest.raises(MapError, match='descriptor of keyframe 17 has changed'):
            PlaceMap.open(path, index=kind)


def queries_of_row(place_map: PlaceMap, i: int) -> np.ndarray:
    return place_map.descriptors(i, i + 1)[0]


# What the codes are made of


@pytest.mark.parametrize('dimension', [1, 16, 100, 384, 8448])
def test_the_rotation_keeps_lengths_and_cosines_and_spreads_every_number(dimension):
    rotation = Rotation(dimension)
    assert rotation.padded % 64 == 0
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(4, dimension)).astype(np.float32)
    turned = rotation.apply(rows)
    np.testing.assert_allclose(turned @ turned.T, rows @ rows.T, rtol=1e-4,
                               atol=1e-4 * dimension)
    one = rotation.apply(np.eye(1, dimension, dtype=np.float32))[0]
    assert np.abs(one).max() < 8 / np.sqrt(rotation.padded)
    assert (one != 0).mean() > 0.3
    np.testing.assert_array_equal(turned, Rotation(dimension).apply(rows))


def test_numbers_of_different_size_need_the_rotation(rows):
    scale = np.exp(np.random.default_rng(0).normal(size=1088)).astype(np.float32)
    data = unit(rows(800, 1, 1088) * scale)
    data = unit(data - data.mean(axis=0)).astype(np.float16)
    centred = CentredRows(data, lambda ids, read: None)
    config = RabitqConfig(candidates=40, query_bits=4)
    exact = ExactIndex(1088)
    exact.add(data.astype(np.float32))
    queries = unit(data[:40].astype(np.float32) + 0.7 * unit(rows(40, 2, 1088) * scale - 0.02))

    def recall() -> float:
        index = RabitqIndex(centred, encode(centred, config), config)
        found, truth = index.search(queries, 10)[1], exact.search(queries, 10)[1]
        return float(np.mean([len(np.intersect1d(a, b)) / 10
                              for a, b in zip(found, truth, strict=True)]))

    with_rotation = recall()
    original, Rotation.apply = Rotation.apply, lambda self, rows: np.ascontiguousarray(rows)
    try:
        without = recall()
    finally:
        Rotation.apply = original
    assert with_rotation > without + 0.1


@pytest.mark.parametrize('bits', [1, 2, 4])
def test_more_bits_a_number_make_longer_codes_and_the_same_search(wide_map, rows, bits):
    data = rows(200, 1, 384).astype(np.float16)
    centred = CentredRows(data, lambda ids, read: None)
    config = RabitqConfig(code_bits=bits)
    codes = encode(centred, config)
    assert codes.shape[0] == 200
    assert codes.shape[1] >= 384 * bits // 8
    index = RabitqIndex(centred, codes, config)
    found = index.search(unit(data[:10].astype(np.float32)), 1)[1][:, 0]
    np.testing.assert_array_equal(found, np.arange(10))


def test_a_search_leaves_the_number_of_threads_as_it_was(wide_map):
    import faiss

    path = wide_map(60, 384)
    faiss.omp_set_num_threads(2)
    with PlaceMap.open(path, index='rabitq') as place_map:
        place_map.search(queries_of(path, 1)[0], 5)
    assert faiss.omp_get_max_threads() == 2


def test_a_device_without_room_is_refused_in_one_line(rows):
    from regvpr_core.search.gpu import GpuIndex

    data = np.lib.stride_tricks.as_strided(
        np.ones(8, np.float16), shape=(1 << 40, 8), strides=(0, 2))

    class Endless(CentredRows):
        def __init__(self) -> None:
            self._rows = data

    with pytest.raises(MapError, match=r'do not fit on cpu.*take the index rabitq'):
        GpuIndex(Endless(), 'cpu')
