from dataclasses import replace
import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file
import torch

from regvpr_core.config import from_mapping
from regvpr_core.errors import ConfigError, TrainingError
from regvpr_core.images import read
from regvpr_core.models.backbones import find_backbone
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.encoder import load_encoder
from regvpr_core.models.vit import load_backbone_weights
from regvpr_core.training.config import AugmentationConfig, TrainConfig
from regvpr_core.training.networks import TokenNetwork
from regvpr_core.training.pictures import normalised, resized, unit_range
from regvpr_core.training.tokens import keep_tokens, TokenPlan
from regvpr_core.training.trainer import train

SIZE = {'height': 28, 'width': 42}


def plan(place_folder, copies=1, **model):
    paths = sorted((place_folder / 'val').glob('*.png'))
    config = from_mapping(ModelConfig, {'last_block': 0, 'preprocessing': SIZE} | model)
    return TokenPlan(paths=paths, names=[p.name for p in paths], model=config, block=0,
                     augmentation=AugmentationConfig(), copies=copies, seed=1)


def keep(folder, which, backbone_file, told=lambda done, total: None):
    return keep_tokens(folder, which, find_backbone('vits14', None, backbone_file),
                       torch.device('cpu'), 1, told)


def test_kept_tokens_are_those_of_the_block_and_copies_differ(tmp_path, place_folder,
                                                              backbone_file):
    which = plan(place_folder)
    store = keep(tmp_path, which, backbone_file)
    numbers = np.arange(24)
    got = store.read(numbers, np.zeros_like(numbers)).float()
    model = DescriptorModel(which.model).eval()
    load_backbone_weights(model.backbone, find_backbone('vits14', None, backbone_file).tensors, '')
    x = normalised(unit_range(torch.stack([resized(p, which.model.preprocessing)
                                           for p in which.paths]), torch.device('cpu')),
                   which.model.preprocessing)
    with torch.no_grad():
        first, patches = model.backbone(x, 0)
    want = torch.cat([first[:, None], patches.flatten(2).transpose(1, 2)], dim=1)
    cosine = torch.nn.functional.cosine_similarity(got, want, dim=2)
    assert got.shape == (24, 7, 384)
    assert cosine.min() > 0.999
    copies = store.read(numbers, np.ones_like(numbers)).float()
    assert (copies - got).abs().mean() > 0.01


def test_some_pictures_may_have_fewer_copies_and_the_others_are_as_before(
        tmp_path, place_folder, backbone_file):
    every = plan(place_folder, copies=2)
    some = replace(every, most=np.arange(24) % 3)
    stores = [keep(tmp_path / name, which, backbone_file)
              for name, which in (('every', every), ('some', some))]
    numbers = np.arange(24)
    for copy in range(3):
        whole, part = (store.read(numbers, np.full_like(numbers, copy)) for store in stores)
        has = numbers % 3 >= copy
        torch.testing.assert_close(part[has].float(), whole[has].float(), rtol=0.02, atol=0.02)
        assert not part[~has].any()
    with pytest.raises(TrainingError, match='holds tokens of another most_sha256'):
        keep(tmp_path / 'some', every, backbone_file)


def test_computing_tokens_goes_on_where_it_was_cut_off(tmp_path, place_folder, backbone_file,
                                                      monkeypatch):
    monkeypatch.setattr('regvpr_core.training.tokens.PASS', 8)
    which = plan(place_folder)

    def stop(done, total):
        if done == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        keep(tmp_path / 'cut', which, backbone_file, stop)
    seen = []
    cut = keep(tmp_path / 'cut', which, backbone_file, lambda done, total: seen.append(done))
    whole = keep(tmp_path / 'whole', which, backbone_file)
    assert seen == [24]
    numbers = np.arange(24)
    for copy in (0, 1):
        rows = [store.read(numbers, np.full_like(numbers, copy)) for store in (cut, whole)]
        assert torch.equal(*rows)
    assert keep(tmp_path / 'cut', which, backbone_file, stop).unreadable == {}  # nothing is done


def test_tokens_of_something_else_are_refused(tmp_path, place_folder, backbone_file):
    keep(tmp_path, plan(place_folder), backbone_file)
    with pytest.raises(TrainingError, match='holds tokens of another shape'):
        keep(tmp_path, plan(place_folder, copies=2), backbone_file)
    journal = tmp_path / 'tokens.json'
    journal.write_text(journal.read_text()[:-5])
    with pytest.raises(TrainingError, match='is damaged'):
        keep(tmp_path, plan(place_folder), backbone_file)


def test_tokens_that_do_not_fit_the_disk_are_refused_before_anything_is_written(
        tmp_path, place_folder, backbone_file, monkeypatch):
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: real._replace(free=1000))
    with pytest.raises(TrainingError, match=r'needs 0\.0 GB .* lower tokens.copies'):
        keep(tmp_path, plan(place_folder), backbone_file)
    assert not (tmp_path / 'tokens.f16').exists()


@pytest.mark.parametrize('head', ['salad', 'regvpr'])
@pytest.mark.parametrize('last', [1, None])
def test_what_is_behind_the_tokens_is_the_rest_of_the_model(head, last):
    torch.manual_seed(0)
    model = DescriptorModel(from_mapping(ModelConfig, {
        'last_block': last, 'aggregator': head, 'preprocessing': SIZE,
        'aggregator_config': {'clusters': 2}, 'adapter': {'blocks': '1'}, 'train': 'adapter'}))
    model.eval()
    images = torch.randn(2, 3, 28, 42)
    with torch.no_grad():
        first, patches = model.backbone(images, 0)
        tokens = torch.cat([first[:, None], patches.flatten(2).transpose(1, 2)], dim=1)
        assert (TokenNetwork(model, 0)(tokens) - model(images)).abs().max() < 1e-6


def test_a_head_trained_on_tokens_loads_into_the_encoder(settings, listener, tmp_path,
                                                         place_folder, backbone_file):
    model = {'last_block': 0, 'aggregator': 'regvpr', 'preprocessing': SIZE,
             'aggregator_config': {'clusters': 2, 'cluster_dim': 16, 'hidden_dim': 16}}
    config = settings(model=model, tokens={'block': 0, 'copies': 2}, epochs=4,
                      batch={'places': 4, 'images': 4, 'least': 1})
    watch = listener()
    progress = train(config, tmp_path / 'run', watch)
    assert watch.facts['copies'] == 3
    assert progress.step == 12
    checkpoint = tmp_path / 'run' / 'last.safetensors'
    assert all(key.startswith('aggregator.') for key in load_file(checkpoint))
    encoder = load_encoder(checkpoint, 'cpu', 'fp32', backbone_path=backbone_file)
    paths = sorted((place_folder / 'val').glob('*.png'))
    rows = encoder.describe_batch([read(path) for path in paths])
    best = (rows[1::2] @ rows[::2].T).argmax(axis=1)  # pairs gallery, query
    recall = float(np.mean(best == np.arange(12)))
    assert abs(recall - watch.recalls[12]['val'][1]) <= 1.5 / 12  # bf16 where it is faster


def test_runs_may_share_tokens(settings, listener, tmp_path):
    tokens = {'block': 0, 'copies': 1, 'folder': str(tmp_path / 'shared')}
    train(settings(tokens=tokens, epochs=1), tmp_path / 'one', listener())
    written = (tmp_path / 'shared/train/tokens.json').stat().st_mtime_ns
    watch = listener()
    train(settings(tokens=tokens, epochs=1, optimiser={'lr': 1e-4}), tmp_path / 'two', watch)
    assert (tmp_path / 'shared/train/tokens.json').stat().st_mtime_ns == written
    assert not any(what.startswith('tokens') for what, _, _ in watch.read)


def test_runs_of_several_seeds_share_tokens_whose_copies_have_a_seed_of_their_own(
        settings, listener, tmp_path):
    shared = {'block': 0, 'copies': 1, 'folder': str(tmp_path / 'shared')}
    train(settings(tokens=shared, epochs=1, seed=1), tmp_path / 'one', listener())
    with pytest.raises(TrainingError, match='holds tokens of another seed'):
        train(settings(tokens=shared, epochs=1, seed=2), tmp_path / 'two', listener())
    watch = listener()
    train(settings(tokens=shared | {'seed': 1}, epochs=1, seed=2), tmp_path / 'three', watch)
    assert not any(what.startswith('tokens') for what, _, _ in watch.read)


def test_an_unreadable_picture_has_no_tokens_and_is_not_drawn(settings, listener, tmp_path,
                                                              place_folder):
    root = tmp_path / 'data'
    shutil.copytree(place_folder, root)
    (root / 'train/group0/place0/3.png').write_bytes(b'no picture')
    config = settings(data_root=str(root), tokens={'block': 0, 'copies': 1}, epochs=1)
    train(config, tmp_path / 'run', listener())
    record = json.loads((tmp_path / 'run' / 'record.json').read_text())
    assert list(record['unreadable']['pictures']) == ['group0/place0/3.png']


@pytest.mark.parametrize(('model', 'block', 'message'), [
    ({'train': 'last_4', 'aggregator': 'salad'}, 8, 'tokens.block is 8, but the model trains or '
                                                    'adapts block 8'),
    ({'adapter': {}, 'train': 'adapter'}, 3, 'adapts block 0'),
    ({'train': 'all'}, 0, 'adapts block 0'),
    ({'last_block': 5, 'aggregator': 'salad'}, 6, 'tokens.block is 6; expected 0 to 5')])
def test_tokens_above_what_is_trained_are_refused(model, block, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, {'model': model, 'tokens': {'block': block},
                                   'data': [{'folder': 'x'}]})
