"""Transfer of whole maps to and from a Milvus collection, for fleets.

A push writes missing rows and replaces different ones, so it can be interrupted and repeated. The
manifest is written last; a map without it cannot be pulled.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import json
from pathlib import Path
from typing import Any
import zlib

import numpy as np

from regvpr_core.arrays import Float32
from regvpr_core.config import from_mapping
from regvpr_core.errors import ConfigError, MapError
from regvpr_core.geometry import pose_matrix, quat_xyzw
from regvpr_core.maps.files import (
    check_attachment_name,
    Manifest,
    manifest_json,
    MAX_ATTACHMENT_BYTES,
    MAX_KEYFRAMES,
    new_folder,
)
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.search.milvus import (
    check_map_id,
    check_site,
    Collection,
    connect,
    cut,
    joined,
    Model,
    model_of,
    number,
    PICTURE_PIECES,
    PIECE_BYTES,
    table,
    told,
)
from regvpr_core.search.rows import unit

BATCH_BYTES = 8_000_000
"""Largest request in bytes; Milvus accepts 64 MB."""

BLOB_BYTES = PICTURE_PIECES // 4 * PIECE_BYTES
MAX_PARTS = -(-MAX_ATTACHMENT_BYTES // BLOB_BYTES)
LISTED = 4096

Progress = Callable[[int, int], None]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """Result of a push. written: keyframes sent. there: keyframes already stored unchanged."""

    collection: str
    site: str
    keyframes: int
    written: int
    there: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetMatch:
    """A place of any map of the collection. similarity: cosine of descriptors, not centred."""

    site: str
    map_id: str
    keyframe: int
    similarity: float


def push(place_map: PlaceMap, collection: Collection, site: str,
         progress: Progress = lambda done, total: None) -> PushReport:
    """Write a whole map to a partition: poses, stamps, descriptors, thumbnails, attachments.

    Args:
        place_map: may be open with the index `none`; every checksum is checked.
        collection: collection of the map's model.
        site: the partition, created if it is absent.
        progress: called with keyframes done and in total.

    Raises:
        MapError: the map is damaged or is in another partition already, or Milvus fails.
    """
    map_id = check_map_id(place_map.map_id)
    mine = f'map_id == "{map_id}"'
    collection.add_site(check_site(site))
    manifests = f'{mine} and name == "manifest"'
    for name in collection.sites():
        if name != site and collection.get(manifests, ['pk'], name, blobs=True):
            raise MapError(f'map {map_id} is in the partition {name} of {collection.name} '
                           f'already; push it there, or remove it first')
    # 1. Mark the map incomplete until the new manifest is written.
    there = _there(collection, mine, site)
    wanted = list(range(len(place_map)))
    written = 0
    state = _state(place_map)
    known = collection.get(manifests, ['value'], site, blobs=True)
    if known and _said(known[0], collection) != state:
        collection.delete(f'pk == "{map_id}/manifest"', site, blobs=True)
    # 2. Keyframes that are missing or differ.
    batch: list[Row] = []
    size = 0
    for i, keyframe in zip(wanted, place_map.keyframes(wanted), strict=True):
        row = _row(map_id, i, keyframe)
        if there.get(i) != row['crc']:
            batch.append(row)
            size += 4 * len(keyframe.descriptor) + sum(
                len(piece) for name in ('thumbnail', 'local_features') for piece in row[name])
            written += 1
        if batch and (size >= BATCH_BYTES or i == wanted[-1]):
            collection.put(site, batch)
            batch, size = [], 0
        if i % 64 == 63 or i == wanted[-1]:
            progress(i + 1, len(wanted))
    if any(i >= len(place_map) for i in there):
        collection.delete(f'{mine} and keyframe >= {len(place_map)}', site)
    # 3. Data of the whole map, then the manifest, which marks it complete.
    for name in place_map.attachments():
        value = place_map.attachment(name)
        if value is not None:
            for row in _pieces(map_id, name, value):
                collection.put(site, [row], blobs=True)
    text = json.dumps(state).encode()
    collection.put(site, [_blob(map_id, 'manifest', 0, 1, zlib.crc32(text), cut(text))],
                   blobs=True)
    return PushReport(collection=collection.name, site=site, keyframes=len(place_map),
                      written=written, there=len(place_map) - written)


def pull(collection: Collection, site: str, out: Path, map_id: str = '',
         progress: Progress = lambda done, total: None) -> int:
    """Write a map of a partition to a new folder, which appears only once it is complete.

    Args:
        collection: collection of the map's model.
        site: the partition.
        out: the new folder.
        map_id: selects a map if the partition holds several.
        progress: called with keyframes done and in total.

    Returns:
        Number of keyframes.

    Raises:
        MapError: no such map, or several, or it is incomplete or changed during the transfer, or
            `out` exists or cannot be written.
    """
    state = _choose(collection, site, map_id)
    try:
        manifest = from_mapping(Manifest, state['manifest'])
        count, digest = int(state['keyframes']), str(state['digest'])
        attachments = {str(name): int(crc) for name, crc in state['attachments'].items()}
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError, RecursionError,
            ConfigError) as error:
        raise MapError(f'the manifest of a map in {collection.name} cannot be read: '
                       f'{error}') from error
    if not 0 <= count <= MAX_KEYFRAMES or manifest.dimension != collection.model.dimension \
            or manifest.fingerprint != collection.model.fingerprint:
        raise MapError(f'map {manifest.map_id} in {collection.name} says {count} keyframes of '
                       f'{manifest.dimension} numbers of {manifest.model}: not what the '
                       f'collection holds')
    mine = f'map_id == "{check_map_id(manifest.map_id)}"'
    with new_folder(out) as folder:
        with MapWriter.create(folder, manifest) as writer:
            step = max(1, min(LISTED, BATCH_BYTES // (4 * manifest.dimension + 16_000)))
            for start in range(0, count, step):
                stop = min(start + step, count)
                writer.append(_keyframes(collection, mine, site, start, stop))
                progress(stop, count)
            for name, crc in attachments.items():
                writer.attach(name, _attachment(collection, mine, site, name, crc))
        with PlaceMap.open(folder, index='none') as pulled:
            if pulled.descriptors_digest != digest:
                raise MapError(f'map {manifest.map_id} changed on its way from {collection.uri}; '
                               f'push it again')
    return count


def find(collection: Collection, descriptor: Float32, k: int,
         sites: Sequence[str] = ()) -> list[FleetMatch]:
    """Find the places of all maps of a collection most similar to an image, to identify the site.

    Needs no local map: descriptors of the candidates come from Milvus and are compared exactly.
    Descriptors are not centred, because each map has its own centre.

    Args:
        collection: collection of the model that made the descriptor.
        descriptor: (D,).
        k: how many.
        sites: partitions to search; empty for all.

    Raises:
        MapError: the descriptor has another length or is not finite, or Milvus does not answer.
    """
    if descriptor.shape != (collection.model.dimension,) or not np.isfinite(descriptor).all():
        raise MapError(f'a descriptor of shape {descriptor.shape} cannot be searched in '
                       f'{collection.name} of {collection.model.dimension} finite numbers a place')
    hits = collection.nearest(descriptor, 4 * k, sites=sites,
                              fields=('map_id', 'keyframe', 'descriptor'))
    where = {state['manifest']['map_id']: site for site, state in _maps(collection)}
    found = []
    for hit in hits:
        try:
            map_id, row = str(hit['map_id']), np.asarray(hit['descriptor'], np.float32)
            if row.shape != descriptor.shape or not np.isfinite(row).all():
                raise ValueError(f'a descriptor of shape {row.shape}, or one that is not finite')
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise MapError(f'a place in {collection.name} is damaged ({error}); push its map '
                           f'again') from error
        found.append(FleetMatch(
            site=where.get(map_id, ''), map_id=map_id,
            keyframe=number(hit, 'keyframe', collection.uri),
            similarity=float(unit(row) @ unit(descriptor))))
    return sorted(found, key=lambda match: -match.similarity)[:k]


def any_model(uri: str, collection: str, token_variable: str) -> tuple[str, Model]:
    """Name and model of a collection, for a machine without a map of it; '' takes the only one.

    Raises:
        MapError: no such collection, or it is not a collection of this package.
    """
    client = connect(uri, token_variable, create=False)
    with told(uri):
        try:
            names = [collection] if collection else sorted(
                name[:-5] for name in client.list_collections() if name.endswith('_maps'))
            if len(names) != 1:
                raise MapError(f'{uri} holds {len(names)} collections of regvpr'
                               f'{": " + ", ".join(names[:9]) if names else "; push a map first"}'
                               f'{"; name one with --collection" if names else ""}')
            blobs = f'{names[0]}_maps'
            if not client.has_collection(blobs):
                raise MapError(f'no collection {names[0]} of regvpr at {uri}')
            client.load_collection(blobs)
            rows = client.query(blobs, filter='name == "model"', output_fields=['value'])
            if not rows:
                raise MapError(f'collection {names[0]} at {uri} does not name the model of its '
                               f'descriptors')
            return names[0], model_of(rows[0], uri)
        finally:
            client.close()


def _state(place_map: PlaceMap) -> Row:
    """State record of a completely pushed map."""
    return {
        'manifest': json.loads(manifest_json(place_map.manifest)), 'keyframes': len(place_map),
        'digest': place_map.descriptors_digest,
        'attachments': {name: zlib.crc32(place_map.attachment(name) or b'')
                        for name in place_map.attachments()}}


def _said(row: Row, collection: Collection) -> Row | None:
    """Parse the state record of a map; None if it is unreadable."""
    try:
        state = table(row, collection.uri)
        return state if isinstance(state['manifest']['map_id'], str) else None
    except (KeyError, TypeError, MapError):
        return None


def _maps(collection: Collection, site: str = '') -> Iterator[tuple[str, Row]]:
    """Partition and state of all completely pushed maps, of one site or of all.

    Unreadable records are skipped, so that the other maps stay available.
    """
    for name in [site] if site else collection.sites():
        for row in collection.get('name == "manifest"', ['value'], name, blobs=True):
            state = _said(row, collection)
            if state is not None:
                yield name, state


def _choose(collection: Collection, site: str, map_id: str) -> Row:
    sites = collection.sites()
    if site not in sites:
        raise MapError(f'no partition {site} in {collection.name}; '
                       f'{"there are " + ", ".join(sites[:20]) if sites else "it holds none"}')
    states = {state['manifest']['map_id']: state for _, state in _maps(collection, site)}
    if map_id and map_id not in states:
        raise MapError(f'no map {map_id} in {site} that was pushed to its end and can be read; '
                       f'there are: {", ".join(states) or "none"}')
    if not map_id and len(states) != 1:
        raise MapError(f'{site} holds {len(states)} maps that were pushed to their end and can be '
                       f'read'
                       f'{"; choose with --map-id: " + ", ".join(states) if states else ""}')
    return states[map_id] if map_id else next(iter(states.values()))


def _there(collection: Collection, mine: str, site: str) -> dict[int, int]:
    """Keyframe ids of a map in a partition, with their checksums."""
    there: dict[int, int] = {}
    for start in range(0, MAX_KEYFRAMES, LISTED):
        rows = collection.get(f'{mine} and keyframe >= {start} and keyframe < {start + LISTED}',
                              ['keyframe', 'crc'], site)
        if not rows:
            break
        there |= {number(row, 'keyframe', collection.uri): number(row, 'crc', collection.uri)
                  for row in rows}
    return there


def _row(map_id: str, i: int, keyframe: Keyframe) -> Row:
    """Convert a keyframe to a row; `crc` covers all fields."""
    covariance = keyframe.covariance
    record = {
        'stamp_ns': str(keyframe.stamp_ns),  # some JSON parsers lack 64-bit integers
        'camera': keyframe.camera, 'source': keyframe.source, 'image': keyframe.image,
        'T_map_cam': [float(v) for v in keyframe.T_map_cam[:3].reshape(-1)],
        'covariance': None if covariance is None
        else [float(v) for v in np.asarray(covariance).reshape(-1)],
        'has': [name for name in ('thumbnail', 'local_features')
                if getattr(keyframe, name) is not None]}
    thumbnail = keyframe.thumbnail if isinstance(keyframe.thumbnail, bytes) else b''
    features = keyframe.local_features or b''
    for name, value in (('thumbnail', thumbnail), ('local features', features)):
        if len(value) > PICTURE_PIECES * PIECE_BYTES:
            raise MapError(f'the {name} of keyframe {i} have {len(value)} bytes; at most '
                           f'{PICTURE_PIECES * PIECE_BYTES} can be stored in Milvus')
    crc = zlib.crc32(json.dumps(record).encode())
    for part in (thumbnail, features, np.asarray(keyframe.descriptor, '<f2').tobytes()):
        crc = zlib.crc32(part, crc)
    return {'pk': f'{map_id}-{i:09d}', 'map_id': map_id, 'keyframe': i, 'crc': crc,
            'record': record, 'thumbnail': cut(thumbnail), 'local_features': cut(features),
            'descriptor': keyframe.descriptor.tolist()}


def _keyframes(collection: Collection, mine: str, site: str, start: int,
               stop: int) -> list[Keyframe]:
    """Read keyframes `start` to `stop` and check them."""
    rows = {number(row, 'keyframe', collection.uri): row for row in collection.get(
        f'{mine} and keyframe >= {start} and keyframe < {stop}',
        ['keyframe', 'crc', 'record', 'thumbnail', 'local_features', 'descriptor'], site)}
    keyframes = []
    for i in range(start, stop):
        if i not in rows:
            raise MapError(f'keyframe {i} is missing in {collection.name}; push the map again')
        keyframes.append(_keyframe(i, rows[i], collection))
    return keyframes


def _keyframe(i: int, row: Mapping[str, Any], collection: Collection) -> Keyframe:
    try:
        record = row['record']
        record = json.loads(record) if isinstance(record, (str, bytes)) else record
        T = np.eye(4)
        T[:3] = np.asarray(record['T_map_cam'], dtype=np.float64).reshape(3, 4)
        pose_matrix(T[:3, 3], quat_xyzw(T))  # refuses an invalid pose
        for name in ('camera', 'source', 'image'):
            if not isinstance(record[name], str):
                raise TypeError(f'its {name} is no text')
        blobs = {name: joined(row[name]) if name in record['has'] else None
                 for name in ('thumbnail', 'local_features')}
        keyframe = Keyframe(
            stamp_ns=int(record['stamp_ns']), camera=record['camera'], source=record['source'],
            image=record['image'], T_map_cam=T, thumbnail=blobs['thumbnail'],
            local_features=blobs['local_features'],
            descriptor=np.asarray(row['descriptor'], dtype=np.float32),
            covariance=None if record['covariance'] is None
            else np.asarray(record['covariance'], dtype=np.float64).reshape(3, 3))
        if _row('', i, keyframe)['crc'] != int(row['crc']):
            raise ValueError('its checksum is another')
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError,
            RecursionError) as error:
        raise MapError(f'keyframe {i} in {collection.name} is damaged ({error}); push the '
                       f'map again') from error
    return keyframe


def _attachment(collection: Collection, mine: str, site: str, name: str, crc: int) -> bytes:
    """Join the pieces of an attachment."""
    check_attachment_name(name)
    value, part, parts = bytearray(), 0, 1
    try:
        while part < parts:
            rows = collection.get(f'{mine} and name == "attachment/{name}" and part == {part}',
                                  ['parts', 'value'], site, blobs=True)
            if not rows:
                raise ValueError(f'piece {part} of {parts} is missing')
            value += joined(rows[0]['value'])
            parts = number(rows[0], 'parts', collection.uri)
            if parts > MAX_PARTS or len(value) > MAX_ATTACHMENT_BYTES:
                raise ValueError(f'{parts} pieces, {len(value)} bytes so far; at most '
                                 f'{MAX_ATTACHMENT_BYTES} are kept')
            part += 1
        if zlib.crc32(value) != crc:
            raise ValueError('its checksum is another')
    except (KeyError, TypeError, ValueError) as error:
        raise MapError(f'attachment {name} in {collection.name} is damaged ({error}); push the '
                       f'map again') from error
    return bytes(value)


def _pieces(map_id: str, name: str, value: bytes) -> Iterator[Row]:
    parts = max(1, -(-len(value) // BLOB_BYTES))
    for part in range(parts):
        piece = value[part * BLOB_BYTES:(part + 1) * BLOB_BYTES]
        yield _blob(map_id, f'attachment/{name}', part, parts, zlib.crc32(piece), cut(piece))


def _blob(map_id: str, name: str, part: int, parts: int, crc: int, value: list[str]) -> Row:
    return {'pk': f'{map_id}/{name}' + (f'/{part}' if name != 'manifest' else ''),
            'map_id': map_id, 'name': name, 'part': part, 'parts': parts, 'crc': crc,
            'value': value, 'nothing': [0.0, 0.0]}
