"""`regvpr map push | pull | compress`."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, TYPE_CHECKING

from regvpr_core.cli.console import bar, print_facts
from regvpr_core.cli.parsing import add_command

if TYPE_CHECKING:
    from regvpr_core.map_tools.compression import CompressReport

TOKEN_HELP = 'environment variable with the token, user:password (default: %(default)s)'


def add_parsers(verbs: Any) -> None:
    """Add the verbs to `map`."""
    verb = add_command(verbs, 'push', 'write a map to a Milvus collection',
                       'regvpr map push site --uri fleet.db')
    verb.add_argument('map', type=Path, metavar='MAP')
    _add_place(verb)
    verb.add_argument('--partition', metavar='SITE', help="default: the folder's name")
    verb.add_argument('--index', default='AUTOINDEX', metavar='TYPE',
                      help='of a new collection: AUTOINDEX, FLAT, HNSW, IVF_SQ8, IVF_RABITQ, '
                           'DISKANN (default: %(default)s)')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_push)
    verb = add_command(verbs, 'pull', 'read a map from a Milvus collection',
                       'regvpr map pull --uri fleet.db --partition site --out site')
    _add_place(verb)
    verb.add_argument('--partition', metavar='SITE', help='default: the only one')
    verb.add_argument('--map-id', default='', metavar='ID', help='where a site has several maps')
    verb.add_argument('--out', type=Path, required=True, metavar='MAP', help='folder to create')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_pull)
    verb = add_command(verbs, 'compress', 'shorter descriptors by PCA, and the recall it costs',
                       'regvpr map compress site --to pca:512 --out site_small')
    verb.add_argument('map', type=Path, metavar='MAP')
    verb.add_argument('--to', required=True, metavar='pca:NUMBER')
    verb.add_argument('--out', type=Path, required=True, metavar='MAP', help='folder to create')
    verb.add_argument('--radius', type=float, default=5.0, metavar='M',
                      help='radius of a place, for the printed recall (default: %(default)s)')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_compress)


def run_push(options: argparse.Namespace) -> None:
    """Push a map."""
    import re

    from regvpr_core.map_tools.fleet import push
    from regvpr_core.maps.place_map import PlaceMap
    from regvpr_core.search.milvus import check_site, Collection

    with PlaceMap.open(options.map, index='none') as place_map:
        site = options.partition or re.sub(r'\W+', '_', options.map.resolve().name)
        with Collection(options.uri, place_map.model, options.collection, options.token_env,
                        create=options.index) as collection, bar('keyframes pushed') as told:
            report = push(place_map, collection, check_site(site), told)
    print_facts({'map': str(options.map), 'uri': options.uri, **dataclasses.asdict(report)},
                options.json, f'regvpr map pull --uri {options.uri} --partition {site} --out MAP')


def run_pull(options: argparse.Namespace) -> None:
    """Pull a map."""
    from regvpr_core.errors import MapError
    from regvpr_core.map_tools.fleet import any_model, pull
    from regvpr_core.maps.files import map_bytes
    from regvpr_core.search.milvus import check_site, Collection

    if options.out.exists():
        raise MapError(f'{options.out} exists; choose a new folder for the map or remove it')
    name, model = any_model(options.uri, options.collection, options.token_env)
    with Collection(options.uri, model, name, options.token_env) as collection:
        sites = collection.sites()
        if not options.partition and len(sites) != 1:
            raise MapError(f'{collection.name} holds {len(sites)} partitions; choose with '
                           f'--partition: {", ".join(sites[:20])}')
        site = check_site(options.partition or sites[0])
        with bar('keyframes pulled') as told:
            keyframes = pull(collection, site, options.out, options.map_id, told)
    print_facts({'map': str(options.out), 'uri': options.uri, 'collection': collection.name,
                 'site': site, 'keyframes': keyframes, 'model': model.name,
                 'size_mb': round(map_bytes(options.out) / 1e6, 2)}, options.json,
                f'regvpr map show {options.out}')


def run_compress(options: argparse.Namespace) -> None:
    """Compress a map."""
    from regvpr_core.map_tools.compression import compress_map

    with bar('keyframes compressed') as told:
        report = compress_map(options.map, options.to, options.out, radius_m=options.radius,
                              progress=told)
    print_facts({
        'map': str(options.out), 'keyframes': report.keyframes,
        'dimension_before': report.dimension_before, 'dimension_after': report.dimension_after,
        'size_bytes_before': report.size_bytes_before,
        'size_bytes_after': report.size_bytes_after, **cost(report)}, options.json,
        f'regvpr map calibrate {options.out}')


def cost(report: 'CompressReport') -> dict[str, Any]:
    """The loss of recall by compression, for the user."""
    return {'asked': report.asked,
            'looked_in': 'other passes' if report.other_passes else 'all other keyframes',
            'radius_m': report.radius_m,
            'recall_before': round(report.recall_before, 4),
            'recall_after': round(report.recall_after, 4), 'same': round(report.same, 4)}


def _add_place(verb: argparse.ArgumentParser) -> None:
    verb.add_argument('--uri', required=True, metavar='URI',
                      help='http://HOST:19530, or a Milvus Lite file FLEET.db')
    verb.add_argument('--collection', default='', metavar='NAME',
                      help='default: named after the model')
    verb.add_argument('--token-env', default='REGVPR_MILVUS_TOKEN', metavar='VAR', help=TOKEN_HELP)
