"""The self-test of a device; here the device is the CPU."""

import json

import pytest
import torch

from regvpr_core.cli import main
from regvpr_core.errors import ConfigError
from regvpr_core.models import self_test as module
from regvpr_core.models.encoder import choose_device
from regvpr_core.models.self_test import self_test


def test_each_form_is_compared_with_float32_and_timed(small_model):
    pytest.importorskip('onnxruntime')
    lines = {line['part']: line for line in self_test(
        str(small_model), torch.device('cpu'), batches=(1, 3), step_batch=4)}
    assert lines['device']['name'] == 'cpu'
    assert lines['torch fp32']['cosine'] == pytest.approx(1.0, abs=1e-4)
    assert lines['torch bf16']['cosine'] > 0.99
    assert lines['torch bf16']['ms_batch_1'] > 0.0
    assert lines['torch fp32']['ms_batch_3'] > 0.0
    assert lines['onnxruntime cpu']['cosine'] == pytest.approx(1.0, abs=1e-4)
    assert lines['training step']['images'] == 4
    assert lines['training step']['seconds'] > 0.0


def test_a_part_that_fails_is_a_line_and_the_rest_goes_on(small_model, monkeypatch):
    def broken(*_):
        raise RuntimeError('CUDA error: no kernel image')

    monkeypatch.setattr(module, 'torch_lines', broken)
    lines = {line['part']: line for line in self_test(
        str(small_model), torch.device('cpu'), batches=(1,), step_batch=2)}
    assert 'no kernel image' in lines['torch fp16']['failed']
    assert 'seconds' in lines['training step']


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_doctor_says_that_there_is_no_such_device(small_model, capsys):
    assert main(['doctor', '--device', 'cuda', '--model', str(small_model), '--json']) == 1
    lines = {line['check']: line for line in json.loads(capsys.readouterr().out)}
    missing = 'is built without CUDA' if torch.version.cuda is None else 'nvidia-smi says whether'
    assert missing in lines['self-test']['facts']


@pytest.mark.parametrize(('built', 'count', 'message'), [
    (None, 0, 'is built without CUDA; a build with it is on pytorch.org; use auto or cpu'),
    ('12.8', 0, 'is built for CUDA 12.8, but finds no device; nvidia-smi says'),
    ('12.8', 2, 'sees 2 CUDA devices, counted from 0; use auto or cpu')])
def test_a_cuda_device_that_is_not_there_is_refused_with_what_is_missing(
        monkeypatch, built, count, message):
    monkeypatch.setattr(torch.version, 'cuda', built)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: count)
    with pytest.raises(ConfigError, match=message):
        choose_device('cuda:7')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_every_form_on_cuda_gives_what_float32_gives(small_model):
    lines = {line['part']: line for line in self_test(str(small_model), torch.device('cuda'))}
    for precision, bound in (('fp32', 0.9999), ('fp16', 0.99), ('bf16', 0.98)):
        assert lines[f'torch {precision}']['cosine'] > bound
        assert lines[f'torch {precision}']['cuda_graph']
