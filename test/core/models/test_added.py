"""Anybody's model becomes a name: .onnx files, functions, folders of transformers."""

import json

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from regvpr_core.cli import main
from regvpr_core.evaluation.model_specs import check_spec, open_describer
from regvpr_core.models.added import added_names
from regvpr_core.models.encoder import load_encoder

pytest.importorskip('onnxruntime')


class Mean(nn.Module):
    """Colours of a coarse grid: a descriptor of 48 numbers."""

    def forward(self, x):
        rows = nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)
        return rows / (rows.norm(dim=1, keepdim=True) + 1e-6)


class Variant(nn.Module):
    """`Mean` with a fault."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault

    def forward(self, x):
        rows = nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)
        if self.fault == 'batch':
            return rows - rows.mean(dim=0, keepdim=True)
        if self.fault == 'map':
            return nn.functional.adaptive_avg_pool2d(x, 4)
        if self.fault == 'nan':
            return torch.log(rows - rows.min() - 1.0)
        return 0.0 * rows + 1.0


def write(model, path, *, size=(56, 84), batch=True, names=('pixels', 'rows')):
    """Export as a stranger would."""
    dynamic = {name: {0: 'n'} for name in names} if batch else None
    torch.onnx.export(model.eval(), (torch.randn(1, 3, *size),), str(path), dynamo=False,
                      opset_version=17, input_names=names[:1], output_names=names[1:],
                      dynamic_axes=dynamic)
    return path


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Added models go to a cache of the test."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('REGVPR_WEIGHTS', raising=False)


def test_an_added_onnx_model_builds_a_map_and_localizes_by_its_name(
    tmp_path, make_bag, frames, noise, capsys
):
    import cv2

    file = write(Mean(), tmp_path / 'mine.onnx')
    assert main(['models', 'add', str(file), '--size', '84x56', '--mean', '0.5', '0.5', '0.5',
                 '--std', '0.2', '0.2', '0.2', '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts['model'] == 'mine'
    assert facts['dimension'] == 48
    file.unlink()  # a copy is kept
    encoder = load_encoder('mine')
    assert encoder.preprocessing.mean == (0.5, 0.5, 0.5)
    assert (encoder.preprocessing.height, encoder.preprocessing.width) == (56, 84)
    image = noise(1)[0]
    row = encoder.describe(image)
    wanted = Mean()(torch.from_numpy(encoder.prepare(image)))[0].numpy()
    np.testing.assert_allclose(row, wanted, atol=1e-5)
    bag = make_bag(tmp_path / 'bag', frames(6))
    assert main(['map', 'build', str(bag), '--out', str(tmp_path / 'map'), '--model', 'mine',
                 '--set', 'keyframes.distance_m=0.5']) == 0
    photo = tmp_path / 'photo.png'
    cv2.imwrite(str(photo), noise(6)[3][..., ::-1])
    capsys.readouterr()
    assert main(['localize', str(tmp_path / 'map'), str(photo), '--json']) == 0
    assert json.loads(capsys.readouterr().out)[0]['keyframe'] == 3


def test_an_added_model_is_evaluated_by_its_name(tmp_path, noise):
    write(Mean(), tmp_path / 'mine.onnx')
    assert main(['models', 'add', str(tmp_path / 'mine.onnx'), '--size', '84x56', '--name',
                 'grid']) == 0
    assert added_names() == ['grid']
    check_spec('grid', allow_code=False)
    describer = open_describer('grid', device='cpu')
    rows = describer.describe([describer.prepare(rgb) for rgb in noise(3)])
    assert rows.shape == (3, 48)


def test_the_fingerprint_is_of_the_file_and_of_how_it_is_shown_images(tmp_path):
    write(Mean(), tmp_path / 'mine.onnx')
    seen = set()
    shown = ([], ['--mean', '0', '0', '0'], ['--interpolation', 'bicubic'])
    for number, extra in enumerate(shown):
        assert main(['models', 'add', str(tmp_path / 'mine.onnx'), '--size', '84x56',
                     '--name', f'm{number}', *extra]) == 0
        seen.add(load_encoder(f'm{number}').fingerprint)
    assert main(['models', 'add', str(tmp_path / 'mine.onnx'), '--size', '84x56',
                 '--name', 'again']) == 0
    assert load_encoder('again').fingerprint in seen
    assert len(seen) == 3


def test_a_model_that_was_exported_for_one_image_describes_batches(tmp_path, noise):
    write(Mean(), tmp_path / 'one.onnx', batch=False)
    assert main(['models', 'add', str(tmp_path / 'one.onnx'), '--size', '84x56']) == 0
    encoder = load_encoder('one')
    rows = encoder.describe_batch(noise(3))
    np.testing.assert_allclose(rows[2], encoder.describe(noise(3)[2]), atol=1e-6)


@pytest.mark.parametrize(('fault', 'says'), [
    ('batch', 'depends on the others in its batch'), ('map', 'pool the feature map'),
    ('nan', 'not finite'), ('same', 'the same descriptor for different images')])
def test_what_a_model_must_fulfil_is_checked_and_the_message_says_how_to_mend_it(
    fault, says, tmp_path, capsys
):
    write(Variant(fault), tmp_path / 'bad.onnx')
    assert main(['models', 'add', str(tmp_path / 'bad.onnx'), '--size', '84x56']) == 1
    assert says in capsys.readouterr().err
    assert added_names() == []
    assert not list((tmp_path / 'cache').rglob('*.onnx'))


@pytest.mark.parametrize(('arguments', 'says'), [
    (['--size', '322'], 'give --size 84x56'), ([], 'give --size PIXELS'),
    (['--size', '84x56', '--name', 'megaloc'], 'megaloc is a model of regvpr already'),
    (['--size', '84x56', '--name', '../x'], 'cannot be the name of a model'),
    (['--size', 'big'], "--size is 'big'"), (['--mean', '0', '0', '0'], 'need --size'),
    (['--size', '84x56', '--output', 'row'], "did you mean 'rows'")])
def test_wrong_options_are_refused_in_one_line(arguments, says, tmp_path, capsys):
    write(Mean(), tmp_path / 'mine.onnx')
    assert main(['models', 'add', str(tmp_path / 'mine.onnx'), *arguments]) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count('\n') == 1
    assert added_names() == []


FUNCTION = """
import numpy as np
def coarse(images):
    return np.stack([image[::24, ::24].astype(float).ravel()[:60] + 1.0 for image in images])
"""


def test_a_function_of_a_file_becomes_a_model_until_the_file_changes(
    tmp_path, noise, capsys
):
    file = tmp_path / 'my_module.py'
    file.write_text(FUNCTION)
    assert main(['models', 'add', f'{file}:coarse']) == 0
    encoder = load_encoder('coarse')
    rows = encoder.describe_batch(noise(3))
    assert rows.shape == (3, 60)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
    file.write_text(FUNCTION + 'x = 1\n')
    cv2.imwrite(str(tmp_path / 'one.png'), noise(1)[0])
    assert main(['describe', str(tmp_path / 'one.png'), '--model', 'coarse']) == 1
    assert 'has changed since model coarse was added' in capsys.readouterr().err


@pytest.mark.parametrize(('kind', 'pool'), [
    ('dinov2', 'cls'), ('dinov2_with_registers', 'gem'), ('dinov3_vit', 'cls'),
    ('siglip_vision_model', 'cls'), ('siglip_vision_model', 'gem')])
def test_a_folder_of_transformers_is_a_baseline(kind, pool, tmp_path, noise):
    transformers = pytest.importorskip('transformers')
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=64, patch_size=16)
    model = transformers.AutoModel.from_config(config).eval()
    folder = tmp_path / 'folder'
    model.save_pretrained(folder)
    assert main(['models', 'add', str(folder), '--name', 'hf', '--pool', pool, '--size',
                 '96x64']) == 0
    encoder = load_encoder('hf', 'cpu', 'fp32')
    rows = encoder.describe_batch(noise(2))
    assert rows.shape == (2, 32)
    np.testing.assert_allclose(rows[1], encoder.describe(noise(2)[1]), atol=1e-5)
    if pool == 'cls' and kind != 'siglip_vision_model':
        with torch.no_grad():
            token = model(pixel_values=encoder.prepare(noise(1)[0])).last_hidden_state[0, 0]
        np.testing.assert_allclose(encoder.describe(noise(1)[0]),
                                   nn.functional.normalize(token, dim=0), atol=1e-5)
    _, tokens = encoder.describe_with_tokens(noise(1)[0])
    assert tokens.shape == (4, 6, 32)
