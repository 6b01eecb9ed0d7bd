"""Distillation: another model teaches which images resemble one another."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from regvpr_core.errors import ConfigError, RegvprError
from regvpr_core.evaluation.describe_pictures import Rows
from regvpr_core.training.config import DistilConfig
from regvpr_core.training.teacher import Teacher
from regvpr_core.training.trainer import train

COLOURS = """
import numpy as np

def describe(images):
    return np.stack([p.astype(np.float32).mean(axis=(0, 1)) - 127 for p in images])
"""


def teacher(rows: np.ndarray, weight: float = 1.0) -> Teacher:
    return Teacher(Rows(rows.astype(np.float32), np.arange(len(rows))), weight)


def test_a_pupil_that_sees_as_the_teacher_has_nothing_to_learn():
    rows = np.random.default_rng(1).normal(size=(6, 5)) + 10.0  # far from centred
    images = torch.tensor([4, 0, 2, 5])
    same = F.normalize(torch.from_numpy(rows - rows.mean(axis=0)), dim=1)[images].float()
    assert float(teacher(rows)(same, images)) == pytest.approx(0.0, abs=1e-6)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1)))[0]
    turned = same @ turn
    assert float(teacher(rows)(turned, images)) == pytest.approx(0.0, abs=1e-5)


def test_the_lesson_is_one_minus_the_correlation_of_similarities():
    rng = np.random.default_rng(2)
    rows, learnt = rng.normal(size=(5, 4)), rng.normal(size=(5, 7))
    learnt /= np.linalg.norm(learnt, axis=1, keepdims=True)
    centred = rows - rows.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    expected = np.mean([1 - np.corrcoef(np.delete(learnt[i] @ learnt.T, i),
                                        np.delete(centred[i] @ centred.T, i))[0, 1]
                        for i in range(5)])
    got = teacher(rows, 3.0)(torch.from_numpy(learnt), torch.arange(5))
    assert float(got) == pytest.approx(3.0 * expected, rel=1e-5)


def test_gradients_of_the_lesson_bring_the_pupil_nearer():
    rng = np.random.default_rng(3)
    of = teacher(rng.normal(size=(8, 4)))
    pupil = torch.from_numpy(rng.normal(size=(8, 6))).float().requires_grad_(True)
    losses = []
    for _ in range(60):
        loss = of(F.normalize(pupil, dim=1), torch.arange(8))
        losses.append(float(loss.detach()))
        loss.backward()
        with torch.no_grad():
            pupil -= 1.0 * pupil.grad
            pupil.grad = None
    assert losses[-1] < 0.3 * losses[0]


def test_a_run_with_a_teacher_learns_its_similarities_and_resumes(settings, listener, tmp_path):
    file = tmp_path / 'colours.py'
    file.write_text(COLOURS, encoding='utf-8')
    spec = f'{file}:describe'
    last = {}
    for name, changes in (('alone', {}),
                          ('taught', {'distil': {'teacher': spec, 'weight': 20.0}})):
        watch = listener()
        config = settings(validation=[], epochs=6, augmentation={'operations': 0}, **changes)
        train(config, tmp_path / name, watch)
        last[name] = watch
    # The first loss is larger by what the teacher misses; it falls, and falls faster than alone.
    extra = last['taught'].losses[1] - last['alone'].losses[1]
    assert extra > 1.0
    left = last['taught'].losses[18] - last['alone'].losses[18]
    assert left < 0.7 * extra
    assert ('teacher', 60, 60) in last['taught'].read
    again = listener()
    train(config, tmp_path / 'taught', again, resume=True)
    assert again.losses == {}


def test_a_teacher_that_does_not_exist_is_refused(settings, listener, tmp_path):
    with pytest.raises(RegvprError, match="unknown model 'efficientnet_lite0'; did you mean"):
        train(settings(distil={'teacher': 'efficientnet_lite0'}), tmp_path / 'run', listener())
    with pytest.raises(ConfigError, match=r'distil\.weight is 0'):
        DistilConfig(weight=0.0)
    assert not Path(tmp_path / 'run' / 'last.safetensors').exists()
