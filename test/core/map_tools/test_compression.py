"""Descriptors made shorter: what is kept, what it costs, what is refused."""

from collections.abc import Callable
from pathlib import Path
import sqlite3

import numpy as np
import pytest

from regvpr_core.errors import MapError
from regvpr_core.map_tools.compression import compress_map
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter
from regvpr_core.search.projection import learn, Projection, read_projection, target
from regvpr_core.search.rows import unit


@pytest.fixture
def drive(tmp_path: Path, place: Callable) -> Path:
    """200 places, 4 of each of 50 scenes, of 96 numbers that live in 20 directions and noise."""
    rng = np.random.default_rng(4)
    scenes = np.repeat(rng.normal(size=(50, 20)), 4, axis=0)
    mix = rng.normal(size=(20, 96))
    rows = unit(scenes @ mix + 0.8 * rng.normal(size=(200, 96)) + 3.0)
    manifest = Manifest(map_id='drive', model='m', fingerprint='f' * 64, dimension=96)
    with MapWriter.create(tmp_path / 'drive', manifest) as writer:
        writer.append([place(i, row, thumbnail=np.full((4, 4, 3), i, np.uint8),
                             local_features=bytes([i % 256]), covariance=np.eye(3) * i)
                       for i, row in enumerate(rows)])
        writer.attach('calibration', b'{}')
    return tmp_path / 'drive'


def test_whitened_descriptors_have_unit_variance_along_each_direction():
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(4000, 12)) * np.repeat([1, 3], 6) + 5.0).astype(np.float32)
    projection = learn(rows, 6)
    shorter = (rows - projection.mean) @ projection.matrix
    np.testing.assert_allclose(np.cov(shorter.T), np.eye(6), atol=1e-2)
    np.testing.assert_allclose(projection.mean, rows.mean(axis=0), rtol=1e-5)
    # The six directions of largest spread are the last six axes.
    assert np.abs(projection.matrix[:6]).max() < 0.1 * np.abs(projection.matrix[6:]).max()


def test_few_long_descriptors_give_the_same_directions_as_the_long_way(rows):
    few = rows(20, 1, 64)
    projection = learn(few, 5)
    away = few - few.mean(axis=0)
    values, vectors = np.linalg.eigh(away.T @ away / len(few))
    expected = vectors[:, ::-1][:, :5] / np.sqrt(values[::-1][:5])
    signs = np.sign((expected * projection.matrix).sum(axis=0))
    np.testing.assert_allclose(projection.matrix * signs, expected, rtol=2e-3, atol=2e-3)


def test_a_compressed_map_finds_what_the_whole_one_finds(drive, tmp_path):
    report = compress_map(drive, 'pca:20', tmp_path / 'short', radius_m=3.0)
    assert (report.dimension_before, report.dimension_after) == (96, 20)
    assert (report.size_bytes_before, report.size_bytes_after) == (200 * 192, 200 * 40)
    assert (report.asked, report.other_passes) == (200, False)  # one pass of 200 ns
    assert report.recall_before >= 0.95
    assert report.recall_after >= 0.95
    with PlaceMap.open(drive) as whole, PlaceMap.open(tmp_path / 'short') as short:
        assert (short.manifest.dimension, short.manifest.compress) == (20, 'pca:20')
        assert short.manifest.fingerprint == whole.manifest.fingerprint
        assert short.map_id != whole.map_id
        np.testing.assert_array_equal(short.T_map_cam, whole.T_map_cam)
        for i in range(0, 200, 7):
            query = whole.descriptors(i, i + 1)[0]
            assert short.search(short.project(query), 1)[1].tolist() == [i]
        assert short.local_features(3) == b'\x03'
        assert short.attachment('calibration') is None  # learnt from the whole descriptors
        [a], [b] = whole.keyframes([7]), short.keyframes([7])
        assert a.thumbnail == b.thumbnail
        np.testing.assert_array_equal(a.covariance, b.covariance)


def test_a_map_can_keep_its_identity_and_have_something_added(drive, tmp_path):
    with PlaceMap.open(drive) as whole:
        before = whole.map_id
    compress_map(drive, 'pca:8', tmp_path / 'short', map_id=before,
                 finish=lambda writer: writer.attach('note', b'last'))
    with PlaceMap.open(tmp_path / 'short') as short:
        assert (len(short), short.manifest.dimension, short.map_id) == (200, 8, before)
        assert short.attachment('note') == b'last'


def test_the_cost_is_told_among_other_passes_where_the_map_has_them(tmp_path, place):
    """A neighbour of the same second is found by anything: it says nothing of what is lost."""
    rng = np.random.default_rng(0)
    places = rng.normal(size=(60, 64))
    manifest = Manifest(map_id='two', model='m', fingerprint='f' * 64, dimension=64)
    with MapWriter.create(tmp_path / 'two', manifest) as writer:
        for lap, source in enumerate(('first', 'second')):
            # Each lap shares its light in 40 numbers; what tells places apart is in the others.
            rows = unit(places * ([1.0] * 24 + [0.0] * 40) + 0.3 * rng.normal(size=(60, 64)))
            writer.append([place(4 * i + lap, row, source=source) for i, row in enumerate(rows)])
    report = compress_map(tmp_path / 'two', 'pca:2', tmp_path / 'short', radius_m=2.0)
    assert (report.asked, report.other_passes) == (120, True)
    assert report.recall_before >= 0.95
    assert report.recall_after <= 0.5  # two numbers cannot tell 60 places apart, and it is said
    assert report.same == pytest.approx(report.recall_after, abs=0.05)


def test_an_uncompressed_map_gives_descriptors_as_they_are(drive):
    with PlaceMap.open(drive) as place_map:
        row = place_map.descriptors(0, 1)[0]
        assert place_map.project(row) is row


def test_projection_of_a_batch_is_that_of_its_rows(drive, tmp_path):
    compress_map(drive, 'pca:20', tmp_path / 'short')
    with PlaceMap.open(drive) as whole, PlaceMap.open(tmp_path / 'short') as short:
        rows = whole.descriptors(0, 5)
        together = short.project(rows)
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-6)
        for row, expected in zip(rows, together, strict=True):
            np.testing.assert_allclose(short.project(row), expected, atol=1e-6)
        with pytest.raises(MapError, match=r'of 95 numbers cannot be compressed.*gives 96'):
            short.project(rows[0, :95])


def test_what_cannot_be_compressed_is_refused(drive, tmp_path):
    out = tmp_path / 'short'
    for compress, words in (
            ('pca:96', 'of 96 numbers cannot be compressed to 96'),
            ('pca:0', 'no compression'), ('pca:-3', 'no compression'), ('zip', 'no compression'),
            ('pca:1e3', 'no compression')):
        with pytest.raises(MapError, match=words):
            compress_map(drive, compress, out)
        assert not out.exists()
    compress_map(drive, 'pca:8', out)
    with pytest.raises(MapError, match='compressed already'):
        compress_map(out, 'pca:4', tmp_path / 'shorter')
    with pytest.raises(MapError, match='exists'):
        compress_map(drive, 'pca:8', out)


def test_too_few_keyframes_are_refused_with_what_would_do(make_map, tmp_path):
    with pytest.raises(MapError, match=r'10 keyframes are too few to learn 12 directions.*'
                                       r'at least 13.*pca:2'):
        compress_map(make_map(10), 'pca:12', tmp_path / 'short')
    with pytest.raises(MapError, match='holds no keyframe to learn 2 directions from'):
        compress_map(make_map(0, 'empty'), 'pca:2', tmp_path / 'short')
    assert not (tmp_path / 'short').exists()


@pytest.mark.parametrize('value', [
    None, b'', b'x' * 100, Projection(np.zeros(5, np.float32), np.zeros((5, 7), np.float32)),
    Projection(np.zeros(4, np.float32), np.zeros((5, 8), np.float32)),
    Projection(np.zeros(5), np.zeros((5, 8))),
    Projection(np.full(5, np.nan, np.float32), np.zeros((5, 8), np.float32)),
    Projection(np.zeros((5, 1), np.float32), np.zeros((5, 1, 8), np.float32)),
])
def test_a_strangers_projection_is_refused(value):
    raw = value.to_bytes() if isinstance(value, Projection) else value
    with pytest.raises(MapError, match=r'map M is damaged: it is compressed .pca:8., but its'):
        read_projection('pca:8', raw, 8, 'M')


def test_a_map_whose_projection_is_gone_does_not_open(drive, tmp_path):
    compress_map(drive, 'pca:8', tmp_path / 'short')
    with sqlite3.connect(tmp_path / 'short' / 'map.db') as database:
        database.execute('DELETE FROM attachment')
    with pytest.raises(MapError, match='its attachment pca is missing'):
        PlaceMap.open(tmp_path / 'short')


def test_the_number_is_read_from_the_name():
    assert target('pca:1024') == 1024
