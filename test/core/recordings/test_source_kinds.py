"""What is said of a path that is no recording."""

from pathlib import Path

import pytest

from regvpr_core.errors import BagError, ImageError
from regvpr_core.recordings.source_kinds import check_exists, check_images, check_source


def made(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith('/'):
        path.mkdir(parents=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return path


@pytest.mark.parametrize(('files', 'given', 'message'), [
    (['poses.csv'], 'poses.csv', 'is a table, not a recording; give the folder of images and '
                                 '--table'),
    (['track.tum'], 'track.tum', 'or the bag and --tum'),
    (['site/map.db'], 'site', 'is a place map, not a recording'),
    (['site/map.db'], 'site/map.db', 'look at the map: regvpr map info'),
    (['a/photo.JPG'], 'a/photo.JPG', 'is one image; give its folder'),
    (['drive/metadata.yaml'], 'drive/metadata.yaml', 'description of a bag; give its folder'),
    (['empty/'], 'empty', 'is empty; give a folder of images'),
    (['papers/a.pdf'], 'papers', 'holds neither a bag nor an image'),
    (['paper.pdf'], 'paper.pdf', 'is no recording; expected a ROS 1 .bag'),
    (['all/one.bag', 'all/two.mcap'], 'all', 'holds 2 bags; give one or more of them: '),
    (['all/one/metadata.yaml'], 'all', 'holds the bag one; give '),
    (['drive.mcap'], 'drve.mcap', "drve.mcap does not exist; did you mean 'drive.mcap'?"),
])
def test_what_is_no_recording_is_named_with_what_to_give(files, given, message, tmp_path):
    for name in files:
        made(tmp_path, name)
    with pytest.raises(BagError) as error:
        check_source(tmp_path / given)
    assert message in str(error.value)


@pytest.mark.parametrize(('files', 'given'), [
    (['drive.bag'], 'drive.bag'), (['drive.mcap'], 'drive.mcap'),
    (['drive/metadata.yaml', 'drive/drive_0.db3'], 'drive'),
    (['drive/a_0.db3', 'drive/a_1.db3'], 'drive'), (['photos/deep/er/1.jpeg'], 'photos')])
def test_recordings_are_let_through(files, given, tmp_path):
    for name in files:
        made(tmp_path, name)
    check_source(tmp_path / given)


def test_what_is_expected_is_named_where_no_name_is_near(tmp_path):
    with pytest.raises(BagError) as error:
        check_exists([tmp_path / 'qqq'], 'a map, a bag or a folder')
    assert str(error.value).endswith('qqq does not exist; expected a map, a bag or a folder')


def test_advice_about_a_table_is_that_of_the_command(tmp_path):
    made(tmp_path, 'poses.csv')
    with pytest.raises(BagError) as error:
        check_source(tmp_path / 'poses.csv', 'put {path} into the folder of images')
    assert str(error.value) == (f'{tmp_path}/poses.csv is a table, not a recording; put '
                                f'{tmp_path}/poses.csv into the folder of images')


@pytest.mark.parametrize(('files', 'given', 'message'), [
    (['site/map.db'], 'site', 'is a place map; give images or folders of images'),
    (['site/map.db'], 'site/map.db', 'is a place map; give images'),
    (['drive.mcap'], 'drive.mcap', 'is a recording; give images or folders of images, or compare'),
    (['d/metadata.yaml', 'd/d_0.db3'], 'd', 'regvpr evaluate --references MAP --queries'),
    (['poses.tsv'], 'poses.tsv', 'is a table; give images or folders of images')])
def test_what_is_no_image_is_named_with_what_to_give(files, given, message, tmp_path):
    for name in files:
        made(tmp_path, name)
    with pytest.raises(ImageError) as error:
        check_images([tmp_path / given])
    assert message in str(error.value)


def test_images_of_any_name_and_folders_of_them_are_let_through(tmp_path):
    for name in ('a.jpg', 'photo_without_suffix', 'folder/1.png', 'odd/metadata.yaml'):
        made(tmp_path, name)
    check_images(tmp_path / name for name in ('a.jpg', 'photo_without_suffix', 'folder', 'odd'))
