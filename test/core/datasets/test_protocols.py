"""Every published layout in miniature: what is read, what counts as right, what is refused."""

import csv
from pathlib import Path
import shutil

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from regvpr_core.datasets import msls
from regvpr_core.datasets.pittsburgh import check_unpacked_size
from regvpr_core.datasets.protocols import (
    load_dataset,
    load_datasets,
    LoadConfig,
    parse_data,
    PROTOCOLS,
)
from regvpr_core.errors import ConfigError, EvaluationError

PARTIAL = LoadConfig(partial=True)


def write_picture(path: Path, seed: int = 0) -> Path:
    """A small image, the same for a seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    cv2.imwrite(str(path), pixels)
    return path


def names(pictures):
    return [picture.name for picture in pictures]


def right(dataset):
    return [dataset.positives.of(i).tolist() for i in range(len(dataset.queries))]


def write_csv(path: Path, header: list[str], rows: list[list]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w', newline='') as file:
        csv.writer(file).writerows([['', *header], *([i, *row] for i, row in enumerate(rows))])


# Mapillary SLS

def write_msls_side(folder: Path, rows: list[tuple], held_back: bool = False) -> None:
    """Rows: key, easting, northing, pano, all."""
    write_csv(folder / 'subtask_index.csv', ['all', 's2w'], [[r[4], False] for r in rows])
    write_csv(folder / 'seq_info.csv', ['key', 'sequence_key', 'frame_number'],
              [[r[0], 's', i] for i, r in enumerate(rows)])
    if not held_back:
        write_csv(folder / 'postprocessed.csv', [
            'key', 'easting', 'northing', 'unique_cluster', 'night', 'control_panel',
            'view_direction'], [[r[0], r[1], r[2], 0, False, False, 'Forward'] for r in rows])
        write_csv(folder / 'raw.csv', ['key', 'lon', 'lat', 'ca', 'captured_at', 'pano'],
                  [[r[0], 0, 0, 0, '2017-01-01', r[3]] for r in rows])
    for i, row in enumerate(rows):
        write_picture(folder / 'images' / f'{row[0]}.jpg', i)


@pytest.fixture
def msls_root(tmp_path):
    root = tmp_path / 'msls'
    write_msls_side(root / 'train_val/cph/database', [
        ('c0', 0, 0, False, True), ('c1', 25, 0, False, True), ('c2', 26, 0, False, True),
        ('c_pano', 0, 0, True, True), ('c_other', 0, 0, False, False)])
    write_msls_side(root / 'train_val/cph/query', [
        ('q0', 0, 0, False, True), ('q_lone', 900, 0, False, True), ('q_pano', 0, 0, True, True),
        ('q_other', 0, 0, False, False)])
    write_msls_side(root / 'train_val/sf/database', [('s0', 0, 5000, False, True)])
    write_msls_side(root / 'train_val/sf/query', [('q1', 10, 5000, False, True)])
    return root


def test_msls_validation_follows_its_authors_rules(msls_root):
    dataset = load_dataset(f'msls-val-740={msls_root}', PARTIAL)
    assert names(dataset.references) == [
        f'train_val/cph/database/images/{key}.jpg' for key in ('c0', 'c1', 'c2')
    ] + ['train_val/sf/database/images/s0.jpg']
    assert names(dataset.queries) == ['train_val/cph/query/images/q0.jpg',
                                      'train_val/sf/query/images/q1.jpg']
    assert right(dataset) == [[0, 1], [3]]  # 25 m counts, 26 m does not; cities share an index
    assert (dataset.without_positives, dataset.removed) == ('removed', 1)
    assert dataset.query_xy.tolist() == [[0, 0], [10, 5000]]
    assert dataset.partial == '2 of 740 queries, 4 of 18,871 references'
    assert dataset.title == 'msls-val-740 (partial)'


def test_a_part_of_a_data_set_is_refused_without_leave(msls_root):
    with pytest.raises(EvaluationError) as error:
        load_dataset(f'msls-val-740={msls_root}', LoadConfig())
    assert str(error.value) == (
        f'{msls_root} is not the whole of msls-val-740: 2 of 740 queries, 4 of 18,871 references; '
        f'--partial accepts it and marks the result as partial')


@pytest.mark.parametrize('name', ['postprocessed.csv', 'raw.csv', 'subtask_index.csv'])
def test_a_missing_table_is_named_with_where_to_get_it(msls_root, name):
    path = msls_root / 'train_val/sf/query' / name
    path.unlink()
    with pytest.raises(EvaluationError) as error:
        load_dataset(f'msls-val-740={msls_root}', PARTIAL)
    assert str(error.value).startswith(f'{path} is missing; get metadata.zip, images_vol_1.zip')
    assert 'https://www.mapillary.com/dataset/places' in str(error.value)


def test_missing_pictures_are_counted(msls_root):
    (msls_root / 'train_val/cph/database/images/c1.jpg').unlink()
    with pytest.raises(EvaluationError, match=r'^1 of 6 images are missing, e\.g\. .*c1\.jpg; '):
        load_dataset(f'msls-val-740={msls_root}', PARTIAL)


def test_tables_that_disagree_or_lie_are_refused(msls_root):
    folder = msls_root / 'train_val/sf/query'
    write_csv(folder / 'raw.csv', ['key', 'pano'], [['other', False]])
    with pytest.raises(EvaluationError, match='do not list the same keys'):
        load_dataset(f'msls-val-740={msls_root}', PARTIAL)
    write_csv(folder / 'raw.csv', ['key', 'pano'], [['q1', 'perhaps']])
    with pytest.raises(EvaluationError, match="pano is 'perhaps'; expected True or False"):
        load_dataset(f'msls-val-740={msls_root}', PARTIAL)
    write_msls_side(folder, [('../../../secret', 0, 0, False, True)])
    with pytest.raises(EvaluationError, match='which is not inside'):
        load_dataset(f'msls-val-740={msls_root}', PARTIAL)
    write_msls_side(folder, [('q1', 'nan', 0, False, True)])
    with pytest.raises(EvaluationError, match='expected finite numbers'):
        load_dataset(f'msls-val-740={msls_root}', PARTIAL)


def test_the_msls_challenge_gives_a_submission(tmp_path):
    root = tmp_path / 'msls'
    for i, city in enumerate(msls.CHALLENGE):
        write_msls_side(root / 'test' / city / 'database', [
            (f'd{i}', 0, 0, False, True), (f'x{i}', 0, 0, False, False)], held_back=True)
        write_msls_side(root / 'test' / city / 'query', [(f'q{i}', 0, 0, False, True)],
                        held_back=True)
    dataset = load_dataset(f'msls-challenge={root}', PARTIAL)
    assert dataset.positives is None
    assert [len(dataset.queries), len(dataset.references)] == [6, 6]
    lines = msls.submission_lines(dataset, np.array([[1, 0], [5, -1]] + [[0, 1]] * 4))
    assert lines[:2] == ['q0 d1 d0', 'q1 d5']


# Pittsburgh and Tokyo: dbStruct

def write_struct(path: Path, references, queries, positions=None, counts=None) -> None:
    def cells(items):
        array = np.empty((len(items), 1), dtype=object)
        array[:, 0] = items
        return array

    def xy(items):
        return np.array([position for _, position in items], dtype=float).reshape(-1, 2).T

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {'dbStruct': {
        'whichSet': 'test', 'dbImageFns': cells([n for n, _ in references]),
        'utmDb': xy(references) if positions is None else positions,
        'qImageFns': cells([n for n, _ in queries]), 'utmQ': xy(queries),
        'numImages': len(references) if counts is None else counts, 'numQueries': len(queries),
        'posDistThr': 25.0, 'posDistSqThr': 625.0, 'nonTrivPosDistSqThr': 100.0,
    }}, do_compression=True)


@pytest.mark.parametrize(('protocol', 'file'), [
    ('pitts30k-test', 'pitts30k_test.mat'), ('pitts30k-val', 'pitts30k_val.mat'),
    ('pitts250k-test', 'pitts250k_test.mat')])
def test_pittsburgh_is_read_from_its_struct(tmp_path, protocol, file):
    references = [('000/000000_pitch1_yaw1.jpg', (0.0, 0.0)), ('001/b.jpg', (30.0, 0.0))]
    queries = [('000/q.jpg', (20.0, 0.0)), ('000/far.jpg', (900.0, 0.0))]
    write_struct(tmp_path / 'datasets' / file, references, queries)
    for name, _ in references:
        write_picture(tmp_path / name)
    for name, _ in queries:
        write_picture(tmp_path / 'queries_real' / name)
    dataset = load_dataset(f'{protocol}={tmp_path}', PARTIAL)
    assert names(dataset.references) == ['000/000000_pitch1_yaw1.jpg', '001/b.jpg']
    assert names(dataset.queries) == ['queries_real/000/q.jpg', 'queries_real/000/far.jpg']
    assert right(dataset) == [[0, 1], []]
    assert dataset.without_positives == 'missed'


def test_tokyo_247_is_read_from_its_struct(tmp_path):
    references = [('03814/381450/a_012_000.jpg', (0.0, 0.0))]  # on disk they are PNG files
    write_struct(tmp_path / 'datasets/tokyo247.mat', references, [('00001.jpg', (3.0, 4.0))])
    write_picture(tmp_path / '03814/381450/a_012_000.png')
    write_picture(tmp_path / '247query_subset_v2/00001.jpg')
    dataset = load_dataset(f'tokyo247={tmp_path}', PARTIAL)
    assert names(dataset.references) == ['03814/381450/a_012_000.png']
    assert right(dataset) == [[0]]


def test_a_struct_that_lies_is_refused(tmp_path):
    path = tmp_path / 'datasets/pitts30k_test.mat'
    (tmp_path / 'queries_real').mkdir(parents=True)
    write_struct(path, [('a.jpg', (0, 0))], [('q.jpg', (0, 0))], counts=7)
    with pytest.raises(EvaluationError, match='a count of 7'):
        load_dataset(f'pitts30k-test={tmp_path}', PARTIAL)
    write_struct(path, [('../a.jpg', (0, 0))], [('q.jpg', (0, 0))])
    with pytest.raises(EvaluationError, match=r"names the file '\.\./a\.jpg', which is not insid"):
        load_dataset(f'pitts30k-test={tmp_path}', PARTIAL)
    write_struct(path, [('a.jpg', (0, np.nan))], [('q.jpg', (0, 0))])
    with pytest.raises(EvaluationError, match='is damaged: 1 names of references'):
        load_dataset(f'pitts30k-test={tmp_path}', PARTIAL)
    savemat(path, {'dbStruct': 3.0})
    with pytest.raises(EvaluationError, match='is damaged or holds no dbStruct'):
        load_dataset(f'pitts30k-test={tmp_path}', PARTIAL)
    path.write_bytes(b'not MATLAB')
    with pytest.raises(EvaluationError, match='is no MATLAB 5 file'):
        load_dataset(f'pitts30k-test={tmp_path}', PARTIAL)


@pytest.mark.parametrize('share', [0.3, 0.6, 0.95])
def test_a_truncated_struct_is_refused(tmp_path, share):
    path = tmp_path / 'datasets/pitts30k_test.mat'
    (tmp_path / 'queries_real').mkdir(parents=True)
    write_struct(path, [(f'{i}.jpg', (i, 0)) for i in range(200)], [('q.jpg', (0, 0))])
    path.write_bytes(path.read_bytes()[:int(share * path.stat().st_size)])
    with pytest.raises(EvaluationError, match='damaged'):
        load_dataset(f'pitts30k-test={tmp_path}', PARTIAL)


def test_a_small_file_that_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path, monkeypatch):
    path = tmp_path / 'bomb.mat'
    savemat(path, {'dbStruct': np.zeros(4_000_000)}, do_compression=True)
    assert path.stat().st_size < 100_000
    check_unpacked_size(path)
    monkeypatch.setattr('regvpr_core.datasets.pittsburgh.MAX_UNPACKED_BYTES', 1_000_000)
    with pytest.raises(EvaluationError, match='unpacks to more than 1000000 bytes'):
        check_unpacked_size(path)


def test_a_missing_struct_says_where_it_comes_from(tmp_path):
    with pytest.raises(EvaluationError) as error:
        load_dataset(f'pitts30k-test={tmp_path}', PARTIAL)
    assert str(error.value).startswith(f'{tmp_path}/datasets/pitts30k_test.mat is missing, and so '
                                       f'are {tmp_path}/images/test/database and queries; ask the')


# Folders with positions in the names

@pytest.mark.parametrize(('protocol', 'split', 'queries'), [
    ('pitts30k-test', 'images/test', 'queries'), ('pitts30k-val', 'images/val', 'queries'),
    ('pitts250k-test', 'images/test', 'queries'), ('tokyo247', 'images/test', 'queries'),
    ('st-lucia', 'images/test', 'queries'), ('eynsham', 'images/test', 'queries'),
    ('sf-xl-val', 'val', 'queries'), ('sf-xl-test-v1', 'test', 'queries_v1'),
    ('sf-xl-test-v2', 'test', 'queries_v2'), ('utm', 'images/test', 'queries'),
    ('utm', '', 'queries')])
def test_utm_folders_are_read(utm_folder, protocol, split, queries):
    root = utm_folder([(0, 0), (25, 0), (26, 0)], [(0, 0), (800, 0)], split=split,
                      query_folder=queries)
    dataset = load_dataset(f'{protocol}={root}', PARTIAL)
    assert right(dataset) == [[0, 1], []]
    assert dataset.without_positives == 'missed'  # as VPR-methods-evaluation counts
    assert dataset.reference_xy.tolist() == [[0, 0], [25, 0], [26, 0]]
    assert bool(dataset.partial) == (protocol != 'utm')


@pytest.mark.parametrize('protocol', [
    'tokyo247', 'st-lucia', 'eynsham', 'amstertime', 'sf-xl-val', 'sf-xl-test-v1',
    'sf-xl-test-v2'])
def test_counts_that_were_read_in_no_file_only_warn(utm_folder, protocol):
    split = {'sf-xl-val': 'val', 'sf-xl-test-v1': 'test', 'sf-xl-test-v2': 'test'}.get(
        protocol, 'images/test')
    queries = f'queries_{protocol[-2:]}' if 'test-v' in protocol else 'queries'
    root = utm_folder([(0, 0)], [(0, 0)], split=split, query_folder=queries)
    for side in ('database', queries):
        path = next((root / split / side).iterdir())
        path.rename(path.with_name('@0@0@@@@@pair@@.jpg'))
    dataset = load_dataset(f'{protocol}={root}', LoadConfig())
    assert dataset.partial == ''
    assert dataset.warning.startswith('the counts differ from those that papers print: 1 of ')
    assert load_dataset(f'{protocol}={root}', PARTIAL).partial.startswith('1 of ')


def test_what_is_no_picture_of_the_set_is_passed_over(utm_folder):
    root = utm_folder([(0, 0), (30, 0)], [(0, 0)])
    for side in ('database', 'queries'):  # as archives made on a Mac bring along
        (root / 'images/test' / side / '._@0@0@.jpg').write_bytes(b'resource fork')
    dataset = load_dataset(f'utm={root}', LoadConfig())
    assert (len(dataset.references), len(dataset.queries)) == (2, 1)


def test_st_lucias_gallery_of_the_older_downloader_is_read(utm_folder):
    root = utm_folder([(0, 0)], [(0, 0)])
    (root / 'images/test/database').rename(root / 'images/test/gallery')
    assert right(load_dataset(f'st-lucia={root}', PARTIAL)) == [[0]]


def test_the_radius_of_utm_can_be_chosen_and_is_in_the_protocol(utm_folder):
    root = utm_folder([(0, 0), (25, 0)], [(0, 0)])
    dataset = load_dataset(f'utm={root}', LoadConfig(radius_m=5))
    assert (right(dataset), dataset.protocol) == ([[0]], 'utm, 5 m')


@pytest.mark.parametrize('name', [
    'plain.jpg', '@x@y@.jpg', '@1@.jpg', '@nan@0@.jpg', '@1e999@0@.jpg'])
def test_names_without_a_position_are_refused(tmp_path, name):
    for side in ('database', 'queries'):
        write_picture(tmp_path / side / name)
    with pytest.raises(EvaluationError):
        load_dataset(f'utm={tmp_path}', LoadConfig())


def test_a_missing_folder_says_which(tmp_path):
    with pytest.raises(EvaluationError, match=r'run download_st_lucia\.py of github'):
        load_dataset(f'st-lucia={tmp_path}', PARTIAL)
    (tmp_path / 'database').mkdir()
    (tmp_path / 'queries').mkdir()
    with pytest.raises(EvaluationError, match=r'no image \(.*\) in .*/database'):
        load_dataset(f'utm={tmp_path}', LoadConfig())
    with pytest.raises(EvaluationError, match=r'folder .*/none for eynsham does not exist'):
        load_dataset(f'eynsham={tmp_path / "none"}', PARTIAL)


# Nordland

def test_nordland_2760_asks_every_tenth_frame_within_one(tmp_path):
    for i in range(31):
        write_picture(tmp_path / f'ref/{i:07}.jpg', i)
    for i in range(4):
        write_picture(tmp_path / f'query/{10 * i:07}.jpg', i)
    dataset = load_dataset(f'nordland-2760-pm1={tmp_path}', PARTIAL)
    assert right(dataset) == [[0, 1], [9, 10, 11], [19, 20, 21], [29, 30]]


@pytest.mark.parametrize(('gone', 'message'), [
    ('ref/0000007.jpg', 'ref has gaps; nordland-2760-pm1 counts frames by their order'),
    ('query/0000010.jpg', 'query has gaps'),
    ('ref/0000000.jpg query/0000000.jpg', r'begin with the frames \[1\] and \[10\]')])
def test_a_part_of_nordland_with_gaps_would_be_counted_wrongly_and_is_refused(
        tmp_path, gone, message):
    for i in range(31):
        write_picture(tmp_path / f'ref/{i:07}.jpg', i)
    for i in range(4):
        write_picture(tmp_path / f'query/{10 * i:07}.jpg', i)
    for name in gone.split():
        (tmp_path / name).unlink()
    with pytest.raises(EvaluationError, match=message):
        load_dataset(f'nordland-2760-pm1={tmp_path}', PARTIAL)


def test_nordlands_frame_numbers_may_be_absurd(tmp_path):
    for side in ('database', 'queries'):
        write_picture(tmp_path / side / f'@0@0@@@@@{"9" * 40}@@.jpg')
    with pytest.raises(EvaluationError, match='has no frame number in its seventh field'):
        load_dataset(f'nordland-27592-pm10={tmp_path}', PARTIAL)


def test_nordland_27592_takes_frames_within_ten_from_the_names(tmp_path):
    for i in range(25):
        for side in ('database', 'queries'):
            # The downloader's own false positions, cut to one decimal.
            north = f'{25 / 10.5 * i:.6f}'.split('.')
            name = f'@0@{int(north[0]):05d}.{north[1][:1]}@@@@@{i}@@@@@@@@.jpg'
            write_picture(tmp_path / 'images/test' / side / name, i)
    dataset = load_dataset(f'nordland-27592-pm10={tmp_path}', PARTIAL)
    frames = [int(p.path.name.split('@')[7]) for p in dataset.references]
    asked = [int(p.path.name.split('@')[7]) for p in dataset.queries]
    for query, found in zip(asked, right(dataset), strict=True):
        assert sorted(frames[i] for i in found) == [f for f in range(25) if abs(f - query) <= 10]
    # They stand for frames, not metres.
    assert dataset.reference_xy is None


def test_nordland_27592_reads_the_raw_folders(tmp_path):
    for season in ('summer', 'winter'):
        for i in range(5):
            write_picture(tmp_path / season / f'images-{i:05}.png', i)
    (tmp_path / 'cleanImageNames.txt').write_text('images-00001.png\nimages-00003.png\n')
    dataset = load_dataset(f'nordland-27592-pm10={tmp_path}', PARTIAL)
    assert names(dataset.queries) == ['winter/images-00001.png', 'winter/images-00003.png']
    assert names(dataset.references) == ['summer/images-00001.png', 'summer/images-00003.png']
    # A picture that is missing shifts no other.
    listed = [f'images-{i:05}.png' for i in range(30)]
    (tmp_path / 'cleanImageNames.txt').write_text('\n'.join(listed))
    for i in range(5, 30):
        write_picture(tmp_path / f'summer/images-{i:05}.png', i)
    for i in range(1, 29):
        (tmp_path / f'winter/images-{i:05}.png').unlink(missing_ok=True)
    write_picture(tmp_path / 'winter/images-00029.png')
    dataset = load_dataset(f'nordland-27592-pm10={tmp_path}', PARTIAL)
    assert right(dataset) == [list(range(11)), list(range(19, 30))]
    (tmp_path / 'cleanImageNames.txt').unlink()
    with pytest.raises(EvaluationError, match=r'run download_nordland\.py'):
        load_dataset(f'nordland-27592-pm10={tmp_path}', PARTIAL)


def test_nordland_3450_stays_in_its_section_within_two(tmp_path):
    for season in ('summer', 'winter'):
        for section in (1, 2):
            for i in range(4):
                write_picture(
                    tmp_path / f'test/{season}_images_test/section{section}/{8 + i}.png', i)
    dataset = load_dataset(f'nordland-3450-pm2={tmp_path}', PARTIAL)
    assert right(dataset) == [[0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3], [1, 2, 3],
                              [4, 5, 6], [4, 5, 6, 7], [4, 5, 6, 7], [5, 6, 7]]
    assert names(dataset.queries)[1:3] == ['test/winter_images_test/section1/9.png',
                                           'test/winter_images_test/section1/10.png']


# Pairs and traverses

@pytest.mark.parametrize(('protocol', 'folders'), [
    ('sped-607', ('SPEDTEST/ref', 'SPEDTEST/query')), ('sped-607', ('ref', 'query')),
    ('amstertime', ('new', 'old'))])
def test_pairs_have_one_name(tmp_path, protocol, folders):
    for i in (3, 1, 2):
        for folder, suffix in zip(folders, ('png', 'jpg'), strict=True):
            write_picture(tmp_path / folder / f'{i:04}.{suffix}', i)
    dataset = load_dataset(f'{protocol}={tmp_path}', PARTIAL)
    assert right(dataset) == [[0], [1], [2]]
    assert dataset.reference_xy is None
    write_picture(tmp_path / folders[1] / '0009.jpg')
    with pytest.raises(EvaluationError, match=r'0009\.jpg has no reference of the same name'):
        load_dataset(f'{protocol}={tmp_path}', PARTIAL)


def test_pairs_of_the_downloader_are_read(tmp_path):
    for i in range(3):
        for side in ('database', 'queries'):
            write_picture(tmp_path / f'images/test/{side}/@0@{1000 * i}@@@@@{i:04}@@@@@@@@.jpg', i)
    assert right(load_dataset(f'sped-607={tmp_path}', PARTIAL)) == [[0], [1], [2]]


def test_two_traverses_count_frames_in_natural_order(tmp_path):
    for i in range(12):
        for side in ('database', 'queries'):
            write_picture(tmp_path / side / f'frame_{i}.jpg', i)
    dataset = load_dataset(f'frames={tmp_path}', LoadConfig(tolerance_frames=1))
    assert names(dataset.queries)[9:] == [f'queries/frame_{i}.jpg' for i in (9, 10, 11)]
    assert right(dataset)[9:] == [[8, 9, 10], [9, 10, 11], [10, 11]]
    assert dataset.protocol == 'frames, +-1'
    (tmp_path / 'queries/frame_0.jpg').unlink()
    with pytest.raises(EvaluationError, match=r'has 12 frames and .* 11; frames can be'):
        load_dataset(f'frames={tmp_path}', LoadConfig())


# Names

def test_names_of_data_sets(tmp_path):
    assert parse_data(f'utm@here={tmp_path}') == ('utm', 'here', tmp_path)
    assert parse_data('some/folder')[:2] == ('utm', 'folder')
    assert parse_data('eynsham=/x')[:2] == ('eynsham', 'eynsham')
    with pytest.raises(EvaluationError, match="unknown protocol 'pits30k-test'; did you mean"):
        parse_data('pits30k-test=/x')


def test_two_data_sets_of_one_name_are_refused(utm_folder):
    first, second = utm_folder([(0, 0)], [(0, 0)], 'a'), utm_folder([(0, 0)], [(0, 0)], 'b')
    with pytest.raises(EvaluationError, match=r"two data sets are named 'a': .*; name one with "):
        load_datasets([f'utm={first}', f'utm@a={second}'], LoadConfig())
    assert [d.name for d in load_datasets([f'utm={first}', f'utm={second}'], LoadConfig())] == [
        'a', 'b']


def test_the_published_counts_are_those_of_the_papers():
    counts = {name: (p.queries, p.references) for name, p in PROTOCOLS.items()}
    assert counts['msls-val-740'] == (740, 18_871)
    assert counts['nordland-2760-pm1'] == (2_760, 27_592)
    assert counts['nordland-27592-pm10'] == (27_592, 27_592)
    assert counts['nordland-3450-pm2'] == (3_450, 3_450)
    assert counts['pitts30k-test'] == (6_816, 10_000)
    assert counts['pitts250k-test'] == (8_280, 83_952)
    assert counts['sped-607'] == (607, 607)
    assert counts['msls-challenge'] == (1_135, 36_565)


def test_a_whole_data_set_needs_no_leave(tmp_path):
    for side in ('ref', 'query'):
        first = write_picture(tmp_path / side / '0000.jpg')
        for i in range(1, 607):
            shutil.copy(first, tmp_path / side / f'{i:04}.jpg')
    dataset = load_dataset(f'sped-607={tmp_path}', LoadConfig())
    assert (len(dataset.queries), dataset.partial, dataset.title) == (607, '', 'sped-607')


def test_no_pickled_ground_truth_is_ever_read(tmp_path):
    """Ground truth beside a data set as others ship it is left alone."""
    for side in ('ref', 'query'):
        write_picture(tmp_path / side / '0000.jpg')
    np.save(tmp_path / 'SPED_gt.npy', np.array([[1], [2, 3]], dtype=object), allow_pickle=True)
    assert right(load_dataset(f'sped-607={tmp_path}', PARTIAL)) == [[0]]


@pytest.mark.parametrize(('settings', 'message'), [
    ({'radius_m': float('nan')}, 'radius_m is nan'), ({'radius_m': -1.0}, 'radius_m is -1.0'),
    ({'tolerance_frames': -1}, 'tolerance_frames is -1')])
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        LoadConfig(**settings)
