"""`regvpr evaluate` as it is called."""

import csv
import json
from pathlib import Path
import signal
import sys

import cv2
import numpy as np
import pytest

from regvpr_core.cli import main


@pytest.fixture
def folder(tmp_path, noise):
    """Twelve references 10 m apart, four queries that show the 2nd, 5th, 8th and 11th."""
    root = tmp_path / 'wall'
    pictures = noise(12)
    for side, places in (('database', range(12)), ('queries', (2, 5, 8, 11))):
        (root / 'images/test' / side).mkdir(parents=True)
        for place in places:
            name = f'@{10 * place}.0@0.0@10@S@@@{side[0]}{place}@@@@@@@@.png'
            cv2.imwrite(str(root / 'images/test' / side / name), pictures[place][..., ::-1])
    return root


@pytest.fixture
def evaluate(small_model, tmp_path):
    """Run the command with the small model and a cache of the test's own."""
    def run(*more: str) -> int:
        return main(['evaluate', '--model', str(small_model), '--device', 'cpu', '--precision',
                     'fp32', '--cache', str(tmp_path / 'cache'), *map(str, more)])
    return run


@pytest.fixture
def refused(evaluate, capsys):
    """Run the command, which must end with one line and exit code 1; gives the line."""
    def run(*more: str) -> str:
        assert evaluate(*more) == 1
        lines = [line for line in capsys.readouterr().err.splitlines()
                 if line.startswith('regvpr:')]
        assert len(lines) == 1
        return lines[0]
    return run


def test_the_precision_is_that_of_the_device_and_told_unless_one_is_asked_for(
    folder, small_model, tmp_path, capsys, monkeypatch,
):
    # A measurement that always prefers bf16 must not change the figures.
    monkeypatch.setattr('regvpr_core.models.engines.bf16_is_faster', lambda width: True)
    assert main(['evaluate', '--model', str(small_model), '--device', 'cpu', '--no-cache',
                 '--data', str(folder), '--radius-m', '5', '--json']) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)['results'][0]['weights'].endswith('; on cpu in fp32')
    assert 'on cpu in fp32' in err
    assert ': references of wall: 12 images\n' in err


def test_one_model_on_one_folder(evaluate, folder, tmp_path, capsys):
    assert evaluate('--data', folder, '--radius-m', 5, '--json', '-o', tmp_path / 'out') == 0
    record = json.loads(capsys.readouterr().out)['results'][0]
    assert record['recall'] == {'1': 1.0, '5': 1.0, '10': 1.0}  # recall@20 needs 20 references
    assert (record['queries'], record['references'], record['data']) == (4, 12, 'wall')
    assert record['protocol'] == 'utm, 5 m'
    assert record['error_m']['max'] == 0.0
    out = tmp_path / 'out'
    assert sorted(p.name for p in out.iterdir()) == [
        'queries.csv', 'report.html', 'results.csv', 'results.json']
    with (out / 'queries.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [row['right'] for row in rows] == ['1'] * 4
    assert 'utm, 5 m' in (out / 'report.html').read_text()


def test_several_models_on_several_data_sets_give_one_table(
        evaluate, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')
    (tmp_path / 'mine.py').write_text(
        'import numpy as np\n'
        'def corner(images):\n'
        '    return np.stack([i[:2, :2].astype(float).reshape(-1) + 1 for i in images])\n')
    assert evaluate('--model', f'{tmp_path}/mine.py:corner', '--data', folder, '--data',
                    f'utm@again={folder}', '--recalls', '1,5') == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in lines
            if line.startswith('│')]
    assert [row[0] for row in rows] == ['small', 'corner']
    assert all(len(row) == 5 and row[1:] == row[1:3] * 2 for row in rows)
    assert rows[0][1:3] == ['100.0', '100.0']


def test_robustness_is_printed_and_written(evaluate, folder, tmp_path, capsys):
    assert evaluate('--data', folder, '--robustness', 'noise,crop', '--json', '-o',
                    tmp_path / 'out') == 0
    curves = json.loads(capsys.readouterr().out)['robustness']
    assert [(c['kind'], len(c['recall_at_1'])) for c in curves] == [('noise', 5), ('crop', 5)]
    lines = (tmp_path / 'out/robustness.csv').read_text().splitlines()
    assert len(lines) == 11
    assert lines[1] == 'small,wall,noise,"standard deviation, of 255",0.0,1.0'


def test_the_cache_serves_the_next_run(evaluate, folder, capsys):
    described = []
    for _ in range(2):
        assert evaluate('--data', folder, '--json') == 0
        described.append(json.loads(capsys.readouterr().out)['results'][0]['pictures_described'])
    assert described == [12, 0]  # the queries show references: they are the same files
    assert evaluate('--data', folder, '--json', '--no-cache') == 0
    assert json.loads(capsys.readouterr().out)['results'][0]['pictures_described'] == 12


def test_protocols_are_listed(capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '160')
    assert main(['evaluate', '--protocols']) == 0
    text = capsys.readouterr().out
    assert '│ msls-val-740        │ 740     │ 18,871     │' in text
    assert 'nordland-27592-pm10' in text


def test_the_msls_challenge_writes_a_submission(evaluate, tmp_path, noise, capsys):
    from regvpr_core.datasets.msls import CHALLENGE

    pictures = noise(6)
    for city, rgb in zip(CHALLENGE, pictures, strict=True):
        for side in ('database', 'query'):
            base = tmp_path / 'msls/test' / city / side
            (base / 'images').mkdir(parents=True)
            key = f'{side}_{city}'
            cv2.imwrite(str(base / 'images' / f'{key}.jpg'), rgb)
            (base / 'seq_info.csv').write_text(f',key,sequence_key,frame_number\n0,{key},s,0\n')
            (base / 'subtask_index.csv').write_text(',all\n0,True\n')
    assert evaluate('--data', f'msls-challenge={tmp_path / "msls"}', '--partial', '-o',
                    tmp_path / 'out') == 0
    lines = (tmp_path / 'out/msls-challenge_small.txt').read_text().splitlines()
    assert [line.split()[0] for line in lines] == [f'query_{city}' for city in CHALLENGE]
    assert [line.split()[1] for line in lines] == [f'database_{city}' for city in CHALLENGE]
    assert {len(line.split()) for line in lines} == {7}
    assert 'predictions were written to a file' in (tmp_path / 'out/report.html').read_text()


@pytest.mark.parametrize('storage', ['mcap', 'ros1'])
def test_a_map_is_asked_by_a_bag(evaluate, small_model, make_bag, frames, tmp_path, storage,
                                 capsys):
    laps = frames(8)
    bag = make_bag(tmp_path / ('lap.bag' if storage == 'ros1' else 'lap'), laps, storage=storage)
    assert main(['map', 'build', str(bag), '--out', str(tmp_path / 'map'), '--model',
                 str(small_model), '--device', 'cpu', '--json']) == 0
    capsys.readouterr()
    assert evaluate('--references', tmp_path / 'map', '--queries', bag, '--radius-m', '0.5',
                    '--json', '-o', tmp_path / 'out') == 0
    record = json.loads(capsys.readouterr().out)['results'][0]
    assert (record['queries'], record['references'], record['recall']['1']) == (8, 8, 1.0)
    assert record['pictures_described'] == 8  # the map brings its own descriptors
    assert record['error_m']['max'] == 0.0
    assert evaluate('--references', bag, '--queries', bag, '--spacing-m', 2, '--radius-m', '0.5',
                    '--json') == 0
    assert json.loads(capsys.readouterr().out)['results'][0]['references'] == 4


def test_a_map_is_asked_by_a_map_without_any_model(
        small_model, make_bag, frames, tmp_path, capsys):
    bag = make_bag(tmp_path / 'lap', frames(5))
    for name in ('one', 'two'):
        assert main(['map', 'build', str(bag), '--out', str(tmp_path / name), '--model',
                     str(small_model), '--device', 'cpu']) == 0
    capsys.readouterr()
    assert main(['evaluate', '--references', str(tmp_path / 'one'), '--queries',
                 str(tmp_path / 'two'), '--radius-m', '0.5', '--no-cache', '--json']) == 0
    record = json.loads(capsys.readouterr().out)['results'][0]
    assert (record['model'], record['recall']['1'], record['pictures_described']) == (
        'small', 1.0, 0)


def test_a_folder_with_positions_is_a_side(evaluate, folder, tmp_path, noise, capsys):
    mine = tmp_path / 'mine'
    mine.mkdir()
    cv2.imwrite(str(mine / 'a.png'), noise(12)[4][..., ::-1])
    (mine / 'positions.csv').write_text('image,x,y\na.png,41.5,0\n')
    assert evaluate('--references', folder / 'images/test/database', '--queries', mine,
                    '--radius-m', '2', '--json') == 0
    record = json.loads(capsys.readouterr().out)['results'][0]
    assert record['data'] == 'mine on database'
    assert (record['recall']['1'], record['error_m']['median']) == (1.0, 1.5)


# Bad input: one line, exit code 1.

def test_wrong_options_are_refused(refused, folder, tmp_path):
    data = ('--data', folder)
    assert 'give --data PROTOCOL=FOLDER, or --references and --queries' in refused()
    assert '--references and --queries belong together' in refused('--references', folder)
    assert "unknown protocol 'eynsam'; did you mean 'eynsham'" in refused(
        '--data', f'eynsam={folder}')
    assert "--recalls is 'all'; expected numbers such as 1,5,10" in refused(*data, '--recalls',
                                                                           'all')
    assert 'recall@50 asks for more references than wall has (12)' in refused(*data, '--recalls',
                                                                             '1,50')
    assert "unknown degradation 'fog'; known: blur" in refused(*data, '--robustness', 'fog')
    assert "unknown index 'octree'" in refused(*data, '--index', 'octree')
    assert 'batch is 0; expected 1 to 4096' in refused(*data, '--batch', '0')
    assert 'radius_m is -1.0' in refused(*data, '--radius-m', '-1')
    assert "two data sets are named 'wall'" in refused(*data, *data)
    assert 'does not exist; expected a map, a bag or a folder' in refused(
        '--references', tmp_path / 'none', '--queries', folder)
    (tmp_path / 'file').write_text('')
    assert 'File exists' in refused(*data, '-o', tmp_path / 'file')


def test_bad_data_is_refused(refused, folder, tmp_path):
    path = next((folder / 'images/test/queries').iterdir())
    path.write_bytes(b'')
    assert '1 of 16 images of wall cannot be read, e.g. ' in refused('--data', folder)
    (tmp_path / 'empty/database').mkdir(parents=True)
    (tmp_path / 'empty/queries').mkdir()
    assert 'no image (' in refused('--data', tmp_path / 'empty')
    assert 'is not the whole of sped-607' in refused('--data', f'sped-607={pairs(tmp_path)}')


def pairs(tmp_path: Path) -> Path:
    for side in ('ref', 'query'):
        (tmp_path / 'sped' / side).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'sped' / side / '1.jpg'), np.zeros((8, 8, 3), np.uint8))
    return tmp_path / 'sped'


def test_models_are_refused_by_name_before_any_work(refused, folder, tmp_path):
    data = ('--data', folder, '-o', tmp_path / 'out', '--model')
    assert 'runs the code of' in refused(*data, 'hub:someone/else:entry')
    assert 'sage_crossimage is not built: its desc' in refused(
        *data, 'sage_crossimage')
    assert "unknown model 'megalok'; did you mean 'megaloc'?" in refused(*data, 'megalok')
    assert not (tmp_path / 'out').exists()


def test_a_map_of_another_model_is_refused(refused, make_small_map, folder):
    line = refused('--references', make_small_map(3), '--queries', folder / 'images/test/queries')
    assert 'was built with m, not with small' in line


def test_without_matplotlib_it_says_so_before_the_work(refused, folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    assert "pip install 'regvpr_ros[evaluation]'" in refused('--data', folder, '-o',
                                                            tmp_path / 'out')


def test_an_interrupted_run_goes_on_where_it_stopped(folder, tmp_path, capsys):
    """Ctrl-C in the fifth batch; SIGKILL is tested on the cache itself."""
    (tmp_path / 'mine.py').write_text(
        'import os, signal\n'
        'import numpy as np\n'
        'calls = 0\n'
        'def rows(images):\n'
        '    global calls\n'
        '    calls += 1\n'
        '    if calls == 5 and not os.path.exists(__file__ + ".interrupted"):\n'
        '        open(__file__ + ".interrupted", "w").close()\n'
        '        os.kill(os.getpid(), signal.SIGINT)\n'
        '    return np.stack([i[::40, ::40].reshape(-1) + 1.0 for i in images])\n'
        "rows.fingerprint = 'v1'\n")
    arguments = ['evaluate', '--model', f'{tmp_path}/mine.py:rows', '--data', str(folder),
                 '--batch', '1', '--json', '--cache', str(tmp_path / 'cache')]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
    try:
        assert main(arguments) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.splitlines()[-1] == 'regvpr: interrupted'
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)['results'][0]['pictures_described'] == 12 - 4


def test_a_model_of_ones_own_may_use_dataclasses_and_is_named_by_its_file(
        refused, evaluate, folder, tmp_path, capsys, monkeypatch):
    (tmp_path / 'my_model.py').write_text(
        'from __future__ import annotations\n'
        'from dataclasses import dataclass\n'
        'import numpy as np\n'
        '@dataclass\n'
        'class Settings:\n'
        '    step: int = 40\n'
        'def rows(images):\n'
        '    n = Settings().step\n'
        '    return np.stack([i[::n, ::n].reshape(-1) + 1.0 for i in images])\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])
    assert evaluate('--model', 'my_model.py:rows', '--data', folder, '--json') == 0
    assert json.loads(capsys.readouterr().out)['results'][1]['recall']['1'] == 1.0
    assert 'give the file, my_model.py:FUNCTION' in refused('--data', folder, '--model',
                                                            'my_model:rows')


def test_what_an_index_costs_is_said(evaluate, folder, capsys):
    assert evaluate('--data', folder, '--index', 'rabitq') == 0
    text = capsys.readouterr().out
    assert 'index rabitq: R@1 100.0' in text
    assert '100.0 % of the exact neighbours, ' in text
    assert 'ms per single query (exact, all queries at once: ' in text
    assert evaluate('--data', folder, '--index', 'rabitq', '--json') == 0
    index = json.loads(capsys.readouterr().out)['results'][0]['index']
    assert index.keys() == {'kind', 'recall', 'agreement', 'search_s', 'build_s',
                            'resident_bytes'}
    assert index['recall']['1'] == 1.0


def test_a_compressed_map_is_asked_with_compressed_descriptors(
        evaluate, small_model, make_bag, frames, tmp_path, capsys):
    from regvpr_core.map_tools.compression import compress_map

    bag = make_bag(tmp_path / 'lap', frames(8))
    assert main(['map', 'build', str(bag), '--out', str(tmp_path / 'map'), '--model',
                 str(small_model), '--device', 'cpu', '--json']) == 0
    compress_map(tmp_path / 'map', 'pca:6', tmp_path / 'short')
    compress_map(tmp_path / 'map', 'pca:5', tmp_path / 'shorter')
    capsys.readouterr()
    assert evaluate('--references', tmp_path / 'short', '--queries', bag, '--radius-m', '0.5',
                    '--json') == 0
    record = json.loads(capsys.readouterr().out)['results'][0]
    assert (record['dimension'], record['recall']['1']) == (6, 1.0)
    for other in ('map', 'shorter'):
        assert main(['evaluate', '--references', str(tmp_path / 'short'), '--queries',
                     str(tmp_path / other)]) == 1
        assert 'are not compressed alike' in capsys.readouterr().err


def test_sides_that_are_not_in_one_frame_are_refused(tmp_path):
    from regvpr_core.cli.evaluate_recordings import check_frames
    from regvpr_core.datasets.own_pair import Side
    from regvpr_core.errors import EvaluationError

    def side(world: str = '', **origin: float) -> Side:
        return Side(pictures=[], xy=np.zeros((0, 2)), world=world, origin=origin)

    earth = {'lat_deg': 1.0, 'lon_deg': 2.0, 'alt_m': 0.0}
    a, b = tmp_path / 'a', tmp_path / 'b'
    for first, second, message in (
            (side('map', **earth), side('map'), 'their origins on the Earth are none and {'),
            (side('map'), side('odom'), "are in 'map', those of"),
            (side('odom'), side('odom'), "are in 'odom', which most robots start anew")):
        with pytest.raises(EvaluationError) as error:
            check_frames(a, first, b, second)
        assert message in str(error.value)
        assert str(error.value).endswith('or give --same-frame if they are in one')
    check_frames(a, side('map'), b, side('map'))
    check_frames(a, side('map'), b, side())
    check_frames(a, side('odom'), a, side('odom'))
