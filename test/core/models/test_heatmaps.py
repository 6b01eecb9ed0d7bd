import os
from pathlib import Path

import numpy as np
import pytest
import torch

from regvpr_core.cli import main
from regvpr_core.images import encode_jpeg, read
from regvpr_core.models.checkpoints import save_checkpoint
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.heatmaps import Heatmaps, heatmaps, overlay, scaled, sheet
from regvpr_core.models.preprocessing import network_input, Preprocessing


@pytest.fixture(scope='module')
def register_model() -> DescriptorModel:
    """One block of ViT-S and three registers, on a grid of 4 x 6."""
    torch.manual_seed(0)
    return DescriptorModel(ModelConfig(
        aggregator='regvpr', aggregator_config={'registers': 3}, last_block=0,
        preprocessing=Preprocessing(height=56, width=84))).eval().requires_grad_(False)


def test_heat_is_the_channel_mean_from_0_to_1(register_model, noise):
    rgb = noise(1)[0]
    heat = heatmaps(register_model, rgb).features
    inputs = network_input(rgb, register_model.config.preprocessing, torch.device('cpu'))
    mean = register_model.backbone(inputs, 0)[1][0].mean(dim=0).numpy()
    assert heat.shape == (4, 6)
    assert (heat.min(), heat.max()) == (0.0, 1.0)
    assert np.corrcoef(heat.ravel(), mean.ravel())[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_each_register_has_a_map_and_other_models_have_none(register_model, noise):
    maps = heatmaps(register_model, noise(1)[0])
    assert [heat.shape for heat in maps.registers] == [(4, 6)] * 3
    assert all((heat.min(), heat.max()) == (0.0, 1.0) for heat in maps.registers)
    model = DescriptorModel(ModelConfig(last_block=0)).eval()
    assert heatmaps(model, noise(1)[0]).registers == []


def test_the_registers_of_a_joined_head_have_maps_too(noise):
    torch.manual_seed(0)
    model = DescriptorModel(ModelConfig(
        last_block=0, second='efficientnet_lite0', aggregator='joined',
        aggregator_config={'registers': {'registers': 2, 'clusters': 8}},
        preprocessing=Preprocessing(height=56, width=84))).eval()
    maps = heatmaps(model, noise(1)[0])
    assert [heat.shape for heat in maps.registers] == [(4, 6)] * 2
    assert all(heat.max() == 1.0 for heat in maps.registers)


def test_a_flat_map_is_zero():
    np.testing.assert_array_equal(scaled(np.full((2, 3), 7.0, np.float32)), np.zeros((2, 3)))


def test_cold_is_blue_and_hot_is_red_where_it_is_hot():
    heat = np.zeros((4, 6), np.float32)
    heat[:, 3:] = 1.0
    picture = overlay(np.zeros((40, 60, 3), np.uint8), heat)
    assert picture.shape == (40, 60, 3)
    red, _, blue = picture[20, 3].astype(int)
    assert blue > 60 > red
    red, _, blue = picture[20, 56].astype(int)
    assert red > 60 > blue


def test_a_sheet_has_models_side_by_side_and_registers_below():
    rgb, heat = np.zeros((40, 60, 3), np.uint8), np.zeros((4, 6), np.float32)
    page = sheet(rgb, {'a': Heatmaps(heat, []), 'b': Heatmaps(heat, [heat] * 4)})
    assert page.shape == (2 * (40 + 24), 4 * 60, 3)


def test_the_command_writes_a_picture_an_image(register_model, small_model, noise, tmp_path,
                                               capsys):
    checkpoint = tmp_path / 'registers.safetensors'
    save_checkpoint(checkpoint, register_model, name='registers', backbone=None, record={})
    for i, rgb in enumerate(noise(2)):
        (tmp_path / f'{i}.jpg').write_bytes(encode_jpeg(rgb))
    (tmp_path / 'broken.jpg').write_bytes(b'no')
    arguments = ['heatmap', *(str(tmp_path / f'{name}.jpg') for name in ('0', '1', 'broken')),
                 '-o', str(tmp_path / 'out'), '--model', str(small_model),
                 '--model', str(checkpoint)]
    assert main(arguments) == 0
    assert 'skipped' in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['0.png', '1.png']
    assert read(tmp_path / 'out' / '0.png').shape == (2 * (120 + 24), 3 * 160, 3)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b'/\xff.jpg'))  # no UTF-8
    odd.write_bytes((tmp_path / '0.jpg').read_bytes())
    assert main(['heatmap', str(odd), '-o', str(tmp_path / 'odd'), '--model',
                 str(small_model)]) == 0
    assert [p.name for p in (tmp_path / 'odd').iterdir()] == ['\ufffd.png']
    assert main(['heatmap', str(tmp_path / 'broken.jpg'), '-o', str(tmp_path / 'out'),
                 '--model', str(small_model)]) == 1
    assert 'none of 1 files can be read' in capsys.readouterr().err
