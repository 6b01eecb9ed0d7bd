import pytest
import torch

from regvpr_core.config import from_mapping, PRESETS, read_yaml, to_mapping
from regvpr_core.errors import ConfigError
from regvpr_core.models.adapter import AdaptedBlock, AdapterConfig
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.trainable import freeze_the_rest, trainable_parameters

FOLDER = PRESETS / 'models'
PRESETS = sorted(FOLDER.glob('*.yaml'))
DIMENSIONS = {'gem': 768, 'cosplace': 512, 'netvlad': 64 * 768, 'mixvpr': 4096,
              'inside': 8 * 768}


def load(name: str) -> ModelConfig:
    return from_mapping(ModelConfig, read_yaml(FOLDER / f'{name}.yaml'))


def build(config: ModelConfig) -> DescriptorModel:
    with torch.device('meta'):
        return DescriptorModel(config)


@pytest.mark.parametrize('path', PRESETS, ids=lambda path: path.stem)
def test_every_preset_builds_and_gives_descriptors_of_its_length(path):
    config = load(path.stem)
    model = build(config)
    size = config.preprocessing
    width, grid = model.backbone.config.width, (size.height // 14, size.width // 14)
    with torch.no_grad():
        head = model.aggregator.to_empty(device='cpu')
        rows = head(torch.zeros(1, width), torch.zeros(1, width, *grid))
    assert tuple(rows.shape) == (1, model.dimension)
    assert model.dimension == DIMENSIONS.get(config.aggregator, 8448)
    assert from_mapping(ModelConfig, to_mapping(config)) == config


def test_every_row_of_the_papers_tables_has_a_preset():
    wanted = {f'table2_{backbone}_{head}' for backbone in ('frozen', 'last_4', 'adapter')
              for head in ('gem', 'salad', 'regvpr')}
    wanted |= {f'table1_{row}' for row in ('netvlad', 'gem', 'cosplace', 'eigenplaces', 'mixvpr',
                                           'salad', 'regvpr')}
    wanted |= {f'figure6_registers_{k}' for k in (1, 2, 4, 8, 16)}
    wanted |= {f'figure6_layers_{count}' for count in (1, 2, 3, 4)}
    assert wanted <= {path.stem for path in PRESETS}


def test_the_sweeps_vary_one_number_each():
    for k in (1, 2, 4, 8, 16):
        assert build(load(f'figure6_registers_{k}')).aggregator.registers.shape == (k, 768)
    for count in (1, 2, 3, 4):
        assert len(build(load(f'figure6_layers_{count}')).aggregator.encoder) == count
    assert load('figure6_registers_4').aggregator == load('table2_adapter_regvpr').aggregator


# Backbone: 4 blocks of 7,089,408 and the final norm of 1,536. Adapters: 12 of 909,744.
@pytest.mark.parametrize(('preset', 'backbone', 'adapters', 'head'), [
    ('table2_frozen_gem', 0, 0, 1),
    ('table2_frozen_salad', 0, 0, 1_411_009),
    ('table2_last_4_salad', 28_359_168, 0, 1_411_009),
    ('table2_adapter_gem', 0, 10_916_928, 1),
    ('table2_adapter_regvpr', 0, 10_916_928, 1_810_624),
    ('regvpr_vitb14_adapter_last_4', 0, 3_638_976, 1_810_624),
    ('regvpr_vitb14_adapter_cricavpr', 0, 9_153_216, 1_810_624)])
def test_a_preset_trains_what_its_row_says(preset, backbone, adapters, head):
    groups = freeze_the_rest(model := build(load(preset)))
    counts = {name: sum(p.numel() for p in group) for name, group in groups.items()}
    assert counts == {'backbone': backbone, 'adapters': adapters, 'head': head}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == sum(counts.values())


def test_gradients_reach_the_trained_parts_and_nothing_else():
    torch.manual_seed(0)
    config = ModelConfig(aggregator='regvpr', adapter=AdapterConfig(blocks='last_2'),
                         train='adapter')
    model = DescriptorModel(config)
    groups = freeze_the_rest(model)
    rows = model(torch.randn(1, 3, 28, 42))
    (rows * torch.randn_like(rows)).sum().backward()
    with_gradient = {id(p) for p in model.parameters() if p.grad is not None}
    assert with_gradient == {id(p) for group in groups.values() for p in group}
    assert not groups['backbone']
    assert len(groups['adapters']) == 2 * len(list(model.backbone.blocks[11].adapter.parameters()))


def test_last_blocks_may_be_trained_together_with_their_adapters():
    config = ModelConfig(adapter=AdapterConfig(blocks='last_4'), train='last_4', train_norm=False)
    model = build(config)
    groups = trainable_parameters(model)
    assert sum(isinstance(block, AdaptedBlock) for block in model.backbone.blocks) == 4
    ids = [id(p) for group in groups.values() for p in group]
    assert len(ids) == len(set(ids))
    assert id(model.backbone.norm.weight) not in ids
    assert id(model.backbone.blocks[8].mlp.fc1.weight) in ids


@pytest.mark.parametrize('config', [
    {'train': 'last_2'}, {'train': 'adapter', 'adapter': AdapterConfig(blocks='last_2')}])
def test_last_blocks_are_counted_from_the_last_one_that_runs(config):
    model = DescriptorModel(ModelConfig(backbone='vits14', last_block=7, **config))
    groups = freeze_the_rest(model)
    trained = {name for name, value in model.backbone.named_parameters() if value.requires_grad}
    assert {int(name.split('.')[1]) for name in trained} == {6, 7}
    assert all(name.startswith('blocks.') for name in trained)  # the final LayerNorm does not run
    model(torch.randn(2, 3, 28, 28)).sum().backward()
    assert all(value.grad is not None for group in ('backbone', 'adapters')
               for value in groups[group])


def test_all_of_it_can_be_trained_except_an_average_that_learns_nothing():
    groups = trainable_parameters(model := build(ModelConfig(train='all')))
    assert groups['head'] == []
    assert len(groups['backbone']) == len(list(model.backbone.parameters()))


@pytest.mark.parametrize(('settings', 'message'), [
    ({'train': 'adapter'}, 'train is adapter, but the model has none'),
    ({'train_norm': True, 'last_block': 7}, 'the final LayerNorm does not run'),
    ({'train': 'last'}, "train is 'last'; expected frozen, adapter, last_4 or all"),
    ({'train': 'last_13'}, 'last_N is 13; expected 0 to 12'),
    ({'aggregator': 'regvrp'}, "unknown aggregator 'regvrp'; did you mean 'regvpr'"),
    ({'adapter': {'blocks': 'last_20'}}, 'last_N is 20; expected 1 to 12'),
    ({'adapter': {'scal': 0.1}}, "unknown setting 'adapter.scal'; did you mean 'adapter.scale'"),
    ({'aggregator_config': {'pover': 3.0}}, "unknown setting 'aggregator.pover'")])
def test_a_wrong_model_config_is_refused_before_anything_is_built(settings, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(ModelConfig, settings)
