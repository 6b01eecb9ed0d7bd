"""Registers inside the backbone (reading D): which tokens pass which blocks, and what is kept."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from regvpr_core.config import from_mapping
from regvpr_core.errors import ConfigError
from regvpr_core.models.checkpoints import LoadedModel
from regvpr_core.models.cpu.linear import Form
from regvpr_core.models.cpu.network import fuse
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.export import export_onnx
from regvpr_core.models.inside_registers import InsideConfig, InsideRegisters
from regvpr_core.models.trainable import trainable_parameters

SIZE = {'height': 42, 'width': 56}


def inside(**settings) -> DescriptorModel:
    """One block of ViT-S, then two with three registers that are as large as tokens."""
    torch.manual_seed(0)
    model = DescriptorModel(from_mapping(ModelConfig, {
        'last_block': 0, 'aggregator': 'inside', 'preprocessing': SIZE,
        'aggregator_config': {'registers': 3, 'blocks': 2} | settings})).eval()
    model.aggregator.start_from(model.backbone.blocks[1:3])
    torch.nn.init.normal_(model.aggregator.registers)
    return model


@torch.no_grad()
def test_the_registers_pass_the_blocks_of_the_backbone_beside_the_patches():
    model, images = inside(), torch.randn(2, 3, 42, 56)
    x = model.backbone.embed(images, (3, 4))
    x = model.backbone.blocks[0](x, (3, 4))
    x = torch.cat([x, model.aggregator.registers.expand(2, -1, -1)], dim=1)
    for block in model.backbone.blocks[1:3]:
        x = block(x, (3, 4))
    wanted = F.layer_norm(x, (384,), eps=1e-6)
    class_token, patches, registers = model.aggregator.passed(*model.backbone(images, 0))
    torch.testing.assert_close(class_token, wanted[:, 0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(patches[1, :, 2, 3], wanted[1, 12], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(registers, wanted[:, 13:], atol=1e-4, rtol=1e-4)
    rows = model(images)
    torch.testing.assert_close(rows, F.normalize(wanted[:, 13:].flatten(1), dim=1), atol=1e-4,
                               rtol=1e-4)


@torch.no_grad()
def test_dropped_registers_change_the_descriptor_only_through_the_patches():
    model, images = inside(keep=False), torch.randn(2, 3, 42, 56)
    before = model(images)
    assert before.shape == (2, 8448)
    class_token, patches, _ = model.aggregator.passed(*model.backbone(images, 0))
    torch.testing.assert_close(before, model.aggregator.transport(class_token, patches))
    model.aggregator.registers.mul_(-1)
    assert float((model(images) * before).sum(dim=1).max()) < 0.9999


def test_blocks_that_the_backbone_lacks_are_refused():
    model = inside()
    with pytest.raises(ConfigError, match=r'aggregator\.blocks is 2, but the backbone has 1'):
        model.aggregator.start_from(model.backbone.blocks[11:])
    with pytest.raises(ConfigError, match='a multiple of 64, got 32'):
        InsideRegisters(32, InsideConfig())


def test_blocks_are_trained_at_the_rate_of_the_backbone_or_not_at_all():
    groups = trainable_parameters(inside())
    assert len(groups['backbone']) == 2 * 14
    assert [tuple(p.shape) for p in groups['head']] == [(3, 384), (384,), (384,)]
    groups = trainable_parameters(inside(train_blocks=False))
    assert groups['backbone'] == []
    assert len(groups['head']) == 3


@pytest.mark.parametrize('keep', [True, False])
def test_the_form_for_a_cpu_and_onnx_agree(keep, tmp_path):
    images = torch.randn(2, 3, 42, 56)
    with torch.no_grad():
        wanted = inside(keep=keep)(images)
        got = fuse(inside(keep=keep), Form(dtype=torch.float32, packed=False))(images)
    np.testing.assert_allclose(F.cosine_similarity(wanted, got).numpy(), 1.0, atol=1e-5)
    pytest.importorskip('onnxruntime')
    assert export_onnx(LoadedModel(inside(keep=keep), 'd', 'f' * 64, ''),
                       tmp_path / 'd.onnx') < 1e-4
