import numpy as np
import pytest
from safetensors.torch import save_file
import torch

from regvpr_core.errors import CheckpointError
from regvpr_core.models import peers
from regvpr_core.models.checkpoints import load_model
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.encoder import load_encoder
from regvpr_core.models.peers import Peer, PEERS
from regvpr_core.models.preprocessing import Preprocessing
from regvpr_core.models.vit import VIT_CONFIGS, VitConfig

SMALL = {'clusters': 4, 'cluster_dim': 8, 'token_dim': 6, 'hidden_dim': 16}


@pytest.fixture
def published(monkeypatch, tmp_path):
    """Both peers on one block of ViT-S, as their files lie in a folder of REGVPR_WEIGHTS."""
    monkeypatch.setitem(VIT_CONFIGS, 'vits14', VitConfig(width=384, depth=2, heads=6))
    small = {}
    for name in ('salad_vitb14', 'megaloc'):
        peer = PEERS[name]
        head = SMALL | ({'output_dim': 20} if name == 'megaloc' else {})
        config = ModelConfig(aggregator='salad', aggregator_config=head,
                             preprocessing=Preprocessing(height=56, width=56))
        small[name] = Peer(config=config, their_key=peer.their_key, left_out=peer.left_out)
        torch.manual_seed(0)
        state = DescriptorModel(config).state_dict()
        tensors = {peer.their_key(key): value.clone() for key, value in state.items()
                   if key not in peer.left_out}
        if name == 'megaloc':
            save_file(tensors, tmp_path / 'megaloc.safetensors')
        else:
            torch.save(tensors, tmp_path / 'dino_salad.ckpt')
    monkeypatch.setattr(peers, 'PEERS', small)
    monkeypatch.setenv('REGVPR_WEIGHTS', str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(('name', 'file', 'dimension'), [
    ('salad_vitb14', 'dino_salad.ckpt', 38), ('megaloc', 'megaloc.safetensors', 20)])
def test_a_peer_is_found_by_name_and_by_path(published, name, file, dimension, noise):
    by_name = load_encoder(name, 'cpu', 'fp32')
    by_path = load_encoder(published / file, 'cpu', 'fp32')
    assert by_name.name == by_path.name == name
    assert by_name.fingerprint == by_path.fingerprint
    assert by_name.dimension == dimension
    assert 'keys and shapes checked' in by_name.notice
    image = noise(1)[0]
    np.testing.assert_array_equal(by_name.describe(image), by_path.describe(image))
    assert np.linalg.norm(by_name.describe(image)) == pytest.approx(1.0, abs=1e-5)


def test_another_file_of_the_same_peer_has_another_fingerprint(published):
    before = load_model('megaloc').fingerprint
    path = published / 'megaloc.safetensors'
    from safetensors.torch import load_file
    tensors = load_file(path)
    tensors['aggregator.linear.bias'][0] += 1.0
    save_file(tensors, path)
    assert load_model('megaloc').fingerprint != before


@pytest.mark.parametrize(('name', 'words'), [
    ('salad_vitb14', ('github.com/serizba/salad', 'dino_salad.ckpt')),
    ('megaloc', ('huggingface.co/gberton/MegaLoc', 'megaloc.safetensors'))])
def test_an_absent_peer_says_where_to_get_it(name, words, monkeypatch, tmp_path):
    monkeypatch.setenv('REGVPR_WEIGHTS', str(tmp_path))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    with pytest.raises(CheckpointError, match=f'no weights for {name}') as caught:
        load_model(name)
    for word in (*words, 'REGVPR_WEIGHTS', 'give its path'):
        assert word in str(caught.value)


@pytest.mark.parametrize('name', ['regvpr_vits14', 'regvpr_vitb14'])
def test_models_without_weights_say_that_none_were_released(name):
    with pytest.raises(CheckpointError, match=f'{name} has no published weights') as e:
        load_model(name)
    assert 'give a checkpoint file in place of the name' in str(e.value)


@pytest.mark.parametrize(('wrong', 'right'), [
    ('megalok', 'megaloc'), ('salad_vitb', 'salad_vitb14'), ('gem_vit14', 'gem_vits14'),
    ('regvpr_vitb', 'regvpr_vitb14')])
def test_an_unknown_model_names_the_near_one(wrong, right):
    with pytest.raises(CheckpointError, match=f"unknown model '{wrong}'; did you mean '{right}'?"):
        load_model(wrong)


def test_a_damaged_peer_is_refused(published):
    path = published / 'dino_salad.ckpt'
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match='truncated or no salad_vitb14 file'):
        load_model('salad_vitb14')


def test_a_pickle_that_holds_code_is_not_run(published):
    class Evil:
        def __reduce__(self):
            return (open, (str(published / 'written'), 'w'))

    torch.save({'state_dict': Evil()}, published / 'dino_salad.ckpt')
    with pytest.raises(CheckpointError, match='truncated or no salad_vitb14 file'):
        load_model('salad_vitb14')
    assert not (published / 'written').exists()


def test_a_peer_of_another_architecture_names_the_keys(published):
    torch.save({'weights': torch.zeros(1)}, published / 'dino_salad.ckpt')
    with pytest.raises(CheckpointError, match='is not a salad_vitb14 file: it lacks'):
        load_model('salad_vitb14')


def test_a_peer_with_nan_weights_is_refused(published):
    path = published / 'dino_salad.ckpt'
    tensors = torch.load(path, weights_only=True)
    tensors['aggregator.dust_bin'] = torch.tensor(float('nan'))
    torch.save(tensors, path)
    with pytest.raises(CheckpointError, match=r'dust_bin holds values that are not finite'):
        load_model('salad_vitb14')
