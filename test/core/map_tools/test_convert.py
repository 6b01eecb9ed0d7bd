"""Places described by another model: from thumbnails, from folders, never from outside them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from regvpr_core.errors import BagError, ConfigError, ImageError, MapError
from regvpr_core.images import decode
from regvpr_core.map_tools.convert import (
    convert_map,
    features_for,
    from_folder,
    Recorded,
    source_of,
)
from regvpr_core.map_tools.verify import verify
from regvpr_core.maps.files import Manifest
from regvpr_core.maps.place_map import PlaceMap
from regvpr_core.maps.writer import MapWriter
from regvpr_core.verification.local_extractor import LocalExtractor
from regvpr_core.verification.local_features import decode_features
from regvpr_core.verification.verification import stored_features


@pytest.fixture
def make(tmp_path: Path, rows, place, noise) -> Callable[..., PlaceMap]:
    """A map of another model, six keyframes; those in `thumbnails` have one."""
    def run(thumbnails=range(6), names=None, source='lap') -> PlaceMap:
        manifest = Manifest(map_id='abc', model='old', fingerprint='f' * 64, dimension=16,
                            features='patch', compress='pca:8')
        pictures = noise(6)
        with MapWriter.create(tmp_path / 'map', manifest) as writer:
            writer.append([
                place(i, row, source=source, local_features=b'old', covariance=np.eye(3),
                      image=names[i] if names else f'{i}.png',
                      thumbnail=pictures[i] if i in thumbnails else None)
                for i, row in enumerate(rows(6))])
            writer.attach('pca', b'old')
        return PlaceMap.open(tmp_path / 'map', index='none')
    return run


def write_pictures(folder: Path, pictures, names) -> Path:
    for rgb, name in zip(pictures, names, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name), rgb[..., ::-1])
    return folder


def test_thumbnails_are_described_anew(make, tmp_path, small_encoder):
    with make() as place_map:
        told = []
        report = convert_map(place_map, small_encoder, tmp_path / 'out', batch=4,
                             progress=lambda *done: told.append(done))
        assert (report.kept, report.from_thumbnails, report.from_originals, report.left_out) == (
            6, 6, 0, 0)
        assert told == [(4, 6), (6, 6)]
        with PlaceMap.open(tmp_path / 'out', small_encoder.fingerprint) as converted:
            for i in range(6):
                want = small_encoder.describe(place_map.thumbnail(i))
                assert float(converted.descriptors(i, i + 1)[0] @ want) > 0.9999
            assert (converted.manifest.model, converted.manifest.features,
                    converted.manifest.compress) == ('small', '', '')
            assert converted.manifest.preprocessing['height'] == 56
            assert converted.local_features(2) is None
            assert converted.attachment('pca') is None
            before, after = (next(m.keyframes([3])) for m in (place_map, converted))
            assert (before.thumbnail, before.image, before.stamp_ns) == (
                after.thumbnail, after.image, after.stamp_ns)
            np.testing.assert_array_equal(before.covariance, after.covariance)
            np.testing.assert_allclose(converted.T_map_cam, place_map.T_map_cam)
    assert verify(tmp_path / 'out').sound
    assert sorted(p.name for p in tmp_path.iterdir()) == ['map', 'out']


def test_local_features_are_made_anew_for_the_images_that_there_are(
    make, tmp_path, small_encoder, noise,
):
    with make(thumbnails=(0, 1, 3, 4)) as place_map:
        kind = features_for(small_encoder, place_map.manifest.features)
        assert kind == 'patch'
        convert_map(place_map, small_encoder, tmp_path / 'out', iter([(5, partial(next, iter(
            [noise(6)[5]])))]), features=kind, batch=2)
        with PlaceMap.open(tmp_path / 'out', small_encoder.fingerprint) as converted:
            assert converted.manifest.features == 'patch'
            images = [place_map.thumbnail(i) for i in (0, 1, 3, 4)] + [noise(6)[5]]
            for i, rgb in enumerate(images):
                extractor = LocalExtractor('patch', small_encoder)
                want = extractor([extractor.prepare(rgb)])[1][0]
                np.testing.assert_allclose(
                    stored_features(converted, i).descriptors,
                    decode_features(want).descriptors, atol=0.02)
    assert verify(tmp_path / 'out').sound
    assert sorted(p.name for p in tmp_path.iterdir()) == ['map', 'out']


def test_a_model_without_patch_tokens_makes_no_features():
    class Blind:
        def describe_with_tokens(self, rgb):
            raise ConfigError('this .onnx file gives no patch tokens')

    assert features_for(Blind(), 'patch') == ''
    assert features_for(Blind(), '') == ''


def test_keyframes_without_a_picture_are_left_out_and_counted(make, tmp_path, small_encoder):
    with make(thumbnails=(1, 4)) as place_map:
        report = convert_map(place_map, small_encoder, tmp_path / 'out')
        assert (report.kept, report.left_out) == (2, 4)
        with PlaceMap.open(tmp_path / 'out') as converted:
            assert converted.images == ['1.png', '4.png']
            assert verify(tmp_path / 'out').sound


def test_original_pictures_come_first_and_thumbnails_fill_up(
        make, tmp_path, small_encoder, noise):
    pictures = noise(6)
    folder = write_pictures(tmp_path / 'lap', [pictures[i] for i in (5, 0, 3)],
                            ['5.png', '0.png', '3.png'])
    with make(thumbnails=(0, 1, 2)) as place_map:
        report = convert_map(place_map, small_encoder, tmp_path / 'out',
                             from_folder(place_map, folder), batch=2)
        assert (report.kept, report.from_originals, report.from_thumbnails, report.left_out) == (
            5, 3, 2, 1)
    with PlaceMap.open(tmp_path / 'out') as converted:
        assert converted.images == ['0.png', '1.png', '2.png', '3.png', '5.png']
        for row, i in zip(converted.descriptors(), (0, 1, 2, 3, 5), strict=True):
            cosine = float(row @ small_encoder.describe(pictures[i]))
            assert cosine > (0.9999 if i in (0, 3, 5) else 0.9)


def test_thumbnails_can_be_kept_out(make, tmp_path, small_encoder, noise):
    folder = write_pictures(tmp_path / 'lap', noise(2), ['0.png', '1.png'])
    with make() as place_map:
        report = convert_map(place_map, small_encoder, tmp_path / 'out',
                             from_folder(place_map, folder), thumbnails=False)
        assert (report.kept, report.from_thumbnails, report.left_out) == (2, 0, 4)


def test_a_picture_of_another_drive_is_not_taken(make, tmp_path, noise, rows, place):
    names = ['0.png', '1.png']
    lap, other = (write_pictures(tmp_path / name, noise(2), names) for name in ('lap', 'b'))
    with make() as place_map:
        assert [i for i, _ in from_folder(place_map, lap)] == [0, 1]
        # A folder of a name that the map does not know may be the same one, renamed.
        assert [i for i, _ in from_folder(place_map, other)] == [0, 1]
    with MapWriter.append_to(tmp_path / 'map') as writer:
        writer.append([place(6, rows(7)[6], source='b', image='0.png')])
    with PlaceMap.open(tmp_path / 'map', index='none') as place_map:
        assert [i for i, _ in from_folder(place_map, lap)] == [0, 1]
        assert [i for i, _ in from_folder(place_map, other)] == [6]


def test_names_in_a_map_reach_nothing_outside_the_folder(make, tmp_path, noise):
    folder = write_pictures(tmp_path / 'lap', noise(1), ['in/0.png'])
    secret = write_pictures(tmp_path, noise(1), ['secret.png']) / 'secret.png'
    names = ['in/0.png', '../secret.png', str(secret), 'in/../../secret.png', '', 'in']
    with make(names=names) as place_map:
        assert [i for i, _ in from_folder(place_map, folder)] == [0]


def test_pictures_that_cannot_be_read_are_told(make, tmp_path, small_encoder, noise):
    folder = write_pictures(tmp_path / 'lap', noise(2), ['0.png', '1.png'])
    (folder / '2.png').write_bytes(b'no picture')
    with make(thumbnails=()) as place_map:
        report = convert_map(place_map, small_encoder, tmp_path / 'out',
                             from_folder(place_map, folder))
        assert (report.kept, report.left_out) == (2, 4)
        assert '2.png: 10 bytes that are no image' in report.first_error


def test_a_map_without_any_picture_is_refused_and_nothing_is_left(
        make, tmp_path, small_encoder):
    with make(thumbnails=()) as place_map:
        with pytest.raises(MapError, match='can be described anew: no thumbnail is stored and no '
                                           'image was found; give --bag SOURCE'):
            convert_map(place_map, small_encoder, tmp_path / 'out')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['map']


def test_a_thumbnail_that_is_no_picture_is_left_out(make, tmp_path, small_encoder, rows, place):
    with make():
        pass
    with MapWriter.append_to(tmp_path / 'map') as writer:
        writer.append([place(6, rows(7)[6], thumbnail=b'no jpeg')])
    with PlaceMap.open(tmp_path / 'map', index='none') as place_map:
        report = convert_map(place_map, small_encoder, tmp_path / 'out')
        assert (report.kept, report.left_out) == (6, 1)
        assert 'thumbnail 6 of' in report.first_error


def test_a_picture_that_is_named_twice_is_described_once(make, tmp_path, small_encoder, noise):
    pictures = noise(6)
    calls = []

    def get(i: int) -> np.ndarray:
        calls.append(i)
        if calls.count(i) == 1 and i == 2:
            raise ImageError('not now')
        return pictures[i]

    with make() as place_map:
        report = convert_map(place_map, small_encoder, tmp_path / 'out',
                             [(i, partial(get, i)) for i in (1, 1, 2, 2, 1)])
        assert (calls, report.from_originals, report.kept) == ([1, 2, 2], 2, 6)


def test_keyframes_are_found_by_camera_and_stamp(make):
    with make() as place_map:
        for path in (Path('lap'), Path('x/lap'), Path('renamed')):
            recorded = Recorded(place_map, path)
            assert recorded.find('front', 1_700_000_000_000_000_004) == [4]
            assert recorded.find('rear', 1_700_000_000_000_000_004) == []
            assert recorded.find('front', 4) == []


@pytest.fixture
def two_drives(tmp_path, manifest, rows, place) -> Callable[..., PlaceMap]:
    """A map of two drives whose clocks and image names begin alike: of three and of four."""
    def run(day: str, dusk: str) -> PlaceMap:
        with MapWriter.create(tmp_path / 'map', manifest) as writer:
            writer.append([
                place(n, row, stamp_ns=10 + i, source=source, image=f'{i}.png')
                for n, (row, (source, i)) in enumerate(zip(
                    rows(7), [*((day, i) for i in range(3)), *((dusk, i) for i in range(4))],
                    strict=True))])
        return PlaceMap.open(tmp_path / 'map', index='none')
    return run


def test_an_image_of_another_recording_with_the_same_stamp_is_not_taken(two_drives):
    with two_drives('day', 'dusk') as place_map:
        day, dusk, other = (Recorded(place_map, Path(name)) for name in ('day', 'dusk', 'other'))
        assert [day.find('front', 10 + i) for i in range(4)] == [[0], [1], [2], []]
        assert [dusk.find('front', 10 + i) for i in range(4)] == [[3], [4], [5], [6]]
        # One of a name that the map does not know may be either.
        assert [other.find('front', 10 + i) for i in range(4)] == [[0, 3], [1, 4], [2, 5], [6]]


def test_folders_of_one_name_are_told_apart_by_the_folders_they_lie_in(
        two_drives, tmp_path, noise):
    names = [f'{i}.png' for i in range(4)]
    day, dusk = (write_pictures(tmp_path / name / 'images', noise(4), names)
                 for name in ('day', 'dusk'))
    with two_drives('day/images', 'dusk/images') as place_map:
        assert [source_of(place_map, path) for path in (day, dusk, tmp_path)] == [
            'day/images', 'dusk/images', None]
        assert [i for i, _ in from_folder(place_map, day)] == [0, 1, 2]
        assert [i for i, _ in from_folder(place_map, dusk)] == [3, 4, 5, 6]


@pytest.mark.parametrize('folder', ['images', 'renamed'])
def test_keyframes_that_share_their_name_get_no_picture_and_are_told(
        two_drives, tmp_path, noise, folder):
    """A map of before sources of one name were told apart, or a folder that was renamed."""
    found = write_pictures(tmp_path / folder, noise(3), ['0.png', '2.png', '3.png'])
    source = ('images', 'images') if folder == 'images' else ('day', 'dusk')
    with two_drives(*source) as place_map:
        unclear: set[int] = set()
        assert [i for i, _ in from_folder(place_map, found, unclear)] == [6]
        assert unclear == {0, 3, 2, 5}


def test_no_folder_is_refused(make, tmp_path):
    with make() as place_map, pytest.raises(BagError, match='cannot read folder'):
        list(from_folder(place_map, tmp_path / 'none'))


def test_jpegs_of_a_map_are_pictures(make):
    with make() as place_map:
        assert decode(next(place_map.keyframes([0])).thumbnail).shape == (120, 160, 3)
