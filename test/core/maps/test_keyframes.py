import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from regvpr_core.errors import ConfigError
from regvpr_core.maps.keyframes import KeyframeConfig, KeyframeSelector


def pose(x: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    T = np.eye(4)
    T[0, 3] = x
    T[:3, :3] = Rotation.from_euler('z', yaw_deg, degrees=True).as_matrix()
    return T


def kept(poses, config: KeyframeConfig, camera: str = 'front') -> list[int]:
    selector, ids = KeyframeSelector(config), []
    for i, T in enumerate(poses):
        if selector.is_new(camera, T):
            selector.keep(camera, T)
            ids.append(i)
    return ids


def test_a_step_of_the_distance_makes_a_keyframe():
    poses = [pose(0.25 * i) for i in range(13)]
    assert kept(poses, KeyframeConfig(distance_m=1.0)) == [0, 4, 8, 12]
    assert kept(poses, KeyframeConfig(distance_m=0.6)) == [0, 3, 6, 9, 12]


def test_a_turn_on_the_spot_makes_one_too():
    poses = [pose(yaw_deg=10.0 * i) for i in range(10)]
    assert kept(poses, KeyframeConfig(rotation_rad=np.radians(30.0))) == [0, 3, 6, 9]


def test_zero_keeps_every_frame_and_the_world_does_not_matter():
    assert kept([pose()] * 4, KeyframeConfig(distance_m=0.0, rotation_rad=0.0)) == [0, 1, 2, 3]
    rng = np.random.default_rng(0)
    poses = [pose(x, yaw) for x, yaw in zip(np.cumsum(rng.uniform(0, 0.5, 80)),
                                            np.cumsum(rng.normal(0, 4, 80)), strict=True)]
    G = np.eye(4)
    G[:3, :3] = Rotation.random(rng=rng).as_matrix()
    G[:3, 3] = rng.normal(scale=100.0, size=3)
    want = kept(poses, KeyframeConfig())
    assert kept([G @ T for T in poses], KeyframeConfig()) == want
    assert 10 < len(want) < 50


def test_cameras_are_told_apart():
    selector = KeyframeSelector(KeyframeConfig())
    selector.keep('front', pose())
    assert not selector.is_new('front', pose(0.5))
    assert selector.is_new('rear', pose(0.5))


def test_time_makes_keyframes_where_it_is_wanted():
    second = 10**9
    for time_s, want in ((0.0, [0]), (3.0, [0, 3, 6, 9]), (1.0, list(range(10)))):
        selector = KeyframeSelector(KeyframeConfig(time_s=time_s))
        ids = []
        for i in range(10):
            if selector.is_new('front', pose(), i * second):
                selector.keep('front', pose(), i * second)
                ids.append(i)
        assert ids == want
    # A clock that was set back counts as well.
    selector = KeyframeSelector(KeyframeConfig(time_s=3.0))
    selector.keep('front', pose(), 100 * second)
    assert selector.is_new('front', pose(), 90 * second)


def test_what_the_selector_remembers_survives_json_to_the_last_bit():
    rng = np.random.default_rng(0)
    T = pose(1.0 / 3.0)
    T[:3, :3] = Rotation.random(rng=rng).as_matrix()
    selector, other = (KeyframeSelector(KeyframeConfig()) for _ in range(2))
    selector.keep('front', T, 1_700_000_000_123_456_789)
    other.restore(json.loads(json.dumps(selector.state())))
    assert other.state() == selector.state()


def test_a_frame_that_was_not_kept_does_not_count():
    selector = KeyframeSelector(KeyframeConfig(distance_m=1.0))
    selector.keep('front', pose(0.0))
    assert selector.is_new('front', pose(1.5))
    assert selector.is_new('front', pose(1.6))


@pytest.mark.parametrize(('settings', 'message'), [
    ({'distance_m': -1.0}, 'keyframes.distance_m is -1.0; expected 0.0 to 1000.0'),
    ({'time_s': -1.0}, 'keyframes.time_s is -1.0; expected 0.0 to 86400.0'),
    ({'rotation_rad': 4.0}, 'keyframes.rotation_rad is 4.0; expected 0.0 to 3.2')])
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        KeyframeConfig(**settings)
