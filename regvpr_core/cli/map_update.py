"""`regvpr map update | history | undo`."""

import argparse
from collections.abc import Iterator
import contextlib
from pathlib import Path
import tempfile
from typing import Any

from rich.console import Console

from regvpr_core.cli.console import bar, print_facts, say, say_model
from regvpr_core.cli.parsing import add_command
from regvpr_core.errors import MapError


def add_parsers(verbs: Any) -> None:
    """Add the verbs to `map`."""
    verb = add_command(
        verbs, 'update', 'improve a map by later sessions',
        'regvpr map update site ~/sessions/monday --dry-run',
        'regvpr map update site ~/sessions/monday evening.mcap',
        description='Localize sessions in the map, add what the map lacks (new places, known '
                    'places in another light), remove redundant keyframes, calibrate again. '
                    'The map is replaced in one step; `regvpr map undo` brings the old one back.')
    verb.add_argument('map', type=Path, metavar='MAP')
    verb.add_argument('sessions', type=Path, nargs='+', metavar='SESSION',
                      help='session maps of the node, or bags and folders with poses')
    verb.add_argument('--same-frame', action='store_true',
                      help='the poses of the sessions are in the frame of the map')
    verb.add_argument('--dry-run', action='store_true', help='say what would change')
    verb.add_argument('--model', help="of a map whose model is a file: the checkpoint, to read "
                                      "bags and folders with (default: the map's)")
    verb.add_argument('--keep', type=int, default=3, metavar='N',
                      help='earlier versions that are kept (default: 3)')
    verb.add_argument('--set', action='append', default=[], metavar='KEY=VALUE',
                      help='one setting, e.g. max_keyframes=20000 or margin=0.1')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_update)
    verb = add_command(verbs, 'history', 'earlier versions of a map', 'regvpr map history site')
    verb.add_argument('map', type=Path, metavar='MAP')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_history)
    verb = add_command(verbs, 'undo', 'exchange a map with its last earlier version',
                       'regvpr map undo site')
    verb.add_argument('map', type=Path, metavar='MAP')
    verb.add_argument('--json', action='store_true', help='print JSON')
    verb.set_defaults(run=run_undo)


def run_update(options: argparse.Namespace) -> None:
    """Improve a map by sessions."""
    from regvpr_core.config import check_range, with_overrides
    from regvpr_core.map_tools.update import UpdateConfig
    from regvpr_core.map_tools.update_map import update_map
    from regvpr_core.maps.files import no_map

    check_range('--keep', options.keep, 1, 1000)
    if not (options.map / 'map.db').is_file():  # before a session is read
        raise MapError(no_map(options.map))
    config = with_overrides(UpdateConfig(), options.set)
    with contextlib.ExitStack() as stack:
        sessions = [stack.enter_context(_session(path, options.map, options.model))
                    for path in options.sessions]
        with bar('session keyframes') as progress:
            report = update_map(options.map, sessions, config, same_frame=options.same_frame,
                                dry_run=options.dry_run, keep=options.keep, progress=progress)
    facts: dict[str, Any] = {'map': str(options.map)}
    for path, plan in zip(options.sessions, report.plans, strict=True):
        poses = plan.poses
        facts |= {
            f'session {path.name}': f'{len(poses.localized)} keyframes, '
                                    f'{int(poses.localized.sum())} localized',
            f'  agreement of {path.name}': f'{poses.inliers} of {poses.matches} matches, '
                                           f'{poses.rms_m:.2f} m apart (rms)',
            f'  recognised in {path.name}': plan.recognised,
            f'  known, not recognised in {path.name}': plan.unrecognised,
            f'  new in {path.name}': plan.new,
            f'  added from {path.name}': len(plan.add),
            f'  dropped after {path.name}': f'{int(plan.drop.sum())} ({plan.aged} aged, '
                                            f'{plan.redundant} redundant, '
                                            f'{plan.over_budget} over budget)'}
    facts |= {'keyframes before': report.before, 'keyframes after': report.after,
              'written': not options.dry_run}
    print_facts(facts, options.json, f'regvpr map undo {options.map} (brings the old map back)'
                if not options.dry_run else '')


@contextlib.contextmanager
def _session(path: Path, map_path: Path, model: str | None) -> Iterator[tuple[Path, str]]:
    """Folder of a session map, and the name of its source; a bag is first built into a map.

    model: describes the images of a bag; None: the model of the map.
    """
    console = Console(stderr=True)
    if (path / 'map.db').is_file():
        say(console, f'session {path.name}: compared with map {map_path}', 'dim')
        yield path, path.name
        return
    from regvpr_core.mapping.builder import build_map
    from regvpr_core.mapping.options import BuildOptions
    from regvpr_core.maps.place_map import PlaceMap
    from regvpr_core.models.encoder import load_encoder
    from regvpr_core.recordings.source_kinds import check_source
    from regvpr_core.recordings.sources import open_sources, summary

    check_source(path, 'build a session map with it: regvpr map build FOLDER --table {path} '
                       '--out SESSION')
    with PlaceMap.open(map_path, index='none') as place_map:
        manifest = place_map.manifest
    say(console, f'session {path.name}: read into a map of its own first, by {manifest.model}',
        'dim')
    encoder = load_encoder(model or manifest.model)
    if encoder.fingerprint != manifest.fingerprint:
        raise MapError(f'map {map_path} was built with {manifest.model} '
                       f'({manifest.fingerprint[:12]}), the model here is another one of that '
                       f'name ({encoder.fingerprint[:12]}); give a session map of that '
                       f'model, or bring the map to the one here: `regvpr map convert '
                       f'{map_path} --model {manifest.model} --out NEW`')
    say_model(console, encoder)
    with tempfile.TemporaryDirectory(prefix='regvpr_session_') as folder:
        out = Path(folder) / 'session'
        build = BuildOptions(out=out, features=manifest.features or 'none')
        with (open_sources([path], build.sources, build.config.gps,
                           build.config.max_pose_gap_s) as sources,
              bar(f'images of {path.name}') as told):
            total = sum(source.total for source in sources)
            say(console, summary(sources[0]), 'dim')
            build_map(sources, build, encoder, lambda report: told(report.seen, total)).close()
        yield out, path.stem


def run_history(options: argparse.Namespace) -> None:
    """List the versions of a map."""
    from regvpr_core.map_tools.history import versions

    found = versions(options.map)
    print_facts({
        ('now' if version.number == 0 else f'version {version.number}'):
        f'{version.keyframes} keyframes, {version.size_bytes / 1e6:.1f} MB'
        + (f'; {version.note}' if version.note else '') for version in found}, options.json)
    if len(found) == 1 and not options.json:
        say(Console(stderr=True), 'no earlier version: the map was not updated yet')


def run_undo(options: argparse.Namespace) -> None:
    """Restore the previous version of a map."""
    from regvpr_core.map_tools.history import undo

    version = undo(options.map)
    print_facts({'map': str(options.map), 'keyframes': version.keyframes,
                 'note': version.note or 'as first built'}, options.json)
