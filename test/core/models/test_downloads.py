"""Downloads from a server at 127.0.0.1: whole, broken, another file, and by a mirror."""

from collections.abc import Iterator
import hashlib
import http.server
from pathlib import Path
import re
import threading

import pytest
from safetensors.torch import save_file
import torch

from regvpr_core.cli import main
from regvpr_core.errors import CheckpointError
from regvpr_core.models import catalogue
from regvpr_core.models.catalogue import CatalogueEntry
from regvpr_core.models.checkpoints import load_model
from regvpr_core.models.downloads import (
    address_of,
    download,
    record_of,
    recorded_digest,
)
from regvpr_core.models.fetching import fetch_model
from regvpr_core.models.peers import PEERS

BODY = bytes(range(256)) * 12_000


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` with ranges; breaks off after `sent` bytes."""

    body = BODY
    sent: int | None = None
    etag: str | None = '"one"'
    kind = 'application/octet-stream'
    stated: str | None = None
    ranges: list[str | None]
    paths: list[str]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = 'HTTP/1.1'

    def do_GET(self) -> None:
        server = self.server
        server.paths.append(self.path)
        if server.stated and not self.path.endswith('.real'):
            self.send_response(302)
            self.send_header('Location', f'{self.path}.real')
            self.send_header('X-Linked-Etag', f'"{server.stated}"')
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        asked = self.headers.get('Range')
        server.ranges.append(asked)
        same = self.headers.get('If-Range') in (None, server.etag)
        start = int(asked.removeprefix('bytes=').rstrip('-')) if asked and same else 0
        if start >= len(server.body):
            self.send_response(416)
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        rest = server.body[start:]
        self.send_response(206 if start else 200)
        self.send_header('Content-Type', server.kind)
        self.send_header('Content-Length', str(len(rest)))
        if server.etag:
            self.send_header('ETag', server.etag)
        self.end_headers()
        self.wfile.write(rest[:server.sent])
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    for name in ('REGVPR_MIRROR', 'HF_ENDPOINT', 'REGVPR_WEIGHTS'):
        monkeypatch.delenv(name, raising=False)
    with Server(('127.0.0.1', 0), Handler) as served:
        served.ranges, served.paths = [], []
        thread = threading.Thread(target=served.serve_forever, args=(0.02,))
        thread.start()
        yield served
        served.shutdown()
        thread.join()


def address(server: Server, name: str = 'file.bin') -> str:
    return f'http://127.0.0.1:{server.server_port}/{name}'


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_comes_whole_and_its_digest_is_recorded_as_sha256sum_writes_it(server, tmp_path):
    told: list[tuple[int, int]] = []
    digest = download(address(server), tmp_path / 'file.bin',
                      progress=lambda done, total: told.append((done, total)))
    assert (tmp_path / 'file.bin').read_bytes() == BODY
    assert digest == hashlib.sha256(BODY).hexdigest() == recorded_digest(tmp_path / 'file.bin')
    assert record_of(tmp_path / 'file.bin').read_text() == f'{digest}  file.bin\n'
    assert told[-1] == (len(BODY), len(BODY))
    assert files(tmp_path) == {'file.bin', 'file.bin.sha256'}


def test_a_broken_download_goes_on_where_it_was(server, tmp_path):
    server.sent = 1_000_000
    with pytest.raises(CheckpointError, match=r'broke off after 1000000 of 3072000 bytes; the sa'):
        download(address(server), tmp_path / 'file.bin')
    assert files(tmp_path) == {'file.bin.part', 'file.bin.part.etag'}
    server.sent = None
    download(address(server), tmp_path / 'file.bin')
    assert server.ranges == [None, 'bytes=1000000-']
    assert (tmp_path / 'file.bin').read_bytes() == BODY
    assert files(tmp_path) == {'file.bin', 'file.bin.sha256'}


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    server.sent = 1_000_000
    with pytest.raises(CheckpointError, match='broke off'):
        download(address(server), tmp_path / 'file.bin')
    server.sent, server.etag, server.body = None, '"two"', BODY[::-1]
    download(address(server), tmp_path / 'file.bin')
    assert (tmp_path / 'file.bin').read_bytes() == BODY[::-1]


def test_what_nobody_can_vouch_for_is_not_kept(server, tmp_path):
    server.sent, server.etag = 1000, None
    with pytest.raises(CheckpointError, match='broke off'):
        download(address(server), tmp_path / 'file.bin')
    assert files(tmp_path) == set()
    with pytest.raises(CheckpointError, match='broke off'):  # a known digest vouches for it
        download(address(server), tmp_path / 'file.bin', sha256='0' * 64)
    assert files(tmp_path) == {'file.bin.part'}


@pytest.mark.parametrize(('change', 'message'), [
    ({'size': 10}, 'sends more than 10 bytes'),
    ({'size': len(BODY) + 1}, f'has {len(BODY)} bytes instead of'),
    ({'sha256': '0' * 64}, r'has SHA-256 [0-9a-f]{16}… instead of 0000000000000000…; nothing was'),
])
def test_another_file_is_refused_and_leaves_nothing(server, tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        download(address(server), tmp_path / 'file.bin', **change)
    assert '\n' not in str(caught.value)
    if 'size' not in change or change['size'] == 10:
        assert files(tmp_path) == set()


def test_a_digest_that_the_publisher_states_on_the_way_is_compared(server, tmp_path):
    server.stated = '1' * 64
    with pytest.raises(CheckpointError, match='instead of 1111111111111111…'):
        download(address(server), tmp_path / 'file.bin')
    server.stated = hashlib.sha256(BODY).hexdigest()
    assert download(address(server), tmp_path / 'file.bin') == server.stated


def test_a_web_page_in_the_place_of_a_file_is_named(server, tmp_path):
    server.kind = 'text/html; charset=utf-8'
    with pytest.raises(CheckpointError, match=r'answers with a web page, .* --from FILE'):
        download(address(server), tmp_path / 'file.bin')
    assert files(tmp_path) == set()


def test_a_mirror_and_an_endpoint_stand_for_the_publisher(server, tmp_path, monkeypatch):
    monkeypatch.setenv('HF_ENDPOINT', 'https://mirror.test')
    assert address_of('https://huggingface.co/a/b.pth', 'c') == 'https://mirror.test/a/b.pth'
    assert address_of('https://example.test/b.pth', 'c') == 'https://example.test/b.pth'
    monkeypatch.setenv('REGVPR_MIRROR', f'{address(server, "weights")}/')
    download('https://example.test/elsewhere', tmp_path / 'a (1).bin')
    assert server.paths == ['/weights/a%20%281%29.bin']
    monkeypatch.setenv('REGVPR_MIRROR', 'file:///etc')
    with pytest.raises(CheckpointError, match='is no http or https address'):
        download('https://example.test/elsewhere', tmp_path / 'passwd')


def test_a_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv('http_proxy', f'http://127.0.0.1:{server.server_port}')
    monkeypatch.setenv('no_proxy', '')
    download('http://weights.test/file.bin', tmp_path / 'file.bin')
    assert server.paths == ['http://weights.test/file.bin']


@pytest.fixture
def small(monkeypatch, tmp_path, server) -> bytes:
    """A model `tiny` of the catalogue, published at the server; gives the file."""
    from dataclasses import replace

    from regvpr_core.models import peers
    from regvpr_core.models.preprocessing import Preprocessing
    from regvpr_core.models.vit import VIT_CONFIGS, VitConfig

    config = replace(PEERS['salad_vitb14'].config, backbone='vits14', aggregator_config={
        'clusters': 4, 'cluster_dim': 8, 'token_dim': 6, 'hidden_dim': 16},
        preprocessing=Preprocessing(height=56, width=56))
    peer = replace(PEERS['salad_vitb14'], config=config)
    monkeypatch.setitem(PEERS, 'tiny', peer)
    monkeypatch.setattr(peers, 'PEERS', {'tiny': peer, 'megaloc': PEERS['megaloc']})
    monkeypatch.setitem(catalogue.CATALOGUE, 'tiny', CatalogueEntry(
        title='Tiny', dimension=38, parameters=1, height=56, width=56, licence='GPL-3.0',
        file='tiny.ckpt', url=address(server, 'v1/tiny.ckpt'), page='https://example.test/tiny'))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.setitem(VIT_CONFIGS, 'vits14', VitConfig(width=384, depth=2, heads=6))
    torch.manual_seed(0)
    tensors = {peer.their_key(key): value for key, value in peer.make().state_dict().items()}
    torch.save({'state_dict': tensors}, tmp_path / 'published.ckpt')
    server.body = (tmp_path / 'published.ckpt').read_bytes()
    return server.body


def said(capsys) -> str:
    """The one line of standard error that begins with the program's name."""
    (line,) = [line for line in capsys.readouterr().err.splitlines()
               if line.startswith('regvpr: ')]
    return line


def test_fetching_shows_the_licence_and_a_second_time_checks_what_is_there(
        small, server, tmp_path, capsys):
    assert main(['models', 'fetch', 'tiny']) == 0
    text, err = capsys.readouterr()
    assert 'licence GPL-3.0; https://example.test/tiny' in err
    digest = hashlib.sha256(small).hexdigest()
    assert f'tiny: {tmp_path}/cache/regvpr/tiny.ckpt, SHA-256 {digest}\n' == text
    assert main(['models', 'fetch', 'tiny']) == 0
    assert capsys.readouterr().out.endswith('(it was here)\n')
    assert server.paths == ['/v1/tiny.ckpt']
    loaded = load_model('tiny')
    assert loaded.name == 'tiny'
    kept = tmp_path / 'cache/regvpr/tiny.ckpt'
    kept.write_bytes(small[:-4] + b'else')  # compared before the pickle is opened
    assert main(['models', 'fetch', 'tiny']) == 1
    assert re.search(r'has SHA-256 \w+… instead of \w+… of its first download; delete it',
                     said(capsys))
    with pytest.raises(CheckpointError, match='of its first download'):
        load_model('tiny')


def test_a_file_of_the_published_layout_is_taken_in(small, tmp_path, server, capsys):
    for given in (tmp_path / 'published.ckpt', tmp_path / 'other.safetensors'):
        if given.suffix == '.safetensors':
            tensors = torch.load(tmp_path / 'published.ckpt', weights_only=True)['state_dict']
            save_file(tensors, given)
        assert main(['models', 'fetch', 'tiny', '--from', str(given)]) == 0
        capsys.readouterr()
        assert files(tmp_path / 'cache/regvpr') >= {f'tiny{given.suffix}',
                                                    f'tiny{given.suffix}.sha256'}
        load_model('tiny')
    assert server.paths == []


@pytest.mark.parametrize(('make', 'message'), [
    (lambda whole: whole[:len(whole) // 2], 'is truncated or no tiny file'),
    (lambda whole: b'', 'is truncated or no tiny file: neither a safetensors file nor'),
    (lambda whole: b'\xff\xd8\xff\xe0 a photograph', 'neither a safetensors file nor a torch'),
    (lambda whole: whole[:-400], 'is truncated or no tiny file'),
])
def test_wrong_files_are_one_clear_line_and_nothing_is_kept(
        small, server, tmp_path, capsys, make, message):
    wrong = tmp_path / 'wrong.ckpt'
    wrong.write_bytes(make(small))
    assert main(['models', 'fetch', 'tiny', '--from', str(wrong)]) == 1
    assert message in said(capsys)
    server.body = wrong.read_bytes() or b'x'
    assert main(['models', 'fetch', 'tiny']) == 1
    line = said(capsys)
    assert 'tiny file' in line
    assert 'regvpr models fetch tiny --from FILE' in line
    assert files(tmp_path / 'cache/regvpr') == set()


def test_a_file_of_another_model_is_named(small, tmp_path, capsys):
    save_file({PEERS['megaloc'].their_key(key): torch.zeros(1)
               for key in PEERS['megaloc'].empty().state_dict()}, tmp_path / 'm.safetensors')
    assert main(['models', 'fetch', 'tiny', '--from', str(tmp_path / 'm.safetensors')]) == 1
    assert 'is not a tiny file: it lacks aggregator.cluster_features.0.bias' in (
        line := said(capsys))
    assert line.endswith('; it is a megaloc file')


def test_a_pickle_with_code_is_not_run(small, tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / 'written'), 'w'))

    torch.save({'state_dict': Evil()}, tmp_path / 'evil.ckpt')
    assert main(['models', 'fetch', 'tiny', '--from', str(tmp_path / 'evil.ckpt')]) == 1
    assert 'is truncated or no tiny file' in said(capsys)
    assert not (tmp_path / 'written').exists()


def test_loading_with_leave_to_download_fetches(small, server):
    with pytest.raises(CheckpointError, match='run `regvpr models fetch tiny`, or without'):
        load_model('tiny')
    assert load_model('tiny', download=True).name == 'tiny'
    assert server.paths == ['/v1/tiny.ckpt']


def test_two_at_once_do_not_write_one_file(server, tmp_path):
    import fcntl

    with (tmp_path / 'file.bin.part').open('ab') as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match=r'another process fetches file\.bin just now'):
            download(address(server), tmp_path / 'file.bin')


def test_a_model_that_is_refused_is_not_fetched():
    with pytest.raises(CheckpointError, match='sage_crossimage is not built: its descriptor'):
        fetch_model('sage_crossimage')
    with pytest.raises(CheckpointError, match=r'not built: .* take sage_vitb14'):
        load_model('sage_crossimage')
