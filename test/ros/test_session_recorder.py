"""The session on disk: one part a frame of odometry."""

from types import SimpleNamespace

import numpy as np

from regvpr_core.localization.frames import Description, Frame
from regvpr_core.localization.session import SessionConfig
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models.preprocessing import Preprocessing
from regvpr_ros.session_recorder import SessionRecorder

ENCODER = SimpleNamespace(dimension=32, name='made', fingerprint='f' * 64,
                          preprocessing=Preprocessing())
SECOND = 10**9


def view_at(number: int, x: float) -> tuple[SimpleNamespace, Description]:
    T = np.eye(4)
    T[0, 3] = x
    frame = Frame(stamp_ns=number * SECOND, rgb=np.zeros((24, 32, 3), np.uint8),
                  T_base_cam=np.eye(4), camera='camera')
    row = np.random.default_rng(number).normal(size=32).astype(np.float32)
    view = SimpleNamespace(frame=frame, camera='camera', rgb=frame.rgb, T_odom_base=T)
    return view, Description(frame, row / np.linalg.norm(row))


def test_odometry_that_begins_anew_begins_a_new_part_of_the_session(tmp_path):
    recorder = SessionRecorder(ENCODER, SessionConfig(), str(tmp_path / 'session'))
    for number in range(12):
        view, description = view_at(number, 2.0 * number)
        recorder.look(view, description, 'odom')
    for number in range(12, 20):
        view, description = view_at(number, 2.0 * number + 5000.0)
        recorder.look(view, description, 'odom')
    recorder.close()
    parts = sorted((tmp_path / 'session').glob('part*'))
    assert [part.name for part in parts] == ['part001', 'part002']
    with PlaceMap.open(parts[0]) as first, PlaceMap.open(parts[1]) as second:
        assert (len(first), len(second)) == (12, 8)
        assert first.T_map_cam[:, 0, 3].max() < 100.0
        assert second.T_map_cam[:, 0, 3].min() > 5000.0
        assert first.map_id != second.map_id
