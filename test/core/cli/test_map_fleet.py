"""`regvpr map push | pull | compress` as a person calls them."""

import json

import numpy as np
import pytest

from regvpr_core.cli import main
from regvpr_core.cli.map_fleet import add_parsers
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.search.milvus import TOKEN_VARIABLE


def test_a_map_goes_to_a_fleet_and_comes_back(make_small_map, tmp_path, capsys):
    pytest.importorskip('milvus_lite', reason='milvus-lite is not installed')
    path, uri, back = make_small_map(8), str(tmp_path / 'fleet.db'), tmp_path / 'back'
    assert main(['map', 'push', str(path), '--uri', uri, '--partition', 'hall', '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told['site'], told['keyframes'], told['written']) == ('hall', 8, 8)
    assert main(['map', 'push', str(path), '--uri', uri, '--partition', 'hall', '--json']) == 0
    assert json.loads(capsys.readouterr().out)['written'] == 0
    assert main(['map', 'pull', '--uri', uri, '--out', str(back), '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told['site'], told['keyframes'], told['model']) == ('hall', 8, 'm')
    with PlaceMap.open(path) as a, PlaceMap.open(back) as b:
        assert a.manifest == b.manifest
        np.testing.assert_array_equal(a.descriptors(), b.descriptors())
    assert main(['map', 'pull', '--uri', uri, '--out', str(back)]) == 1
    assert 'exists' in capsys.readouterr().err


def test_the_only_collection_is_found_whatever_it_is_called(make_small_map, tmp_path, capsys):
    pytest.importorskip('milvus_lite', reason='milvus-lite is not installed')
    path, uri, back = make_small_map(8), str(tmp_path / 'fleet.db'), tmp_path / 'back'
    assert main(['map', 'push', str(path), '--uri', uri, '--collection', 'ours']) == 0
    capsys.readouterr()
    assert main(['map', 'pull', '--uri', uri, '--out', str(back), '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told['collection'], told['keyframes']) == ('ours', 8)


@pytest.mark.parametrize(('arguments', 'words'), [
    (['map', 'push', 'MAP', '--uri', 'http://127.0.0.1:9'], 'does not answer; is it running'),
    (['map', 'push', 'MAP', '--uri', 'fleet.txt'], 'is no address of Milvus'),
    (['map', 'push', 'MAP', '--uri', 'fleet.db', '--partition', 'a b'], 'cannot name a partition'),
    (['map', 'push', 'MAP', '--uri', 'fleet.db', '--index', 'FAST'], 'no index of Milvus is'),
    (['map', 'push', 'none', '--uri', 'fleet.db'], 'is no place map'),
    (['map', 'pull', '--uri', 'none.db', '--out', 'new'], 'there is no Milvus Lite file'),
    (['map', 'pull', '--uri', 'http://127.0.0.1:9', '--out', 'new'], 'does not answer'),
    (['map', 'pull', '--uri', 'fleet.db', '--out', 'MAP'], 'exists'),
    (['map', 'compress', 'MAP', '--to', 'pca:4', '--out', 'MAP'], 'exists'),
    (['map', 'compress', 'MAP', '--to', 'pca:12', '--out', 'new'], 'too few to learn'),
    (['map', 'compress', 'MAP', '--to', 'zip', '--out', 'new'], 'expected pca:NUMBER'),
])
def test_what_is_refused_is_one_line(arguments, words, make_small_map, tmp_path, monkeypatch,
                                     capsys):
    pytest.importorskip('milvus_lite', reason='milvus-lite is not installed')
    path = make_small_map(8)
    monkeypatch.chdir(tmp_path)
    assert main([str(path) if word == 'MAP' else word for word in arguments]) == 1
    out, err = capsys.readouterr()
    assert out == ''
    assert words in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / 'new').exists()


def test_without_pymilvus_the_extra_is_named(make_small_map, tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, 'pymilvus', None)
    assert main(['map', 'push', str(make_small_map(3)), '--uri', str(tmp_path / 'f.db')]) == 1
    assert "pip install 'regvpr_ros[milvus]'" in capsys.readouterr().err


def test_a_compressed_map_says_what_it_cost(make_small_map, tmp_path, capsys):
    out = tmp_path / 'short'
    assert main(['map', 'compress', str(make_small_map(12)), '--to', 'pca:4', '--out', str(out),
                 '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told['dimension_before'], told['dimension_after'], told['keyframes']) == (16, 4, 12)
    assert 0.0 <= told['recall_after'] <= 1.0
    with PlaceMap.open(out) as place_map:
        assert place_map.manifest.compress == 'pca:4'
        assert place_map.project(np.eye(16, dtype=np.float32)[2]).shape == (4,)


def test_the_token_has_one_name():
    class Verbs:
        def __init__(self) -> None:
            self.defaults: list[str] = []

        def add_parser(self, *_, **__) -> 'Verbs':
            return self

        def add_argument(self, name: str, **options: object) -> None:
            if name == '--token-env':
                self.defaults.append(str(options['default']))

        def set_defaults(self, **_: object) -> None:
            pass

    verbs = Verbs()
    add_parsers(verbs)
    assert verbs.defaults == [TOKEN_VARIABLE] * 2
