"""A collection of places in Milvus: a Milvus Lite file, or a cluster by its address and token.

One collection holds the places of one model, a partition those of one site:

    COLLECTION        pk, map_id, keyframe, crc, record (JSON), thumbnail, local_features,
                      descriptor (float32, as in descriptors.f16)
    COLLECTION_maps   data of a whole map or the collection, in pieces: the model's
                      fingerprint, manifests, attachments

Only `Collection` and `MilvusIndex` wait for the network; a robot's callback never uses them with
a cluster (docs/fleet.md).
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
import contextlib
from dataclasses import dataclass
import importlib
import json
import logging
import os
from pathlib import Path
import re
from typing import Any

import numpy as np

from regvpr_core.arrays import Float32, Ids
from regvpr_core.config import check_range, from_mapping
from regvpr_core.errors import ConfigError, MapError
from regvpr_core.search.rows import CentredRows, nothing

TOKEN_VARIABLE = 'REGVPR_MILVUS_TOKEN'
TIMEOUT_S = 10.0
MAX_LIMIT = 16_384
"""Largest number of hits or rows that Milvus returns for one request."""

MAX_DIMENSION = 32_768
CANDIDATES = 200
"""Number of hits to re-rank. Milvus compares whole descriptors and a map compares centred ones, so
their orders differ."""

PICTURE_PIECES, PIECE = 64, 65_535
PIECE_BYTES = 48_000  # 64,000 characters of base64
_ID = re.compile(r'[A-Za-z0-9_-]{1,64}')
_NAME = re.compile(r'[A-Za-z_][A-Za-z0-9_]{0,120}')

INDEX_PARAMETERS: dict[str, dict[str, Any]] = {
    'AUTOINDEX': {}, 'FLAT': {}, 'IVF_SQ8': {'nlist': 1024}, 'DISKANN': {},
    'IVF_RABITQ': {'nlist': 1024, 'refine': True, 'refine_type': 'SQ8'},
    'HNSW': {'M': 16, 'efConstruction': 200},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Model of the descriptors in a collection; others are refused. compress: as in a manifest."""

    name: str
    fingerprint: str
    dimension: int
    compress: str = ''

    @property
    def collection(self) -> str:
        """Default name of the collection."""
        name = re.sub(r'[^A-Za-z0-9]+', '_', f'{self.name}_{self.compress}').strip('_')[:60]
        return f'regvpr_{name}_{self.fingerprint[:8]}'


def check_site(name: str) -> str:
    """A partition's name.

    Raises:
        MapError: the name is invalid in Milvus.
    """
    if not _NAME.fullmatch(name):
        raise MapError(f'{name!r} cannot name a partition; expected letters, digits and _, no '
                       f'digit first: give --partition SITE')
    return name


def check_map_id(map_id: str) -> str:
    """Check a map's identifier for use in a filter expression.

    Raises:
        MapError: the identifier is invalid.
    """
    if not _ID.fullmatch(map_id):
        raise MapError(f'map id {map_id[:80]!r} is not letters, digits, _ and -, as ours are')
    return map_id


class Collection:
    """A connection to one collection. Not to be shared between threads."""

    def __init__(self, uri: str, model: Model, name: str = '',
                 token_variable: str = TOKEN_VARIABLE, create: str = '') -> None:
        """Connect, and check or make the collection.

        Args:
            uri: http(s)://HOST:PORT, or the path of a Milvus Lite file.
            model: model of the descriptors.
            name: of the collection; '' takes `model.collection`.
            token_variable: environment variable with the cluster's token (user:password).
            create: index type of `INDEX_PARAMETERS` for a new collection; '' refuses an absent
                one.

        Raises:
            MapError: pymilvus is not installed, the server is not reachable, the token is wrong,
                or the collection is absent or of another model.
        """
        self.uri, self.model = uri, model
        self.name = check_site(name or model.collection)
        self._blobs = f'{self.name}_maps'
        if model.dimension > MAX_DIMENSION:
            raise MapError(f'descriptors of {model.dimension} numbers are too long for Milvus, '
                           f'which takes {MAX_DIMENSION}; compress the map first')
        self._client = connect(uri, token_variable, create=bool(create))
        try:
            self._open(create)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the connection."""
        with contextlib.suppress(Exception), _silent():  # a failed close loses nothing
            self._client.close()

    def __enter__(self) -> 'Collection':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sites(self) -> list[str]:
        """Names of the partitions."""
        with told(self.uri):
            return sorted(set(self._client.list_partitions(self.name)) - {'_default'})

    def add_site(self, site: str) -> None:
        """Create a partition if it is absent."""
        with told(self.uri):
            for name in (self.name, self._blobs):
                if not self._client.has_partition(name, check_site(site)):
                    self._client.create_partition(name, site)

    def put(self, site: str, rows: Sequence[Mapping[str, Any]], blobs: bool = False) -> None:
        """Write rows into a partition; rows of the same key are replaced."""
        with told(self.uri):
            self._client.upsert(self._blobs if blobs else self.name, list(map(dict, rows)),
                                partition_name=site)

    def get(self, condition: str, fields: Sequence[str], site: str = '', blobs: bool = False,
            limit: int = MAX_LIMIT) -> list[dict[str, Any]]:
        """Rows that match a filter, unordered; at most `limit`."""
        with told(self.uri):
            found = self._client.query(
                self._blobs if blobs else self.name, filter=condition, limit=limit,
                output_fields=list(fields), partition_names=[site] if site else None)
            return [dict(row) for row in found]

    def delete(self, condition: str, site: str, blobs: bool = False) -> None:
        """Delete rows of a partition."""
        with told(self.uri):
            self._client.delete(self._blobs if blobs else self.name, filter=condition,
                                partition_name=site)

    def nearest(self, query: Float32, limit: int, condition: str = '', sites: Sequence[str] = (),
                fields: Sequence[str] = ('keyframe',)) -> list[dict[str, Any]]:
        """The fields of the places most similar to a query (D,), best first."""
        with told(self.uri):
            found = self._client.search(
                self.name, [query.tolist()], limit=min(limit, MAX_LIMIT), filter=condition,
                output_fields=list(fields), partition_names=list(sites) or None,
                search_params={'metric_type': 'COSINE', 'params': {'ef': min(limit, MAX_LIMIT)}})
            return [dict(hit['entity']) for hit in found[0]]

    def _open(self, create: str) -> None:
        with told(self.uri):
            if not self._client.has_collection(self.name):
                if not create:
                    raise MapError(f'no collection {self.name} at {self.uri}; push a map first: '
                                   f'regvpr map push MAP --uri {self.uri}')
                self._create(create)
            self._check()
            for name in (self.name, self._blobs):
                self._client.load_collection(name)
        told_model = self.get('name == "model"', ['value'], blobs=True)
        if not told_model:
            if not create:
                raise MapError(f'collection {self.name} at {self.uri} does not name the '
                               f'model of its descriptors; push a map first')
            self.put('_default', [_model_row(self.model)], blobs=True)
            return
        other = model_of(told_model[0], self.uri)
        if other != self.model:
            raise MapError(
                f'collection {self.name} holds {other.name} ({other.fingerprint[:12]}, '
                f'{other.dimension} numbers{", " + other.compress if other.compress else ""}), '
                f'not {self.model.name} ({self.model.fingerprint[:12]}, {self.model.dimension} '
                f'numbers{", " + self.model.compress if self.model.compress else ""}); name '
                f'another collection, or convert the map')

    def _create(self, index_type: str) -> None:
        if index_type not in INDEX_PARAMETERS:
            raise MapError(f'no index of Milvus is called {index_type!r}; known here: '
                           f'{", ".join(INDEX_PARAMETERS)}')
        kinds = importlib.import_module('pymilvus').DataType
        text = {'datatype': kinds.VARCHAR, 'max_length': 64}
        pieces = {'datatype': kinds.ARRAY, 'element_type': kinds.VARCHAR,
                  'max_capacity': PICTURE_PIECES, 'max_length': PIECE}
        places = {
            'pk': text | {'max_length': 96, 'is_primary': True}, 'map_id': text,
            'keyframe': {'datatype': kinds.INT64}, 'crc': {'datatype': kinds.INT64},
            'record': {'datatype': kinds.JSON}, 'thumbnail': pieces, 'local_features': pieces,
            'descriptor': {'datatype': kinds.FLOAT_VECTOR, 'dim': self.model.dimension}}
        blobs = {
            'pk': text | {'max_length': 160, 'is_primary': True}, 'map_id': text,
            'name': text | {'max_length': 80}, 'part': {'datatype': kinds.INT64},
            'parts': {'datatype': kinds.INT64}, 'crc': {'datatype': kinds.INT64}, 'value': pieces,
            'nothing': {'datatype': kinds.FLOAT_VECTOR, 'dim': 2}}  # a required field
        for name, fields, vector, kind in ((self._blobs, blobs, 'nothing', 'FLAT'),
                                           (self.name, places, 'descriptor', index_type)):
            if self._client.has_collection(name):
                continue
            # Milvus Lite stores no description, so the row `model` is used.
            schema = self._client.create_schema(enable_dynamic_field=False, description=json.dumps(
                {'regvpr': 'places' if kind != 'FLAT' or name == self.name else 'maps',
                 'model': self.model.name, 'fingerprint': self.model.fingerprint}))
            for field, parameters in fields.items():
                schema.add_field(field, **parameters)
            index = self._client.prepare_index_params()
            index.add_index(vector, index_type=kind,
                            metric_type='COSINE' if vector == 'descriptor' else 'L2',
                            params=INDEX_PARAMETERS[kind])
            self._client.create_collection(name, schema=schema, index_params=index,
                                           consistency_level='Strong')

    def _check(self) -> None:
        """Refuse a collection of another descriptor length with a clear message."""
        fields = {field['name']: field for field in
                  self._client.describe_collection(self.name)['fields']}
        length = fields.get('descriptor', {}).get('params', {}).get('dim')
        if length is None or 'record' not in fields or not self._client.has_collection(
                self._blobs):
            raise MapError(f'collection {self.name} at {self.uri} is not of regvpr; name another')
        if int(length) != self.model.dimension:
            raise MapError(f'collection {self.name} holds descriptors of {length} numbers, not of '
                           f'{self.model.dimension}; name another collection')


def _model_row(model: Model) -> dict[str, Any]:
    text = json.dumps({name: getattr(model, name) for name in Model.__dataclass_fields__})
    return {'pk': 'model', 'map_id': '', 'name': 'model', 'part': 0, 'parts': 1, 'crc': 0,
            'value': cut(text.encode()), 'nothing': [0.0, 0.0]}


class MilvusIndex:
    """Candidates from Milvus, re-ranked by the map's own rows."""

    kind = 'milvus'
    resident_bytes = 0

    def __init__(self, rows: CentredRows, where: str, map_id: str, model: Model,
                 digest: str) -> None:
        """Connect to a map's places in a collection.

        Args:
            rows: rows of the map, with their centre.
            where: URI, or URI#COLLECTION. The token is read from `REGVPR_MILVUS_TOKEN`.
            map_id, model, digest: of the map and its descriptors.

        Raises:
            MapError: as `Collection`; or the map is absent or differs from the pushed one.
        """
        self._rows = rows
        uri, _, name = where.partition('#')
        self._condition = f'map_id == "{check_map_id(map_id)}"'
        self._collection = Collection(uri, model, name)
        try:
            pushed = self._collection.get(f'{self._condition} and name == "manifest"', ['value'],
                                          blobs=True)
            state = table(pushed[0], uri) if pushed else {}
            if state.get('digest') != digest:
                raise MapError(f'this map is not in collection {self._collection.name} at {uri} '
                               f'{"as it is now" if pushed else "yet"}; run regvpr map push MAP '
                               f'--uri {uri}')
        except BaseException:
            self._collection.close()
            raise

    def __len__(self) -> int:
        return len(self._rows)

    def search(self, queries: Float32, k: int) -> tuple[Float32, Ids]:
        """The k most similar rows for each of (Q, D), unit: similarities, ids (Q, min(k, N)).

        Raises:
            MapError: Milvus does not answer, or returns fewer places than the map has.
        """
        k = min(k, len(self))
        if k == 0:
            return nothing(len(queries))
        found = []
        for query in queries:
            hits = self._collection.nearest(
                query, min(max(4 * k, CANDIDATES), len(self)), self._condition)
            ids = np.array([number(hit, 'keyframe', self._collection.uri) for hit in hits],
                           dtype=np.int64)
            ids = np.unique(ids[(ids >= 0) & (ids < len(self))])
            if len(ids) < k:
                raise MapError(f'Milvus at {self._collection.uri} gave {len(ids)} of {k} places; '
                               f'push the map again')
            found.append(self._rows.best(query, ids, k))
        return np.stack([s for s, _ in found]), np.stack([i for _, i in found])


def cut(value: bytes) -> list[str]:
    """Split bytes into base64 pieces that fit a text field of Milvus."""
    return [base64.b64encode(value[start:start + PIECE_BYTES]).decode('ascii')
            for start in range(0, len(value), PIECE_BYTES)]


def joined(pieces: Sequence[str]) -> bytes:
    """Join the pieces made by `cut`."""
    return b''.join(base64.b64decode(piece, validate=True) for piece in pieces)


def table(row: Mapping[str, Any], uri: str) -> dict[str, Any]:
    """Parse the JSON table in the value of a row.

    Raises:
        MapError: it holds none.
    """
    try:
        found = json.loads(joined(row['value']))
        if not isinstance(found, dict):
            raise ValueError('no table')
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise MapError(f'a row at {uri} cannot be read ({error}); push the map again') from error
    return found


def number(row: Mapping[str, Any], name: str, uri: str) -> int:
    """Parse a 64-bit integer of a row.

    Raises:
        MapError: it holds none.
    """
    value = row.get(name)
    if not isinstance(value, int) or not -2**63 <= value < 2**63:
        raise MapError(f'a row at {uri} has {str(value)[:40]!r} for its {name}; expected a whole '
                       f'number: push the map again')
    return value


def model_of(row: Mapping[str, Any], uri: str) -> Model:
    """Parse the row `model` of a collection.

    Raises:
        MapError: it names none.
    """
    try:
        model = from_mapping(Model, table(row, uri))
        check_range('dimension', model.dimension, 1, MAX_DIMENSION)
    except (ConfigError, RecursionError) as error:
        raise MapError(f'the collection at {uri} does not name the model of its descriptors: '
                       f'{error}') from error
    return model


def connect(uri: str, token_variable: str, *, create: bool) -> Any:
    """Connect a pymilvus client.

    Raises:
        MapError: pymilvus is not installed, the file path is unusable, or the server does not
            answer.
    """
    try:
        with _silent():
            pymilvus: Any = importlib.import_module('pymilvus')
    except ImportError as error:
        raise MapError("Milvus needs pymilvus: pip install 'regvpr_ros[milvus]'") from error
    if not uri.startswith(('http://', 'https://', 'tcp://', 'unix:')):
        file = Path(uri).expanduser()
        if file.suffix != '.db' or not file.parent.is_dir():
            raise MapError(f'{uri} is no address of Milvus; expected http://HOST:19530, or a '
                           f'Milvus Lite file that ends in .db in a folder that exists')
        if not create and not file.exists():
            raise MapError(f'there is no Milvus Lite file {uri}; push a map first: '
                           f'regvpr map push MAP --uri {uri}')
        uri = str(file)
    with told(uri):
        return pymilvus.MilvusClient(uri, token=os.environ.get(token_variable, ''),
                                     timeout=TIMEOUT_S)


@contextlib.contextmanager
def told(uri: str) -> Iterator[None]:
    """Convert errors and malformed answers of Milvus to a `MapError` of one line.

    The message contains neither its log nor the token.
    """
    failures: Any = importlib.import_module('pymilvus.exceptions')
    grpc: Any = importlib.import_module('grpc')
    try:
        with _silent():
            yield
    except (failures.MilvusException, grpc.RpcError, grpc.FutureTimeoutError,
            ConnectionError, TimeoutError) as error:
        text = str(getattr(error, 'message', '') or error)
        lowered = text.lower()
        # pymilvus reports a refused token as an unreachable server; only the cause differs.
        code = getattr(error.__cause__ or error, 'code', None)
        refused = callable(code) and code() in (
            grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        if refused or 'auth' in lowered or 'permission' in lowered:
            raise MapError(f'Milvus at {uri} refuses the token; set the environment variable '
                           f'{TOKEN_VARIABLE} (or that of --token-env) to user:password '
                           f'({" ".join(text.split())[:120]})') from error
        if 'connect' in lowered or 'unavailable' in lowered or 'deadline' in lowered \
                or 'timeout' in lowered:
            raise MapError(f'Milvus at {uri} does not answer; is it running, and the address '
                           f'right? ({" ".join(text.split())[:120]})') from error
        raise MapError(f'Milvus at {uri}: {" ".join(text.split())[:300]}') from error
    except (OSError, RuntimeError) as error:  # of Milvus Lite: its file
        raise MapError(f'Milvus Lite file {uri}: {" ".join(str(error).split())[:300]}') from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        text = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'
        raise MapError(f'Milvus at {uri} gives an answer that cannot be read ({text})') from error


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Silence pymilvus: it logs a traceback for each error that it raises."""
    loggers = [logging.getLogger(name) for name in ('pymilvus', 'milvus_lite')]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
