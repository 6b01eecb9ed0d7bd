import numpy as np
import pytest

from regvpr_core.errors import ConfigError, MapError
from regvpr_core.verification.local_extractor import LocalExtractor
from regvpr_core.verification.local_features import (
    decode_features,
    encode_features,
    HEADER,
    LocalFeatures,
    MAX_BYTES,
)
from regvpr_core.verification.patch_features import patch_features, projection


def some(count: int, channels: int = 64, width: int = 640, height: int = 480) -> LocalFeatures:
    rng = np.random.default_rng(count)
    rows = rng.normal(size=(count, channels)).astype(np.float32)
    return LocalFeatures(
        kind='xfeat', width=width, height=height,
        xy=rng.uniform([-0.5, -0.5], [width - 0.5, height - 0.5], (count, 2)),
        descriptors=rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.mark.parametrize('count', [0, 1, 500])
def test_features_come_back_to_a_hundredth_of_a_pixel_and_nearly_the_same_direction(count):
    features = some(count)
    data = encode_features(features)
    assert len(data) == HEADER.size + count * 68
    back = decode_features(data)
    assert (back.kind, back.width, back.height, len(back)) == ('xfeat', 640, 480, count)
    if count:
        assert np.abs(back.xy - features.xy).max() < 0.01
        assert (back.descriptors * features.descriptors).sum(axis=1).min() > 0.9995
        np.testing.assert_allclose(np.linalg.norm(back.descriptors, axis=1), 1.0, atol=1e-6)


def test_packing_twice_changes_nothing_more():
    once = encode_features(some(50))
    assert encode_features(decode_features(once)) == once


def test_too_many_points_are_cut_so_that_a_map_holds_them():
    data = encode_features(some(5000, channels=256))
    assert len(data) <= MAX_BYTES
    back = decode_features(data)
    assert 4000 < len(back) <= 4096
    np.testing.assert_allclose(back.xy, some(5000, channels=256).xy[:len(back)], atol=0.01)


def test_damaged_bytes_are_refused_in_one_line():
    good = encode_features(some(10))
    header = HEADER.unpack_from(good)
    for data, reason in (
        (b'', 'damaged: 0 bytes'), (good[:9], 'damaged: 9 bytes'),
        (b'PK' + good[2:], 'begin with'), (good[:-1], 'damaged: kind 2, 10 points'),
        (good + b'0', 'damaged: kind 2'),
        (HEADER.pack(header[0], 9, *header[2:]) + good[HEADER.size:], 'version 9'),
        (HEADER.pack(header[0], 1, 7, *header[3:]) + good[HEADER.size:], 'kind 7'),
        (HEADER.pack(header[0], 1, 2, 0, *header[4:]) + good[HEADER.size:], 'damaged'),
        (HEADER.pack(*header[:5], 65535, 65535), '65535 points'),
        (good[:HEADER.size + 40] + bytes(640), 'no direction'),
    ):
        with pytest.raises(MapError, match=reason) as caught:
            decode_features(data, 'features of keyframe 3')
        assert str(caught.value).startswith('features of keyframe 3 ')


def test_random_bytes_never_do_anything_but_be_refused():
    rng = np.random.default_rng(0)
    good = encode_features(some(10))
    for _ in range(300):
        data = bytearray(good[: rng.integers(len(good) + 1)])
        for spot in rng.integers(0, max(len(data), 1), 3):
            if data:
                data[spot] = rng.integers(256)
        try:
            decode_features(bytes(data))
        except MapError:
            continue


def test_a_patch_is_at_its_centre_in_the_image():
    rng = np.random.default_rng(0)
    features = patch_features(rng.normal(size=(4, 8, 16)).astype(np.float32), 320, 240)
    assert len(features) == 32
    np.testing.assert_allclose(features.xy[0], [19.5, 29.5])  # patches of 40 x 60 px
    np.testing.assert_allclose(features.xy[-1], [320 - 20.5, 240 - 30.5])


def test_an_image_of_one_colour_has_no_patch_features():
    assert len(patch_features(np.ones((4, 4, 16), np.float32), 320, 240)) == 0


def test_the_projection_is_orthonormal_and_always_the_same():
    columns = projection(384)
    np.testing.assert_allclose(columns.T @ columns, np.eye(128), atol=1e-6)
    assert float(columns[0, 0]) == pytest.approx(-0.038544, abs=1e-5)


def test_the_features_of_a_map_come_from_the_pass_that_described_it(small_encoder, noise):
    images = noise(3)
    extractor = LocalExtractor('patch', small_encoder)
    rows, packed = extractor([extractor.prepare(rgb) for rgb in images])
    for rgb, row, data in zip(images, rows, packed, strict=True):
        descriptor, features = extractor.describe(rgb)
        np.testing.assert_allclose(row, descriptor, atol=1e-5)
        assert len(features) == 16
        assert (decode_features(data).descriptors * features.descriptors).sum(1).min() > 0.999


def test_no_features_are_none(small_encoder, noise):
    extractor = LocalExtractor('', small_encoder)
    assert extractor([extractor.prepare(noise(1)[0])])[1] == [None]
    assert extractor.describe(noise(1)[0])[1] is None


def test_an_unknown_kind_names_the_near_one(small_encoder):
    with pytest.raises(ConfigError, match=r"features is 'pach'.*patch"):
        LocalExtractor('pach', small_encoder)
