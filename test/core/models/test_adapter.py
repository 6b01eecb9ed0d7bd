import copy

import pytest
import torch
from torch import nn

from regvpr_core.errors import CheckpointError, ConfigError
from regvpr_core.models.adapter import adapt, AdaptedBlock, AdapterConfig, MffAdapter, VARIANTS
from regvpr_core.models.vit import (
    build_vit,
    DinoVisionTransformer,
    initialise,
    load_backbone_weights,
    VIT_CONFIGS,
    VitConfig,
)


@pytest.fixture
def vit():
    torch.manual_seed(0)
    vit = initialise(DinoVisionTransformer(VitConfig(width=64, depth=4, heads=4)))
    for block in vit.blocks:  # LayerScale as trained models have it, not ones
        nn.init.uniform_(block.ls1.gamma, 0.1, 1.0)
        nn.init.uniform_(block.ls2.gamma, 0.1, 1.0)
    return vit.eval()


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('inside', [True, False])
def test_an_untrained_adapted_backbone_equals_dinov2_bit_for_bit(vit, variant, inside):
    adapted = adapt(copy.deepcopy(vit), AdapterConfig(variant=variant, inside_layer_scale=inside))
    images = torch.randn(2, 3, 42, 70)
    with torch.no_grad():
        for want, got in zip(vit(images), adapted.eval()(images), strict=True):
            assert torch.equal(want, got)


def test_vits14_with_adapters_in_all_blocks_equals_it_bit_for_bit():
    torch.manual_seed(0)
    plain = build_vit('vits14').eval()
    adapted = adapt(copy.deepcopy(plain), AdapterConfig()).eval()
    assert sum(isinstance(block, AdaptedBlock) for block in adapted.blocks) == 12
    images = torch.randn(1, 3, 56, 98)
    with torch.no_grad():
        for want, got in zip(plain(images), adapted(images), strict=True):
            assert torch.equal(want, got)


@pytest.mark.parametrize(('blocks', 'indices'), [
    ('all', (0, 1, 2, 3)), ('last_1', (3,)), ('last_3', (1, 2, 3)), ('2', (2,)), ('3, 0', (0, 3))])
def test_adapters_sit_in_the_chosen_blocks_only(vit, blocks, indices):
    adapted = adapt(vit, AdapterConfig(blocks=blocks))
    found = tuple(i for i, b in enumerate(adapted.blocks) if isinstance(b, AdaptedBlock))
    assert found == indices


@pytest.mark.parametrize('variant', VARIANTS)
def test_a_trained_adapter_sees_neighbours_on_the_true_grid(variant):
    """One patch is changed: within 2 rows and columns of the h x w grid others change, too."""
    torch.manual_seed(0)
    adapter = MffAdapter(64, AdapterConfig(variant=variant)).eval()
    nn.init.normal_(adapter.up.weight)
    h, w = 6, 9
    x = torch.randn(1, 1 + h * w, 64)
    y = x.clone()
    y[0, 1 + 3 * w + 4] += 3.0
    with torch.no_grad():
        changed = (adapter(x, (h, w)) - adapter(y, (h, w))).abs().amax(dim=2)[0] > 1e-6
    assert not changed[0]  # the class token is on its own
    rows, columns = torch.nonzero(changed[1:].view(h, w), as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (1, 5)
    assert (int(columns.min()), int(columns.max())) == (2, 6)


def test_the_class_token_goes_past_the_convolutions():
    torch.manual_seed(0)
    for variant, gain in (('paper', 1.0), ('cricavpr', 2.0)):
        adapter = MffAdapter(64, AdapterConfig(variant=variant, scale=0.2)).eval()
        nn.init.normal_(adapter.up.weight)
        x = torch.randn(2, 13, 64)
        with torch.no_grad():
            want = 0.2 * adapter.up(gain * adapter.down(x[:, 0]).relu())
            torch.testing.assert_close(adapter(x, (3, 4))[:, 0], want)


def test_equation_4_holds_term_by_term(vit):
    for inside in (True, False):
        adapted = adapt(copy.deepcopy(vit), AdapterConfig(blocks='1', inside_layer_scale=inside))
        block = adapted.blocks[1]
        nn.init.normal_(block.adapter.up.weight, std=0.1)
        x = torch.randn(2, 7, 64)
        with torch.no_grad():
            middle = x + block.ls1(block.attn(block.norm1(x)))
            y = block.norm2(middle)
            mff = block.adapter(y, (2, 3))
            gain = block.ls2.gamma if inside else 1.0
            want = middle + block.ls2(block.mlp(y)) + gain * mff
            torch.testing.assert_close(block(x, (2, 3)), want)


def test_parameter_counts_at_width_768_are_those_of_cricavpr_and_a_final_1x1():
    """CricaVPR: 762,768 an adapter, 864 of them gains and biases of batch norms (vpr.md 1.3)."""
    with torch.device('meta'):
        counts = {variant: sum(p.numel() for p in MffAdapter(
            768, AdapterConfig(variant=variant)).parameters()) for variant in VARIANTS}
    assert counts['cricavpr'] == 762_768
    assert counts['paper'] == 762_768 - 864 + 147_840


@pytest.mark.parametrize(('name', 'widths'), [
    ('vits14', (192, 96, 12, 48)), ('vitb14', (384, 192, 24, 96)),
    ('vitl14', (512, 256, 32, 128))])
def test_branch_widths_scale_with_the_backbone(name, widths):
    with torch.device('meta'):
        fusion = MffAdapter(VIT_CONFIGS[name].width, AdapterConfig()).fusion
    assert (fusion.fuse.out_channels, fusion.branch1[0].out_channels,
            fusion.branch3[0][0].out_channels, fusion.branch5[1][0].out_channels) == widths
    assert fusion.branch3[1][0].kernel_size == (3, 3)
    assert fusion.branch5[1][0].kernel_size == (5, 5)


def test_only_the_cricavpr_variant_depends_on_the_batch_and_only_in_training():
    torch.manual_seed(0)
    for variant, depends in (('paper', False), ('shared_reduction', False), ('cricavpr', True)):
        adapter = MffAdapter(64, AdapterConfig(variant=variant))
        nn.init.normal_(adapter.up.weight)
        x = torch.randn(4, 13, 64)
        with torch.no_grad():
            for mode, differs in ((True, depends), (False, False)):
                adapter.train(mode)
                alone, among = adapter(x[:1], (3, 4)), adapter(x, (3, 4))[:1]
                assert torch.allclose(alone, among, atol=1e-5) != differs


def test_gradients_reach_every_parameter_once_the_up_projection_is_not_zero():
    torch.manual_seed(0)
    adapter = MffAdapter(64, AdapterConfig())
    adapter(torch.randn(2, 13, 64), (3, 4)).sum().backward()
    assert float(adapter.up.weight.grad.abs().sum()) > 0  # at step 0 it alone learns
    assert float(adapter.down.weight.grad.abs().sum()) == 0
    nn.init.normal_(adapter.up.weight)
    adapter(torch.randn(2, 13, 64), (3, 4)).square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in adapter.parameters())


def test_official_weights_load_into_an_adapted_backbone_and_leave_adapters_alone(vit):
    official = {key: torch.randn_like(value) for key, value in vit.state_dict().items()}
    adapted = adapt(vit, AdapterConfig())
    before = {k: v.clone() for k, v in adapted.state_dict().items() if '.adapter.' in k}
    load_backbone_weights(adapted, official, 'official.pth')
    after = adapted.state_dict()
    assert len(before) == len(after) - len(official)
    assert all(torch.equal(after[key], value) for key, value in (official | before).items())
    del official['blocks.2.mlp.fc1.weight']
    with pytest.raises(CheckpointError, match=r'lacks blocks\.2\.mlp\.fc1\.weight'):
        load_backbone_weights(adapted, official, 'official.pth')


@pytest.mark.parametrize(('settings', 'message'), [
    ({'blocks': 'first_4'}, "adapter.blocks is 'first_4'; expected all, last_4 or indices"),
    ({'variant': 'papr'}, "unknown adapter.variant 'papr'; did you mean 'paper'"),
    ({'ratio': 0.0}, 'adapter.ratio is 0.0; expected 0.05 to 1.0'),
    ({'scale': -1.0}, 'adapter.scale is -1.0; expected 0.0 to 10.0')])
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        AdapterConfig(**settings)


def test_blocks_and_widths_that_are_not_there_are_refused(vit):
    with pytest.raises(ConfigError, match='index is 4; expected 0 to 3'):
        adapt(vit, AdapterConfig(blocks='1,4'))
    with pytest.raises(ConfigError, match='last_N is 5; expected 1 to 4'):
        adapt(vit, AdapterConfig(blocks='last_5'))
    with pytest.raises(ConfigError, match='is 19; expected a multiple of 16'):
        adapt(vit, AdapterConfig(ratio=0.3))
    with pytest.raises(ConfigError, match='block 0 is adapted already'):
        adapt(adapt(vit, AdapterConfig()), AdapterConfig())
