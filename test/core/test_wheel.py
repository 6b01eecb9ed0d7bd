"""The wheel holds all that `regvpr quickstart` needs."""

import os
from pathlib import Path
import subprocess
import sys
import zipfile

import pytest

from regvpr_core.images import encode_jpeg

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def installed(tmp_path_factory) -> Path:
    """A folder that holds the wheel's files, and none of the repository's."""
    folder = tmp_path_factory.mktemp('wheel')
    built = subprocess.run(
        [sys.executable, 'setup.py', '-q', 'egg_info', '-e', str(folder), 'build', '-b',
         str(folder / 'build'), 'bdist_wheel', '-d', str(folder)], cwd=ROOT,
        capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    [wheel] = folder.glob('*.whl')
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / 'site')
    return folder / 'site'


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of the wheel, started elsewhere."""
    environment = os.environ | {'PYTHONPATH': str(installed)}
    return subprocess.run(
        [sys.executable, '-m', 'regvpr_core.cli', *arguments], cwd=folder, env=environment,
        capture_output=True, text=True, check=False)


@pytest.mark.full
def test_a_folder_of_images_becomes_a_map_from_the_wheel_alone(
    installed, noise, small_model, tmp_path,
):
    photos = tmp_path / 'photos'
    photos.mkdir()
    rows = ['image,x,y']
    for i, rgb in enumerate(noise(16)):
        (photos / f'{i}.jpg').write_bytes(encode_jpeg(rgb, 95))
        rows.append(f'{i}.jpg,{2 * i},0')
    (photos / 'poses.csv').write_text('\n'.join(rows))
    done = run(installed, tmp_path, 'quickstart', 'photos', '--out', 'site', '--model',
               str(small_model))
    assert done.returncode == 0, done.stderr
    assert 'recall@1' in done.stdout
    assert (tmp_path / 'site' / 'map.html').stat().st_size > 10_000


def test_presets_assets_and_types_are_in_the_wheel(installed, tmp_path):
    listed = run(installed, tmp_path, 'train', '--list', '--json')
    assert '"table1_regvpr"' in listed.stdout
    assert (installed / 'regvpr_core' / 'py.typed').is_file()
    assert len(list((installed / 'regvpr_core' / 'presets' / 'models').glob('*.yaml'))) >= 30
