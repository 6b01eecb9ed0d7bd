from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file
import torch

from regvpr_core.config import PRESETS, read_yaml
from regvpr_core.datasets.clips import clips_validation, read_clips
from regvpr_core.datasets.config import DataConfig, ValidationConfig
from regvpr_core.datasets.gsv_cities import read_gsv_cities
from regvpr_core.datasets.manifest import read_manifest
from regvpr_core.datasets.place_folders import read_place_folders
from regvpr_core.datasets.place_set import joined
from regvpr_core.datasets.posed_pictures import read_msls, read_utm
from regvpr_core.errors import RegvprError, TrainingError
from regvpr_core.models.checkpoints import load_model
from regvpr_core.models.vit import (
    DinoVisionTransformer,
    initialise,
    VIT_CONFIGS,
    VitConfig,
)
from regvpr_core.training.config import BatchConfig
from regvpr_core.training.data_sets import training_set, validation_set
from regvpr_core.training.settings import read_train_config
from regvpr_core.training.trainer import train

GSV_HEADER = 'place_id,year,month,northdeg,city_id,lat,lon,panoid\n'


def gsv(root: Path) -> Path:
    (root / 'Dataframes').mkdir()
    for city, rows in (('Boston', ['7,2017,7,90,Boston,42.35,-71.0600,abc',
                                   '7,2012,11,5,Boston,42.3500001,-71.06,d_f',
                                   '12,2012,11,5,Boston,42.4,-71.1,x']),
                       ('London', ['7,2019,1,359,London,51.5,-0.12,q'] * 2)):
        (root / 'Images' / city).mkdir(parents=True)
        (root / 'Dataframes' / f'{city}.csv').write_text(GSV_HEADER + '\n'.join(rows) + '\n')
    return root


def test_gsv_cities_names_its_files_as_published(tmp_path):
    places = read_gsv_cities(gsv(tmp_path), DataConfig())
    assert places.names[:2] == ('Images/Boston/Boston_0000007_2017_07_090_42.35_-71.06_abc.jpg',
                                'Images/Boston/Boston_0000007_2012_11_005_42.3500001_-71.06_d_f.jpg')
    assert [list(m) for m in places.members] == [[0, 1], [2], [3, 4]]
    assert places.groups == ('Boston', 'Boston', 'London')  # one number, two cities: two places


def test_places_with_too_few_pictures_are_dropped_and_counted(tmp_path):
    places = read_gsv_cities(gsv(tmp_path), DataConfig()).with_at_least(2)
    assert (len(places.members), places.dropped) == (2, 1)
    assert places.groups == ('Boston', 'London')


@pytest.mark.parametrize(('spoil', 'message'), [
    (lambda root: (root / 'Dataframes' / 'Boston.csv').write_text('place_id,year\n1,2\n'),
     'lacks the column month, northdeg'),
    (lambda root: (root / 'Dataframes' / 'Boston.csv').write_text('place_id;year\n1;2\n'),
     "it has place_id;year: its separator is ';'; expected a comma"),
    (lambda root: (root / 'Dataframes' / 'Boston.csv').write_text(
        GSV_HEADER + 'x,2012,11,5,Boston,42.4,-71.1,x\n'),
     r'Boston\.csv, line 2: invalid literal'),
    (lambda root: (root / 'Dataframes' / 'Boston.csv').write_text(
        GSV_HEADER + '1,2012,11,5,../..,42.4,-71.1,/x\n'), 'not inside'),
    (lambda root: (root / 'Images' / 'London').rmdir(), 'Images/London is missing'),
    (lambda root: [p.unlink() for p in (root / 'Dataframes').iterdir()], 'holds no CITY.csv')])
def test_what_gsv_cities_lacks_is_named(tmp_path, spoil, message):
    spoil(gsv(tmp_path))
    with pytest.raises(RegvprError, match=message):
        read_gsv_cities(tmp_path, DataConfig())


def test_an_unknown_city_is_refused_with_the_near_one(tmp_path):
    with pytest.raises(TrainingError, match="has no 'Bostn'; did you mean 'Boston'"):
        read_gsv_cities(gsv(tmp_path), DataConfig(only=('Bostn',)))


def msls(root: Path) -> Path:
    for city in ('tokyo', 'cph'):
        for side, keys in (('database', 'abc'), ('query', 'de')):
            folder = root / 'train_val' / city / side
            folder.mkdir(parents=True)
            posed, raw = ['key,easting,northing'], ['key,pano,ca']
            for i, key in enumerate(keys):
                posed.append(f'{key},{500000 + 3 * i},{4000000 + 40 * (i == 2)}')
                raw.append(f'{key},{key == "e"},{10.0 if i < 2 else 200.0}')
            (folder / 'postprocessed.csv').write_text('\n'.join(posed) + '\n')
            (folder / 'raw.csv').write_text('\n'.join(raw) + '\n')
    return root


def test_msls_places_are_squares_and_directions_without_panoramas_and_validation_cities(tmp_path):
    places = read_msls(msls(tmp_path), DataConfig(kind='msls', cell_m=10, heading_bins=2))
    assert set(places.groups) == {'tokyo'}
    assert [list(m) for m in places.members] == [[0, 1, 3], [2]]  # a, b, d; c far and turned
    np.testing.assert_allclose(places.positions[0], [0, 500001, 4000000])
    assert places.apart.tolist() == [25.0, 25.0]


def test_utm_names_make_places_of_squares_and_directions(tmp_path, picture):
    for i, (east, heading) in enumerate([(5, 10), (8, 20), (8, 200), (25, 10)]):
        picture(tmp_path / f'@{east}@0@@@@@id{i}@@{heading}@@@@@.png', i)
    places = read_utm(tmp_path, DataConfig(kind='utm', heading_bins=2))
    sets = {frozenset(places.names[i].split('@')[7] for i in m) for m in places.members}
    assert sets == {frozenset({'id0', 'id1'}), frozenset({'id2'}), frozenset({'id3'})}
    whole = read_utm(tmp_path, DataConfig(kind='utm', heading_bins=1))
    assert sorted(map(len, whole.members)) == [1, 3]


def clips(root: Path) -> Path:
    rows = ['image,floor,split,clip,second']
    for clip, floor, seconds in (('a', 'f1', range(5)), ('b', 'f1', range(2)),
                                 ('c', 'f2', (0, 9))):
        rows += [f'{clip}{s}.jpg,{floor},{"query" if s == 1 else "gallery"},{clip},{s}'
                 for s in seconds]
    (root / 'dataset.csv').write_text('\n'.join(rows) + '\n')
    return root


def test_a_place_of_a_clip_is_a_second_and_its_neighbours(tmp_path):
    places = read_clips(clips(tmp_path), DataConfig(kind='clips', window_s=1, apart=3))
    named = [[places.names[i] for i in members] for members in places.members]
    assert named[0] == ['a0.jpg', 'a1.jpg']
    assert named[2] == ['a1.jpg', 'a2.jpg', 'a3.jpg']
    assert named[-1] == ['c9.jpg']
    assert places.positions[2].tolist() == [0, 2, 0]
    assert places.positions[-1].tolist() == [2, 9, 0]


def test_floors_and_clips_can_be_left_out(tmp_path):
    root = clips(tmp_path)
    taken = read_clips(root, DataConfig(kind='clips', leave_out=('f2', 'b')))
    assert set(taken.names) == {f'a{s}.jpg' for s in range(5)}
    with pytest.raises(TrainingError, match="has no 'f3'"):
        read_clips(root, DataConfig(kind='clips', leave_out=('f3',)))


def test_clips_are_validated_inside_their_clip_by_seconds(tmp_path):
    dataset = clips_validation(clips(tmp_path), ValidationConfig(kind='clips', radius=1))
    names = [picture.name for picture in dataset.references]
    assert [picture.name for picture in dataset.queries] == ['a1.jpg', 'b1.jpg']
    right = [{names[i] for i in dataset.positives.of(q)} for q in (0, 1)]
    assert right == [{'a0.jpg', 'a2.jpg'}, {'b0.jpg'}]


def test_a_manifest_holds_training_and_validation(tmp_path):
    table = tmp_path / 'm.csv'
    rows = ['image,place,split,group,x,y'] + [
        f'{g}{p}{n}.jpg,{p},{split},{g},{10 * p + n},0' for g in 'ab' for p in (0, 1)
        for n, split in enumerate(('train', 'train', 'gallery', 'query'))]
    table.write_text('\n'.join(rows) + '\n')
    places = read_manifest(table, DataConfig(kind='manifest', apart=5))
    assert places.groups == ('a', 'a', 'b', 'b')
    np.testing.assert_allclose(places.positions, [[0, .5, 0], [0, 10.5, 0], [1, .5, 0],
                                                  [1, 10.5, 0]])
    dataset = validation_set(table, ValidationConfig(kind='manifest', radius=2))
    assert [dataset.positives.of(q).tolist() for q in range(4)] == [[0], [1], [2], [3]]


def test_folders_are_places_and_the_folder_above_is_the_group(place_folder):
    places = read_place_folders(place_folder / 'train', DataConfig(kind='folders'))
    assert [len(m) for m in places.members] == [5] * 12
    assert set(places.groups) == {'group0', 'group1'}


def test_sets_are_joined_without_mixing_places_or_groups(tmp_path, place_folder):
    first = read_clips(clips(tmp_path), DataConfig(kind='clips', apart=3))
    second = read_place_folders(place_folder / 'train', DataConfig(kind='folders'))
    both = joined([first, second, first])
    assert len(both.members) == 2 * len(first.members) + 12
    assert both.paths[both.members[len(first.members)][0]] == second.paths[second.members[0][0]]
    assert set(both.groups) == {'0:f1', '0:f2', '1:group0', '1:group1', '2:f1', '2:f2'}
    assert both.positions[0, 0] != both.positions[-len(first.members), 0]
    assert np.isnan(both.positions[len(first.members)]).all()


def published(root: Path, picture) -> Path:
    """Miniature copies of the folders as they are published."""
    for name, make in (('gsv-cities', gsv), ('msls', msls)):
        (root / name).mkdir()
        make(root / name)
    for i, (folder, east, heading) in enumerate([
            ('sf-xl/processed/train', 5, 10), ('sf-xl/processed/train', 8, 20),
            ('pitts250k/images/train/database', 5, ''),
            ('pitts250k/images/train/queries', 8, ''), ('pitts30k/images/val/queries', 8, ''),
            *(('pitts30k/images/val/database', 5 + 100 * i, '') for i in range(10))]):
        path = root / folder / f'@{east}@0@@@@@id{i}@@{heading}@@@@@.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(path, i)
    return root


@pytest.mark.parametrize(('preset', 'dimension'), [
    pytest.param('regvpr_vitb14', 8448, marks=pytest.mark.full),
    pytest.param('regvpr_vitb14_unified', 8448, marks=pytest.mark.full),
    ('regvpr_vitb14_inside', 512)])
def test_the_recipes_for_a_gpu_run_on_miniature_copies_of_the_published_layouts(
        preset, dimension, tmp_path, picture, listener, monkeypatch):
    narrow = VitConfig(width=64, depth=12, heads=1)
    monkeypatch.setitem(VIT_CONFIGS, 'vitb14', narrow)
    backbone = tmp_path / 'narrow.safetensors'
    torch.manual_seed(1)
    save_file(initialise(DinoVisionTransformer(narrow)).state_dict(), backbone)
    config = read_train_config(preset, [
        f'data_root={published(tmp_path, picture)}', f'backbone_path={backbone}',
        'batch.places=2', 'batch.images=2', 'epochs=1', 'device=cpu', 'workers=1',
        'model.preprocessing={height: 28, width: 42}',
        'validation=[{kind: utm, folder: pitts30k, split: images/val}]'])
    for i, path in enumerate(training_set(config).paths):
        if not path.is_file():
            picture(path, i)
    watch = listener()
    progress = train(config, tmp_path / 'run', watch)
    assert progress.step >= 1
    assert all(np.isfinite(loss) for loss in watch.losses.values())
    assert watch.recalls[progress.step]['pitts30k'][10] == 1.0  # one of ten lies within 25 m
    made = load_model(tmp_path / 'run' / 'last.safetensors', backbone)
    assert made.model.dimension == dimension


def test_the_unified_preset_reads_miniature_copies_of_the_published_layouts(tmp_path, picture):
    published(tmp_path, picture)
    preset = read_train_config('regvpr_vitb14_unified')
    config = replace(preset, data_root=str(tmp_path), batch=BatchConfig(places=3, images=2))
    places = training_set(config)
    of_set = {group.split(':')[0]: 0 for group in places.groups}
    assert sorted(of_set) == ['0', '1', '2', '3']
    # Boston 7, London 7; a, b, d of tokyo; both images of SF-XL; database and query of Pittsburgh.
    assert [len(members) for members in places.members] == [2, 2, 3, 2, 2]
    assert places.dropped == 2  # Boston 12, c of tokyo


def test_the_digest_sees_other_files_and_other_places(place_folder):
    places = read_place_folders(place_folder / 'train', DataConfig(kind='folders'))
    fewer = read_place_folders(place_folder / 'train',
                               DataConfig(kind='folders', only=('group0',)))
    again = read_place_folders(place_folder / 'train', DataConfig(kind='folders'))
    assert places.digest() == again.digest() != fewer.digest()


def test_too_few_places_for_a_batch_are_one_line(settings):
    with pytest.raises(TrainingError, match='has 12 places of 4 or more images '
                                            r'\(0 have fewer\), and a batch has 13'):
        training_set(settings(batch={'places': 13, 'images': 4}))
    with pytest.raises(TrainingError, match=r'has 0 places of 6 .* \(12 have fewer\)'):
        training_set(settings(batch={'places': 4, 'images': 6}))


def test_the_working_folder_is_no_data_set_unless_it_is_named(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset = read_yaml(PRESETS / 'train' / 'places.yaml')
    own = {key: preset[key] for key in ('data', 'batch')}
    with pytest.raises(TrainingError, match=r'where its images are; .* --set data_root=FOLDER'):
        training_set(settings(**own, data_root=''))
    for number in range(5):
        (tmp_path / f'{number}').mkdir()
        for image in range(2 if number else 1):
            (tmp_path / f'{number}' / f'{image}.jpg').write_bytes(b'x')
    places = training_set(settings(**own, data_root='.'))
    assert (len(places.members), places.dropped) == (4, 1)  # a place of one image has no pair


def test_a_missing_folder_says_how_to_name_it(settings):
    with pytest.raises(TrainingError, match=r'nowhere does not exist; .*data_root'):
        training_set(settings(data=[{'kind': 'gsv_cities', 'folder': 'nowhere'}]))


def test_left_out_floors_of_ie_tower_share_no_clip_with_training(real_data):
    root = real_data('ie_tower')
    train = read_clips(root, DataConfig(kind='clips', leave_out=('floor4', 'floor9'), apart=6))
    val = clips_validation(root, ValidationConfig(kind='clips', only=('floor4', 'floor9'),
                                                  radius=2))
    assert len(train.paths) == 2877 - 152 - 147
    assert len(val.queries) + len(val.references) + val.removed == 152 + 147
    assert not set(train.names) & {p.name for p in (*val.queries, *val.references)}
