import pytest

from regvpr_core.cli import main
from regvpr_core.config import PRESETS
from regvpr_core.errors import ConfigError
from regvpr_core.models.vit import VIT_CONFIGS
from regvpr_core.training.settings import read_train_config

FOLDER = PRESETS / 'train'
PRESETS = sorted(FOLDER.glob('*.yaml'))


@pytest.mark.parametrize('path', PRESETS, ids=lambda path: path.stem)
def test_every_preset_reads_and_is_named_as_its_file(path):
    config = read_train_config(path)
    assert config.name == path.stem
    depth = VIT_CONFIGS[config.model.backbone].depth
    last = depth - 1 if config.model.last_block is None else config.model.last_block
    assert config.recompute_blocks <= last + 1


def test_every_row_of_the_papers_tables_can_be_trained():
    models = FOLDER.parent / 'models'  # test_presets.py says which rows are there
    wanted = {path.stem for path in models.glob('*.yaml')
              if path.stem.startswith(('table', 'figure'))}
    assert len(wanted) >= 25
    assert wanted <= {path.stem for path in PRESETS}


def test_the_papers_recipe_is_the_default():
    config = read_train_config(FOLDER / 'table1_regvpr.yaml')
    assert (config.batch.places, config.batch.images, config.batch.shuffle) == (60, 4, 'groups')
    assert (config.optimiser.lr, config.optimiser.weight_decay) == (6e-5, 9.5e-9)
    assert (config.schedule.kind, config.schedule.steps, config.schedule.end) == (
        'linear', 4000, 0.2)
    assert (config.loss.alpha, config.loss.beta, config.loss.base, config.loss.epsilon) == (
        1.0, 50.0, 0.0, 0.1)
    assert (config.augmentation.operations, config.augmentation.magnitude) == (3, 9.0)
    assert config.epochs == 4
    assert (config.model.preprocessing.height, config.model.preprocessing.width) == (224, 224)
    assert config.model.train == 'adapter'


def test_settings_can_be_replaced_and_so_can_the_model():
    config = read_train_config(FOLDER / 'table1_regvpr.yaml', [
        'optimiser.lr_adapters=1e-4', f'model={FOLDER.parent}/models/table1_salad.yaml',
        'model.train=last_2'])
    assert config.optimiser.lr_adapters == 1e-4
    assert (config.model.aggregator, config.model.train) == ('salad', 'last_2')


@pytest.mark.parametrize(('text', 'message'), [
    ('model: {}\ndata: [{kind: gsv_city}]',
     "unknown data.kind 'gsv_city'; did you mean 'gsv_cities'"),
    ('model: {}\ndata: [{folder: x}]\nepoch: 3', "unknown setting 'epoch'; did you mean 'epochs'"),
    ('model: {}\ndata: [{folder: x}]\noptimiser: {lrate: 1}', "'optimiser.lrate'"),
    ('data: [{folder: x}]', 'names no model'),
    ('model: {}', 'data is empty'),
    ('model: nowhere.yaml\ndata: [{folder: x}]', 'cannot read .*nowhere.yaml')])
def test_a_wrong_config_is_one_line(tmp_path, capsys, text, message):
    path = tmp_path / 'run.yaml'
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_train_config(path)
    assert main(['train', '--config', str(path), '-o', str(tmp_path / 'run')]) == 1
    error = capsys.readouterr().err
    assert error.startswith('regvpr: ')
    assert error.count('\n') == 1
    assert not (tmp_path / 'run').exists()
