"""A map on its way to its name, stopped between any two steps: its keyframes are never lost."""

from collections.abc import Callable
from pathlib import Path
import sqlite3

import pytest

from regvpr_core.errors import MapError
from regvpr_core.map_tools.verify import verify
from regvpr_core.mapping import partial_map
from regvpr_core.mapping.partial_map import kept_keyframes, partial_folder, PartialMap
from regvpr_core.maps import files as map_files
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter

ABOUT = {'source': 'lap'}
COUNT = 6


class Killed(BaseException):
    """Nothing in the library catches it."""


@pytest.fixture
def build(tmp_path, manifest, rows, place) -> Callable[..., int]:
    """Build `map` of six keyframes, or go on with it; gives how many were there before."""
    def run(resume: bool = False) -> int:
        with PartialMap(tmp_path / 'map', manifest, ABOUT, resume=resume) as partial:
            before = len(partial)
            for start in range(before, COUNT, 2):
                partial.commit([place(i, rows(COUNT)[i]) for i in (start, start + 1)], {})
            partial.finish()
        return before
    return run


def stop_at(patch: pytest.MonkeyPatch, step: int, where: Callable[[], bool]) -> list[str]:
    """Be killed before the `step`th call that changes names, of those made where that holds."""
    made: list[str] = []

    def wrap(owner: object, name: str) -> None:
        call = getattr(owner, name)

        def counted(*arguments, **more):
            if where():
                if len(made) == step:
                    raise Killed
                made.append(name)
            return call(*arguments, **more)
        patch.setattr(owner, name, counted)

    for name in ('unlink', 'replace', 'rmdir'):
        wrap(Path, name)
    wrap(partial_map, 'sync_folder')
    return made


@pytest.mark.parametrize('step', range(9))
def test_a_build_killed_between_any_two_steps_of_its_end_loses_nothing(
        build, tmp_path, monkeypatch, step):
    path, close, closed = tmp_path / 'map', PartialMap._close, []
    with monkeypatch.context() as patch:
        patch.setattr(PartialMap, '_close', lambda self: (close(self), closed.append(True)))
        made = stop_at(patch, step, lambda: bool(closed))
        if step == 8:
            build()
        else:
            with pytest.raises(Killed):
                build()
    assert made == ['unlink', 'replace', 'sync_folder', *['unlink'] * 4, 'sync_folder'][:step]
    assert path.exists() == (step > 1)
    assert path.exists() != partial_folder(path).exists()
    if not path.exists():
        assert kept_keyframes(path) == COUNT
        with pytest.raises(MapError, match=r'an earlier build of .* was interrupted'):
            build()
        assert build(resume=True) == COUNT
    notes = ['about.json', 'no probe', 'state-0.json', 'state-1.json'] if step > 1 else []
    assert {p.name for p in path.iterdir()} == {
        'descriptors.f16', 'map.db', *notes[max(0, step - 3):]} - {'no probe'}
    assert verify(path).sound
    with PlaceMap.open(path) as place_map:
        assert len(place_map) == COUNT
    MapWriter.append_to(path).close()


def test_a_map_that_came_meanwhile_is_named_and_stops_nothing_for_good(
        build, tmp_path, monkeypatch):
    close = PartialMap._close
    with monkeypatch.context() as patch:
        patch.setattr(PartialMap, '_close',
                      lambda self: (close(self), (tmp_path / 'map').mkdir(exist_ok=True)))
        with pytest.raises(MapError) as error:
            build()
    assert str(error.value) == (
        f'{tmp_path / "map"} was created by another program during the build; remove it and '
        f'continue with --resume: the map is in {tmp_path / ".map.partial"}')
    for resume in (False, True):
        with pytest.raises(MapError) as error:
            build(resume=resume)
        assert str(error.value) == (
            f'{tmp_path / "map"} exists; choose a new folder for the map or remove it; {COUNT} '
            f'keyframes of an unfinished build are kept in {tmp_path / ".map.partial"}: --resume '
            f'goes on with them once {tmp_path / "map"} is gone')
    (tmp_path / 'map').rmdir()
    assert build(resume=True) == COUNT


def test_a_map_whose_notes_are_gone_is_kept(build, tmp_path, monkeypatch):
    """So an earlier version left a finished map when it was killed."""
    with monkeypatch.context() as patch:
        stop_at(patch, 0, lambda: (tmp_path / '.map.partial' / 'state-0.json').exists())
        with pytest.raises(Killed):
            build()
    kept = kept_keyframes(tmp_path / 'map')
    for file in partial_folder(tmp_path / 'map').glob('*.json'):
        file.unlink()
    assert kept_keyframes(tmp_path / 'map') == kept > 0
    with pytest.raises(MapError, match=r'an earlier build of .* was interrupted'):
        build()
    with pytest.raises(MapError, match='its sources and settings cannot be read'):
        build(resume=True)
    # Not even where its database cannot be read is it taken for one that was hardly begun.
    (partial_folder(tmp_path / 'map') / 'map.db').write_bytes(b'torn')
    for resume in (False, True):
        with pytest.raises(MapError, match='damaged'):
            build(resume)
    assert (partial_folder(tmp_path / 'map') / 'descriptors.f16').stat().st_size > 0


@pytest.mark.parametrize('left', [{}, {'map.db': b''}, {'map.db': b'torn'},
                                  {'map.db': b'torn', 'map.db-journal': b'hot'}])
def test_a_build_killed_while_its_database_was_made_is_begun_anew(build, tmp_path, left):
    """A rollback journal of ours, too: `map.db` has one until it is in WAL mode."""
    folder = partial_folder(tmp_path / 'map')
    folder.mkdir()
    (folder / 'descriptors.f16').touch()
    for name, data in left.items():
        (folder / name).write_bytes(data)
    assert kept_keyframes(tmp_path / 'map') == 0
    assert build() == 0
    assert verify(tmp_path / 'map').sound


def test_a_build_that_is_cleared_and_killed_in_between_is_none_to_resume(
        build, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(PartialMap, 'finish', PartialMap.discard)
        made = stop_at(patch, 1, lambda: not (tmp_path / 'map').exists() and kept(tmp_path))
        with pytest.raises(Killed):
            build()
    assert made == ['unlink']
    assert not (partial_folder(tmp_path / 'map') / 'map.db').exists()
    assert kept_keyframes(tmp_path / 'map') == 0
    assert build() == 0


def kept(folder: Path) -> bool:
    """Whether the descriptors of the whole map are there."""
    file = folder / '.map.partial' / 'descriptors.f16'
    return file.exists() and file.stat().st_size == COUNT * 32


def test_what_is_noted_of_a_build_is_synced_by_name(tmp_path, manifest, monkeypatch, rows, place):
    """A file whose name is not on the disk is gone after a power cut, whatever was synced."""
    seen: list[set[str]] = []
    sync = map_files.sync_folder
    monkeypatch.setattr(partial_map, 'sync_folder', lambda path: (
        seen.append({p.name for p in path.iterdir()}), sync(path)))
    with PartialMap(tmp_path / 'map', manifest, ABOUT, resume=False) as partial:
        assert any('about.json' in names for names in seen)
        assert any('.map.partial' in names for names in seen)
        partial.commit([place(0, rows(1)[0])], {})
        assert any('state-1.json' in names for names in seen)
        synced = len(seen)
        for i in range(1, 4):
            partial.commit([place(i, rows(1)[0])], {})
        assert len(seen) == synced + 1  # the other state's; then both are known


def test_a_database_that_is_made_leaves_no_journal(tmp_path, manifest):
    map_files.create_database(tmp_path / 'map.db', manifest)
    assert [p.name for p in tmp_path.iterdir()] == ['map.db']
    with sqlite3.connect(tmp_path / 'map.db') as database:
        assert database.execute('PRAGMA journal_mode').fetchone() == ('wal',)
