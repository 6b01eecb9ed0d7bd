"""A real environment of `pip install '.[onnx]'`: no torch in it; map and localize run there."""

import json
import os
from pathlib import Path
import subprocess
import sys

import cv2
import pytest

from regvpr_core.cli import main

ROOT = Path(__file__).resolve().parents[2]

MAX_MB = 540
"""Of the packages, without bytecode, pip and setuptools; seen: 518 MB, of which 143 are SciPy, 153
OpenCV, 78 onnxruntime, 73 NumPy and 66 faiss."""


@pytest.mark.full
@pytest.mark.timeout(1500)
def test_an_environment_with_onnxruntime_alone_builds_a_map_and_localizes(
    make_bag, frames, noise, small_model, tmp_path
):
    pytest.importorskip('onnxruntime')
    model = tmp_path / 'small.onnx'
    assert main(['export', str(small_model), '-o', str(model)]) == 0
    venv = tmp_path / 'venv'
    subprocess.run([sys.executable, '-m', 'venv', str(venv)], check=True)
    installed = subprocess.run([venv / 'bin' / 'pip', 'install', '-q', f'{ROOT}[onnx]'],
                               capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f'pip cannot install here: {installed.stderr.strip().splitlines()[-1:]}')
    clean = {key: value for key, value in os.environ.items()
             if not key.startswith('PYTHON')} | {'XDG_CACHE_HOME': str(tmp_path / 'cache')}

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(venv / 'bin' / str(command[0])), *map(str, command[1:])],
                              capture_output=True, text=True, check=False, cwd=tmp_path, env=clean)

    assert run('python', '-c', 'import torch').returncode == 1
    bag = make_bag(tmp_path / 'bag', frames(8))
    built = run('regvpr', 'map', 'build', bag, '--out', tmp_path / 'map', '--model', model,
                '--set', 'keyframes.distance_m=0.5')
    assert built.returncode == 0, built.stderr
    photo = tmp_path / 'photo.png'
    cv2.imwrite(str(photo), noise(8)[5][..., ::-1])
    found = run('regvpr', 'localize', tmp_path / 'map', photo, '--model', model, '--json')
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)[0]['keyframe'] == 5
    packages = next((venv / 'lib').glob('python*/site-packages'))
    size = sum(path.stat().st_size for path in packages.rglob('*') if path.is_file()
               and '__pycache__' not in path.parts
               and not path.relative_to(packages).parts[0].startswith(('pip', 'setuptools')))
    assert size / 1e6 < MAX_MB
