"""Time, disk space and memory of maps of 1 k, 10 k and 100 k places, with FULL=1 a million.

    python -m benchmarks.scale

The maps have synthetic trajectories and descriptors of 512 numbers, as after `regvpr map compress
MAP --to pca:512`. DIMENSION=8448 takes the length of the network's descriptors. They are written
to disk and memory-mapped as usual. Measured for each size: writing, opening, bytes on disk,
searches for fifty places, the time of the belief, and memory. The searches are measured with the
rows in the page cache, and with the page cache dropped before each search, as for a map larger
than memory. Milvus Lite is measured for comparison, up to 10 k places (FULL=1: 100 k).
"""

import importlib
import importlib.util
import mmap
import os
from pathlib import Path
import shutil
import sys
import tempfile
import time

import numpy as np

from benchmarks.belief import update_ms
from benchmarks.report import Metric, write
from benchmarks.search import Float32, in_fresh_process, shared, World, write_map
from regvpr_core.errors import MapError
from regvpr_core.map_tools.fleet import push
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.search.milvus import Collection

SIZES = {'1k': 1_000, '10k': 10_000, '100k': 100_000, '1m': 1_000_000}
DIMENSION = int(os.environ.get('DIMENSION', '512'))
QUERIES = 60
COLD_QUERIES = 20
FULL = bool(os.environ.get('FULL'))
MILVUS_MOST = 100_000 if FULL else 10_000

SCOPES = {
    'written_s': ('s', 'rows made and written, records in SQLite'),
    'bytes_a_place': ('B', 'on disk: rows, records and codes'),
    'first_open_s': ('s', 'opening without an index file: every row is read, checked and coded'),
    'open_s': ('s', 'opening again'),
    'search_p50_ms': ('ms', 'PlaceMap.search, fifty places, rows in the page cache'),
    'search_p95_ms': ('ms', 'the same'),
    'cold_p50_ms': ('ms', 'the same with the rows on disk alone, as of a map beyond memory'),
    'cold_p95_ms': ('ms', 'the same'),
    'belief_p50_ms': ('ms', 'predict, update and answer of one image'),
    'memory_mb': ('MB', 'anonymous memory of the open map with its index'),
    'milvus_build_s': ('s', 'Milvus Lite: a collection made of the map'),
    'milvus_p50_ms': ('ms', 'Milvus Lite: fifty places'),
    'milvus_p95_ms': ('ms', 'the same'),
    'milvus_recall': ('', 'share of the fifty that both find'),
}


def main() -> None:
    metrics: list[Metric] = []
    for library in ('torch', 'faiss'):  # so that the first map does not include their import
        importlib.import_module(library)
    folder = Path(tempfile.mkdtemp(prefix='regvpr-scale-'))
    try:
        for name, count in SIZES.items():
            if count > 100_000 and not FULL:
                continue
            result = measure(folder / name, count)
            shutil.rmtree(folder / name)
            metrics += [Metric(metric=f'{key}_{name}', value=value, unit=SCOPES[key][0],
                               scope=f'{SCOPES[key][1]}; {DIMENSION} numbers a place')
                        for key, value in result.items()]
            print(name, {key: round(value, 3) for key, value in result.items()}, file=sys.stderr)
            write('scale', metrics)  # so that an interrupted run keeps its results
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(write('scale', metrics))


def measure(path: Path, count: int) -> dict[str, float]:
    """All figures of one size."""
    start = time.perf_counter()
    world = World(count, 31, DIMENSION)
    write_map(path, world)
    result = {'written_s': time.perf_counter() - start}
    queries = world.queries(QUERIES)
    start = time.perf_counter()
    with PlaceMap.open(path):
        result['first_open_s'] = time.perf_counter() - start
    result['bytes_a_place'] = sum(f.stat().st_size for f in path.iterdir()) / count
    start = time.perf_counter()
    with PlaceMap.open(path) as place_map:
        result['open_s'] = time.perf_counter() - start
        away = queries.mean(axis=0)
        for query in queries:  # into the page cache
            place_map.search(query, 50, away)
        result |= percentiles('search', [timed(place_map, query, away) for query in queries])
        cold = []
        for query in queries[:COLD_QUERIES]:
            forget(place_map)
            cold.append(timed(place_map, query, away))
        result |= percentiles('cold', cold)
    milliseconds, _ = update_ms(count, 120)
    result['belief_p50_ms'] = float(np.median(milliseconds))
    if count >= 10_000:
        found = in_fresh_process(path, count)
        result['memory_mb'] = (found['map_bytes_a_place'] * count + found['index_bytes']) / 1e6
    if count <= MILVUS_MOST and importlib.util.find_spec('milvus_lite') is not None:
        try:
            result |= milvus(path, queries)
        except MapError as error:  # its server does not start on a busy machine
            print(f'Milvus Lite: {error}', file=sys.stderr)
    return result


def timed(place_map: PlaceMap, query: Float32, away: Float32) -> float:
    """Time of a search, ms."""
    start = time.perf_counter()
    place_map.search(query, 50, away)
    return 1e3 * (time.perf_counter() - start)


def forget(place_map: PlaceMap) -> None:
    """Drop the rows of a map from the page cache, so that the next search reads the disk."""
    rows = place_map.stored_descriptors
    if isinstance(rows, np.memmap):
        rows._mmap.madvise(mmap.MADV_DONTNEED)
    descriptor = os.open(place_map.path / 'descriptors.f16', os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def milvus(path: Path, queries: Float32) -> dict[str, float]:
    """The same searches by Milvus Lite."""
    away, uri = queries.mean(axis=0), str(path.parent / f'milvus_{path.name}.db')
    start = time.perf_counter()
    with PlaceMap.open(path) as place_map:
        collection = Collection(uri, place_map.model, create='FLAT')
        push(place_map, collection, 'scale')
        collection.close()
    built_s = time.perf_counter() - start
    with PlaceMap.open(path, index=f'milvus:{uri}') as of_milvus:
        milliseconds = [timed(of_milvus, query, away) for query in queries]
        found = [of_milvus.search(query, 50, away)[1] for query in queries]
    with PlaceMap.open(path) as place_map:
        ours = [place_map.search(query, 50, away)[1] for query in queries]
    shutil.rmtree(uri)  # Milvus Lite makes a folder of it
    return {'milvus_build_s': built_s, **percentiles('milvus', milliseconds),
            'milvus_recall': shared(found, np.stack(ours), 50)}


def percentiles(name: str, milliseconds: list[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    return {f'{name}_p50_ms': float(np.percentile(milliseconds, 50)),
            f'{name}_p95_ms': float(np.percentile(milliseconds, 95))}


if __name__ == '__main__':
    main()
