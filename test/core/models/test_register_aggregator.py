import pytest
import torch
from torch import nn
import torch.nn.functional as F

from regvpr_core.models.register_aggregator import RegisterAggregator, RegisterConfig
from regvpr_core.models.register_encoder import EncoderLayer

SMALL = {'clusters': 8, 'cluster_dim': 16, 'token_dim': 12, 'hidden_dim': 24, 'heads': 4,
         'feedforward_dim': 32}


def build(**settings):
    torch.manual_seed(0)
    return RegisterAggregator(32, RegisterConfig(**(SMALL | settings))).eval()


def spread_out(aggregator):
    """Registers as large as tokens, so that they matter."""
    nn.init.normal_(aggregator.registers)
    return aggregator


def test_an_encoder_layer_equals_the_pre_norm_layer_of_torch():
    torch.manual_seed(0)
    ours = EncoderLayer(16, 4, 32, 0.0)
    theirs = nn.TransformerEncoderLayer(16, 4, 32, 0.0, activation='gelu', norm_first=True,
                                        batch_first=True)
    names = {'norm1': 'norm1', 'norm2': 'norm2', 'proj': 'self_attn.out_proj', 'mlp.0': 'linear1',
             'mlp.3': 'linear2'}
    nn.init.normal_(ours.qkv.bias)
    state = {f'{b}.{kind}': ours.get_submodule(a).get_parameter(kind)
             for a, b in names.items() for kind in ('weight', 'bias')}
    state |= {f'self_attn.in_proj_{kind}': ours.qkv.get_parameter(kind)
              for kind in ('weight', 'bias')}
    theirs.load_state_dict(state)
    x = torch.randn(3, 10, 16)
    for mode in (True, False):
        ours.train(mode), theirs.train(mode)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)


def test_attention_is_that_of_the_layer():
    torch.manual_seed(0)
    layer = EncoderLayer(16, 4, 32, 0.0).eval()
    nn.init.normal_(layer.qkv.bias)
    x = torch.randn(2, 9, 16)
    with torch.no_grad():
        _, want = nn.functional.multi_head_attention_forward(
            layer.norm1(x).transpose(0, 1), *[layer.norm1(x).transpose(0, 1)] * 2, 16, 4,
            layer.qkv.weight, layer.qkv.bias, None, None, False, 0.0, layer.proj.weight,
            layer.proj.bias, training=False, need_weights=True)
        torch.testing.assert_close(layer.attention(x), want)


def test_reading_a_sums_by_the_plan_behind_the_encoder():
    aggregator = spread_out(build())
    class_token, patches = torch.randn(2, 32), torch.randn(2, 32, 3, 5)
    tokens = patches.flatten(2).transpose(1, 2)
    with torch.no_grad():
        plan, _ = aggregator.local_descriptors(tokens)
        sequence = aggregator.cluster_features(
            torch.cat([tokens, aggregator.registers.expand(2, -1, -1)], dim=1))
        for layer in aggregator.encoder:
            sequence = layer(sequence)
        clusters = torch.einsum('bnl,bmn->blm', sequence[:, :15], plan)
        local = F.normalize(clusters, dim=1).flatten(1) / (1 + 8) ** 0.5
        got = aggregator(class_token, patches)
    torch.testing.assert_close(got[:, 12:], local, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        got[:, :12], F.normalize(aggregator.token_features(class_token), dim=1) / 3.0)


def test_reading_b_encodes_the_mean_of_each_cluster():
    aggregator = spread_out(build(join='clusters'))
    patches = torch.randn(2, 32, 3, 5)
    tokens = patches.flatten(2).transpose(1, 2)
    with torch.no_grad():
        plan, sequence = aggregator.local_descriptors(tokens)
        assert sequence.shape == (2, 8 + 4, 16)
        want = torch.einsum('bnl,bmn->bml', aggregator.cluster_features(tokens), plan) * 8 / 15
        torch.testing.assert_close(sequence[:, :8], want)
        for layer in aggregator.encoder:
            sequence = layer(sequence)
        got = aggregator(torch.randn(2, 32), patches)[:, 12:]
    local = F.normalize(sequence[:, :8].transpose(1, 2), dim=1).flatten(1) / 3.0
    torch.testing.assert_close(got, local, atol=1e-6, rtol=0)


@pytest.mark.parametrize('join', ['patches', 'clusters'])
def test_registers_change_the_local_part_and_never_the_scene_token(join):
    aggregator = spread_out(build(join=join))
    class_token, patches = torch.randn(1, 32), torch.randn(1, 32, 4, 4)
    with torch.no_grad():
        before = aggregator(class_token, patches)
        aggregator.registers.add_(3.0)
        after = aggregator(class_token, patches)
    torch.testing.assert_close(before[:, :12], after[:, :12], atol=1e-6, rtol=0)
    assert float((before - after)[:, 12:].abs().max()) > 1e-3


@pytest.mark.parametrize('width', ['token', 'reduced'])
def test_registers_without_an_encoder_do_nothing(width):
    aggregator = spread_out(build(layers=0, register_width=width))
    none = build(layers=0, registers=0, register_width=width)
    none.load_state_dict({**aggregator.state_dict(), 'registers': none.registers.data})
    tokens = torch.randn(2, 32), torch.randn(2, 32, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(aggregator(*tokens), none(*tokens))


def test_the_order_of_patches_does_not_matter():
    aggregator = spread_out(build())
    class_token, patches = torch.randn(1, 32), torch.randn(1, 32, 24)
    shuffled = patches[:, :, torch.randperm(24, generator=torch.Generator().manual_seed(1))]
    with torch.no_grad():
        torch.testing.assert_close(aggregator(class_token, patches.view(1, 32, 4, 6)),
                                   aggregator(class_token, shuffled.view(1, 32, 3, 8)),
                                   atol=1e-6, rtol=0)


def test_fewer_patches_than_clusters_are_legal():
    with torch.no_grad():
        row = build()(torch.randn(1, 32), torch.randn(1, 32, 1, 1))
    assert bool(row.isfinite().all())


def test_registers_are_drawn_with_the_spread_that_is_asked_for():
    for std in (0.02, 1e-6):
        registers = build(registers=512, register_std=std).registers.detach()
        assert float(registers.std()) == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize('join', ['patches', 'clusters'])
def test_views_show_attention_and_plan_on_the_grid(join):
    aggregator = spread_out(build(join=join))
    patches = torch.randn(2, 32, 3, 5)
    views = aggregator.views(patches)
    assert views.attention.shape == (2, 2, 4, 3, 5)
    assert views.plan.shape == (2, 8, 3, 5)
    torch.testing.assert_close(views.plan.sum(dim=1), torch.ones(2, 3, 5))
    assert float(views.attention.min()) >= 0
    tokens = patches.flatten(2).transpose(1, 2)
    with torch.no_grad():
        _, sequence = aggregator.local_descriptors(tokens)
        first = aggregator.encoder[0].attention(sequence)
    if join == 'patches':
        torch.testing.assert_close(views.attention[0].flatten(2), first[:, 15:, :15])
        assert float(views.attention.flatten(3).sum(dim=3).max()) <= 1.0


def test_views_of_a_head_without_encoder_are_empty():
    views = build(layers=0).views(torch.randn(2, 32, 3, 5))
    assert views.attention.shape == (0, 2, 4, 3, 5)


def test_dropout_is_on_in_training_only():
    aggregator = build()
    tokens = torch.randn(1, 32), torch.randn(1, 32, 4, 4)
    with torch.no_grad():
        assert torch.equal(aggregator(*tokens), aggregator(*tokens))
        aggregator.train()
        assert not torch.equal(aggregator(*tokens), aggregator(*tokens))
