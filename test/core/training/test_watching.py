import json

from rich.console import Console
import yaml

from regvpr_core.cli import main
from regvpr_core.cli.train import BarWatch
from regvpr_core.config import to_mapping
from regvpr_core.training.trainer import train


def test_the_command_trains_resumes_and_writes_tensorboard(settings, tmp_path, capsys):
    path = tmp_path / 'config.yaml'
    path.write_text(yaml.safe_dump(json.loads(json.dumps(to_mapping(settings(epochs=1))))))
    command = ['train', '--config', str(path), '-o', str(tmp_path / 'run'), '--json']
    assert main([*command, '--tensorboard', '--set', 'steps=2']) == 0
    assert json.loads(capsys.readouterr().out)['steps'] == 2
    events = list((tmp_path / 'run' / 'tensorboard').iterdir())
    assert events[0].name.startswith('events.out.tfevents')
    assert events[0].stat().st_size > 200
    assert main(command) == 1
    assert 'holds a run already: go on with --resume' in capsys.readouterr().err
    assert main([*command, '--resume']) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)['steps'] == 3
    assert 'step 3: val: R@1' in printed.err
    assert '12 places of 60 images (0 places dropped' in printed.err


def test_a_loss_of_zero_is_explained(capsys):
    watch = BarWatch(Console(stderr=True))
    watch.step(1, 2, 0.5, 1e-3)
    watch.step(2, 2, 0.0, 1e-3)
    assert capsys.readouterr().err.splitlines() == [
        'step 1 of 2: loss 0.5000', 'step 2 of 2: loss 0.0000 (no pair violates the margin)']


def test_a_watch_is_told_of_every_step(settings, listener, tmp_path):
    watch = listener()
    train(settings(epochs=1), tmp_path / 'run', watch)
    assert sorted(watch.losses) == [1, 2, 3]
    assert watch.rates[0] == 1e-3
    assert ('validation', 12, 12) in watch.read
