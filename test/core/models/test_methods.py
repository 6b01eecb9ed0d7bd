"""Published networks: on tiny trunks, and against other people's code where that is installed."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from regvpr_core.errors import CheckpointError, ConfigError, ImageError
from regvpr_core.models import vit
from regvpr_core.models.cricavpr import Crica, CricaConfig
from regvpr_core.models.descriptor_model import DescriptorModel, ModelConfig
from regvpr_core.models.engines import CpuEngine
from regvpr_core.models.gem import CosPlace, CosPlaceConfig
from regvpr_core.models.methods import trunks
from regvpr_core.models.methods.convolutional import ConvolutionalNetwork, WhitenedNetVlad
from regvpr_core.models.methods.edtformer import EdtFormer
from regvpr_core.models.methods.engine import PublishedEngine
from regvpr_core.models.methods.image_tokens import ImageTokens
from regvpr_core.models.methods.matlab import read_netvlad
from regvpr_core.models.methods.sage import Sage
from regvpr_core.models.methods.selavpr import SelaVpr
from regvpr_core.models.methods.trunks import ResNet, Vgg16
from regvpr_core.models.peers import identify, load_peer, PEERS, read_published
from regvpr_core.models.preprocessing import Preprocessing

TINY = vit.VitConfig(width=64, depth=12, heads=4)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A ViT of 64 numbers and a ResNet of one block a stage."""
    monkeypatch.setitem(vit.VIT_CONFIGS, 'tiny', TINY)
    monkeypatch.setitem(trunks.RESNET_DEPTHS, 'tiny', (1, 1, 1, 1))


def random(network: nn.Module) -> nn.Module:
    """Weights without zeros, so that every part of a network matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if name.endswith('running_var') or name.endswith('gamma'):
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.is_floating_point() and 'power' not in name:
                value.add_(0.1 * torch.randn(value.shape, generator=generator))
    return network.eval()


def images(height: int, width: int, count: int = 3) -> torch.Tensor:
    noise = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(noise, (height, width), mode='bicubic')


NETWORKS = {
    'image': lambda: ImageTokens('tiny', tokens=2),
    'selavpr': lambda: SelaVpr('tiny', output_dim=32),
    'edtformer': lambda: EdtFormer('tiny', queries=6, channels=8, rows=3),
    'sage': lambda: Sage('tiny'),
    'cosplace': lambda: ConvolutionalNetwork(
        ResNet('tiny'), CosPlace(2048, CosPlaceConfig(output_dim=16)), Preprocessing()),
    'netvlad': lambda: ConvolutionalNetwork(
        ResNet('tiny', 1), WhitenedNetVlad(256, 4, 12), Preprocessing()),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_a_row_of_a_batch_is_the_row_of_the_image_alone(name):
    network = random(NETWORKS[name]())
    batch = images(56, 84)
    with torch.no_grad():
        rows = network(batch)
        alone = torch.cat([network(image[None]) for image in batch])
    assert rows.shape == (3, network.dimension)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(rows, alone, atol=2e-5, rtol=0)
    assert float((rows[0] - rows[1]).norm()) > 1e-3


@pytest.mark.parametrize('name', ['image', 'selavpr', 'edtformer', 'sage'])
def test_tokens_are_those_of_the_plain_backbone_on_the_true_grid(name):
    network = random(NETWORKS[name]())
    with torch.no_grad():
        descriptors, tokens = network.with_tokens(images(56, 84))
        plain = network.backbone.with_tokens(images(56, 84), 4, 4)[2]
    assert tokens.shape == (3, 4, 6, 64)
    torch.testing.assert_close(descriptors, network(images(56, 84)), atol=1e-6, rtol=0)
    if name != 'image':  # registers take part there
        torch.testing.assert_close(tokens, plain, atol=1e-5, rtol=0)


def test_a_convolutional_network_says_that_it_has_no_patches():
    with pytest.raises(ConfigError, match='gives no patch tokens; use features xfeat or none'):
        NETWORKS['cosplace']().with_tokens(images(56, 56))


def test_cricavpr_describes_an_image_as_a_batch_of_one_does():
    head = random(Crica(64, CricaConfig(feedforward_dim=32)))
    tokens, classes = torch.randn(2, 64, 16, 16), torch.randn(2, 64)
    across = nn.TransformerEncoder(nn.TransformerEncoderLayer(
        64, 16, dim_feedforward=32, activation='gelu', batch_first=False), 2).eval()
    across.load_state_dict(head.encoder.state_dict())
    with torch.no_grad():
        rows = head(classes, tokens)
        power = head.power
        x = nn.functional.normalize(tokens[:1], dim=1).clamp(min=1e-6)
        cells = [classes[:1]] + [
            x[:, :, a:b, c:d].pow(power).mean(dim=(2, 3)).pow(1 / power)
            for cuts in ((0, 8, 16), (0, 5, 11, 16))
            for a, b in itertools.pairwise(cuts)
            for c, d in itertools.pairwise(cuts)]
        wanted = nn.functional.normalize(across(torch.stack(cells, dim=1)).flatten(1), dim=1)
    assert rows.shape == (2, 14 * 64)
    torch.testing.assert_close(rows[:1], wanted, atol=1e-6, rtol=0)
    with pytest.raises(ImageError, match=r'made for 16x16 patches and got 5x4'):
        head(classes, torch.randn(2, 64, 4, 5))


def test_the_resnet_is_that_of_transformers():
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')
    theirs = transformers.ResNetModel(transformers.ResNetConfig(
        layer_type='bottleneck', depths=[1, 1, 1, 1], downsample_in_bottleneck=False)).eval()
    ours = random(ResNet('tiny'))
    stems = {'conv1': 'embedder.embedder.convolution', 'bn1': 'embedder.embedder.normalization'}
    tensors = {}
    for key, value in ours.state_dict().items():
        name, kind = key.rsplit('.', 1)
        if name in stems:
            tensors[f'{stems[name]}.{kind}'] = value
            continue
        stage, block, *part = name.split('.')
        where = f'encoder.stages.{int(stage[5:]) - 1}.layers.{block}'
        part_name = ('shortcut.' + ('convolution', 'normalization')[int(part[1])]
                     if part[0] == 'downsample' else
                     f'layer.{int(part[0][-1]) - 1}.'
                     + ('normalization' if part[0].startswith('bn') else 'convolution'))
        tensors[f'{where}.{part_name}.{kind}'] = value
    theirs.load_state_dict(tensors)
    with torch.no_grad():
        wanted = theirs(images(64, 96)).last_hidden_state
        torch.testing.assert_close(ours(images(64, 96)), wanted, atol=1e-4, rtol=1e-4)
    assert wanted.shape == (3, 2048, 2, 3)
    assert (ours.width, ours.shrink) == (2048, 32)


@pytest.mark.parametrize('name', ['resnet50', 'resnet101'])
def test_the_resnets_have_the_sizes_of_the_published_ones(name):
    with torch.device('meta'):
        network = ResNet(name)
    wanted = {'resnet50': 23_508_032, 'resnet101': 42_500_160}[name]
    assert sum(p.numel() for p in network.parameters()) == wanted


def test_vgg_has_the_size_and_the_grid_of_the_published_one():
    with torch.device('meta'):
        network = Vgg16()
        assert network(torch.zeros(1, 3, 64, 96)).shape == (1, 512, 4, 6)
    assert sum(p.numel() for p in network.parameters()) == 14_714_688
    assert isinstance(network[-1], nn.Conv2d)


@pytest.mark.parametrize(('name', 'keys'), [
    ('boq_resnet50', {'backbone.net.0.weight', 'backbone.net.6.5.conv3.weight',
                      'backbone.net.4.0.downsample.1.running_var', 'aggregator.boqs.1.queries'}),
    ('mixvpr', {'backbone.model.conv1.weight', 'backbone.model.layer3.5.bn3.num_batches_tracked',
                'aggregator.mix.3.mix.1.weight', 'aggregator.channel_proj.bias',
                'aggregator.row_proj.weight'}),
    ('eigenplaces', {'backbone.0.weight', 'backbone.7.2.conv3.weight', 'aggregation.1.p',
                     'aggregation.3.weight'}),
    ('gem', {'backbone.6.5.bn3.bias', 'aggregation.1.p'}),
    ('netvlad', {'backbone.28.weight', 'netvlad.score_proj.weight', 'netvlad.centers',
                 'whiten.bias', 'mean'}),
    ('image_vitb14', {'learnable_aggregation_tokens', 'backbone.register_tokens',
                      'backbone.blocks.11.ls2.gamma', 'backbone.norm.bias'}),
    ('selavprplusplus', {'backbone.adapters.11.branch2.1.conv.weight',
                         'backbone.adapters.0.branch1.bn.running_mean',
                         'backbone.adapters.3.D_fc2.bias', 'aggregation.1.p', 'linear2.weight'}),
    ('edtformer', {'backbone.adapters.0.D_fc1.weight', 'fc.bias', 'queries',
                   'decoder.layers.1.multihead_attn.in_proj_weight', 'row_proj.bias'}),
    ('cricavpr', {'backbone.blocks.0.adapter.branch3.0.bn.weight', 'aggregation.1.p',
                  'backbone.blocks.11.adapter.D_fc1.weight', 'encoder.layers.1.linear2.weight'}),
    ('sage_vitb14', {'backbone.model.blocks.0.norm1.weight',
                     'backbone.gpn_norms.3.projection.3.bias',
                     'aggregator.gpn.projection.0.weight',
                     'aggregator.soft_weighting.predictor.2.bias', 'aggregator.score.3.weight'}),
])
def test_published_key_names_are_those_of_the_files(name, keys):
    ours = PEERS[name].empty().state_dict()
    assert keys <= {PEERS[name].their_key(key) for key in ours}
    theirs = {PEERS[name].their_key(key) for key in ours}
    assert len(theirs) == len(ours)
    assert identify(theirs) in (name, {'eigenplaces': 'cosplace'}.get(name))


def test_wrappings_of_trainers_are_taken_off_and_what_inference_never_reads_is_passed_over(
        tmp_path):
    peer = PEERS['gem']
    torch.manual_seed(0)
    model = peer.network().eval()
    tensors = {f'module.{peer.their_key(key)}': value for key, value in model.state_dict().items()}
    tensors['module.aggregation.1.p'] = torch.tensor([3.0])  # one number in a list
    path = tmp_path / 'best_model.pth'
    torch.save({'model_state_dict': tensors, 'epoch_num': 3}, path)
    loaded = load_peer('gem', read_published(path, 'gem'), str(path))
    with torch.no_grad():
        torch.testing.assert_close(loaded(images(64, 64, 1)), model(images(64, 64, 1)))
    with pytest.raises(CheckpointError, match=r'is not a megaloc file: .* it is a gem file'):
        load_peer('megaloc', read_published(path, 'megaloc'), str(path))


def made(name: str) -> nn.Module:
    """The same network each time."""
    torch.manual_seed(0)
    return random(NETWORKS[name]())


@pytest.mark.parametrize('name', ['image', 'selavpr', 'edtformer', 'sage', 'cosplace'])
def test_the_engine_gives_what_the_network_gives(name):
    batch = images(56, 84)
    with torch.no_grad():
        wanted = made(name)(batch).numpy()
    full = PublishedEngine(made(name), torch.device('cpu'), 'fp32', None)(batch)
    half = PublishedEngine(made(name), torch.device('cpu'), 'bf16', None)(batch)
    assert (full * wanted).sum(axis=1).min() > 0.99999
    assert (half * wanted).sum(axis=1).min() > 0.995


@pytest.mark.parametrize(('aggregator', 'config'), [
    ('boq', {'channels': 64, 'queries': 3, 'rows': 2}), ('cricavpr', {'feedforward_dim': 32})])
def test_the_engine_of_backbones_with_aggregators_runs_these_heads(aggregator, config):
    def model() -> DescriptorModel:
        torch.manual_seed(0)
        return random(DescriptorModel(ModelConfig(
            backbone='vits14', last_block=0, aggregator=aggregator, aggregator_config=config)))

    batch = images(224, 224, 2)
    with torch.no_grad():
        wanted = model()(batch).numpy()
    for precision, least in (('fp32', 0.99999), ('bf16', 0.995)):
        rows = CpuEngine(model(), precision, None)(batch)
        assert (rows * wanted).sum(axis=1).min() > least


def test_a_matlab_file_that_is_no_netvlad_is_refused_in_one_line(tmp_path):
    io = pytest.importorskip('scipy.io')
    path = Path(tmp_path / 'other.mat')
    io.savemat(path, {'net': {'layers': [1, 2, 3]}})
    with pytest.raises(CheckpointError, match='not the NetVLAD of its authors'):
        read_netvlad(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match='truncated or not the NetVLAD'):
        read_published(path, 'netvlad')
