import copy
import json

import numpy as np
import pytest
import torch

from regvpr_core.cli import main
from regvpr_core.errors import CheckpointError, ConfigError, ExportError
from regvpr_core.models import export
from regvpr_core.models.adapter import AdapterConfig
from regvpr_core.models.checkpoints import LoadedModel
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.encoder import load_encoder, torch_encoder
from regvpr_core.models.export import export_onnx
from regvpr_core.models.preprocessing import Preprocessing

pytest.importorskip('onnxruntime')

HEADS = {'regvpr': {}, 'salad': {'clusters': 8}, 'gem': {'power': 3.0}, 'netvlad': {},
         'cosplace': {}}


def loaded(aggregator: str = 'gem', **settings: object) -> LoadedModel:
    """One block of ViT-S with random weights."""
    torch.manual_seed(0)
    model = DescriptorModel(ModelConfig(
        aggregator=aggregator, aggregator_config=settings, adapter=AdapterConfig(), last_block=0,
        preprocessing=Preprocessing(height=56, width=84))).eval().requires_grad_(False)
    torch.nn.init.normal_(model.backbone.blocks[0].adapter.up.weight, std=0.05)
    return LoadedModel(model, 'random', 'f' * 64, 'random weights')


@pytest.fixture(scope='module')
def exported(tmp_path_factory, small_model):
    """The small model as ONNX, made by the command."""
    path = tmp_path_factory.mktemp('onnx') / 'small.onnx'
    assert main(['export', str(small_model), '--format', 'onnx', '-o', str(path), '--json']) == 0
    return path


@pytest.mark.parametrize('head', HEADS)
def test_onnxruntime_gives_what_torch_gives(head, tmp_path, noise):
    model = loaded(head, **HEADS[head])
    ours = torch_encoder(copy.deepcopy(model), torch.device('cpu'), 'fp32')
    assert export_onnx(model, tmp_path / 'model.onnx') < 1e-5
    theirs = load_encoder(tmp_path / 'model.onnx')
    images = noise(3)
    np.testing.assert_allclose(theirs.describe_batch(images), ours.describe_batch(images),
                               atol=1e-5)
    np.testing.assert_allclose(theirs.describe(images[1]), ours.describe(images[1]), atol=1e-5)


def test_an_exported_model_is_known_as_the_checkpoint_is(exported, small_encoder):
    encoder = load_encoder(exported, engine='onnxruntime', threads=1)
    for name in ('name', 'fingerprint', 'dimension', 'preprocessing', 'precision'):
        assert getattr(encoder, name) == getattr(small_encoder, name)
    assert str(encoder.device) == 'cpu'
    assert 'small.onnx' in encoder.notice


def test_the_command_says_opset_and_difference(small_model, tmp_path, capsys):
    path = tmp_path / 'small.onnx'
    assert main(['export', str(small_model), '-o', str(path), '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['opset'] == 17
    assert 0.0 <= facts['difference'] < 1e-5
    assert facts['input'] == 'images, batch x 3 x 56 x 56, normalised'
    assert sorted(p.name for p in tmp_path.iterdir()) == ['small.onnx']


def test_a_mismatch_is_an_error_that_says_how_large_and_leaves_no_file(tmp_path, monkeypatch):
    add_record = export.add_record

    def damage(path, about):
        import onnx
        add_record(path, about)
        model = onnx.load(str(path))
        weights = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = np.frombuffer(weights.raw_data, dtype=np.float32).copy()
        values[: len(values) // 2] *= 1.5
        weights.raw_data = values.tobytes()
        onnx.save(model, str(path))

    monkeypatch.setattr(export, 'add_record', damage)
    with pytest.raises(ExportError, match=r'differs from torch by \d\.\d+e-\d+ \(allowed: 1e-04'):
        export_onnx(loaded(), tmp_path / 'model.onnx')
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_or_folder_is_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match=r'model\.bin must end in \.onnx'):
        export_onnx(loaded(), tmp_path / 'model.bin')
    with pytest.raises(ConfigError, match=r'folder .* does not exist'):
        export_onnx(loaded(), tmp_path / 'no' / 'model.onnx')


def test_a_truncated_or_foreign_onnx_file_is_refused(exported, tmp_path):
    import onnx
    cut = tmp_path / 'cut.onnx'
    cut.write_bytes(exported.read_bytes()[:50_000])
    with pytest.raises(CheckpointError, match=r'cut.onnx is truncated or no ONNX model'):
        load_encoder(cut)
    foreign = tmp_path / 'foreign.onnx'
    model = onnx.load(str(exported))
    del model.metadata_props[:]
    onnx.save(model, str(foreign))
    with pytest.raises(CheckpointError, match=r'holds no record of its model.*`regvpr models add'):
        load_encoder(foreign)
    with pytest.raises(CheckpointError, match=r'absent.onnx does not exist'):
        load_encoder(tmp_path / 'absent.onnx')


def test_what_onnxruntime_cannot_do_is_refused(exported):
    with pytest.raises(ConfigError, match=r"precision is 'bf16'; .*small.onnx is fp32"):
        load_encoder(exported, precision='bf16')
    with pytest.raises(ConfigError, match='engine torch cannot run'):
        load_encoder(exported, engine='torch')


@pytest.fixture
def photos(tmp_path, noise):
    """A folder of 20 images of a wall."""
    import cv2

    folder = tmp_path / 'photos'
    folder.mkdir()
    for number, rgb in enumerate(noise(20)):
        cv2.imwrite(str(folder / f'{number:02d}.png'), rgb[..., ::-1])
    return folder


@pytest.mark.parametrize(('precision', 'bound'), [('fp16', 0.999), ('int8', 0.95)])
def test_smaller_forms_are_measured_and_known_as_the_model_is(
    precision, bound, small_model, small_encoder, photos, tmp_path, noise, capsys
):
    path = tmp_path / 'small.onnx'
    assert main(['export', str(small_model), '-o', str(path), '--precision', precision,
                 '--images', str(photos), '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['precision'] == precision
    assert bound < facts['least cosine'] <= 1.0001
    assert facts['images compared'] == 20
    assert facts['same first match'] >= 0.8
    assert sorted(p.name for p in tmp_path.iterdir()) == ['photos', 'small.onnx']
    encoder = load_encoder(path)
    assert encoder.precision == precision
    assert encoder.fingerprint == small_encoder.fingerprint
    images = noise(4)
    assert (encoder.describe_batch(images) * small_encoder.describe_batch(images)
            ).sum(axis=1).min() > bound


def test_int8_without_images_is_refused_and_leaves_no_file(small_model, tmp_path, capsys):
    assert main(['export', str(small_model), '-o', str(tmp_path / 'small.onnx'), '--precision',
                 'int8']) == 1
    assert 'give --images FOLDER' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
