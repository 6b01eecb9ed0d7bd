from dataclasses import replace
import json
import math
import os
from pathlib import Path
import shutil
import signal

import numpy as np
import pytest
from safetensors.torch import load_file
import torch

from regvpr_core.config import to_mapping
from regvpr_core.errors import CheckpointError, RegvprError, TrainingError
from regvpr_core.images import read
from regvpr_core.models.adapter import AdapterConfig
from regvpr_core.models.checkpoints import load_model, read_checkpoint
from regvpr_core.models.encoder import load_encoder
from regvpr_core.training import run_folder, trainer
from regvpr_core.training.interrupts import Stopped
from regvpr_core.training.trainer import train


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / 'state.safetensors')


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_learns_places_and_leaves_checkpoints_that_load(settings, listener, tmp_path,
                                                              backbone_file, place_folder):
    watch = listener()
    config = settings(epochs=8, augmentation={'operations': 0})
    progress = train(config, tmp_path / 'run', watch)
    losses = [watch.losses[step] for step in sorted(watch.losses)]
    assert len(losses) == progress.step == 24
    assert np.mean(losses[-6:]) < 0.9 * np.mean(losses[:6])
    assert sorted(watch.recalls) == list(range(3, 25, 3))
    assert set(watch.recalls[24]['val']) == {1, 5, 10}
    assert progress.best == max(r['val'][1] for r in watch.recalls.values())
    assert watch.facts['trained'] == {'head': sum(
        p.numel() for p in load_model(tmp_path / 'run' / 'last.safetensors', backbone_file)
        .model.aggregator.parameters())}

    encoder = load_encoder(tmp_path / 'run' / 'best.safetensors', 'cpu', 'fp32',
                           backbone_path=backbone_file)
    names = sorted((place_folder / 'val').glob('*.png'))
    rows = encoder.describe_batch([read(path) for path in names])
    places = [path.stem.split('-')[0] for path in names]
    gallery = [i for i, path in enumerate(names) if path.stem.endswith('-7')]
    hits = [places[max((g for g in gallery), key=lambda g, q=q: rows[q] @ rows[g])] == places[q]
            for q in range(len(names)) if q not in gallery]
    assert np.mean(hits) == pytest.approx(progress.best)  # the encoder sees what validation saw


def test_recall_is_measured_every_so_many_steps(settings, listener, tmp_path):
    watch = listener()
    train(settings(epochs=3, validate_steps=4), tmp_path / 'run', watch)
    assert sorted(watch.recalls) == [4, 8, 9]

    cut = listener(lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 4 else None)
    with pytest.raises(Stopped):
        train(settings(epochs=3, validate_steps=4), tmp_path / 'cut', cut)
    assert not cut.recalls
    again = listener()
    train(settings(epochs=3, validate_steps=4), tmp_path / 'cut', again, resume=True)
    assert again.recalls == watch.recalls


def test_a_checkpoint_holds_what_was_trained_and_no_path_of_the_machine(settings, listener,
                                                                        tmp_path):
    train(settings(epochs=1), tmp_path / 'run', listener())
    path = tmp_path / 'run' / 'last.safetensors'
    assert all(key.startswith('aggregator.') for key in load_file(path))
    about = read_checkpoint(path)
    assert about.name == 'tiny'
    assert about.record['step'] == 3
    assert about.record['recipe']['optimiser']['lr'] == 1e-3
    assert about.record['data']['places'] == 12
    assert str(tmp_path.parent) not in json.dumps(about.record)


def test_the_record_tells_config_data_versions_seed_and_curve(settings, listener, tmp_path):
    train(settings(), tmp_path / 'run', listener())
    record = json.loads((tmp_path / 'run' / 'record.json').read_text())
    assert record['status'] == 'finished'
    assert record['seed'] == 3
    assert record['config']['batch']['places'] == 4
    assert record['versions']['torch'] == torch.__version__
    assert len(record['data']['sha256']) == len(record['backbone']['sha256']) == 64
    assert record['validation'][0]['queries'] == 12
    assert [p['step'] for p in record['curve'] if 'recall' in p] == [3, 6]
    assert [p['step'] for p in record['curve'] if 'loss' in p] == [6]
    assert record['steps'] == record['step'] == 6


@pytest.mark.parametrize('stop', [3, 4])
def test_a_run_resumed_at_any_step_ends_with_the_same_bits(settings, listener, tmp_path, stop):
    config = settings(validation=[])
    train(config, tmp_path / 'whole', listener())

    def interrupt(step):
        if step == stop:
            os.kill(os.getpid(), signal.SIGINT)

    watch = listener(interrupt)
    with pytest.raises(Stopped, match=f'stopped at step {stop} of 6; saved'):
        train(config, tmp_path / 'cut', watch)
    assert max(watch.losses) == stop
    assert not same(state(tmp_path / 'cut'), state(tmp_path / 'whole'))
    watch = listener()
    train(config, tmp_path / 'cut', watch, resume=True)
    assert min(watch.losses) == stop + 1
    assert same(state(tmp_path / 'cut'), state(tmp_path / 'whole'))
    assert (tmp_path / 'cut' / 'last.safetensors').is_file()
    curves = [json.loads((tmp_path / name / 'record.json').read_text())['curve']
              for name in ('cut', 'whole')]
    assert curves[0] == curves[1]


def test_batch_norm_and_adapters_resume_to_the_same_bits_too(settings, listener, tmp_path):
    model = {'last_block': 0, 'aggregator': 'regvpr', 'train': 'adapter',
             'aggregator_config': {'clusters': 2, 'cluster_dim': 8, 'token_dim': 8,
                                   'hidden_dim': 16, 'heads': 2, 'feedforward_dim': 8},
             'adapter': {'blocks': '0', 'variant': 'cricavpr'},
             'preprocessing': {'height': 28, 'width': 42}}
    config = settings(model=model, validation=[], epochs=1, recompute_blocks=1)
    train(config, tmp_path / 'whole', listener())
    with pytest.raises(Stopped):
        train(config, tmp_path / 'cut',
              listener(lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == 2 else None))
    train(config, tmp_path / 'cut', listener(), resume=True)
    whole = state(tmp_path / 'whole')
    assert same(whole, state(tmp_path / 'cut'))
    assert any('running_mean' in key for key in whole)
    assert any(key.startswith('model.backbone.blocks.0.adapter') for key in whole)
    assert not any('blocks.1.' in key for key in whole)


def test_a_second_run_in_a_folder_wants_resume_and_resume_wants_a_run(settings, listener,
                                                                      tmp_path):
    config = settings(epochs=1, validation=[])
    with pytest.raises(TrainingError, match='holds no run to resume'):
        train(config, tmp_path / 'run', listener(), resume=True)
    train(config, tmp_path / 'run', listener())
    with pytest.raises(TrainingError, match='holds a run already: go on with --resume'):
        train(config, tmp_path / 'run', listener())


@pytest.mark.parametrize(('change', 'message'), [
    ({'model': {'last_block': 0, 'aggregator': 'cosplace'}},
     "of another architecture: model.aggregator was 'salad', now 'cosplace'"),
    ({'seed': 4}, 'begun with other settings: seed was 3, now 4'),
    ({'batch': {'places': 5, 'images': 4}}, 'batch.places was 4, now 5'),
    ({'data': [{'kind': 'folders', 'folder': 'train', 'only': ['group0']}]}, 'data was')])
def test_resuming_as_another_run_is_refused(settings, listener, tmp_path, change, message):
    train(settings(epochs=1, validation=[]), tmp_path / 'run', listener())
    with pytest.raises(TrainingError, match=message):
        train(settings(**({'epochs': 1, 'validation': []} | change)), tmp_path / 'run',
              listener(), resume=True)


def test_a_state_that_was_tampered_with_is_refused(settings, listener, tmp_path):
    config = settings(epochs=1, validation=[])
    train(config, tmp_path / 'run', listener())
    path = tmp_path / 'run' / 'state.safetensors'
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(TrainingError, match='is damaged'):
        train(config, tmp_path / 'run', listener(), resume=True)
    at = data.index(b'aggregator.score.0.weight')
    path.write_bytes(data[:at] + b'aggregator.score.9.weight' + data[at + 25:])
    with pytest.raises((TrainingError, CheckpointError), match=r'another architecture|damaged'):
        train(config, tmp_path / 'run', listener(), resume=True)


def test_a_longer_run_goes_on_from_a_finished_one(settings, listener, tmp_path):
    train(settings(epochs=1, validation=[]), tmp_path / 'run', listener())
    train(settings(epochs=2, validation=[]), tmp_path / 'run', listener(), resume=True)
    train(settings(epochs=2, validation=[]), tmp_path / 'whole', listener())
    assert same(state(tmp_path / 'run'), state(tmp_path / 'whole'))


def breaking(listener, monkeypatch, at_step):
    """A listener that ruins the weights behind a step, as a step that is too wide does."""
    weights = []
    plain = trainer.Run.open

    def opened(run, resume):
        plain(run, resume)
        weights.extend(run.parameters.values())

    monkeypatch.setattr(trainer.Run, 'open', opened)
    return listener(lambda step: [w.data.fill_(math.nan) for w in weights]
                    if step == at_step else None)


def test_a_loss_that_is_not_finite_stops_with_step_rate_and_pictures(settings, listener, tmp_path,
                                                                     monkeypatch):
    config = settings(validation=[], save_steps=100)
    message = (r'the loss is nan at step 2 \(learning rate 0\.001\); images: group\d/place\d+/'
               r'.* and 13 more, listed in .*broken_batch_0.txt')
    with pytest.raises(TrainingError, match=message):
        train(config, tmp_path / 'run', breaking(listener, monkeypatch, 2))
    listed = (tmp_path / 'run' / 'broken_batch_0.txt').read_text().split()
    assert len(listed) == 16
    assert all(name.startswith('group') and name.endswith('.png') for name in listed)
    assert json.loads((tmp_path / 'run' / 'record.json').read_text())['status'] == 'stopped'


def test_weights_that_are_not_finite_are_never_saved(settings, listener, tmp_path, monkeypatch):
    config = settings(validation=[], save_steps=1)
    with pytest.raises(TrainingError, match='is not finite after step 2'):
        train(config, tmp_path / 'run', breaking(listener, monkeypatch, 2))
    assert all(bool(value.isfinite().all()) for value in state(tmp_path / 'run').values())
    train(config, tmp_path / 'run', listener(), resume=True)
    train(config, tmp_path / 'whole', listener())
    assert same(state(tmp_path / 'run'), state(tmp_path / 'whole'))


def test_unreadable_pictures_are_skipped_counted_and_named(settings, listener, tmp_path,
                                                           place_folder):
    root = tmp_path / 'data'
    shutil.copytree(place_folder, root)
    (root / 'train/group0/place0/3.png').write_bytes(b'no picture')
    for path in (root / 'train/group1/place1').iterdir():
        path.write_bytes(path.read_bytes()[:20])
    config = settings(data_root=str(root), validation=[], epochs=4)
    train(config, tmp_path / 'run', listener())
    unreadable = json.loads((tmp_path / 'run' / 'record.json').read_text())['unreadable']
    assert unreadable['count'] == 6
    assert 'group0/place0/3.png' in unreadable['pictures']
    assert sum('place1/' in name for name in unreadable['pictures']) == 5


def test_an_unreadable_picture_of_validation_is_an_error(settings, listener, tmp_path,
                                                         place_folder):
    root = tmp_path / 'data'
    shutil.copytree(place_folder, root)
    (root / 'val/3-8.png').write_bytes(b'no picture')
    with pytest.raises(RegvprError, match=r'3-8\.png'):
        train(settings(data_root=str(root), epochs=1), tmp_path / 'run', listener())


def test_a_full_disk_keeps_the_last_good_files(settings, listener, tmp_path, monkeypatch):
    config = settings(validation=[], save_steps=1)
    kept = {}

    def fill(step):
        if step == 2:
            kept.update({path.name: path.read_bytes() for path in (tmp_path / 'run').iterdir()})
            real = run_folder.os.fsync

            def full(number):
                raise OSError(28, 'No space left on device')

            monkeypatch.setattr(run_folder.os, 'fsync', full)
            kept['fsync'] = real

    with pytest.raises(TrainingError,
                       match=r'cannot save .*: No space left on device; .*--resume'):
        train(config, tmp_path / 'run', listener(fill))
    monkeypatch.setattr(run_folder.os, 'fsync', kept.pop('fsync'))
    now = {path.name: path.read_bytes() for path in (tmp_path / 'run').iterdir()}
    assert now == kept
    train(config, tmp_path / 'run', listener(), resume=True)
    train(config, tmp_path / 'whole', listener())
    assert same(state(tmp_path / 'run'), state(tmp_path / 'whole'))


def test_training_can_start_from_a_checkpoint(settings, listener, tmp_path):
    train(settings(epochs=1, validation=[]), tmp_path / 'first', listener())
    start = tmp_path / 'first' / 'last.safetensors'
    config = settings(epochs=1, validation=[], start=str(start), optimiser={'lr': 0.0})
    train(config, tmp_path / 'second', listener())
    assert same(load_file(start), load_file(tmp_path / 'second' / 'last.safetensors'))
    with pytest.raises(CheckpointError, match='another architecture'):
        train(settings(epochs=1, model={'last_block': 0, 'aggregator': 'cosplace'},
                       start=str(start)), tmp_path / 'third', listener())


def test_a_checkpoint_without_adapters_starts_a_model_that_has_them(settings, listener, tmp_path):
    train(settings(epochs=1, validation=[]), tmp_path / 'first', listener())
    start = tmp_path / 'first' / 'last.safetensors'
    model = read_checkpoint(start).config
    model = to_mapping(replace(model, adapter=AdapterConfig(blocks='0'), train='adapter'))
    config = settings(epochs=1, validation=[], start=str(start), model=model,
                      optimiser={'lr': 0.0})
    train(config, tmp_path / 'second', listener())
    path = Path(config.backbone_path)
    images = torch.randn(2, 3, 28, 42, generator=torch.Generator().manual_seed(1))
    rows = [load_model(file, path).model(images)
            for file in (start, tmp_path / 'second' / 'last.safetensors')]
    torch.testing.assert_close(rows[0], rows[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_trains_near_full_precision(settings, listener, tmp_path, precision):
    runs = {}
    for name in ('fp32', precision):
        watch = listener()
        train(settings(precision=name, validation=[], epochs=1, augmentation={'operations': 0}),
              tmp_path / name, watch)
        runs[name] = watch.losses
    assert runs[precision] != runs['fp32']
    for step, loss in runs['fp32'].items():
        assert runs[precision][step] == pytest.approx(loss, rel=0.03)
    assert all(value.dtype in (torch.float32, torch.int64)
               for value in state(tmp_path / precision).values())
