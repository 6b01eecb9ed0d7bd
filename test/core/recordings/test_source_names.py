"""Sources of one name get longer ones."""

from pathlib import Path

import pytest

from regvpr_core.recordings.frames import PosedFrame, PosedSource
from regvpr_core.recordings.source_names import distinct, path_names


def named(*paths: str) -> list[PosedSource]:
    def source(name: str) -> PosedSource:
        frame = PosedFrame(stamp_ns=1, camera='front', T_map_cam=None, decode=lambda: None,
                           source=name)
        return PosedSource(name=name, poses='', world='', frames=lambda: iter([frame]), total=1,
                           identity={'name': name, 'bytes': 7})

    return distinct([source(Path(path).absolute().name) for path in paths], list(map(Path, paths)))


@pytest.mark.parametrize(('paths', 'names'), [
    (['a/lap', 'b/run'], ['lap', 'run']),
    (['day/images', 'lap', 'dusk/images'], ['day/images', 'lap', 'dusk/images']),
    (['/a/day/images', '/b/day/images', '/c/dusk/images'],
     ['a/day/images', 'b/day/images', 'c/dusk/images']),
    (['/images', '/a/images'], ['images', 'a/images']),
    (['/a/x', '/b/x', '/a/y', '/b/y'], ['a/x', 'b/x', 'a/y', 'b/y']),
    (['lap', 'lap'], ['lap', 'lap']),  # it is the same
    (['/a/lap', '/b/lap', '/a/lap'], ['a/lap', 'b/lap', 'a/lap'])])
def test_only_sources_of_one_name_are_renamed_and_then_differ(paths, names):
    sources = named(*paths)
    assert [source.name for source in sources] == names
    assert [source.identity for source in sources] == [{'name': n, 'bytes': 7} for n in names]
    assert [frame.source for source in sources for frame in source.frames()] == names
    for path, name in zip(paths, names, strict=True):
        assert name in path_names(Path(path))
