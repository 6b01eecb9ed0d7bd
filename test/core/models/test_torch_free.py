"""Where torch is not installed: imports, NumPy preprocessing, maps and localization by ONNX."""

import json
import os
from pathlib import Path
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from regvpr_core.cli import main
from regvpr_core.errors import ConfigError, MapError
from regvpr_core.images import read
from regvpr_core.models import encoder as encoder_module
from regvpr_core.models.encoder import load_encoder
from regvpr_core.models.preprocessing import network_input, numpy_input, Preprocessing
from regvpr_core.search.gpu import GpuIndex

ROOT = Path(__file__).resolve().parents[3]

BLOCKED = """
from importlib.machinery import PathFinder
import sys
class Hiding(PathFinder):  # as if these were not installed
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = ('torch', 'torchvision', 'kornia', 'onnx', 'transformers')
        return None if name.split('.')[0] in hidden else super().find_spec(name, path, target)
sys.meta_path = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
"""

WALK = BLOCKED + """
import importlib, json, pkgutil
import regvpr_core
names, failed = [], {}
for module in pkgutil.walk_packages(regvpr_core.__path__, 'regvpr_core.', lambda name: None):
    if module.name.endswith('__main__'):
        continue
    try:
        importlib.import_module(module.name)
        names.append(module.name)
    except ImportError as error:
        failed[module.name] = str(error)
print(json.dumps([names, failed]))
"""

COMMAND = BLOCKED + """
from regvpr_core.cli import main
sys.exit(main(sys.argv[1:]))
"""

MAY_NEED_TORCH = ('regvpr_core.training', 'regvpr_core.evaluation', 'regvpr_core.models')
NEEDS_NO_TORCH = {f'regvpr_core.models.{name}' for name in (
    'backbones', 'catalogue', 'downloads', 'encoder', 'onnx_engine', 'preprocessing', 'record')}


def run_blocked(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python in which torch cannot be imported."""
    return subprocess.run([sys.executable, '-c', script, *arguments], text=True, timeout=120,
                          capture_output=True, check=False, cwd=ROOT,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)})


@pytest.fixture(scope='module')
def exported(tmp_path_factory, small_model):
    """The small model as ONNX with patch tokens."""
    pytest.importorskip('onnxruntime')
    path = tmp_path_factory.mktemp('onnx') / 'small.onnx'
    assert main(['export', str(small_model), '-o', str(path), '--tokens', '--json']) == 0
    return path


def test_all_that_maps_localizes_and_searches_imports_without_torch():
    run = run_blocked(WALK)
    assert run.returncode == 0, run.stderr
    names, failed = json.loads(run.stdout)
    assert set(names) >= NEEDS_NO_TORCH
    assert {'regvpr_core.localization.localizer', 'regvpr_core.mapping.builder',
            'regvpr_core.verification.verification', 'regvpr_core.cli.doctor'} <= set(names)
    assert {name: why for name, why in failed.items()
            if not name.startswith(MAY_NEED_TORCH)} == {}
    assert all('torch' in why for why in failed.values())


@pytest.mark.parametrize('interpolation', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('size', [(720, 1280), (480, 640), (120, 160), (30, 500), (57, 56),
                                  (56, 84), (1, 1), (1200, 17)])
def test_numpy_preprocessing_is_that_of_torch(size, interpolation, noise):
    rgb = cv2.resize(noise(1)[0], size[::-1], interpolation=cv2.INTER_CUBIC)
    shown = Preprocessing(height=56, width=84, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3),
                          interpolation=interpolation)
    theirs = network_input(rgb, shown, torch.device('cpu')).numpy()
    ours = numpy_input(rgb, shown)
    assert ours.shape == theirs.shape == (1, 3, 56, 84)
    assert ours.dtype == np.float32
    levels = np.abs(ours - theirs) * 255.0 * np.array(shown.std)[:, None, None]
    assert levels.max() < 1.1
    assert (levels > 0.5).mean() < 0.001
    cosine = (ours * theirs).sum() / np.linalg.norm(ours) / np.linalg.norm(theirs)
    assert cosine > 0.9999


def test_numpy_preprocessing_averages_what_it_shrinks():
    stripes = np.zeros((64, 400, 3), np.uint8)
    stripes[:, ::2] = 200
    grey = numpy_input(stripes, Preprocessing(height=14, width=28, mean=(0, 0, 0),
                                              std=(1, 1, 1))) * 255
    np.testing.assert_allclose(grey, 100.0, atol=2.5)  # plain sampling would give 0 and 200


def test_onnxruntime_describes_photos_as_torch_does(exported, small_encoder, real_data):
    files = sorted(real_data('boofcv_scenes').rglob('*.jpg'))[:8]
    images = [read(file) for file in files]
    theirs = load_encoder(exported, 'cpu').describe_batch(images)
    ours = small_encoder.describe_batch(images)
    assert (ours * theirs).sum(axis=1).min() > 0.9999


def test_a_map_of_torch_is_driven_by_onnx_without_torch_and_the_other_way_round(
    exported, small_model, make_bag, frames, noise, tmp_path
):
    bag = make_bag(tmp_path / 'bag', frames(10))
    photos = tmp_path / 'photos'
    photos.mkdir()
    for number, rgb in enumerate(noise(10)):
        cv2.imwrite(str(photos / f'{number}.png'), rgb[..., ::-1])
    by_torch, by_onnx = tmp_path / 'by_torch', tmp_path / 'by_onnx'
    settings = ['--set', 'keyframes.distance_m=0.5', '--features', 'patch']
    assert main(['map', 'build', str(bag), '--out', str(by_torch), '--model', str(small_model),
                 *settings]) == 0
    built = run_blocked(COMMAND, 'map', 'build', str(bag), '--out', str(by_onnx),
                        '--model', str(exported), *settings)
    assert built.returncode == 0, built.stderr
    for place_map in (by_torch, by_onnx):
        found = run_blocked(COMMAND, 'localize', str(place_map), str(photos), '--model',
                            str(exported), '--json')
        assert found.returncode == 0, found.stderr
        lines = json.loads(found.stdout)
        assert [line['keyframe'] for line in lines] == list(range(10))
        assert min(line['similarity'] for line in lines) > 0.999
    assert main(['localize', str(by_onnx), str(photos), '--model', str(small_model),
                 '--json']) == 0


def test_what_needs_torch_says_so_and_how_to_get_it(small_model, noise, tmp_path):
    cv2.imwrite(str(tmp_path / 'one.png'), noise(1)[0])
    for arguments in (['describe', str(tmp_path / 'one.png'), '--model', str(small_model)],
                      ['export', 'gem_vits14', '-o', 'model.onnx']):
        run = run_blocked(COMMAND, *arguments)
        assert run.returncode == 1
        assert "needs torch: pip install 'regvpr_ros[torch]'" in run.stderr
        assert 'Traceback' not in run.stderr


def test_the_gpu_index_and_a_checkpoint_say_that_torch_is_missing(small_model, monkeypatch):
    monkeypatch.setattr(encoder_module.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ConfigError, match=r'needs torch: pip install .*regvpr export'):
        load_encoder(small_model)
    with pytest.raises(MapError, match='index gpu needs torch'):
        GpuIndex(None)
