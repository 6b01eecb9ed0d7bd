from dataclasses import replace

import pytest
import torch

from regvpr_core.errors import CheckpointError
from regvpr_core.models import peers
from regvpr_core.models.catalogue import ALIASES, CATALOGUE
from regvpr_core.models.descriptor_model import DescriptorModel
from regvpr_core.models.peers import load_peer, Peer, peer_state, PEERS

FIGURES = ('msls_val', 'nordland_2760', 'nordland_27592', 'pitts30k')

SMALL_HEADS = {
    'salad_vitb14': {'clusters': 4, 'cluster_dim': 8, 'token_dim': 6, 'hidden_dim': 16},
    'megaloc': {'clusters': 4, 'cluster_dim': 8, 'token_dim': 6, 'hidden_dim': 16,
                'output_dim': 20},
    'boq_vitb14': {'channels': 64, 'queries': 3, 'rows': 2},
}


@pytest.fixture
def small_peers(monkeypatch):
    """The peers on ViT-S with small heads: the same keys, quicker."""
    small = {name: Peer(config=replace(PEERS[name].config, backbone='vits14',
                                       aggregator_config=head),
                        their_key=PEERS[name].their_key, left_out=PEERS[name].left_out)
             for name, head in SMALL_HEADS.items()}
    monkeypatch.setattr(peers, 'PEERS', small)
    return small


def published(peer: Peer) -> tuple[DescriptorModel, dict[str, torch.Tensor]]:
    """A model with random weights, and its tensors as the peer publishes them."""
    torch.manual_seed(0)
    model = DescriptorModel(peer.config).eval()
    tensors = {peer.their_key(key): value.clone() for key, value in model.state_dict().items()
               if key not in peer.left_out}
    for key, value in tensors.items():
        if 'score' in key or 'cluster_features' in key:
            tensors[key] = value[..., None, None] if value.ndim == 2 else value  # 1x1 convolutions
    return model, tensors


@pytest.mark.parametrize('name', SMALL_HEADS)
def test_published_weights_give_the_same_descriptors(small_peers, name):
    model, tensors = published(small_peers[name])
    images = torch.randn(2, 3, 42, 56)
    with torch.no_grad():
        torch.testing.assert_close(load_peer(name, tensors, 'file')(images), model(images),
                                   atol=1e-6, rtol=0)


def test_the_published_key_names_are_those_of_the_files():
    for name, keys in {
        'salad_vitb14': {'backbone.model.blocks.11.ls2.gamma', 'backbone.model.mask_token',
                         'backbone.model.norm.weight', 'aggregator.dust_bin',
                         'aggregator.cluster_features.3.weight', 'aggregator.score.0.bias',
                         'aggregator.token_features.2.weight'},
        'megaloc': {'backbone.blocks.11.ls2.gamma', 'backbone.pos_embed',
                    'aggregator.agg.dust_bin', 'aggregator.agg.score.3.weight',
                    'aggregator.linear.weight', 'aggregator.linear.bias'},
        'boq_vitb14': {'backbone.dino.blocks.11.ls2.gamma', 'backbone.dino.norm.weight',
                       'backbone.dino.mask_token', 'aggregator.proj_c.weight',
                       'aggregator.norm_input.bias', 'aggregator.boqs.1.queries',
                       'aggregator.boqs.0.encoder.self_attn.in_proj_weight',
                       'aggregator.boqs.0.encoder.linear2.bias',
                       'aggregator.boqs.0.self_attn.out_proj.weight',
                       'aggregator.boqs.1.cross_attn.in_proj_bias',
                       'aggregator.boqs.1.norm_out.weight', 'aggregator.fc.weight'},
    }.items():
        with torch.device('meta'):
            ours = DescriptorModel(PEERS[name].config).state_dict()
        assert keys <= {PEERS[name].their_key(key) for key in ours.keys() - PEERS[name].left_out}


BUILT = [name for name, entry in CATALOGUE.items() if not entry.refused]


def test_every_catalogued_model_is_built_or_refused_with_a_reason():
    assert set(BUILT) == set(PEERS)
    assert set(ALIASES.values()) <= set(BUILT)
    for name, entry in CATALOGUE.items():
        stated = [getattr(entry.published, figure) for figure in FIGURES]
        assert bool(entry.published.source) == any(stated), name
        assert all(value is None or 50 < value < 100 for value in stated), name


@pytest.mark.parametrize('name', BUILT)
def test_a_catalogued_model_has_the_size_that_its_entry_states(name):
    entry, model = CATALOGUE[name], PEERS[name].empty()
    assert model.dimension == entry.dimension
    assert sum(p.numel() for p in model.parameters()) == entry.parameters
    assert (model.preprocessing.height, model.preprocessing.width) == (entry.height, entry.width)


def test_megaloc_files_with_a_mask_token_load_as_well(small_peers):
    _, tensors = published(small_peers['megaloc'])
    tensors['backbone.mask_token'] = torch.ones(1, 384)
    assert float(peer_state('megaloc', tensors, 'file')['backbone.mask_token'].abs().sum()) == 0


def test_half_precision_files_become_float32(small_peers):
    _, tensors = published(small_peers['megaloc'])
    state = peer_state('megaloc', {k: v.half() for k, v in tensors.items()}, 'file')
    assert {value.dtype for value in state.values()} == {torch.float32}


@pytest.mark.parametrize(('change', 'message'), [
    (lambda t: t.pop('aggregator.dust_bin'),
     r'x\.ckpt is not a salad_vitb14 file: it lacks aggregator\.dust_bin'),
    (lambda t: t.update(extra=torch.zeros(1)), 'it has unknown extra'),
    (lambda t: t.update({'aggregator.score.0.weight': torch.zeros(16, 384, 3, 3)}),
     r'it has aggregator\.score\.0\.weight \(16, 384, 3, 3\) instead of \(16, 384\)'),
    (lambda t: t['backbone.model.norm.bias'].fill_(float('nan')),
     r'damaged: backbone\.model\.norm\.bias holds values that are not finite')])
def test_a_file_that_does_not_fit_is_refused_by_its_own_key_names(small_peers, change, message):
    _, tensors = published(small_peers['salad_vitb14'])
    change(tensors)
    with pytest.raises(CheckpointError, match=message):
        load_peer('salad_vitb14', tensors, 'x.ckpt')


def test_an_unknown_peer_is_named_with_a_near_one():
    with pytest.raises(CheckpointError, match="unknown peer 'megalock'; did you mean 'megaloc'"):
        peer_state('megalock', {}, 'file')
