"""Sources of a map whose cameras have one name and are not one."""

import pytest

from regvpr_core.errors import BagError
from regvpr_core.recordings.camera_conflicts import refuse_conflicts
from regvpr_core.recordings.frames import PosedSource

FRONT = [0.3, 0.0, 1.2, 0.0, 0.0, 0.0, 1.0]


def lens(f: float, width: int = 640) -> dict[str, dict]:
    return {'front': {'width': width, 'height': 480, 'model': 'plumb_bob', 'D': [],
                      'K': [f, 0, width / 2, 0, f, 240, 0, 0, 1]}}


def source(name: str, **known) -> PosedSource:
    return PosedSource(**({'name': name, 'poses': '', 'world': '', 'frames': lambda: iter(()),
                           'total': 0, 'cameras': ['front']} | known))


@pytest.mark.parametrize(('of_a', 'of_b', 'words'), [
    ({'extrinsics': {'front': FRONT}}, {'extrinsics': {'front': [1.3, *FRONT[1:]]}},
     r'extrinsics \(1.000 m, 0.0 deg apart\) in b than in a; give --extrinsics for both if'),
    ({}, {'extrinsics': {'front': FRONT}}, r'extrinsics \(only one of them knows any\)'),
    ({'intrinsics': lens(500.0)}, {'intrinsics': lens(700.0)},
     r'intrinsics \(f 500.0 and 700.0 px, 640x480 and 640x480\) in b than in a; build a map'),
    ({'intrinsics': lens(500.0)}, {'intrinsics': lens(500.0, 320)},
     r'intrinsics \(f 500.0 and 500.0 px, 640x480 and 320x480\)')])
def test_cameras_of_one_name_that_differ_are_refused(of_a, of_b, words):
    with pytest.raises(BagError, match=f"camera 'front' has other {words}"):
        refuse_conflicts([source('a', **of_a), source('other', cameras=['rear']),
                          source('b', **of_b)])


def test_a_lens_is_compared_with_the_first_that_is_known():
    with pytest.raises(BagError, match=r'intrinsics .* in c than in b;'):
        refuse_conflicts([source('a'), source('b', intrinsics=lens(500.0)),
                          source('c', intrinsics=lens(700.0))])


def test_one_camera_in_several_sources_is_no_conflict():
    """A lens may be unknown to some, and calibrations differ a little."""
    moved = [0.301, *FRONT[1:]]
    refuse_conflicts([
        source('a', extrinsics={'front': FRONT}),
        source('b', extrinsics={'front': moved}, intrinsics=lens(500.0)),
        source('c', extrinsics={'front': FRONT}, intrinsics=lens(501.0)),
        source('d', cameras=['rear'], intrinsics={'rear': lens(900.0)['front']})])
    refuse_conflicts([])
