import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from regvpr_core.errors import ConfigError, ImageError
from regvpr_core.models import engines
from regvpr_core.models.adapter import AdapterConfig
from regvpr_core.models.checkpoints import LoadedModel
from regvpr_core.models.cpu.head import GROUP
from regvpr_core.models.cpu.linear import Form, FusedLinear, int8_works, Int8Linear, packing_works
from regvpr_core.models.cpu.network import fuse
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.encoder import load_encoder, torch_encoder
from regvpr_core.models.engines import fastest_form
from regvpr_core.models.preprocessing import Preprocessing
from regvpr_core.models.vit import VIT_CONFIGS

HEADS = {'regvpr': {}, 'salad': {'clusters': 8, 'output_dim': 40}, 'gem': {'power': 3.0},
         'cosplace': {}, 'netvlad': {}}
FORMS = [Form(), Form(products=True), Form(packed=True), Form(packed=True, products=True)]


def random_model(aggregator: str = 'regvpr', adapter: AdapterConfig | None = None,
                 settings: dict[str, object] | None = None) -> DescriptorModel:
    """Two blocks of ViT-S in which nothing is zero or one, so that a mistake shows."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # all twelve cost half a second to make
        patch.setitem(VIT_CONFIGS, 'vits14', replace(VIT_CONFIGS['vits14'], depth=2))
        model = DescriptorModel(ModelConfig(
            aggregator=aggregator, aggregator_config=settings or {}, adapter=adapter,
            last_block=1, preprocessing=Preprocessing(height=56, width=84)))
    for key, value in model.state_dict().items():
        if value.is_floating_point() and 'running_var' not in key and key != 'aggregator.power':
            value.add_(0.05 * torch.randn_like(value))
    return model.eval().requires_grad_(False)


def encoder_of(model: DescriptorModel, precision: str):
    """The encoder of a copy of a model."""
    return torch_encoder(LoadedModel(copy.deepcopy(model), 'random', 'f' * 64, 'random'),
                         torch.device('cpu'), precision)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('variant', [None, 'paper', 'shared_reduction', 'cricavpr'])
@pytest.mark.parametrize('inside', [True, False])
def test_a_fused_backbone_is_the_backbone(form, variant, inside):
    if form.packed and not packing_works():
        pytest.skip('this torch has no packed linear layers')
    if variant is None and not inside:
        pytest.skip('nothing to be inside of')
    adapter = variant and AdapterConfig(variant=variant, inside_layer_scale=inside)
    model = random_model(adapter=adapter or None)
    images = torch.randn(3, 3, 56, 84)
    with torch.no_grad():
        wanted = model.backbone(images, 1)
        given = fuse(copy.deepcopy(model), form).backbone(images, 1)
    for ours, theirs in zip(given, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize('head', HEADS)
def test_every_head_gives_the_same_descriptor_fused(head):
    model = random_model(head, settings=HEADS[head])
    images = torch.randn(2, 3, 56, 84)
    with torch.no_grad():
        wanted = model(images)
        for form in (Form(), Form(packed=packing_works())):
            given = fuse(copy.deepcopy(model), form)(images)
            torch.testing.assert_close(given, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize('settings', [
    {'join': 'clusters'}, {'register_width': 'reduced'}, {'layers': 0}, {'registers': 0},
    {'join': 'clusters', 'layers': 1, 'heads': 2, 'iterations': 1, 'reg': 0.5}])
def test_every_reading_of_the_registers_is_there_fused(settings):
    model = random_model(settings=settings)
    images = torch.randn(GROUP + 2, 3, 28, 42)  # more than pass together
    with torch.no_grad():
        wanted = model(images)
        for form in (Form(), Form(packed=packing_works())):
            fused = fuse(copy.deepcopy(model), form)
            torch.testing.assert_close(fused(images), wanted, atol=1e-5, rtol=0)


def test_the_final_norm_and_another_size_are_there_fused():
    model = random_model()
    model.config = ModelConfig(aggregator='regvpr')
    model.backbone.blocks = model.backbone.blocks[:2]
    fused = fuse(copy.deepcopy(model), Form())
    with torch.no_grad():
        for height, width in ((28, 42), (42, 28), (28, 42), (518, 14)):
            images = torch.randn(1, 3, height, width)
            torch.testing.assert_close(fused(images), model(images), atol=1e-5, rtol=0)
        with pytest.raises(ImageError, match='network input is 15x28 pixels'):
            fused(torch.randn(1, 3, 28, 15))


@pytest.mark.skipif(not int8_works(), reason='this torch has no products in 8 bits here')
@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('adapted', [False, True])
def test_int8_keeps_the_cosine_that_the_docs_promise(head, adapted, noise, assert_agree):
    model = random_model(head, AdapterConfig() if adapted else None, HEADS[head])
    images = noise(4)
    encoder = encoder_of(model, 'int8')
    assert encoder.precision == 'int8'
    together = encoder.describe_batch(images)
    assert_agree('int8', 'fp32', encoder_of(model, 'fp32').describe_batch(images), together)
    assert_agree('int8', 'batch', [encoder.describe(image) for image in images], together)


@pytest.mark.skipif(not int8_works(), reason='this torch has no products in 8 bits here')
def test_a_row_of_large_values_does_not_coarsen_the_others():
    torch.manual_seed(0)
    weight, bias, residual = torch.randn(48, 64), torch.randn(48), torch.randn(5, 48)
    rows = torch.randn(5, 64) * torch.tensor([1e-3, 1.0, 0.0, 1.0, 1e3])[:, None]
    given = Int8Linear(weight, torch.zeros(48), Form(int8=True))(rows)
    wanted = rows @ weight.T
    assert (given - wanted).norm(dim=1).le(0.02 * wanted.norm(dim=1)).all()
    gelu = Int8Linear(weight, bias, Form(int8=True), 'gelu')(rows, residual.clone())
    torch.testing.assert_close(
        gelu[:4], (F.gelu(wanted + bias) + residual)[:4], atol=0.5, rtol=0.05)


@pytest.mark.skipif(not packing_works(), reason='this torch has no packed layers')
def test_gelu_beside_a_packed_product_is_the_fused_one():
    torch.manual_seed(0)
    layer = FusedLinear(torch.randn(32, 16), torch.randn(32), Form(packed=True), 'gelu')
    x, found = torch.randn(2, 5, 16), []
    for layer.gelu_apart in (False, True):
        found.append(layer(x))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


def test_int8_is_refused_where_it_cannot_run(monkeypatch):
    model = random_model()
    with pytest.raises(ConfigError, match='precision int8 is one of our models on a CPU'):
        torch_encoder(LoadedModel(model, 'random', 'f' * 64, 'random'), torch.device('cuda'),
                      'int8')
    monkeypatch.setattr('regvpr_core.models.engines.int8_works', lambda: False)
    with pytest.raises(ConfigError, match='has no products in 8 bits on this processor'):
        encoder_of(model, 'int8')


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('adapted', [False, True])
def test_bf16_keeps_the_cosine_that_the_docs_promise(head, adapted, noise, assert_agree):
    model = random_model(head, AdapterConfig() if adapted else None, HEADS[head])
    images = noise(4)
    assert_agree('bf16', 'fp32', encoder_of(model, 'fp32').describe_batch(images),
                 encoder_of(model, 'bf16').describe_batch(images))


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_a_descriptor_depends_on_its_batch_no_more_than_the_docs_say(
        precision, head, noise, assert_agree):
    encoder = encoder_of(random_model(head, AdapterConfig(), HEADS[head]), precision)
    images = noise(5)
    assert_agree(precision, 'batch', [encoder.describe(image) for image in images],
                 encoder.describe_batch(images))


def test_a_prepared_image_gives_the_descriptor_of_the_image(noise):
    encoder = encoder_of(random_model(), 'fp32')
    images = noise(2)
    np.testing.assert_array_equal(
        encoder.describe_prepared([encoder.prepare(image) for image in images]),
        encoder.describe_batch(images))


def test_the_form_is_measured_once_and_leaves_random_numbers_alone():
    fastest_form.cache_clear()
    torch.manual_seed(3)
    wanted = torch.rand(1)
    torch.manual_seed(3)
    form = fastest_form(32, 2, ('fp32', 'bf16'), 1)
    assert torch.equal(torch.rand(1), wanted)
    assert fastest_form(32, 2, ('fp32', 'bf16'), 1) is form
    assert fastest_form(32, 2, ('bf16',), 1).dtype == torch.bfloat16
    fastest_form.cache_clear()


def test_bf16_is_not_taken_where_it_is_slow(monkeypatch):
    fastest_form.cache_clear()
    monkeypatch.setattr(engines, 'bf16_is_faster', lambda width: False)
    assert fastest_form(32, 2, ('fp32', 'bf16'), 1).dtype == torch.float32
    fastest_form.cache_clear()


def test_a_torch_without_packed_layers_still_describes(monkeypatch, small_model, noise):
    fastest_form.cache_clear()
    wanted = load_encoder(small_model, 'cpu', 'fp32').describe(noise(1)[0])
    fastest_form.cache_clear()
    monkeypatch.setattr(engines, 'packing_works', lambda dtype=None: False)
    given = load_encoder(small_model, 'cpu', 'fp32').describe(noise(1)[0])
    np.testing.assert_allclose(given, wanted, atol=1e-5)
    fastest_form.cache_clear()


def test_bf16_is_never_chosen_where_it_is_emulated(monkeypatch):
    fastest_form.cache_clear()
    monkeypatch.setattr(engines, 'packing_works', lambda dtype=torch.float32: dtype.itemsize == 4)
    monkeypatch.setattr(engines, 'bf16_is_faster', lambda width: True)
    assert fastest_form(32, 2, ('fp32', 'bf16'), 1).dtype == torch.float32
    asked = fastest_form(32, 2, ('bf16',), 1)
    assert asked.dtype == torch.bfloat16
    assert not asked.packed
    fastest_form.cache_clear()


def test_threads_are_set_and_checked(small_model):
    before = torch.get_num_threads()
    try:
        load_encoder(small_model, 'cpu', 'fp32', threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ConfigError, match='threads is 0; expected 1 to 1024'):
        load_encoder(small_model, 'cpu', threads=0)


def test_an_unknown_engine_names_the_known_ones(small_model):
    with pytest.raises(ConfigError, match="unknown engine 'onnx'; known: auto, onnxruntime"):
        load_encoder(small_model, engine='onnx')


def test_onnxruntime_does_not_take_a_checkpoint(small_model):
    with pytest.raises(ConfigError, match=r'`regvpr export MODEL -o FILE.onnx`'):
        load_encoder(small_model, engine='onnxruntime')


def test_the_engine_of_other_devices_gives_what_the_cpu_engine_gives():
    model = random_model(adapter=AdapterConfig())
    images = torch.randn(2, 3, 56, 84)
    other = engines.DeviceEngine(copy.deepcopy(model), torch.device('cpu'), 'fp32')
    ours = engines.CpuEngine(copy.deepcopy(model), 'fp32', None)
    np.testing.assert_allclose(other(images), ours(images), atol=1e-5)
    assert other.precision == 'fp32'
