"""Patch tokens that come with a descriptor, out of the same pass."""

import numpy as np
import pytest

from regvpr_core.errors import ConfigError
from regvpr_core.models.checkpoints import load_model
from regvpr_core.models.encoder import load_encoder
from regvpr_core.models.export import export_onnx


def test_tokens_come_with_the_same_descriptor(small_encoder, noise):
    for image in noise(2):
        descriptor, tokens = small_encoder.describe_with_tokens(image)
        np.testing.assert_allclose(descriptor, small_encoder.describe(image), atol=1e-6)
        assert tokens.shape == (4, 4, 384)
        assert tokens.dtype == np.float32
        assert np.isfinite(tokens).all()


def test_the_fused_tokens_are_those_of_the_plain_network(encoder, noise):
    import torch

    loaded = load_model('gem_vits14')
    model = loaded.model.eval()
    assert model.token_block == 4
    inputs = encoder.prepare(noise(1)[0])
    with torch.inference_mode():
        want = model.with_tokens(inputs)[1].numpy()
        # By hand: the first five blocks, one after the other.
        vit = model.backbone
        x = torch.cat([vit.cls_token, vit.patch_embed(inputs)], dim=1) + vit.positions((16, 16))
        for block in vit.blocks[:5]:
            x = block(x, (16, 16))
    np.testing.assert_allclose(want, x[:, 1:].reshape(1, 16, 16, -1).numpy(), atol=1e-5)
    for precision, least in (('fp32', 0.9999), ('bf16', 0.99)):
        _, tokens = load_encoder('gem_vits14', 'cpu', precision).describe_with_tokens(noise(1)[0])
        cosines = (tokens * want[0]).sum(-1) / np.linalg.norm(tokens, axis=-1) \
            / np.linalg.norm(want[0], axis=-1)
        assert cosines.min() > least


def test_a_batch_of_tokens_equals_its_images_one_by_one(small_encoder, noise):
    images = noise(3)
    descriptors, tokens = small_encoder.describe_prepared_with_tokens(
        [small_encoder.prepare(image) for image in images])
    for image, row, one in zip(images, descriptors, tokens, strict=True):
        want_row, want = small_encoder.describe_with_tokens(image)
        np.testing.assert_allclose(row, want_row, atol=1e-5)
        np.testing.assert_allclose(one, want, atol=1e-4)


def test_a_patch_is_where_it_is_in_the_image(small_encoder):
    plain = np.full((56, 56, 3), 90, np.uint8)
    marked = plain.copy()
    marked[14:28, 42:56] = np.random.default_rng(0).integers(0, 256, (14, 14, 3))
    difference = np.linalg.norm(small_encoder.describe_with_tokens(marked)[1]
                                - small_encoder.describe_with_tokens(plain)[1], axis=-1)
    assert np.unravel_index(difference.argmax(), difference.shape) == (1, 3)


def test_an_exported_model_gives_tokens_only_where_it_was_told_to(
    small_encoder, small_model, noise, tmp_path
):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnx')
    plain, rich = tmp_path / 'plain.onnx', tmp_path / 'rich.onnx'
    export_onnx(load_model(small_model), plain)
    export_onnx(load_model(small_model), rich, tokens=True)
    image = noise(1)[0]
    with pytest.raises(ConfigError, match='gives no patch tokens; export it with --tokens'):
        load_encoder(plain).describe_with_tokens(image)
    descriptor, tokens = load_encoder(rich).describe_with_tokens(image)
    want_descriptor, want = small_encoder.describe_with_tokens(image)
    np.testing.assert_allclose(descriptor, want_descriptor, atol=1e-4)
    np.testing.assert_allclose(tokens, want, atol=1e-3)
    np.testing.assert_allclose(load_encoder(rich).describe(image), want_descriptor, atol=1e-4)
