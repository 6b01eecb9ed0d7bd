"""The backbone against Hugging Face's, which shares no code with ours."""

import numpy as np
import pytest
import torch

from regvpr_core.errors import CheckpointError, ConfigError, ImageError
from regvpr_core.models.vit import attended, build_vit, load_backbone_weights, VIT_CONFIGS

SIDE = 37
HEADS = {'vits14': 6, 'vitb14': 12}


def blank(name: str) -> torch.nn.Module:
    """A backbone whose weights nobody drew; quick."""
    with torch.device('meta'):
        vit = build_vit(name)
    return vit.to_empty(device='cpu')


def random_weights(name: str) -> dict[str, torch.Tensor]:
    """Weights of a size that makes every part count: biases, gains and norms are no ones."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for key, value in blank(name).state_dict().items():
        noise = torch.randn(value.shape, generator=generator)
        gain = key.endswith(('gamma', 'norm.weight', 'norm1.weight', 'norm2.weight'))
        weights[key] = 1.0 + 0.2 * noise if gain else 0.05 * noise
    weights['pos_embed'] *= 10.0
    return weights


def hugging_face(weights: dict[str, torch.Tensor], name: str) -> torch.nn.Module:
    """A `Dinov2Model` with DINOv2's weights under its own names."""
    transformers = pytest.importorskip('transformers', reason='transformers is not installed')
    width = VIT_CONFIGS[name].width
    theirs = {
        'embeddings.cls_token': weights['cls_token'],
        'embeddings.mask_token': weights['mask_token'],
        'embeddings.position_embeddings': weights['pos_embed'],
        'layernorm.weight': weights['norm.weight'],
        'layernorm.bias': weights['norm.bias'],
    }
    for kind in ('weight', 'bias'):
        theirs[f'embeddings.patch_embeddings.projection.{kind}'] = \
            weights[f'patch_embed.proj.{kind}']
    for i in range(VIT_CONFIGS[name].depth):
        layer, block = f'encoder.layer.{i}', f'blocks.{i}'
        for kind in ('weight', 'bias'):
            qkv = weights[f'{block}.attn.qkv.{kind}'].chunk(3)
            for part, value in zip('qkv', qkv, strict=True):
                theirs[f'{layer}.attention.{part}_proj.{kind}'] = value
            theirs[f'{layer}.attention.o_proj.{kind}'] = weights[f'{block}.attn.proj.{kind}']
            for module in ('norm1', 'norm2', 'mlp.fc1', 'mlp.fc2'):
                theirs[f'{layer}.{module}.{kind}'] = weights[f'{block}.{module}.{kind}']
        for number in (1, 2):
            theirs[f'{layer}.layer_scale{number}.lambda1'] = weights[f'{block}.ls{number}.gamma']
    with torch.device('meta'):  # no time for weights that are replaced
        model = transformers.Dinov2Model(transformers.Dinov2Config(
            hidden_size=width, num_hidden_layers=12, num_attention_heads=HEADS[name],
            image_size=518, patch_size=14, mlp_ratio=4, layer_norm_eps=1e-6, hidden_act='gelu'))
    model.load_state_dict(theirs, strict=True, assign=True)
    return model.eval()


def official_positions(table: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """facebookresearch/dinov2's interpolate_pos_encoding, interpolate_offset 0.1, in float64.

    Cubic convolution with a = -0.75 as in torch, edges repeated, and pixel centres that follow
    from the scale (side + 0.1) / 37 rather than from the sizes.
    """
    def weights(side: int) -> np.ndarray:
        out = np.zeros((side, SIDE))
        for i in range(side):
            centre = (i + 0.5) * SIDE / (side + 0.1) - 0.5
            first = int(np.floor(centre)) - 1
            for tap in range(first, first + 4):
                d = abs(centre - tap)
                near = 1.25 * d**3 - 2.25 * d**2 + 1.0
                far = -0.75 * d**3 + 3.75 * d**2 - 6.0 * d + 3.0
                out[i, min(max(tap, 0), SIDE - 1)] += near if d <= 1.0 else far
        return out

    patches = table[0, 1:].double().numpy().reshape(SIDE, SIDE, -1)
    patches = np.einsum('ia,jb,abc->ijc', weights(grid[0]), weights(grid[1]), patches)
    flat = np.concatenate([table[0, :1].double().numpy(), patches.reshape(-1, patches.shape[-1])])
    return torch.from_numpy(flat)[None].float()


@pytest.fixture(scope='module')
def weights() -> dict[str, torch.Tensor]:
    return random_weights('vits14')


@pytest.fixture(scope='module')
def ours(weights) -> torch.nn.Module:
    vit = blank('vits14')
    load_backbone_weights(vit, weights, 'random')
    return vit.eval()


@pytest.fixture(scope='module')
def theirs(weights) -> torch.nn.Module:
    return hugging_face(weights, 'vits14')


def compare(ours: torch.nn.Module, theirs: torch.nn.Module, height: int, width: int,
            monkeypatch: pytest.MonkeyPatch | None) -> None:
    """Class and patch tokens are equal; with `monkeypatch` theirs takes the official positions."""
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))
    grid = (height // 14, width // 14)
    if monkeypatch is not None:
        positions = official_positions(theirs.embeddings.position_embeddings.detach(), grid)
        monkeypatch.setattr(theirs.embeddings, 'interpolate_pos_encoding', lambda *_: positions)
    with torch.no_grad():
        want = theirs(images).last_hidden_state
        class_token, patches = ours(images)
    assert patches.shape == (2, want.shape[-1], *grid)
    got = torch.cat([class_token[:, None], patches.flatten(2).transpose(1, 2)], dim=1)
    assert float(want.std()) > 0.5
    assert float((got - want).abs().max()) < 1e-4


# Hugging Face interpolates positions to a size, DINOv2 by a scale of (side + 0.1) / 37. The two
# differ, so its positions are replaced by those of DINOv2's formula, written once more above.
@pytest.mark.parametrize(('height', 'width'), [(224, 224), (154, 308), (308, 154)])
def test_tokens_equal_hugging_faces_with_dinov2s_positions(
        ours, theirs, height, width, monkeypatch):
    compare(ours, theirs, height, width, monkeypatch)


@pytest.mark.full
def test_tokens_equal_hugging_faces_at_518_pixels_where_nothing_is_interpolated(ours, theirs):
    compare(ours, theirs, 518, 518, None)


def test_vitb14_equals_hugging_faces(monkeypatch):
    weights = random_weights('vitb14')
    vit = blank('vitb14')
    load_backbone_weights(vit, weights, 'random')
    compare(vit.eval(), hugging_face(weights, 'vitb14'), 154, 224, monkeypatch)


@pytest.mark.parametrize('grid', [(16, 16), (11, 22), (22, 11), (23, 23), (37, 36), (1, 1),
                                  (40, 50)])
def test_positions_follow_dinov2s_formula(ours, weights, grid):
    got = ours.positions(grid)
    torch.testing.assert_close(got, official_positions(weights['pos_embed'], grid), atol=2e-5,
                               rtol=0)


def test_positions_to_a_size_as_hugging_face_takes_them_are_others(ours, theirs):
    """How far the two are apart; were this to become 0, the test above could use theirs."""
    image = torch.zeros(1, 3, 224, 224)
    embeddings = torch.zeros(1, 257, 384)
    with torch.no_grad():
        size = theirs.embeddings.interpolate_pos_encoding(embeddings, *image.shape[-2:])
        difference = (ours.positions((16, 16)) - size).abs().max() / size.std()
    assert 0.1 < float(difference) < 2.0


def test_positions_of_the_pretrained_grid_are_the_table_itself(ours, weights):
    assert torch.equal(ours.positions((SIDE, SIDE)), weights['pos_embed'])


def test_new_weights_are_not_answered_with_old_positions(weights):
    vit = blank('vits14').requires_grad_(False)
    load_backbone_weights(vit, weights, 'random')
    before = vit.positions((4, 4)).clone()
    load_backbone_weights(vit, weights | {'pos_embed': 2.0 * weights['pos_embed']}, 'random')
    torch.testing.assert_close(vit.positions((4, 4)), 2.0 * before)


def test_an_earlier_block_is_given_without_the_final_norm(ours):
    images = torch.randn(1, 3, 28, 42, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        x = torch.cat([ours.cls_token, ours.patch_embed(images)], dim=1) + ours.positions((2, 3))
        for block in ours.blocks[:4]:
            x = block(x, (2, 3))
        class_token, patches = ours(images, last_block=3)
        last = ours(images, last_block=11)
        whole = ours(images)
    torch.testing.assert_close(class_token, x[:, 0])
    torch.testing.assert_close(patches[0, :, 1, 2], x[0, 1 + 5])
    torch.testing.assert_close(ours.norm(last[0]), whole[0])


def test_a_row_of_a_batch_is_the_image_alone(ours):
    images = torch.randn(3, 3, 56, 70, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        together = ours(images)
        alone = ours(images[1:2])
    torch.testing.assert_close(together[0][1:2], alone[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[1][1:2], alone[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(('name', 'parameters'), [
    ('vits14', 22_056_576), ('vitb14', 86_580_480), ('vitl14', 304_368_640)])
def test_sizes_are_those_of_the_published_models(name, parameters):
    with torch.device('meta'):
        vit = build_vit(name)
    assert sum(p.numel() for p in vit.parameters()) == parameters
    assert len(vit.state_dict()) == {'vitl14': 343}.get(name, 175)


def test_the_keys_are_the_official_ones():
    keys = build_vit('vits14').state_dict().keys()
    for key in ('cls_token', 'pos_embed', 'mask_token', 'patch_embed.proj.weight',
                'blocks.0.norm1.weight', 'blocks.11.attn.qkv.bias', 'blocks.11.attn.proj.weight',
                'blocks.5.ls1.gamma', 'blocks.5.ls2.gamma', 'blocks.5.mlp.fc1.weight',
                'blocks.5.mlp.fc2.bias', 'norm.bias'):
        assert key in keys


@pytest.mark.parametrize('size', [(224, 225), (15, 14), (0, 14)])
def test_sides_that_are_no_multiple_of_14_are_refused(ours, size):
    with pytest.raises(ImageError, match=f'network input is {size[1]}x{size[0]} pixels; each '
                                         f'side must be a multiple of 14'):
        ours(torch.zeros(1, 3, *size))


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ConfigError, match="unknown backbone 'vits15'"):
        build_vit('vits15')


def test_weights_of_another_architecture_are_refused_by_key(weights):
    vit = blank('vits14')
    lacking = {key: value for key, value in weights.items() if 'ls1' not in key}
    with pytest.raises(CheckpointError, match=r'a.pth is of another architecture: it lacks '
                                              r'blocks.0.ls1.gamma, .* and 9 more'):
        load_backbone_weights(vit, lacking, 'a.pth')
    with pytest.raises(CheckpointError, match='has unknown register_tokens'):
        load_backbone_weights(vit, weights | {'register_tokens': torch.zeros(1)}, 'a.pth')
    with pytest.raises(CheckpointError, match=r'has norm.bias \(768,\) instead of \(384,\)'):
        load_backbone_weights(vit, weights | {'norm.bias': torch.zeros(768)}, 'a.pth')


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_not_finite_are_refused(weights, value):
    broken = weights['blocks.3.mlp.fc1.bias'].clone()
    broken[17] = value
    with pytest.raises(CheckpointError, match=r'a.pth is damaged: blocks.3.mlp.fc1.bias holds'):
        load_backbone_weights(blank('vits14'), weights | {'blocks.3.mlp.fc1.bias': broken},
                              'a.pth')


def test_attention_of_training_on_the_cpu_is_that_of_inference():
    torch.manual_seed(2)
    q, k, v = torch.randn(3, 2, 3, 17, 8).unbind(0)
    wanted = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    torch.nn.functional.scaled_dot_product_attention(*wanted).square().sum().backward()
    got = [tensor.to(torch.bfloat16).requires_grad_() for tensor in (q, k, v)]
    with torch.autocast('cpu', torch.bfloat16):
        attended(*got).float().square().sum().backward()
    for ours, theirs in zip(got, wanted, strict=True):
        error = (ours.grad.float() - theirs.grad).norm() / theirs.grad.norm()
        assert float(error) < 0.03
