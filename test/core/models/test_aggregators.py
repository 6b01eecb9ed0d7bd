import pytest
import torch
from torch import nn
import torch.nn.functional as F

from regvpr_core.config import from_mapping
from regvpr_core.errors import ConfigError, ImageError
from regvpr_core.models.aggregators import AGGREGATORS
from regvpr_core.models.gem import CosPlace, CosPlaceConfig
from regvpr_core.models.mixvpr import MixVpr, MixVprConfig
from regvpr_core.models.netvlad import NetVlad, NetVladConfig
from regvpr_core.models.salad import Salad, SaladConfig, scene_descriptor, transport_sum

CASES = {
    'regvpr': ({}, 8448),
    'regvpr on clusters': ({'join': 'clusters'}, 8448),
    'regvpr with narrow registers': ({'register_width': 'reduced'}, 8448),
    'regvpr without registers': ({'registers': 0}, 8448),
    'regvpr without layers': ({'layers': 0}, 8448),
    'regvpr, 16 clusters': ({'clusters': 16, 'cluster_dim': 32, 'token_dim': 32}, 544),
    'inside': ({'registers': 3, 'blocks': 1}, 1152),
    'inside, dropped': ({'registers': 3, 'blocks': 1, 'keep': False}, 8448),
    'salad': ({}, 8448),
    'salad, projected': ({'output_dim': 100}, 100),
    'gem': ({'power': 3.0}, 384),
    'cosplace': ({}, 512),
    'netvlad': ({'clusters': 8}, 3072),
    'mixvpr': ({'grid_height': 9, 'grid_width': 11}, 4096),
}


def build(case: str, width: int = 384) -> nn.Module:
    torch.manual_seed(0)
    module, config = AGGREGATORS[case.split()[0].rstrip(',')]
    return module(width, from_mapping(config, CASES[case][0])).eval()


@pytest.mark.parametrize('case', CASES)
def test_descriptors_are_unit_float32_rows_of_the_stated_length(case):
    aggregator = build(case)
    with torch.no_grad():
        rows = aggregator(torch.randn(3, 384), torch.randn(3, 384, 9, 11))
    assert (tuple(rows.shape), aggregator.dimension) == ((3, CASES[case][1]), CASES[case][1])
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize('case', CASES)
def test_a_row_does_not_depend_on_its_batch(case):
    aggregator = build(case)
    class_token, patches = torch.randn(4, 384), torch.randn(4, 384, 9, 11)
    with torch.no_grad():
        batch = aggregator(class_token, patches)
        for i in range(4):
            alone = aggregator(class_token[i : i + 1], patches[i : i + 1])[0]
            torch.testing.assert_close(alone, batch[i], atol=2e-6, rtol=0)


@pytest.mark.parametrize('case', CASES)
def test_half_precision_tokens_give_float32_descriptors_close_to_the_exact_ones(case):
    aggregator = build(case)
    class_token, patches = torch.randn(2, 384), torch.randn(2, 384, 9, 11)
    with torch.no_grad():
        exact = aggregator(class_token, patches)
        half = aggregator(class_token.bfloat16(), patches.bfloat16())
        with torch.autocast('cpu', dtype=torch.bfloat16):
            cast = aggregator(class_token, patches)
    for rows in (half, cast):
        assert rows.dtype == torch.float32
        assert float(F.cosine_similarity(rows, exact).min()) > 0.999


@pytest.mark.parametrize('case', CASES)
def test_every_parameter_has_a_gradient(case):
    aggregator = build(case)
    rows = aggregator(torch.randn(2, 384), torch.randn(2, 384, 9, 11))
    (rows * torch.randn_like(rows)).sum().backward()
    assert all(p.grad is not None for p in aggregator.parameters() if p.numel())


@pytest.mark.parametrize('case', [c for c in CASES if c != 'mixvpr'])
@pytest.mark.parametrize('grid', [(16, 16), (9, 23)])
def test_any_grid_will_do(case, grid):
    with torch.no_grad():
        rows = build(case)(torch.randn(1, 384), torch.randn(1, 384, *grid))
    assert rows.shape == (1, CASES[case][1])


def test_mixvpr_says_which_grid_it_was_made_for():
    aggregator = MixVpr(32, MixVprConfig(grid_height=16, grid_width=23))
    with pytest.raises(ImageError, match='made for 23x16 patches and got 23x23: set preprocessing '
                                         'to 322x224 pixels'):
        aggregator(torch.zeros(1, 32), torch.zeros(1, 32, 23, 23))


def test_transport_sum_equals_the_sum_written_out():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 9, 5, generator=generator, dtype=torch.float32)
    plan = torch.rand(2, 3, 9, generator=generator)
    want = torch.einsum('bnl,bmn->blm', features.double(), plan.double())
    torch.testing.assert_close(transport_sum(features, plan), want.float())


def test_the_descriptor_holds_the_token_first_and_clusters_fastest():
    scene = torch.tensor([[3.0, 4.0]])
    clusters = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])  # (B, l, m): two axes, two clusters
    want = torch.tensor([[0.6, 0.8, 1.0, 0.0, 0.0, 1.0]]) / 3**0.5
    torch.testing.assert_close(scene_descriptor(scene, clusters), want)


def test_salad_equals_its_formulas_in_float64():
    torch.manual_seed(0)
    salad = Salad(24, SaladConfig(clusters=4, cluster_dim=6, token_dim=5, hidden_dim=16)).eval()
    class_token, patches = torch.randn(1, 24), torch.randn(1, 24, 3, 5)
    d = {key: value.double() for key, value in salad.state_dict().items()}
    rows = patches.double().flatten(2)[0].T  # (n, width)

    def mlp(name, last, x):
        hidden = (x @ d[f'{name}.0.weight'].T + d[f'{name}.0.bias']).relu()
        return hidden @ d[f'{name}.{last}.weight'].T + d[f'{name}.{last}.bias']

    kernel = torch.cat([mlp('score', 3, rows).T, d['dust_bin'].expand(1, 15)]).exp()
    v, mass = torch.ones(15, dtype=torch.float64), torch.tensor([1.0] * 4 + [11.0]).double()
    for _ in range(3):
        u = mass / (kernel @ v)
        v = 1 / (kernel.T @ u)
    plan = (u[:, None] * kernel * v)[:4]
    local = F.normalize(mlp('cluster_features', 3, rows).T @ plan.T, dim=0)  # (l, m)
    token = F.normalize(mlp('token_features', 2, class_token.double())[0], dim=0)
    want = F.normalize(torch.cat([token, local.flatten()]), dim=0)
    with torch.no_grad():
        torch.testing.assert_close(salad(class_token, patches)[0], want.float(), atol=1e-6, rtol=0)


def test_salad_refuses_an_image_with_no_patches_to_spare():
    with pytest.raises(ImageError, match='an image of 64 patches'):
        build('salad')(torch.zeros(1, 384), torch.zeros(1, 384, 8, 8))


def test_parameter_counts_at_width_768():
    counts = {}
    with torch.device('meta'):
        for name in ('salad', 'regvpr'):
            module, config = AGGREGATORS[name]
            counts[name] = sum(p.numel() for p in module(768, config()).parameters())
    assert counts['salad'] == 1_411_009  # vpr.md 1.4
    layer = 2 * 256 + (3 * 128 * 128 + 384) + (128 * 128 + 128) + (2 * 128 * 512 + 512 + 128)
    assert counts['regvpr'] == 1_411_009 - 1 + 4 * 768 + 2 * layer


def test_cosplace_of_one_power_is_the_projected_mean_of_positive_unit_patches():
    cosplace = CosPlace(2, CosPlaceConfig(output_dim=2, power=1.0))
    with torch.no_grad():
        cosplace.projection.weight.copy_(torch.eye(2))
        cosplace.projection.bias.zero_()
        patches = torch.tensor([[[[3.0, 0.0]], [[4.0, 5.0]]]])  # two patches: (3, 4) and (0, 5)
        got = cosplace(torch.zeros(1, 2), patches)[0]
    torch.testing.assert_close(got, F.normalize(torch.tensor([0.3, 0.9]), dim=0), atol=1e-5,
                               rtol=0)


def test_netvlad_assigns_sharply_to_its_centroids():
    netvlad = NetVlad(2, NetVladConfig(clusters=2))
    centroids = torch.eye(2)  # with w = 2 alpha c and b = -alpha |c|^2, equation 3 of the paper
    with torch.no_grad():
        netvlad.centroids.copy_(centroids)
        netvlad.assign.weight.copy_(200.0 * centroids)
        netvlad.assign.bias.fill_(-100.0)
    patches = torch.tensor([[[[0.8, 0.6]], [[0.6, 0.8]]]])  # patch (0.8, 0.6) and (0.6, 0.8)
    with torch.no_grad():
        got = netvlad(torch.zeros(1, 2), patches)[0]
    residuals = torch.cat([F.normalize(torch.tensor([-0.2, 0.6]), dim=0),
                           F.normalize(torch.tensor([0.6, -0.2]), dim=0)])
    torch.testing.assert_close(got, residuals / 2**0.5, atol=1e-5, rtol=0)


@pytest.mark.parametrize(('name', 'settings', 'message'), [
    ('regvpr', {'join': 'patch'}, "unknown aggregator.join 'patch'; did you mean 'patches'"),
    ('regvpr', {'heads': 7}, 'aggregator.heads is 7; expected a divisor of aggregator.cluster'),
    ('regvpr', {'registers': -1}, 'aggregator.registers is -1; expected 0 to 1024'),
    ('regvpr', {'register': 4}, "unknown setting 'register'; did you mean 'registers'"),
    ('salad', {'dropout': 1.0}, 'aggregator.dropout is 1.0; expected 0.0 to 0.9'),
    ('cosplace', {'output_dim': 0}, 'aggregator.output_dim is 0; expected 1 to 65536'),
    ('mixvpr', {'rows': 0}, 'aggregator.rows is 0; expected 1 to 8192'),
    ('netvlad', {'clusters': 0}, 'aggregator.clusters is 0; expected 1 to 4096')])
def test_settings_that_make_no_sense_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(AGGREGATORS[name][1], settings)
