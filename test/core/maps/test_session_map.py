"""The session's own map on disk."""

import subprocess
import sys

import numpy as np

from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.session_map import SessionMap

KILLED_WHILE_IT_MADE_THE_DATABASE = """
import os, sys
from pathlib import Path
from regvpr_core.maps import files as map_files
from regvpr_core.maps import writer as map_writer
from regvpr_core.maps.session_map import SessionMap

def killed(file, manifest):
    file.touch()
    os._exit(9)

map_writer.create_database = killed
SessionMap(Path(sys.argv[1]), map_files.Manifest(
    map_id='0' * 32, model='m', fingerprint='0' * 64, dimension=4))
"""


def manifest() -> Manifest:
    return Manifest(map_id='0' * 32, model='m', fingerprint='0' * 64, dimension=4)


def test_keyframes_are_committed_eight_at_a_time_and_at_the_end(tmp_path):
    session = SessionMap(tmp_path / 'new' / 'part001', manifest())
    for i in range(10):
        session.add(i, 'camera', np.eye(4, dtype=np.float32)[i % 4], np.eye(4), None)
    with PlaceMap.open(tmp_path / 'new' / 'part001') as found:
        assert len(found) == 8
    session.close()
    with PlaceMap.open(tmp_path / 'new' / 'part001') as found:
        assert found.stamps_ns.tolist() == list(range(10))


def test_a_process_killed_while_it_began_leaves_no_map_that_cannot_be_opened(tmp_path):
    path = tmp_path / 'part001'
    code = subprocess.run(
        [sys.executable, '-c', KILLED_WHILE_IT_MADE_THE_DATABASE, str(path)], check=False)
    assert code.returncode == 9
    assert not path.exists()
    SessionMap(path, manifest()).close()
    with PlaceMap.open(path) as found:
        assert len(found) == 0
