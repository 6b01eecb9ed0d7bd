import numpy as np
import pytest

from regvpr_core.errors import ConfigError, ImageError
from regvpr_core.images import as_rgb
from regvpr_core.models.encoder import choose_device, load_encoder


def test_descriptors_are_float32_of_length_one(small_encoder, noise):
    rows = small_encoder.describe_batch(noise(4))
    assert rows.shape == (4, small_encoder.dimension) == (4, 1536)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)


def test_a_batch_of_one_equals_a_row_of_a_batch(small_encoder, noise):
    images = noise(5)
    rows = small_encoder.describe_batch(images)
    for image, row in zip(images, rows, strict=True):
        np.testing.assert_allclose(small_encoder.describe(image), row, atol=1e-5)


def test_images_of_several_sizes_share_a_batch(small_encoder):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8)
              for h, w in ((1, 1), (30, 500), (224, 224), (480, 640), (57, 56))]
    rows = small_encoder.describe_batch(images)
    for image, row in zip(images, rows, strict=True):
        np.testing.assert_allclose(small_encoder.describe(image), row, atol=1e-5)


def test_no_image_gives_no_row(small_encoder):
    assert small_encoder.describe_batch([]).shape == (0, 1536)


def test_views_and_read_only_images_are_described_as_their_copies(small_encoder, noise):
    image = noise(1)[0]
    fixed = image.copy()
    fixed.flags.writeable = False
    want = small_encoder.describe(image)
    np.testing.assert_array_equal(small_encoder.describe(fixed), want)
    flipped = image[:, ::-1]
    np.testing.assert_array_equal(small_encoder.describe(flipped),
                                  small_encoder.describe(flipped.copy()))
    np.testing.assert_array_equal(image, noise(1)[0])


def test_grey_and_rgba_are_described_once_they_are_rgb(small_encoder, noise):
    image = noise(1)[0]
    rgba = np.dstack([image, np.full(image.shape[:2], 7, np.uint8)])
    np.testing.assert_array_equal(small_encoder.describe(as_rgb(rgba)),
                                  small_encoder.describe(image))
    grey = image[..., 0]
    np.testing.assert_array_equal(small_encoder.describe(as_rgb(grey)),
                                  small_encoder.describe(np.dstack([grey] * 3)))
    for other in (rgba, grey):
        with pytest.raises(ImageError, match=r'expected an image as uint8 \(H, W, 3\) RGB'):
            small_encoder.describe(other)


def test_two_encoders_of_one_checkpoint_agree_to_the_bit(small_encoder, small_model, noise):
    other = load_encoder(small_model, 'cpu', 'fp32')
    assert other.fingerprint == small_encoder.fingerprint
    np.testing.assert_array_equal(other.describe(noise(1)[0]),
                                  small_encoder.describe(noise(1)[0]))


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_precisions_are_taken_as_told(small_model, precision, noise):
    encoder = load_encoder(small_model, 'cpu', precision)
    assert encoder.precision == precision
    row = encoder.describe(noise(1)[0])
    assert row.dtype == np.float32
    assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-5)


def test_bf16_of_the_small_model_is_within_the_stated_bound_of_fp32(
        small_encoder, small_model, noise, assert_agree):
    images = noise(4)
    assert_agree('bf16', 'fp32', small_encoder.describe_batch(images),
                 load_encoder(small_model, 'cpu', 'bf16').describe_batch(images))


def test_bf16_of_plain_pooling_is_within_the_stated_bound_of_fp32(encoder, noise, assert_agree):
    images = noise(3)
    full = encoder.describe_batch(images)
    assert_agree('bf16', 'fp32', full,
                 load_encoder('gem_vits14', 'cpu', 'bf16').describe_batch(images))
    # The three images overlap and still differ by more than the bound.
    assert (full @ full.T)[0, 1:].max() < 0.99


@pytest.mark.parametrize(('device', 'message'), [
    ('gpu', "unknown device 'gpu'; "), ('cudaa', "unknown device 'cudaa'; did you mean 'cuda'?"),
    ('cuda:x', "unknown device 'cuda:x'"), ('auto:1', "unknown device 'auto:1'"),
    ('', "unknown device ''"),
    ('cuda:99', r"device 'cuda:99' is not there: torch \S+ (is built|sees)")])
def test_an_unknown_or_absent_device_is_refused(device, message):
    with pytest.raises(ConfigError, match=message):
        choose_device(device)


def test_auto_is_a_device_that_is_there():
    assert choose_device('auto').type in ('cpu', 'cuda', 'mps')
    assert choose_device('cpu').type == 'cpu'


def test_an_unknown_precision_names_the_near_one(small_model):
    with pytest.raises(ConfigError, match=r"unknown precision 'fp23'; did you mean 'fp32'\?"):
        load_encoder(small_model, 'cpu', 'fp23')
