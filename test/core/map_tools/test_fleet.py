"""Whole maps through Milvus Lite and back; what a fleet's collection refuses."""

from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
import json
from pathlib import Path
import zlib

import numpy as np
import pytest

from regvpr_core.errors import MapError
from regvpr_core.map_tools import fleet
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter
from regvpr_core.search.milvus import (
    check_site,
    Collection,
    cut,
    joined,
    Model,
    TOKEN_VARIABLE,
)
from regvpr_core.search.rows import unit

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


FIELDS = ['pk', 'map_id', 'keyframe', 'crc', 'record', 'thumbnail', 'local_features', 'descriptor']
BLOB_FIELDS = ['pk', 'map_id', 'name', 'part', 'parts', 'crc', 'value', 'nothing']
NONSENSE = {
    'no base64': ['!'], 'no JSON': cut(b'{'), 'no text': cut(b'\xff'), 'a list': cut(b'[]'),
    'an empty table': cut(b'{}'), 'nested without end': cut(b'[' * 100_000),
    'no map id': cut(b'{"manifest": {}}'), 'a map id of 5': cut(b'{"manifest": {"map_id": 5}}'),
    'a list for a manifest': cut(b'{"manifest": [1]}'),
}


def change(collection: Collection, condition: str, **fields: object) -> None:
    """Other values in a row that belongs to a whole map or to the collection."""
    [row] = collection.get(condition, BLOB_FIELDS, blobs=True)
    collection.put('lab' if row['map_id'] else '_default', [row | fields], blobs=True)


def change_state(collection: Collection, **fields: object) -> None:
    """Other words in what the push of a map said at its end."""
    [row] = collection.get('name == "manifest"', ['value'], 'lab', blobs=True)
    state = json.loads(joined(row['value']))
    manifest = state['manifest'] | fields.pop('manifest', {})
    text = json.dumps(state | {'manifest': manifest} | fields)
    change(collection, 'name == "manifest"', value=cut(text.encode()))


def test_a_manifest_that_is_nonsense_hides_its_map_until_it_is_pushed_again(lab, uri, tmp_path):
    with PlaceMap.open(lab, index='none') as place_map, \
            Collection(uri, place_map.model, create='FLAT') as collection:
        query = place_map.descriptors()[3]
        for name, value in NONSENSE.items():
            fleet.push(place_map, collection, 'lab')
            assert fleet.find(collection, query, 1)[0].site == 'lab'
            change(collection, 'name == "manifest"', value=value)
            with pytest.raises(MapError, match='lab holds 0 maps that were pushed to their end '
                                               'and can be read'):
                fleet.pull(collection, 'lab', tmp_path / 'back')
            assert [match.site for match in fleet.find(collection, query, 2)] == ['', '']
            with pytest.raises(MapError, match=r'push the map again|run regvpr map push'):
                PlaceMap.open(lab, index=f'milvus:{uri}')
            assert fleet.push(place_map, collection, 'lab').written == 0, name
        assert fleet.pull(collection, 'lab', tmp_path / 'back') == 40


def test_one_bad_manifest_does_not_keep_a_fleet_from_its_other_maps(lab, uri, tmp_path):
    with PlaceMap.open(lab, index='none') as place_map, \
            Collection(uri, place_map.model, create='FLAT') as collection:
        fleet.push(place_map, collection, 'lab')
        for site in ('lab', 'yard'):
            collection.add_site(site)
            collection.put(site, [{
                'pk': f'{site}/manifest', 'map_id': site, 'name': 'manifest', 'part': 0,
                'parts': 1, 'crc': 0, 'value': ['!'], 'nothing': [0.0, 0.0]}], blobs=True)
        assert fleet.push(place_map, collection, 'lab').there == 40
        assert fleet.pull(collection, 'lab', tmp_path / 'back') == 40
        assert fleet.find(collection, place_map.descriptors()[3], 1)[0].site == 'lab'
        with pytest.raises(MapError, match=r'in the partition lab .* already'):
            fleet.push(place_map, collection, 'yard')


STATES = (
    {'keyframes': 'x'}, {'keyframes': -1}, {'keyframes': 10**12}, {'keyframes': float('inf')},
    {'attachments': [1]}, {'attachments': {'calibration': 'x'}},
    {'attachments': {'x" or name != "': 1}}, {'attachments': {'calibration': 10**400}},
    {'digest': None}, {'manifest': {'dimension': 'x'}}, {'manifest': {'dimension': 47}},
    {'manifest': {'extrinsics': {'front': 5}}}, {'manifest': {'extrinsics': {'front': [0.0] * 7}}},
    {'manifest': {'map_id': 'x" or map_id != "'}}, {'manifest': {'colour': 1}},
)


def test_a_state_that_nobody_could_use_is_one_line(lab, uri, tmp_path):
    push(lab, uri)
    with Collection(uri, model_of(lab)) as collection:
        [row] = collection.get('name == "manifest"', ['value'], 'lab', blobs=True)
        for fields in STATES:
            change(collection, 'name == "manifest"', value=row['value'])
            change_state(collection, **fields)
            with pytest.raises(MapError):
                fleet.pull(collection, 'lab', tmp_path / 'back')
            assert not (tmp_path / 'back').exists()


MODELS = (
    *(value for name, value in NONSENSE.items() if 'map' not in name),
    cut(b'{"name": "m", "fingerprint": "f", "dimension": "x"}'),
    cut(b'{"name": "m", "fingerprint": "f", "dimension": 0}'),
    cut(b'{"name": "m", "fingerprint": "f", "dimension": 99999}'),
    cut(b'{"name": "m", "fingerprint": "f"}'),
    cut(b'{"name": "m", "fingerprint": "f", "dimension": 48, "colour": 1}'),
)


def test_a_collection_whose_model_is_nonsense_is_refused(lab, uri):
    push(lab, uri)
    words = r'does not name the model of its descriptors|cannot be read .*; push the map again'
    with Collection(uri, model_of(lab)) as collection:
        for value in MODELS:
            change(collection, 'name == "model"', value=value)
            for attempt in (lambda: fleet.any_model(uri, '', TOKEN_VARIABLE),
                            lambda: Collection(uri, model_of(lab))):
                with pytest.raises(MapError, match=words):
                    attempt()


def test_an_attachment_that_is_damaged_is_refused(lab, uri, tmp_path):
    push(lab, uri)
    with Collection(uri, model_of(lab)) as collection:
        [row] = collection.get('name == "attachment/calibration"', BLOB_FIELDS, blobs=True)
        for fields, words in (
                ({'parts': 10**9}, '1000000000 pieces, 13 bytes so far; at most 268435456'),
                ({'parts': 2}, 'piece 1 of 2 is missing'), ({'value': ['!']}, ''),
                ({'value': []}, 'its checksum is another')):
            collection.put('lab', [row | fields], blobs=True)
            with pytest.raises(MapError, match=f'attachment calibration in .* damaged.*{words}'):
                fleet.pull(collection, 'lab', tmp_path / 'back')


def test_an_attachment_of_a_server_that_always_has_another_piece_ends(lab, uri, tmp_path,
                                                                      monkeypatch):
    push(lab, uri)
    monkeypatch.setattr(fleet, 'MAX_ATTACHMENT_BYTES', 100_000)
    with Collection(uri, model_of(lab)) as collection:
        get, asked = collection.get, []

        def more(condition: str, *rest, **named):
            if 'attachment' not in condition:
                return get(condition, *rest, **named)
            asked.append(condition)
            return [{'parts': 300, 'value': cut(bytes(30_000))}]

        monkeypatch.setattr(collection, 'get', more)
        with pytest.raises(MapError, match='300 pieces, 120000 bytes so far; at most 100000'):
            fleet.pull(collection, 'lab', tmp_path / 'back')
    assert len(asked) == 4


RECORDS = (
    {'camera': 5}, {'source': None}, {'image': ['a']}, {'T_map_cam': [0.0] * 12},
    {'T_map_cam': [1e15] * 12}, {'T_map_cam': 'x'}, {'stamp_ns': 'x'}, {'stamp_ns': str(2**70)},
    {'covariance': [1.0]}, {'has': 5},
)


def test_a_keyframe_that_no_map_keeps_is_refused_though_its_checksum_fits(lab, uri, tmp_path):
    with PlaceMap.open(lab, index='none') as place_map, \
            Collection(uri, place_map.model, create='FLAT') as collection:
        fleet.push(place_map, collection, 'lab')
        [row] = collection.get('keyframe == 7', FIELDS, 'lab')
        for fields in RECORDS:
            record = row['record'] | fields
            crc = zlib.crc32(json.dumps(record).encode())
            for part in (joined(row['thumbnail']), joined(row['local_features']),
                         np.asarray(row['descriptor'], '<f2').tobytes()):
                crc = zlib.crc32(part, crc)
            collection.put('lab', [row | {'record': record, 'crc': crc}])
            with pytest.raises(MapError, match='keyframe'):
                fleet.pull(collection, 'lab', tmp_path / 'back')
            assert not (tmp_path / 'back').exists()
        assert fleet.push(place_map, collection, 'lab').written == 1
        assert fleet.pull(collection, 'lab', tmp_path / 'back') == 40


def test_rows_of_a_server_that_keeps_no_schema_are_one_line(lab, uri, tmp_path, monkeypatch):
    push(lab, uri)
    with PlaceMap.open(lab, index=f'milvus:{uri}') as place_map, \
            Collection(uri, place_map.model) as collection:
        query = place_map.descriptors()[0]
        good = {'map_id': 'lab1', 'keyframe': 0, 'descriptor': query}
        for hit, words in (
                ({}, "'map_id'"), ({'map_id': 'lab1', 'keyframe': 0}, "'descriptor'"),
                (good | {'keyframe': 'x'}, "has 'x' for its keyframe"),
                (good | {'keyframe': 2**70}, 'expected a whole number'),
                (good | {'descriptor': 'x'}, 'damaged'),
                (good | {'descriptor': [1.0]}, r'a descriptor of shape \(1,\)'),
                (good | {'descriptor': [np.nan] * 48}, 'not finite')):
            monkeypatch.setattr(collection, 'nearest', lambda *_, hit=hit, **__: [hit])
            with pytest.raises(MapError, match=words):
                fleet.find(collection, query, 1)
        monkeypatch.setattr(Collection, 'nearest', lambda *_, **__: [{'keyframe': None}])
        with pytest.raises(MapError, match="has 'None' for its keyframe"):
            place_map.search(query, 1)
        get = collection.get
        for field in ('keyframe', 'crc'):
            def without(*arguments, field=field, **named):
                return [{k: v for k, v in row.items() if k != field}
                        for row in get(*arguments, **named)]
            monkeypatch.setattr(collection, 'get', without)
            with pytest.raises(MapError, match=f'{field}'):
                fleet.pull(collection, 'lab', tmp_path / 'back')
            with pytest.raises(MapError, match=f'{field}'):
                fleet.push(place_map, collection, 'lab')


def test_an_answer_in_no_form_of_milvus_is_one_line(lab, uri, monkeypatch):
    push(lab, uri)
    with Collection(uri, model_of(lab)) as collection:
        for answer in ([5], None, [[{}]], 'x'):
            for name in ('search', 'describe_collection'):
                monkeypatch.setattr(collection._client, name, lambda *_, a=answer, **__: a)
            for ask in (lambda: collection.nearest(np.ones(48, np.float32), 1),
                        lambda: collection._open('')):
                with pytest.raises(MapError, match='gives an answer that cannot be read') as told:
                    ask()
                assert uri in str(told.value)
