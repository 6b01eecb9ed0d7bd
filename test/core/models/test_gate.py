"""Engines are compared with float32 before their first use; below the bound they are refused."""

import json
import shutil

import numpy as np
import pytest

from regvpr_core.cli import main
from regvpr_core.errors import CheckpointError, ConfigError
from regvpr_core.models import encoder as encoder_module, gate
from regvpr_core.models.encoder import load_encoder
from regvpr_core.models.gate import agreement, BOUND, drawn_images, pack, unpack

pytest.importorskip('onnxruntime')


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Results are kept in a cache of the test."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))


@pytest.fixture(scope='module')
def exported(tmp_path_factory, small_model):
    """The small model as ONNX."""
    path = tmp_path_factory.mktemp('onnx') / 'small.onnx'
    assert main(['export', str(small_model), '-o', str(path), '--json']) == 0
    return path


def results(tmp_path):
    return [float(path.read_text()) for path in (tmp_path / 'cache').rglob('gate/*')]


def test_the_drawn_images_are_the_same_each_time_and_differ_from_each_other():
    first, again = drawn_images(), drawn_images()
    assert len(first) == 16
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    means = {tuple(image.mean(axis=(0, 1)).round(3)) for image in first}
    assert len(means) == 16


def test_agreement_is_of_what_differs_between_images():
    rng = np.random.default_rng(0)
    common = np.full(64, 1.0)
    rows = common + 0.1 * rng.standard_normal((16, 64))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows.astype(np.float32)
    shuffled = rows[::-1].copy()
    assert (rows * shuffled).sum(axis=1).min() > 0.97  # plain cosines see no fault
    assert agreement(rows, shuffled) < 0.3
    assert agreement(rows, rows) == pytest.approx(1.0, abs=1e-5)
    shuffled[3, 5] = np.nan
    assert agreement(rows, shuffled) == -1.0


def test_an_exported_file_is_checked_once_on_a_machine(exported, tmp_path, monkeypatch):
    load_encoder(exported)
    assert len(results(tmp_path)) == 1
    assert results(tmp_path)[0] > 0.9999

    def never(*_):
        raise AssertionError('measured again')

    monkeypatch.setattr(encoder_module, 'onnx_agreement', never)
    load_encoder(exported)


def test_an_engine_that_gives_other_descriptors_is_refused(exported, tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_module.OnnxEngine, 'describe',
                        lambda self, rgb: self(self.prepare(rgb[::-1].copy()))[0])
    with pytest.raises(ConfigError, match=r'onnxruntime .* on cpu in fp32 gives other descriptors '
                                          r'than float32: least cosine .*Softmax, LayerNorm'):
        load_encoder(exported)
    monkeypatch.undo()
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    with pytest.raises(ConfigError, match='least cosine'):
        load_encoder(exported)  # the result is kept


def test_a_cache_that_cannot_be_written_is_no_obstacle(exported, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    assert load_encoder(exported).precision == 'fp32'


def test_a_precision_that_fails_is_refused_and_auto_takes_fp32(small_model, monkeypatch):
    monkeypatch.setitem(gate.BOUND, 'bf16', 1.1)
    with pytest.raises(ConfigError, match=r'torch .* on cpu in bf16 gives other descriptors'):
        load_encoder(small_model, 'cpu', 'bf16')
    told = []
    assert load_encoder(small_model, 'cpu', notice=told.append).precision == 'fp32'


def test_bf16_of_torch_is_measured_and_kept(small_model, tmp_path):
    load_encoder(small_model, 'cpu', 'bf16')
    (found,) = results(tmp_path)
    assert BOUND['bf16'] <= found < 1.0


def test_images_that_are_given_are_kept_in_the_file(small_model, tmp_path, noise):
    import cv2
    import onnx

    for number, rgb in enumerate(noise(18)):
        cv2.imwrite(str(tmp_path / f'{number:02d}.png'), rgb[..., ::-1])
    path = tmp_path / 'small.onnx'
    assert main(['export', str(small_model), '-o', str(path), '--images', str(tmp_path)]) == 0
    about = json.loads(onnx.load(str(path)).metadata_props[0].value)
    images, rows = unpack(about['gate'], about['dimension'])
    assert len(images) == 16
    assert images[0].shape == (120, 160, 3)
    assert np.abs(images[0].astype(int) - noise(18)[0].astype(int)).mean() < 12.0
    assert agreement(rows, np.stack([load_encoder(path).describe(rgb) for rgb in images])) > 0.9999


@pytest.mark.parametrize('damage', [
    {'descriptors': 'AAAA'}, {'images': ['AAAA'] * 16}, {'images': ['%'] * 3}, {'descriptors': 7}])
def test_damaged_images_of_a_file_are_refused(damage):
    packed = pack([], np.zeros((16, 4), np.float32)) | damage
    with pytest.raises(CheckpointError, match='export it again'):
        unpack(packed, 4)


def test_a_copy_of_a_file_needs_no_second_check(exported, tmp_path):
    load_encoder(exported)
    copy = tmp_path / 'copy.onnx'
    shutil.copyfile(exported, copy)
    load_encoder(copy)
    assert len(results(tmp_path)) == 1
