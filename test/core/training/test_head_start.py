"""A head that starts from what tokens look like, and windows of kept tokens."""

import numpy as np
import pytest
from safetensors.torch import load_file
import torch

from regvpr_core.errors import ConfigError, TrainingError
from regvpr_core.models.aggregators import AGGREGATORS
from regvpr_core.models.checkpoints import load_model
from regvpr_core.training.config import HeadStartConfig, TokensConfig
from regvpr_core.training.head_start import clusters, components, start_from_tokens
from regvpr_core.training.sources import windows
from regvpr_core.training.trainer import train

WIDTH = 32
SIZES = {'clusters': 4, 'cluster_dim': 8, 'token_dim': 6, 'hidden_dim': 32}


def head(kind='regvpr', **sizes):
    module, config = AGGREGATORS[kind]
    torch.manual_seed(1)
    return module(WIDTH, config(**SIZES | sizes)).eval()


def tokens(count=400, seed=1):
    """Far from centred, a few directions much stronger than the rest."""
    rng = np.random.default_rng(seed)
    scale = 0.8 ** np.arange(WIDTH)
    return torch.from_numpy(5.0 + rng.normal(size=(count, WIDTH)) * scale).float()


def test_features_start_as_whitened_principal_components():
    made = head(heads=2, feedforward_dim=16)
    rows = tokens()
    start_from_tokens(made, rows[:50], rows, HeadStartConfig(whitening=0.5), seed=1)
    with torch.no_grad():
        features = made.cluster_features(rows).numpy()
    np.testing.assert_allclose(features.mean(axis=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(np.cov(features.T), np.eye(8), atol=1e-2)
    with torch.no_grad():
        scene = made.token_features(rows[:50]).numpy()
    np.testing.assert_allclose(np.cov(scene.T), np.eye(6), atol=1e-2)


def test_patches_start_in_the_cluster_whose_centre_is_nearest():
    made = head('salad')
    rows = tokens()
    config = HeadStartConfig(whitening=0.25, sharpness=8.0)
    start_from_tokens(made, rows, rows, config, seed=2)
    mean, basis = components(rows.double().numpy(), 16, 0.25)
    projected = (rows.double().numpy() - mean) @ basis.T
    centres, _ = clusters(projected, 4, 2)
    nearest = ((projected[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    with torch.no_grad():
        scores = made.score(rows).numpy()
    assert (scores.argmax(axis=1) == nearest).mean() > 0.99


def test_the_encoder_starts_as_an_identity_that_learns():
    made = head(heads=2, feedforward_dim=16)
    rows = tokens()
    start_from_tokens(made, rows, rows, HeadStartConfig(), seed=1)
    x = torch.randn(2, 9, 8, generator=torch.Generator().manual_seed(3))
    for layer in made.encoder:
        assert torch.equal(layer(x), x)
    patches = tokens(36, 9).T.reshape(1, WIDTH, 6, 6)
    made(rows[:1], patches)[0, :3].sum().backward()
    assert all(float(layer.proj.weight.grad.abs().max()) > 0 for layer in made.encoder)


def test_a_head_that_starts_from_tokens_tells_pictures_apart_at_once():
    """Images share most of their tokens; a random head sees them as one, a started one not."""
    rng = np.random.default_rng(4)
    scale = 0.8 ** np.arange(WIDTH)
    pictures = torch.from_numpy(
        5.0 + rng.normal(size=(12, WIDTH, 1, 1)) * 0.4 * scale[:, None, None]
        + rng.normal(size=(12, WIDTH, 6, 6)) * scale[:, None, None]).float()
    rows = pictures.flatten(2).transpose(1, 2).flatten(0, 1)
    alike = {}
    for name in ('random', 'started'):
        made = head(heads=2, feedforward_dim=16)
        if name == 'started':
            start_from_tokens(made, rows, rows, HeadStartConfig(), seed=1)
        with torch.no_grad():
            found = made(pictures.mean(dim=(2, 3)), pictures)
        alike[name] = float((found @ found.T)[~torch.eye(12, dtype=torch.bool)].mean())
    assert alike['random'] > 0.9
    assert alike['started'] < 0.3


def test_a_run_starts_its_head_from_tokens_and_resumes_to_the_same_weights(
        settings, listener, tmp_path, backbone_file):
    changes = {'head_start': {'pictures': 40, 'patches': 3}, 'validation': []}
    kept = {'tokens': {'block': 0, 'copies': 1, 'window': 2}}
    for name, more in (('pictures', {}), ('kept', kept)):
        config = settings(epochs=1, optimiser={'lr': 0.0}, **changes, **more)
        train(config, tmp_path / name, listener())
    heads = [load_model(tmp_path / name / 'last.safetensors', backbone_file).model.aggregator
             for name in ('pictures', 'kept')]
    first = heads[0].cluster_features[0].weight
    assert torch.equal(first[:8], -first[8:])
    # Kept tokens are half precision.
    torch.testing.assert_close(first, heads[1].cluster_features[0].weight, rtol=0.05, atol=0.02)


@pytest.mark.parametrize('keep', [True, False])
def test_registers_inside_the_backbone_start_as_centres_of_tokens_and_learn(
        keep, settings, listener, tmp_path, backbone_file):
    model = {'last_block': 0, 'aggregator': 'inside', 'preprocessing': {'height': 28, 'width': 42},
             'aggregator_config': {'registers': 3, 'blocks': 1, 'keep': keep,
                                   'transport': SIZES | {'registers': 0, 'layers': 0,
                                                         'heads': 2}}}
    shown = {'tokens': {'block': 0, 'copies': 1, 'window': 2}, 'validation': [],
             'head_start': {'pictures': 40, 'patches': 4}, 'epochs': 1, 'model': model}
    made = {}
    for name, rate in (('start', 0.0), ('trained', 1e-2)):
        train(settings(**shown, optimiser={'lr': rate, 'lr_backbone': rate}), tmp_path / name,
              listener())
        made[name] = load_model(tmp_path / name / 'last.safetensors', backbone_file).model
    registers = made['start'].aggregator.registers
    spread = float((registers - registers.mean(dim=0)).norm(dim=1).mean())
    assert spread > 0.5  # drawn ones, of deviation 0.02, lie 0.4 from their mean
    block = 'aggregator.blocks.0.mlp.fc1.weight'
    weights = {name: of.state_dict() for name, of in made.items()}
    # The blocks behind `last_block` are not in the model: they are those of the backbone.
    assert torch.equal(weights['start'][block],
                       load_file(backbone_file)['blocks.1.mlp.fc1.weight'])
    for key in (block, 'aggregator.registers', 'aggregator.norm.weight'):
        assert not torch.equal(weights['trained'][key], weights['start'][key]), key


def test_what_cannot_start_from_tokens_says_why(settings):
    rows = tokens()
    with pytest.raises(TrainingError, match='GeM cannot start from tokens'):
        start_from_tokens(AGGREGATORS['gem'][0](WIDTH, AGGREGATORS['gem'][1]()), rows, rows,
                          HeadStartConfig(), 1)
    with pytest.raises(TrainingError, match=r'20 patch tokens .* too few .* expected 64'):
        start_from_tokens(head('salad'), rows, rows[:20], HeadStartConfig(), 1)
    with pytest.raises(ConfigError, match='start and head_start are both given'):
        settings(start='x.safetensors', head_start={})
    with pytest.raises(ConfigError, match=r'head_start\.whitening is 1'):
        HeadStartConfig(whitening=1.0)


def test_a_window_of_kept_tokens_is_a_square_of_the_grid_behind_the_class_token():
    grid = (5, 7)
    plain = torch.arange(36.0).expand(40, 36)[:, :, None]  # token i holds i, the class token 0
    shown = windows(plain, grid, 3, torch.Generator().manual_seed(1))[:, :, 0].long()
    assert shown.shape == (40, 10)
    assert (shown[:, 0] == 0).all()
    rows, columns = (shown[:, 1:] - 1) // 7, (shown[:, 1:] - 1) % 7
    for of_picture, steps in ((rows, [0, 0, 0, 1, 1, 1, 2, 2, 2]),
                              (columns, [0, 1, 2, 0, 1, 2, 0, 1, 2])):
        assert torch.equal(of_picture - of_picture[:, :1], torch.tensor(steps).expand(40, 9))
    assert set(rows[:, 0].tolist()) == {0, 1, 2}
    assert set(columns[:, 0].tolist()) == {0, 1, 2, 3, 4}
    with pytest.raises(TrainingError, match=r'tokens\.window is 6, but an image has 7 x 5'):
        windows(plain, grid, 6, torch.Generator())
    with pytest.raises(ConfigError, match=r'tokens\.window'):
        TokensConfig(window=-1)
