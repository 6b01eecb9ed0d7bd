"""Files of weights: search folders, digests and downloads.

Needs no torch. `REGVPR_WEIGHTS` lists folders, `REGVPR_MIRROR` is an address with the files under
their names in the cache, `HF_ENDPOINT` replaces huggingface.co. Proxies are read from
`https_proxy` and `no_proxy`, as by urllib.
"""

from collections.abc import Callable
import email.message
import fcntl
import hashlib
import http.client
import os
from pathlib import Path
import re
from typing import Any, IO
import urllib.error
import urllib.parse
import urllib.request

from regvpr_core.errors import CheckpointError

TIMEOUT_S = 20.0
CHUNK_BYTES = 1 << 20
MAX_BYTES = 4_000_000_000
HUGGING_FACE = 'https://huggingface.co'

Progress = Callable[[int, int], None]
"""Called with bytes done and in total (0: unknown) during a download."""


def cache_folder() -> Path:
    """The user's cache: `$XDG_CACHE_HOME/regvpr`, else `~/.cache/regvpr`."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'regvpr'


def search_folders() -> list[Path]:
    """The folders of `REGVPR_WEIGHTS`, separated as in PATH, then the cache."""
    listed = os.environ.get('REGVPR_WEIGHTS', '')
    return [Path(entry) for entry in listed.split(os.pathsep) if entry] + [cache_folder()]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def record_of(path: Path) -> Path:
    """Path of the recorded digest of a file, in the format of `sha256sum`."""
    return path.with_name(f'{path.name}.sha256')


def recorded_digest(path: Path) -> str | None:
    """The digest recorded when the file was fetched; None if none was recorded.

    Raises:
        CheckpointError: the record cannot be read.
    """
    record = record_of(path)
    if not record.is_file():
        return None
    found = re.match(r'[0-9a-f]{64}\b', record.read_text(encoding='ascii', errors='replace')[:64])
    if not found:
        raise CheckpointError(f'{record} holds no SHA-256; delete it, and fetch {path.name} again')
    return found[0]


def record_digest(path: Path, sha256: str) -> None:
    """Record the digest of a file beside it."""
    record_of(path).write_text(f'{sha256}  {path.name}\n', encoding='ascii')


def check_file(path: Path, size: int | None, sha256: str | None) -> str:
    """Compare a file with its published and recorded size and digest; return its digest.

    Raises:
        CheckpointError: size or digest differs; the message has both values and what to do.
    """
    found = path.stat().st_size
    if size is not None and found != size:
        raise CheckpointError(f'{path} has {found} bytes instead of {size}: truncated or not the '
                              f'published file; delete it and fetch it again')
    digest = file_digest(path)
    for wanted, by in ((sha256, ''), (recorded_digest(path), ' of its first download')):
        if wanted is not None and digest != wanted:
            raise CheckpointError(f'{path} has SHA-256 {digest[:16]}… instead of {wanted[:16]}…'
                                  f'{by}; delete it and fetch it again')
    return digest


def address_of(url: str, file: str) -> str:
    """The address to fetch from: on the mirror, if one is set."""
    mirror = os.environ.get('REGVPR_MIRROR', '').rstrip('/')
    if mirror:
        return f'{mirror}/{urllib.parse.quote(file)}'
    endpoint = os.environ.get('HF_ENDPOINT', '').rstrip('/')
    if endpoint and url.startswith(f'{HUGGING_FACE}/'):
        return endpoint + url.removeprefix(HUGGING_FACE)
    return url


def _plain(error: Exception) -> str:
    """The cause of an error in words, without names of Python's exceptions."""
    if isinstance(error, urllib.error.HTTPError):
        return str(error)  # HTTP Error 404: Not Found
    cause = getattr(error, 'reason', error)
    return (cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)) \
        or str(error)


def download(
    url: str, path: Path, *, size: int | None = None, sha256: str | None = None,
    progress: Progress | None = None, accept: Callable[[Path], None] | None = None,
) -> str:
    """Fetch a file; it gets its name once it is complete, checked and accepted.

    An interrupted download stays as `NAME.part`. The next one continues it if the digest is known
    or the server confirms that the file has not changed (ETag). If the publisher states no digest,
    it is recorded beside the file.

    Args:
        url: of the publisher; see `address_of`.
        path: of the new file; its folder exists.
        size, sha256: stated by the publisher, or None.
        progress: called during the download.
        accept: raises CheckpointError for a complete file with wrong content.

    Returns:
        the SHA-256 of the file.

    Raises:
        CheckpointError: not reachable, interrupted, a wrong file, or another process fetches it.
    """
    address = address_of(url, path.name)
    if urllib.parse.urlsplit(address).scheme not in ('http', 'https'):
        raise CheckpointError(f'{address} is no http or https address')
    part = path.with_name(f'{path.name}.part')
    with part.open('ab') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CheckpointError(f'another process fetches {path.name} just now') from error
        try:
            stated = _receive(address, part, file, size, sha256, progress)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if not part.is_file() or not part.stat().st_size or not (
                    sha256 or _etag(part).is_file()):
                _drop(part)  # without digest or ETag it cannot be continued safely
            raise CheckpointError(f'cannot fetch {address}: {_plain(error)}') from error
        try:
            digest = check_file(part, size, sha256 or stated)
            if accept:
                accept(part)
        except CheckpointError as error:
            _drop(part)
            text = str(error).replace(str(part), address).replace(
                'delete it and fetch it again', 'nothing was kept')
            raise CheckpointError(text) from error
        part.replace(path)
        _etag(part).unlink(missing_ok=True)
    if sha256 is None:
        record_digest(path, digest)
    return digest


def _receive(address: str, part: Path, file: IO[bytes], size: int | None, sha256: str | None,
             progress: Progress | None) -> str | None:
    """Download the rest of a file; return the SHA-256 stated by the server, if any."""
    done, known = part.stat().st_size, _etag(part)
    request = urllib.request.Request(address, headers={'User-Agent': 'regvpr'})
    if done and (sha256 or known.is_file()):
        request.add_header('Range', f'bytes={done}-')
        if known.is_file():
            request.add_header('If-Range', known.read_text(encoding='latin-1').strip())
    told = _Redirects()
    try:
        reply = urllib.request.build_opener(told).open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            _drop(part)
            raise OSError('the server does not go on with it; the same command starts anew'
                          ) from error
        raise
    with reply:
        if reply.headers.get_content_type() == 'text/html':
            raise OSError('it answers with a web page, not with a file: get the file with a '
                          'browser, and give it with --from FILE')
        if reply.status != http.client.PARTIAL_CONTENT:
            done = 0
            file.truncate(0)
        known.unlink(missing_ok=True)
        etag = reply.headers.get('ETag', '')
        if etag and not etag.startswith('W/'):
            known.write_text(etag, encoding='latin-1')
        length = reply.headers.get('Content-Length')
        total = done + int(length) if length and length.isdigit() else (size or 0)
        limit = size or total or MAX_BYTES
        if limit > MAX_BYTES:
            raise OSError(f'it would be {limit} bytes, more than {MAX_BYTES}')
        while chunk := reply.read(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            if done > limit:
                _drop(part)
                raise OSError(f'it sends more than {limit} bytes')
            if progress:
                progress(done, total)
        file.flush()
        if total and done < total:
            raise OSError(f'it broke off after {done} of {total} bytes; the same command goes on '
                          f'from there')
        return told.sha256


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, and stores the SHA-256 stated by Hugging Face in a redirect."""

    sha256: str | None = None

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
                         headers: email.message.Message, newurl: str) -> Any:
        found = re.fullmatch(r'"?([0-9a-f]{64})"?', headers.get('X-Linked-Etag', ''))
        if found:
            self.sha256 = found[1]
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _etag(part: Path) -> Path:
    return part.with_name(f'{part.name}.etag')


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _etag(part).unlink(missing_ok=True)

