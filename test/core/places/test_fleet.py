"""Whole maps through Milvus Lite and back; what a fleet's collection refuses."""

from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regvpr_core.errors import MapError
from regvpr_core.places import fleet
from regvpr_core.places.index_milvus import check_site, Collection, Model, TOKEN_VARIABLE
from regvpr_core.places.index_rows import unit
from regvpr_core.places.map_files import Manifest
from regvpr_core.places.map_writer import MapWriter
from regvpr_core.places.place_map import PlaceMap

pytest.importorskip('milvus_lite', reason='milvus-lite is not installed')


@pytest.fixture
def lab(tmp_path: Path, place: Callable, rows: Callable) -> Path:
    """A map of 40 places with all that a keyframe may have."""
    manifest = Manifest(map_id='lab1', model='m', fingerprint='f' * 64, dimension=48,
                        map_frame='earth', extrinsics={'front': [0, 0, 1.5, 0, 0, 0, 1]},
                        origin={'lat_deg': 48.1, 'lon_deg': 11.5, 'alt_m': 500.0})
    rng = np.random.default_rng(0)
    turn = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0.1], [0, 0, 0, 1.0]])
    with MapWriter.create(tmp_path / 'lab', manifest) as writer:
        writer.append([place(
            i, row, T_map_cam=np.eye(4) if i % 2 else turn, image=f'Bild ä {i}.jpg',
            thumbnail=rng.integers(0, 255, (120, 160, 3), dtype=np.uint8) if i % 3 else None,
            local_features=rng.bytes(70_000) if i == 5 else b'' if i == 6 else None,
            covariance=np.eye(3) / (i + 3) if i % 4 else None)
            for i, row in enumerate(rows(40, 3, 48))])
        writer.attach('calibration', b'{"offset": 1}')
        writer.attach('large', rng.bytes(2_000_000))
    return tmp_path / 'lab'


@pytest.fixture
def uri(tmp_path: Path) -> str:
    """A Milvus Lite file of the test's own."""
    return str(tmp_path / 'fleet.db')


def model_of(path: Path) -> Model:
    with PlaceMap.open(path, index='none') as place_map:
        return place_map.model


def push(path: Path, uri: str, site: str = 'lab', **more) -> fleet.PushReport:
    with PlaceMap.open(path, index='none') as place_map, \
            Collection(uri, place_map.model, create='FLAT', **more) as collection:
        return fleet.push(place_map, collection, site)


def test_a_map_goes_up_and_comes_back_equal(lab, uri, tmp_path):
    report = push(lab, uri)
    assert (report.keyframes, report.written, report.there) == (40, 40, 0)
    assert report.collection == 'regvpr_m_ffffffff'
    with Collection(uri, model_of(lab)) as collection:
        assert collection.sites() == ['lab']
        assert fleet.pull(collection, 'lab', tmp_path / 'back') == 40
    with PlaceMap.open(lab) as a, PlaceMap.open(tmp_path / 'back') as b:
        assert a.manifest == b.manifest
        assert a.descriptors_digest == b.descriptors_digest
        np.testing.assert_allclose(b.T_map_cam, a.T_map_cam, atol=1e-15)
        for old, new in zip(a.keyframes(range(40)), b.keyframes(range(40)), strict=True):
            np.testing.assert_array_equal(old.descriptor, new.descriptor)
            np.testing.assert_array_equal(old.covariance, new.covariance)
            for name in ('stamp_ns', 'camera', 'source', 'image', 'thumbnail', 'local_features'):
                assert getattr(old, name) == getattr(new, name), name
        assert a.attachments() == b.attachments() == ['calibration', 'large']
        assert a.attachment('large') == b.attachment('large')


def test_pushing_again_sends_only_what_is_new_or_was_lost(lab, uri, place, rows):
    push(lab, uri)
    assert push(lab, uri).written == 0
    with Collection(uri, model_of(lab)) as collection:
        collection.delete('keyframe >= 10 and keyframe < 13', 'lab')
    assert push(lab, uri).written == 3
    with MapWriter.append_to(lab) as writer:
        writer.append([place(40, rows(1, 9, 48)[0])])
    report = push(lab, uri)
    assert (report.keyframes, report.written, report.there) == (41, 1, 40)


def test_a_push_that_was_broken_off_is_not_given_out_and_can_be_finished(lab, uri, tmp_path):
    class BrokenError(Exception):
        pass

    def broken(done: int, total: int) -> None:
        raise BrokenError

    with PlaceMap.open(lab, index='none') as place_map, \
            Collection(uri, place_map.model, create='FLAT') as collection:
        with pytest.raises(BrokenError):
            fleet.push(place_map, collection, 'lab', broken)
        with pytest.raises(MapError, match='lab holds 0 maps that were pushed to their end'):
            fleet.pull(collection, 'lab', tmp_path / 'back')
        assert not (tmp_path / 'back').exists()
        fleet.push(place_map, collection, 'lab')
        assert fleet.pull(collection, 'lab', tmp_path / 'back') == 40


def test_a_keyframe_missing_or_changed_in_the_collection_is_told(lab, uri, tmp_path):
    push(lab, uri)
    with Collection(uri, model_of(lab)) as collection:
        [row] = collection.get('keyframe == 7', [
            'pk', 'map_id', 'keyframe', 'crc', 'record', 'thumbnail', 'local_features',
            'descriptor'], 'lab')
        wrong = row | {'descriptor': (np.asarray(row['descriptor']) + 0.01).tolist()}
        collection.put('lab', [wrong])
        with pytest.raises(MapError, match=r'keyframe 7 .* is damaged.*push the map again'):
            fleet.pull(collection, 'lab', tmp_path / 'back')
        collection.delete('keyframe == 7', 'lab')
        with pytest.raises(MapError, match='keyframe 7 is missing'):
            fleet.pull(collection, 'lab', tmp_path / 'back')
    assert not (tmp_path / 'back').exists()


def test_the_index_milvus_finds_what_the_exact_one_finds(lab, uri):
    push(lab, uri)
    rng = np.random.default_rng(2)
    with PlaceMap.open(lab, index='exact') as exact, \
            PlaceMap.open(lab, index=f'milvus:{uri}') as milvus:
        assert (milvus.index.kind, len(milvus.index)) == ('milvus', 40)
        for row in exact.descriptors()[::6]:
            query = unit(row + 0.05 * rng.normal(size=48))
            for k in (0, 1, 10, 100):
                expected, ids = exact.search(query, k)
                similarities, found = milvus.search(query, k)
                np.testing.assert_array_equal(found, ids)
                np.testing.assert_allclose(similarities, expected, atol=1e-5)
        with pytest.raises(MapError, match='not finite'):
            milvus.search(np.full(48, np.nan, np.float32), 1)


def test_the_index_milvus_wants_the_map_as_it_is_now(lab, uri, place, rows):
    with pytest.raises(MapError, match=r'no Milvus Lite file .* push a map first'):
        PlaceMap.open(lab, index=f'milvus:{uri}')
    push(lab, uri)
    with MapWriter.append_to(lab) as writer:
        writer.append([place(40, rows(1, 9, 48)[0])])
    with pytest.raises(MapError, match='as it is now; run regvpr map push'):
        PlaceMap.open(lab, index=f'milvus:{uri}')
    push(lab, uri)
    with PlaceMap.open(lab, index=f'milvus:{uri}') as place_map:
        assert place_map.search(rows(1, 9, 48)[0], 1)[1].tolist() == [40]


def test_an_empty_map_goes_up_and_comes_back(make_map, uri, tmp_path, rows):
    path = make_map(0, 'empty')
    assert push(path, uri).keyframes == 0
    with Collection(uri, model_of(path)) as collection:
        assert fleet.pull(collection, 'lab', tmp_path / 'back') == 0
    with PlaceMap.open(path, index=f'milvus:{uri}') as place_map:
        assert place_map.search(rows(1)[0], 3)[1].shape == (0,)


def test_sites_and_maps_of_one_collection_stay_apart(make_map, uri, tmp_path, manifest, place,
                                                     rows):
    paths = {}
    for number, (name, site) in enumerate((('a', 'north'), ('b', 'north'), ('c', 'south'))):
        paths[name] = tmp_path / name
        with MapWriter.create(paths[name], replace(manifest, map_id=name)) as writer:
            writer.append([place(i, row) for i, row in enumerate(rows(10, number))])
        push(paths[name], uri, site)
    with Collection(uri, model_of(paths['a'])) as collection:
        assert collection.sites() == ['north', 'south']
        with pytest.raises(MapError, match=r'north holds 2 maps.*--map-id: a, b'):
            fleet.pull(collection, 'north', tmp_path / 'back')
        with pytest.raises(MapError, match=r'no map c in north.*there are: a, b'):
            fleet.pull(collection, 'north', tmp_path / 'back', 'c')
        with pytest.raises(MapError, match=r'no partition west.*there are north, south'):
            fleet.pull(collection, 'west', tmp_path / 'back')
        fleet.pull(collection, 'north', tmp_path / 'back', 'b')
        with PlaceMap.open(tmp_path / 'back') as back, PlaceMap.open(paths['b']) as b:
            assert back.descriptors_digest == b.descriptors_digest
            found = fleet.find(collection, b.descriptors(4, 5)[0], 3)
            assert (found[0].site, found[0].map_id, found[0].keyframe) == ('north', 'b', 4)
            assert found[0].similarity == pytest.approx(1.0, abs=1e-6)
            assert found[0].similarity >= found[1].similarity >= found[2].similarity
            others = fleet.find(collection, b.descriptors(4, 5)[0], 3, ['south'])
            assert {match.map_id for match in others} == {'c'}
    with pytest.raises(MapError, match=r'in the partition north .* already'):
        push(paths['a'], uri, 'south')


def test_another_model_or_length_is_refused(lab, uri):
    push(lab, uri, name='shared')
    model = model_of(lab)
    for other, words in (
            (replace(model, fingerprint='e' * 64), r'holds m \(ffffffffffff, 48 numbers\), not m '
                                                   r'\(eeeeeeeeeeee'),
            (replace(model, name='salad'), 'not salad'),
            (replace(model, compress='pca:48'), 'pca:48'),
            (replace(model, dimension=47), 'holds descriptors of 48 numbers, not of 47'),
            (replace(model, dimension=40_000), 'too long for Milvus')):
        with pytest.raises(MapError, match=words):
            Collection(uri, other, 'shared')
    with Collection(uri, model, 'shared') as collection, \
            pytest.raises(MapError, match='cannot be searched'):
        fleet.find(collection, np.ones(47, np.float32), 1)


def test_names_that_milvus_or_a_filter_would_misread_are_refused(lab, uri):
    for name in ('', 'a b', '1st', 'a-b', 'x" or "', 'a' * 200):
        with pytest.raises(MapError, match='cannot name a partition'):
            check_site(name)
    with PlaceMap.open(lab, index='none') as place_map, \
            Collection(uri, place_map.model, create='FLAT') as collection:
        place_map.manifest = replace(place_map.manifest, map_id='x" or map_id != "')
        with pytest.raises(MapError, match='map id'):
            fleet.push(place_map, collection, 'lab')
    with pytest.raises(MapError, match="no index of Milvus is called 'FAST'"):
        Collection(uri, replace(model_of(lab), name='new'), create='FAST')


def test_a_server_that_is_away_is_one_line(lab, monkeypatch, caplog):
    for address in ('http://127.0.0.1:9', 'http://nobody.invalid:19530'):
        with pytest.raises(MapError, match='does not answer; is it running') as refused:
            Collection(address, model_of(lab))
        assert '\n' not in str(refused.value)
    assert not caplog.records  # pymilvus would log a traceback
    for address in ('fleet.sqlite', '/nowhere/fleet.db', 'ftp://x'):
        with pytest.raises(MapError, match='is no address of Milvus'):
            Collection(address, model_of(lab))


@pytest.fixture
def stern_server() -> Iterator[str]:
    """A server that knows nobody, as a cluster does with a wrong token."""
    grpc = pytest.importorskip('grpc')

    class Nobody(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(lambda request, context: context.abort(
                grpc.StatusCode.UNAUTHENTICATED, 'auth check failure, please check user:password'))

    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((Nobody(),))
    port = server.add_insecure_port('127.0.0.1:0')
    server.start()
    yield f'http://127.0.0.1:{port}'
    server.stop(None)


def test_a_wrong_token_is_one_line_that_does_not_tell_it(lab, stern_server, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, 'robot:hunter2')
    with pytest.raises(MapError, match=f'refuses the token; set .*{TOKEN_VARIABLE}') as refused:
        Collection(stern_server, model_of(lab))
    assert 'hunter2' not in str(refused.value)
    assert '\n' not in str(refused.value)
