"""Which of two models on one site: one sees colours of places, one is blind."""

import json
from pathlib import Path

import numpy as np
import pytest

from regvpr_core.cli import main
from regvpr_core.errors import EvaluationError
from regvpr_core.evaluation.site_report import measure, recommend, SiteRow, timed
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.models.preprocessing import Preprocessing

COUNT = 40


class ColourEncoder:
    """Describes an image by its mean colours in a grid; blind, by noise."""

    def __init__(self, name: str, blind: bool = False) -> None:
        self.name, self.blind = name, blind
        self.fingerprint = name * 8
        self.dimension = 48
        self.preprocessing = Preprocessing()

    def describe(self, rgb: np.ndarray) -> np.ndarray:
        return self.describe_batch([rgb])[0]

    def describe_batch(self, images) -> np.ndarray:
        rows = []
        for rgb in images:
            h, w = rgb.shape[0] // 4 * 4, rgb.shape[1] // 4 * 4
            grid = rgb[:h, :w].reshape(4, h // 4, 4, w // 4, 3).mean(axis=(1, 3)).ravel()
            if self.blind:
                grid = np.full(48, grid.mean()) + np.random.default_rng(
                    int(grid.sum())).normal(size=48)
            rows.append((grid - 127.0) / np.linalg.norm(grid - 127.0))
        return np.array(rows, np.float32)


@pytest.fixture
def drives(tmp_path: Path) -> tuple[Path, Path]:
    """Two maps of one street with thumbnails; the second is darker."""
    rng = np.random.default_rng(0)
    scenes = rng.integers(0, 256, (COUNT, 4, 4, 3))
    paths = []
    for name, gain in (('monday', 1.0), ('tuesday', 0.7)):
        about = Manifest(map_id=name, model='m', fingerprint='f' * 64, dimension=8)
        with MapWriter.create(tmp_path / name, about) as writer:
            for i, scene in enumerate(scenes):
                T = np.eye(4)
                T[0, 3] = 2.0 * i + (0.3 if gain < 1 else 0.0)
                image = np.kron(scene * gain, np.ones((24, 32, 1))).astype(np.uint8)
                writer.append([Keyframe(stamp_ns=i, camera='front', T_map_cam=T, thumbnail=image,
                                        descriptor=np.ones(8, np.float32), source=name)])
        paths.append(tmp_path / name)
    return paths[0], paths[1]


def test_the_model_that_tells_places_apart_is_recommended(drives):
    with (PlaceMap.open(drives[0], index='none') as a,
          PlaceMap.open(drives[1], index='none') as b):
        seeing, blind = (measure(ColourEncoder(name, name == 'blind'), a, b, np.eye(4), 1.5, 0.7)
                         for name in ('seeing', 'blind'))
    assert len(seeing.right) == COUNT
    assert seeing.recall == 1.0
    assert blind.recall < 0.3
    assert seeing.bytes == 96
    assert seeing.precision in (None, 1.0)
    assert recommend([blind, seeing]).startswith('take seeing: recall@1 100.0%')


def test_plain_recall_is_that_of_the_descriptors_as_they_are(drives, monkeypatch):
    rng = np.random.default_rng(3)
    common = rng.normal(size=48) * 4.0
    made = {gain: rng.normal(size=(COUNT, 48)) for gain in ('monday', 'other')}
    made['tuesday'] = 0.35 * made['monday'] + made.pop('other')
    rows = {name: (one + common) / np.linalg.norm(one + common, axis=1)[:, None]
            for name, one in made.items()}
    given = iter([*rows['monday'], *rows['tuesday']])
    monkeypatch.setattr(ColourEncoder, 'describe_batch', lambda self, images: np.array(
        [next(given) for _ in images], np.float32))
    with (PlaceMap.open(drives[0], index='none') as a,
          PlaceMap.open(drives[1], index='none') as b):
        found = measure(ColourEncoder('rows'), a, b, np.eye(4), 0.5, 0.7)

    nearest = (rows['tuesday'] @ rows['monday'].T).argmax(axis=1)
    assert found.right.tolist() == (nearest == np.arange(COUNT)).tolist()
    assert found.right.tolist() != found.right_centred.tolist()


def row(model: str, right: list[int], ms: float) -> SiteRow:
    mask = np.array(right, dtype=bool)
    return SiteRow(model=model, right=mask, right_centred=mask, yes=mask, yes_right=mask, ms=ms,
                   bytes=100)


def test_a_faster_model_is_recommended_where_the_queries_cannot_tell_it_from_the_best():
    best = row('large', [1] * 95 + [0] * 5, 100.0)
    near = row('small', [1] * 93 + [0] * 7, 20.0)
    far = row('tiny', [1] * 60 + [0] * 40, 5.0)
    said = recommend([best, near, far])
    assert said.startswith('take small: recall@1 93.0%, 20 ms an image')
    assert 'large has 95.0%, which 100 queries cannot tell apart, at 100 ms' in said
    assert recommend([best, far]).startswith('take large')


def test_a_little_less_time_which_load_may_explain_does_not_outweigh_recall():
    best, near = row('large', [1] * 95 + [0] * 5, 100.0), row('small', [1] * 93 + [0] * 7, 60.0)
    assert recommend([near, best]) == (
        'take large: recall@1 95.0%, 100 ms an image, the best; small (93.0%, 60 ms) not '
        'significantly worse, but not clearly faster')


def test_models_take_turns_when_they_are_timed_so_that_load_slows_all_of_them(
    drives, monkeypatch,
):
    encoders = [ColourEncoder('a'), ColourEncoder('b'), ColourEncoder('c')]
    clock, asked = 0.0, []

    def describe(self, rgb: np.ndarray) -> np.ndarray:
        nonlocal clock
        asked.append(self.name)
        busy = 10 <= len(asked) < 40  # another program runs meanwhile
        clock += {'a': 0.030, 'b': 0.020, 'c': 0.005}[self.name] * (20.0 if busy else 1.0)
        return np.ones(48, np.float32)

    monkeypatch.setattr(ColourEncoder, 'describe', describe)
    monkeypatch.setattr('regvpr_core.evaluation.site_report.time.perf_counter', lambda: clock)
    with PlaceMap.open(drives[0], index='none') as a:
        rows = timed([row(name, [1], np.nan) for name in 'abc'], encoders, a)
    assert [one.ms for one in rows] == pytest.approx([30.0, 20.0, 5.0])
    assert asked == ['a', 'b', 'c'] * (len(asked) // 3)


def test_maps_of_two_sites_are_refused(drives):
    T = np.eye(4)
    T[0, 3] = 5000.0
    with (PlaceMap.open(drives[0], index='none') as a, PlaceMap.open(drives[1], index='none') as b,
          pytest.raises(EvaluationError, match=r'0 of 40 keyframes of .* at least 20 are needed')):
        measure(ColourEncoder('seeing'), a, b, T, 1.5, 0.7)


def test_the_command_prints_figures_for_machines(drives, small_model, capsys):
    assert main(['site-report', *map(str, drives), '--models', str(small_model), '--json']) == 0
    result = json.loads(capsys.readouterr().out)
    assert result['models'][0]['queries'] == COUNT
    assert 0.0 <= result['models'][0]['recall_at_1_centred'] <= 1.0
    assert result['recommendation'].startswith('take ')
