"""`regvpr map verify | merge | prune | convert | export`."""

import argparse
from collections.abc import Callable, Iterator
import contextlib
from pathlib import Path
from typing import Any

from rich.console import Console

from regvpr_core.cli.console import bar, download_bar, print_facts, say, say_model
from regvpr_core.cli.parsing import add_command

POSE = ('X', 'Y', 'Z', 'QX', 'QY', 'QZ', 'QW')


def add_parsers(verbs: Any) -> None:
    """Add the verbs to `map`."""
    for add in (_add_verify, _add_merge, _add_prune, _add_convert, _add_export):
        add(verbs)


def _add_verify(verbs: Any) -> None:
    verb = add_command(verbs, 'verify', 'check every byte of a map; say what is lost',
                       'regvpr map verify site', 'regvpr map verify site --salvage mended')
    verb.add_argument('map', type=Path, metavar='MAP')
    verb.add_argument('--salvage', type=Path, metavar='OUT',
                      help='write the sound keyframes to a new map')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_verify)


def _add_merge(verbs: Any) -> None:
    verb = add_command(verbs, 'merge', 'merge several maps of one model',
                       'regvpr map merge day dusk --estimate --out site')
    verb.add_argument('maps', type=Path, nargs='+', metavar='MAP',
                      help='two or more; the first gives the frame')
    verb.add_argument('--out', type=Path, required=True, metavar='OUT', help='folder to create')
    how = verb.add_mutually_exclusive_group(required=True)
    how.add_argument('--transform', type=float, nargs=7, action='append', metavar=POSE,
                     help='of a further map in the frame of the first; once for each, in order')
    how.add_argument('--estimate', action='store_true',
                     help='find the transforms from places that both maps have seen')
    how.add_argument('--same-frame', action='store_true',
                     help='the poses of all maps are in one frame already')
    verb.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                      help='one setting of --estimate, e.g. dof=6 (maps that are not level)')
    verb.add_argument('--rename-cameras', action='store_true',
                      help='if cameras of one name differ, keep both under two names')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_merge)


def _add_prune(verbs: Any) -> None:
    verb = add_command(verbs, 'prune', 'remove look-alike or redundant keyframes',
                       'regvpr map prune site --distance-m 2 --ambiguous --out smaller')
    verb.add_argument('map', type=Path, metavar='MAP')
    verb.add_argument('--out', type=Path, metavar='OUT', help='folder to create')
    verb.add_argument('--distance-m', type=float, default=0.0, metavar='M',
                      help='keep keyframes of one camera and source at least so far apart')
    verb.add_argument('--ambiguous', action='store_true',
                      help='remove keyframes that are as similar to a far place as to their own')
    verb.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                      help='one setting, e.g. far_m=50')
    verb.add_argument('--dry-run', action='store_true', help='count only, write nothing')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_prune)


def _add_convert(verbs: Any) -> None:
    verb = add_command(verbs, 'convert', 'describe the places of a map with another model',
                       'regvpr map convert site --model gem_vits14 --bag DRIVE.mcap --out other')
    verb.add_argument('map', type=Path, metavar='MAP')
    verb.add_argument('--model', required=True, help='model name or checkpoint file')
    verb.add_argument('--out', type=Path, required=True, metavar='OUT', help='folder to create')
    verb.add_argument('--bag', type=Path, nargs='+', default=[], metavar='SOURCE',
                      help='bags or folders with the images; else the stored thumbnails')
    verb.add_argument('--no-thumbnails', action='store_true',
                      help='leave out keyframes whose image is in no SOURCE')
    verb.add_argument('--device', default='auto', help='auto, cpu, cuda, mps')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_convert)


def _add_export(verbs: Any) -> None:
    verb = add_command(verbs, 'export', 'write the places as CSV, GeoJSON or NPZ',
                       'regvpr map export site -o places.geojson')
    verb.add_argument('map', type=Path, metavar='MAP')
    verb.add_argument('-o', '--out', type=Path, required=True, metavar='FILE',
                      help='FILE.csv, FILE.geojson or FILE.npz')
    verb.add_argument('--local', action='store_true',
                      help='GeoJSON in metres of the map frame, for maps without an origin')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_export)


def run_verify(options: argparse.Namespace) -> None:
    """Check a map; exit code 1 if data is lost and no repaired copy was written."""
    from regvpr_core.errors import MapError
    from regvpr_core.map_tools.verify import salvage, verify

    with bar('keyframes') as progress:
        report = verify(options.map, progress)
    facts = {'map': str(options.map), **report.facts()}
    if options.salvage and not report.sound:
        facts['salvaged_keyframes'] = salvage(options.map, options.salvage, report)
        facts['salvaged_to'] = str(options.salvage)
    print_facts(facts, options.json)
    if not (report.sound or options.salvage):
        raise MapError(f'map {options.map} is damaged: {len(report.lost)} of {report.keyframes} '
                       f'keyframes are lost; {report.what_works()}')


def run_merge(options: argparse.Namespace) -> None:
    """Merge maps."""
    from regvpr_core.map_tools.merge import merge_maps
    from regvpr_core.maps.files import refuse_existing
    from regvpr_core.maps.place_map import PlaceMap

    refuse_existing(options.out)
    with contextlib.ExitStack() as stack:
        maps = [stack.enter_context(PlaceMap.open(path, index='none')) for path in options.maps]
        transforms, facts = _transforms(maps, options)
        with bar('keyframes') as progress:
            report = merge_maps(maps, transforms, options.out,
                                rename_cameras=options.rename_cameras, progress=progress)
    print_facts({
        'map': str(options.out), 'keyframes': sum(report.keyframes.values()),
        **{f'from {path}': count for path, count in report.keyframes.items()}, **facts,
        'cameras': report.cameras, 'size_mb': round(report.size_bytes / 1e6, 2),
        **({'notes': report.notes} if report.notes else {})}, options.json,
        f'regvpr map show {options.out}')


def _transforms(maps: list[Any], options: argparse.Namespace) -> tuple[list[Any], dict[str, Any]]:
    """`T_first_other` of each map after the first, and lines about them for the user."""
    import numpy as np

    from regvpr_core.config import with_overrides
    from regvpr_core.errors import ConfigError, MapError
    from regvpr_core.geometry import pose_matrix, quat_xyzw
    from regvpr_core.map_tools.alignment import align_maps, AlignmentConfig
    from regvpr_core.map_tools.merge import check_model

    if len(maps) < 2:
        raise ConfigError('merge takes two or more maps')
    if options.transform:
        if len(options.transform) != len(maps) - 1:
            raise ConfigError(f'{len(options.transform)} times --transform for {len(maps)} maps; '
                              f'expected one for each map but the first')
        try:
            return [pose_matrix(v[:3], v[3:]) for v in options.transform], {}
        except ValueError as error:
            raise ConfigError(f'--transform: {error}') from error
    first = maps[0].manifest
    for other in maps[1:]:
        check_model(maps[0], other)
        if options.same_frame and other.manifest.origin != first.origin:
            raise MapError(f'{other.path} is not in the frame of {maps[0].path}: their origins '
                           f'on the Earth differ ({other.manifest.origin or "none"} and '
                           f'{first.origin or "none"}); give --estimate or --transform')
    if options.same_frame:
        return [np.eye(4) for _ in maps[1:]], {}
    config = with_overrides(AlignmentConfig(), options.set)
    found = [align_maps(maps[0], other, config) for other in maps[1:]]
    facts: dict[str, Any] = {}
    for other, a in zip(maps[1:], found, strict=True):
        facts[f'transform of {other.path}'] = [
            round(float(v), 6) for v in (*a.T_a_b[:3, 3], *quat_xyzw(a.T_a_b))]
        facts[f'agreement of {other.path}'] = (
            f'{a.inliers} of {a.matches} matched places, {a.rms_m:.2f} m apart (rms)')
    return [a.T_a_b for a in found], facts


def run_prune(options: argparse.Namespace) -> None:
    """Prune a map."""
    from regvpr_core.config import with_overrides
    from regvpr_core.errors import ConfigError
    from regvpr_core.map_tools.prune import choose, prune_map, PruneConfig
    from regvpr_core.maps.files import refuse_existing
    from regvpr_core.maps.place_map import PlaceMap

    config = with_overrides(
        PruneConfig(distance_m=options.distance_m, ambiguous=options.ambiguous), options.set)
    if not (config.distance_m or config.ambiguous):
        raise ConfigError('nothing to drop; give --distance-m M, --ambiguous or both')
    if not options.dry_run:
        if options.out is None:
            raise ConfigError('--out OUT is missing: the folder for the pruned map')
        refuse_existing(options.out)
    with PlaceMap.open(options.map, index='auto' if config.ambiguous else 'none') as place_map:
        with bar('keyframes') as progress:
            report = choose(place_map, config, progress)
        facts: dict[str, Any] = {'map': str(options.map), 'keyframes': len(place_map)}
        if config.ambiguous:
            facts |= {'ambiguous': int(report.ambiguous.sum()), 'not judged': report.unjudged}
        if config.distance_m:
            facts['too dense'] = int(report.dense.sum())
        facts['kept'] = len(report.kept)
        if not options.dry_run:
            prune_map(place_map, report, options.out)
            facts |= {'written to': str(options.out),
                      'size_mb': round(report.size_bytes / 1e6, 2)}
    print_facts(facts, options.json, '' if options.dry_run else f'regvpr map show {options.out}')


def run_convert(options: argparse.Namespace) -> None:
    """Describe the places of a map with another model."""
    from regvpr_core.maps.files import refuse_existing
    from regvpr_core.maps.place_map import PlaceMap

    refuse_existing(options.out)
    console = Console(stderr=True)
    with contextlib.ExitStack() as stack:
        place_map = stack.enter_context(PlaceMap.open(options.map, index='none'))
        from regvpr_core.map_tools.convert import convert_map, features_for
        from regvpr_core.models.encoder import load_encoder

        unclear: set[int] = set()
        originals = keyframe_images(place_map, options.bag, unclear, console)
        with download_bar(console) as fetched:
            encoder = load_encoder(options.model, options.device, download=True, progress=fetched,
                                   notice=lambda line: say(console, line, 'dim'))
        say_model(console, encoder)
        with bar('places') as progress:
            features = features_for(encoder, place_map.manifest.features)
            report = convert_map(place_map, encoder, options.out, originals,
                                 thumbnails=not options.no_thumbnails, features=features,
                                 progress=progress)
    facts: dict[str, Any] = {
        'map': str(options.out), 'model': encoder.name, 'keyframes': report.kept,
        'from pictures': report.from_originals, 'from thumbnails': report.from_thumbnails,
        'left out': report.left_out, 'local features': features or 'none',
        'size_mb': round(report.size_bytes / 1e6, 2)}
    if unclear:
        facts['not told apart'] = len(unclear)
        say(console, f'{len(unclear)} keyframes share their name, or camera and stamp, with '
                     f'others: their images are not known, and none was used', 'yellow')
    if report.first_error:
        facts['first image error'] = report.first_error
    print_facts(facts, options.json, f'regvpr map calibrate {options.out}')


def keyframe_images(place_map: Any, sources: list[Path], unclear: set[int], console: Console
                    ) -> Iterator[Any]:
    """Original images of the keyframes, from bags and folders.

    Keyframes that cannot be told apart by image name, or by camera and stamp, are added to
    `unclear`.
    """
    from regvpr_core.errors import BagError
    from regvpr_core.map_tools.convert import from_folder, Recorded, source_of
    from regvpr_core.recordings.sources import is_folder

    taken_for: dict[str, Path] = {}
    for path in sources:
        if not path.exists():
            raise BagError(f'{path} does not exist')
        source = source_of(place_map, path)
        if source is None:
            say(console, f'no source of the map has the name of {path}: its images are matched '
                         f'with keyframes of all sources, by name, or camera and stamp',
                'yellow')
        elif (other := taken_for.setdefault(source, path)) != path:
            say(console, f'{other} and {path} both count as source {source} of the map',
                'yellow')

    def found() -> Iterator[Any]:
        given: set[int] = set()
        for path in sources:
            for i, picture in (from_folder(place_map, path, unclear) if is_folder(path) else
                               _bag_pictures(path, Recorded(place_map, path), unclear)):
                given.add(i)
                yield i, picture
        unclear.difference_update(given)

    return found()


def _bag_pictures(path: Path, recorded: Any, unclear: set[int]
                  ) -> Iterator[tuple[int, Callable[[], Any]]]:
    from functools import partial

    from regvpr_core.recordings.bags import Bag, camera_name, IMAGE_TYPES
    from regvpr_core.recordings.messages import image_rgb, stamp_ns

    with Bag(path) as bag:
        topics = [topic.name for topic in bag.topics(*IMAGE_TYPES)]
        if not topics:
            return
        for topic, _, time_ns, message in bag.messages(*topics):
            # A map may have been built with the times of recording (--bag-time).
            camera, stamp = camera_name(topic), stamp_ns(message.header.stamp) or time_ns
            ids = recorded.find(camera, stamp) or recorded.find(camera, time_ns)
            if len(ids) == 1:
                yield ids[0], partial(image_rgb, message)
            else:
                unclear.update(ids)


def run_export(options: argparse.Namespace) -> None:
    """Write the places of a map for other programs."""
    from regvpr_core.map_tools.export import export_map
    from regvpr_core.maps.place_map import PlaceMap

    with PlaceMap.open(options.map, index='none') as place_map:
        size = export_map(place_map, options.out, local=options.local)
        count = len(place_map)
    print_facts({'file': str(options.out), 'keyframes': count, 'size_mb': round(size / 1e6, 3)},
                options.json)
