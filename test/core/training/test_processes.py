"""Two processes on one machine (gloo) against one, by the command line."""

import json
import os
from pathlib import Path
import socket
import subprocess
import sys

import pytest
from safetensors.torch import load_file
import torch
import yaml

from regvpr_core.cli import main
from regvpr_core.config import to_mapping
from regvpr_core.errors import TrainingError
from regvpr_core.training.processes import Processes
from regvpr_core.training.trainer import check_shares

ROOT = Path(__file__).resolve().parents[3]


def start(config: Path, out: Path, rank: int, count: int, port: int):
    environment = os.environ | {
        'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'RANK': str(rank),
        'LOCAL_RANK': str(rank), 'WORLD_SIZE': str(count), 'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(port)}
    code = ('import sys; from regvpr_core.cli import main; '
            'from regvpr_core.models.vit import VIT_CONFIGS, VitConfig; '
            'VIT_CONFIGS["vits14"] = VitConfig(width=384, depth=2, heads=6); sys.exit(main())')
    return subprocess.Popen(
        [sys.executable, '-c', code, 'train', '--config', str(config), '-o', str(out), '--json'],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        return int(one.getsockname()[1])


def finish(*runs):
    outputs = [run.communicate(timeout=120) for run in runs]
    assert [run.returncode for run in runs] == [0] * len(runs), outputs
    return [out for out, _ in outputs]


@pytest.fixture
def written(settings, tmp_path):
    """A config without randomness that depends on the process: no dropout, no augmentation."""
    model = {'last_block': 0, 'aggregator': 'regvpr', 'train': 'adapter',
             'adapter': {'blocks': '0'}, 'preprocessing': {'height': 28, 'width': 42},
             'aggregator_config': {'clusters': 2, 'cluster_dim': 8, 'token_dim': 8,
                                   'hidden_dim': 16, 'heads': 2, 'feedforward_dim': 8,
                                   'dropout': 0.0, 'encoder_dropout': 0.0}}
    config = settings(model=model, augmentation={'operations': 0}, epochs=1)
    path = tmp_path / 'config.yaml'
    path.write_text(yaml.safe_dump(json.loads(json.dumps(to_mapping(config)))))
    return path


@pytest.mark.full
def test_two_processes_train_what_one_does(written, tmp_path):
    assert main(['train', '--config', str(written), '-o', str(tmp_path / 'one'), '--json']) == 0
    port = free_port()
    outputs = finish(*(start(written, tmp_path / 'two', rank, 2, port) for rank in (0, 1)))
    one, two = (load_file(tmp_path / name / 'state.safetensors') for name in ('one', 'two'))
    assert one.keys() == two.keys()
    first = load_file(tmp_path / 'one' / 'last.safetensors')
    moved = [key for key in first if first[key].abs().max() > 0]
    assert any('adapter.up' in key for key in moved)  # zero before training
    for key in one:
        # Gradients agree to rounding; AdamW turns those near zero into whole steps of lr.
        if key.startswith('exp_avg.'):
            torch.testing.assert_close(one[key], two[key], rtol=1e-3, atol=1e-6)
        if key.startswith('model.'):
            assert (one[key] - two[key]).abs().mean() < 2e-5, key
    records = [json.loads((tmp_path / name / 'record.json').read_text())
               for name in ('one', 'two')]
    assert records[1]['processes'] == 2
    points = [[p for p in record['curve'] if 'loss' in p][-1] for record in records]
    assert points[0]['loss'] == pytest.approx(points[1]['loss'], rel=1e-4)
    assert json.loads(outputs[0])['steps'] == 3
    assert outputs[1] == ''  # only the first process prints


def test_a_batch_that_two_processes_cannot_share_is_refused(settings):
    config = settings(batch={'places': 5, 'images': 4})
    with pytest.raises(TrainingError, match=r'batch\.places is 5, which 2 processes cannot share'):
        check_shares(config, Processes(rank=1, count=2))
