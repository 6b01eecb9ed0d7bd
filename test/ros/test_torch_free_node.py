"""The node where torch is not installed, on a map that torch built."""

import os
from pathlib import Path

import pytest
from regvpr_ros.msg import PlaceMatches

from regvpr_core.cli import main

HIDE_TORCH = """
from importlib.machinery import PathFinder
import sys
class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = ('torch', 'torchvision', 'kornia', 'onnx', 'transformers')
        return None if name.split('.')[0] in hidden else super().find_spec(name, path, target)
sys.meta_path = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
"""


def test_the_node_drives_a_map_of_torch_with_an_onnx_file_and_no_torch(
    make_bag, frames, small_model, tmp_path: Path, node, start, heard, wait_until, monkeypatch
):
    pytest.importorskip('onnxruntime')
    model = tmp_path / 'small.onnx'
    assert main(['export', str(small_model), '-o', str(model)]) == 0
    assert main(['map', 'build', str(make_bag(tmp_path / 'bag', frames(30))), '--out',
                 str(tmp_path / 'map'), '--model', str(small_model)]) == 0
    drive = make_bag(tmp_path / 'drive', frames(30, start_s=5000))
    folder = tmp_path / 'hidden'
    folder.mkdir()
    (folder / 'sitecustomize.py').write_text(HIDE_TORCH)
    with monkeypatch.context() as patch:
        patch.setenv('PYTHONPATH', f'{folder}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
        process = node(tmp_path / 'map', '-p', f'model:={model}')
    assert wait_until(lambda: heard.status), process.output
    assert 'exported' in process.output
    replay = start('replay', drive, '--rate', '4')
    assert replay.wait() == 0, replay.output
    assert wait_until(lambda: heard.matches and heard.matches[-1].header.stamp.sec >= 5025)
    localized = [m for m in heard.matches if m.state == PlaceMatches.LOCALIZED]
    assert len(localized) >= 15
    assert all(m.header.stamp.sec - 5000 == pytest.approx(m.matches[0].reference_id, abs=1)
               for m in localized)


def test_the_node_without_torch_says_what_to_install(
    make_bag, frames, small_model, tmp_path: Path, node, wait_until, monkeypatch
):
    assert main(['map', 'build', str(make_bag(tmp_path / 'bag', frames(4))), '--out',
                 str(tmp_path / 'map'), '--model', str(small_model)]) == 0
    folder = tmp_path / 'hidden'
    folder.mkdir()
    (folder / 'sitecustomize.py').write_text(HIDE_TORCH)
    monkeypatch.setenv('PYTHONPATH', f'{folder}{os.pathsep}{os.environ.get("PYTHONPATH", "")}')
    process = node(tmp_path / 'map', '-p', f'model:={small_model}')
    assert wait_until(lambda: "pip install 'regvpr_ros[torch]'" in process.output), process.output
